//! A proxy that is replaced loses nothing that it took on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tests::process::Signal;
use tests::wait::eventually;
use tests::{Plane, World};
use tokio::net::TcpStream;

/// A proxy as a load balancer sees it: it asks now and then whether it is ready.
#[derive(Debug)]
struct Known {
    proxy: Arc<Plane>,
    is_ready: AtomicBool,
}

async fn watch(proxies: Vec<Arc<Known>>, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        for known in &proxies {
            let answer = known.proxy.admin("/readyz").await;
            let is_ready = answer.is_ok_and(|it| it.status == 200);
            known.is_ready.store(is_ready, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What clients saw.
#[derive(Debug, Default)]
struct Tally {
    served: AtomicUsize,
    /// Requests that went on the wire and came back otherwise than well.
    lost: std::sync::Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// A client that asks without pause, and goes on to the next proxy where one lets it in no
/// more. It uses a connection for as many requests as the proxy does, or for one.
async fn ask_on(proxies: Vec<Arc<Known>>, key: String, keeps: bool, tally: Arc<Tally>) {
    let mut turn = 0;
    let mut open: Option<SendRequest<Empty<Bytes>>> = None;
    while !tally.stop.load(Ordering::Relaxed) {
        // One that was closed before anything was sent on it has lost nothing.
        if let Some(sender) = &mut open
            && sender.ready().await.is_err()
        {
            open = None;
        }
        let sender = match open.take() {
            Some(sender) => sender,
            None => {
                turn += 1;
                let known = &proxies[turn % proxies.len()];
                if !known.is_ready.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                }
                match TcpStream::connect(known.proxy.address("proxy")).await {
                    Ok(stream) => {
                        let (sender, connection) =
                            http1::handshake(TokioIo::new(stream)).await.unwrap();
                        tokio::spawn(connection);
                        sender
                    }
                    // Nobody is there: this request was never accepted.
                    Err(_) => continue,
                }
            }
        };
        open = ask(sender, &key, &tally).await.filter(|_| keeps);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn ask(
    mut sender: SendRequest<Empty<Bytes>>,
    key: &str,
    tally: &Tally,
) -> Option<SendRequest<Empty<Bytes>>> {
    let request = Request::get("/t/echo/slow/10")
        .header("host", "p")
        .header("x-api-key", key)
        .body(Empty::new())
        .unwrap();
    let lost = match sender.try_send_request(request).await {
        Ok(answer) => {
            let status = answer.status();
            match answer.into_body().collect().await {
                Ok(_) if status == 200 => None,
                Ok(_) => Some(format!("{status}")),
                Err(err) => Some(format!("half an answer: {err}")),
            }
        }
        // It comes back when nothing of it was sent.
        Err(err) if err.message().is_some() => return None,
        Err(err) => Some(format!("no answer: {:?}", err.error())),
    };
    match lost {
        Some(why) => {
            tally.lost.lock().unwrap().push(why);
            None
        }
        None => {
            tally.served.fetch_add(1, Ordering::Relaxed);
            Some(sender)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_proxies_are_replaced_in_turn() {
    let world = World::builder("rolling")
        .proxies(2)
        .data("drain_delay_ms", 300)
        .start()
        .await;
    let key = world.owner.key("rolling").await.secret;
    world.all_admit(&key).await;
    let tally = Arc::<Tally>::default();
    let known: Vec<_> = world
        .proxies()
        .into_iter()
        .map(|proxy| {
            Arc::new(Known {
                proxy,
                is_ready: AtomicBool::new(true),
            })
        })
        .collect();
    let watching = tokio::spawn(watch(known.clone(), tally.clone()));
    let clients: Vec<_> = (0..24)
        .map(|n| {
            let mut proxies = known.clone();
            proxies.rotate_left(n % 2);
            tokio::spawn(ask_on(proxies, key.clone(), n % 3 != 0, tally.clone()))
        })
        .collect();
    for _ in 0..2 {
        for proxy in world.proxies() {
            let served = tally.served.load(Ordering::Relaxed);
            proxy.stop().await;
            proxy.restart().await;
            proxy.ready().await;
            eventually("the load goes on", Duration::from_secs(10), async || {
                let now = tally.served.load(Ordering::Relaxed);
                anyhow::ensure!(now > served + 100, "{now}");
                Ok(())
            })
            .await;
        }
    }
    tally.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    watching.await.unwrap();
    let lost = tally.lost.lock().unwrap();
    let served = tally.served.load(Ordering::Relaxed);
    assert!(
        lost.is_empty(),
        "{served} served, {} lost: {lost:?}",
        lost.len()
    );
}

#[tokio::test]
async fn a_proxy_that_leaves_says_so_first_and_goes_on_letting_clients_in() {
    let world = World::builder("leaving")
        .data("drain_delay_ms", 1_500)
        .start()
        .await;
    let key = world.owner.key("leaving").await.secret;
    world.all_admit(&key).await;
    let proxy = world.proxy();
    proxy.signal(Signal::TERM);
    eventually(
        "it is no longer ready",
        Duration::from_secs(1),
        async || proxy.admin("/readyz").await?.check(503),
    )
    .await;
    let answer = tests::proxy::get(proxy, &key, "/t/echo/x")
        .await
        .expect(200);
    assert_eq!(answer.must("connection"), "close");
    eventually("nobody is let in", Duration::from_secs(10), async || {
        let outcome = TcpStream::connect(proxy.address("proxy")).await;
        anyhow::ensure!(outcome.is_err(), "somebody was");
        Ok(())
    })
    .await;
}
