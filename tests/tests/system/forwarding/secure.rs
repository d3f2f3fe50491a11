//! TLS and HTTP/2, on both sides of the proxy.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Version};
use serde_json::json;
use tests::frames::{SETTINGS, frame};
use tests::proxy::{get, send};
use tests::secure::Identity;
use tests::wait::eventually;
use tests::world::binary_dir;
use tests::{Ask, Upstream, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http2;

fn ask(method: &str, path: &str, key: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("https://proxy.example{path}"))
        .header("x-api-key", key)
        .body(Full::from(body))
        .unwrap()
}

#[tokio::test]
async fn clients_agree_on_the_version_and_a_new_certificate_needs_no_restart() {
    let dir = binary_dir().join("tls-in");
    let first = Identity::make();
    let (cert, key_file) = first.write(&dir);
    let world = World::builder("tlsin")
        .data("tls_cert_file", cert.display())
        .data("tls_key_file", key_file.display())
        .start_without_target()
        .await;
    let proxy = world.proxy();
    let address = proxy.address("proxy");
    let key = world.owner.key("tls").await.secret;

    let stream = first.connect(address, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = http2(stream).await;
    let path = "/.throttleproxy/me";
    eventually("the key is known", Duration::from_secs(5), async || {
        let answer = client.send_request(ask("GET", path, &key, "")).await?;
        anyhow::ensure!(answer.status() == 200, "{}", answer.status());
        Ok(())
    })
    .await;
    let mut stream = first.connect(address, &["http/1.1"]).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: p\r\nConnection: close\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // A key that does not fit: the old pair stays, and the log says so.
    std::fs::write(&key_file, "rubbish").unwrap();
    eventually("the log names it", Duration::from_secs(5), async || {
        let log = proxy.log();
        anyhow::ensure!(log.contains("a new certificate cannot be used"), "{log}");
        Ok(())
    })
    .await;
    first.connect(address, &[]).await.unwrap();
    let second = Identity::make();
    second.write(&dir);
    eventually("the new one is shown", Duration::from_secs(5), async || {
        Ok(second.connect(address, &[]).await?)
    })
    .await;
    let answer = client
        .send_request(ask("GET", path, &key, ""))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "what stood before goes on");
}

/// A world whose proxies trust `identity`, and a key of it.
async fn trusting(name: &'static str, identity: &Identity) -> (World, String) {
    let (cert, _) = identity.write(&binary_dir().join(name));
    let world = World::builder(name)
        .proxy_env("SSL_CERT_FILE", cert.display())
        .data("workers", 1)
        .start()
        .await;
    let key = world.owner.key("secure").await.secret;
    (world, key)
}

#[tokio::test]
async fn an_upstream_that_chooses_http2_gets_all_requests_over_one_connection() {
    let identity = Identity::make();
    let (world, key) = trusting("h2out", &identity).await;
    let upstream = Upstream::start_secure(&identity, &["h2", "http/1.1"]).await;
    let https = json!({ "scheme": "https" });
    world.owner.target("secure", upstream.port(), https).await;
    get(world.proxy(), &key, "/t/secure/first")
        .await
        .expect(200);
    let asking = (0..20).map(|n| {
        let ask = Ask::post(format!("/t/secure/slow/20?{n}"), format!("body {n}"))
            .header("x-api-key", &key)
            .header("cookie", "a=b")
            .header("connection", "x-hop")
            .header("x-hop", "1");
        send(world.proxy(), ask)
    });
    for reply in join_all(asking).await {
        reply.expect(200);
    }
    assert_eq!(upstream.connections(), 1);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 21);
    for seen in &seen {
        assert_eq!(seen.version, Version::HTTP_2);
        let authority = format!("127.0.0.1:{}", upstream.port());
        assert_eq!(seen.host.as_deref(), Some(authority.as_str()));
        for gone in ["host", "cookie", "x-api-key", "x-hop", "connection"] {
            assert!(!seen.headers.contains_key(gone), "{gone}");
        }
    }
    let bodies = seen.iter().filter(|it| it.method == "POST");
    assert!(
        bodies
            .clone()
            .all(|it| it.body.as_ref().is_some_and(|it| it.starts_with(b"body")))
    );

    // Everything that is not a plain body, too.
    let big = get(world.proxy(), &key, "/t/secure/big/3000000")
        .await
        .expect(200);
    assert_eq!(big.body.len(), 3_000_000);
    let head = Ask::new("HEAD", "/t/secure/big/30").header("x-api-key", &key);
    assert_eq!(
        send(world.proxy(), head)
            .await
            .expect(200)
            .must("content-length"),
        "30"
    );
    let mut client = http2(
        tokio::net::TcpStream::connect(world.proxy().address("proxy"))
            .await
            .unwrap(),
    )
    .await;
    let answer = client
        .send_request(ask("GET", "/t/secure/trailers", &key, ""))
        .await
        .unwrap();
    let whole = answer.into_body().collect().await.unwrap();
    let trailers = whole.trailers().unwrap();
    assert_eq!(
        (trailers.len(), trailers["x-sum"].as_bytes()),
        (1, &b"1"[..])
    );
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_does_not_choose_http2_gets_http1() {
    let identity = Identity::make();
    let (world, key) = trusting("h1out", &identity).await;
    for (name, protocols) in [("one", &["http/1.1"][..]), ("none", &[])] {
        let upstream = Upstream::start_secure(&identity, protocols).await;
        let https = json!({ "scheme": "https" });
        world.owner.target(name, upstream.port(), https).await;
        for _ in 0..3 {
            get(world.proxy(), &key, &format!("/t/{name}/x"))
                .await
                .expect(200);
        }
        assert_eq!(upstream.last("/x").version, Version::HTTP_11);
        assert_eq!(upstream.connections(), 1);
    }
}

#[tokio::test]
async fn what_an_http2_upstream_refused_unseen_is_sent_again() {
    let identity = Identity::make();
    let (world, key) = trusting("refused", &identity).await;
    let reset = frame(3, 0, 1, &7_u32.to_be_bytes());
    let goaway = frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0]);
    let broken = frame(3, 0, 1, &2_u32.to_be_bytes());
    for (name, says, status) in [
        ("reset", reset, 200),
        ("goaway", goaway, 200),
        // This one may have done something before it broke.
        ("broken", broken, 502),
    ] {
        let port = refusing_once(&identity, says).await;
        let https = json!({ "scheme": "https" });
        world.owner.target(name, port, https).await;
        let reply = get(world.proxy(), &key, &format!("/t/{name}/x")).await;
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
    }
}

/// An upstream that says this to the first request it gets, and serves every later one.
async fn refusing_once(identity: &Identity, says: Vec<u8>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = identity.acceptor(&["h2"]);
    tokio::spawn(async move {
        let mut says = Some(says);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let says = says.take();
            tokio::spawn(async move {
                stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
                stream.write_all(&frame(SETTINGS, 1, 0, b"")).await.unwrap();
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                let mut says = says;
                let mut stream_id = 0;
                loop {
                    let mut head = [0; 9];
                    if stream.read_exact(&mut head).await.is_err() {
                        return;
                    }
                    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut payload = vec![0; len as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    if head[3] != 1 {
                        continue;
                    }
                    stream_id =
                        u32::from_be_bytes([head[5], head[6], head[7], head[8]]).max(stream_id);
                    let answer = match says.take() {
                        Some(says) => says,
                        // `:status: 200`, which the static table knows.
                        None => frame(1, 5, stream_id, &[0x88]),
                    };
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    port
}
