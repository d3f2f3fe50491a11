//! A WebSocket through the proxy, with a client and a server that were not written for it.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tests::World;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

/// A server that says every message back.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

async fn open(world: &World, key: &str) -> WebSocketStream<TcpStream> {
    let address = world.proxy().address("proxy");
    let mut request = format!("ws://{address}/t/chat/room")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("x-api-key", key.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.unwrap().0
}

#[tokio::test]
async fn messages_pass_both_ways_until_the_key_is_switched_off() {
    let world = World::start("websocket").await;
    let key = world.owner.key("chat").await;
    world.owner.target("chat", echo().await, json!({})).await;
    world.all_admit(&key.secret).await;
    let mut socket = open(&world, &key.secret).await;
    for message in ["hello", &"a".repeat(100_000)] {
        socket.send(Message::text(message)).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::text(message)
        );
    }
    let switched = Instant::now();
    world
        .owner
        .post(&key.path("/deactivate"), json!({}))
        .await
        .expect(200);
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(Ok(_)) = socket.next().await {}
    });
    ended.await.expect("the tunnel should have been cut");
    let took = switched.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn one_that_says_nothing_is_cut_after_its_targets_idle_time() {
    let world = World::start("wsidle").await;
    let key = world.owner.key("chat").await;
    let brief = json!({ "timeouts": { "idle_ms": 300, "total_ms": 400 } });
    world.owner.target("chat", echo().await, brief).await;
    world.all_admit(&key.secret).await;
    let mut socket = open(&world, &key.secret).await;
    // Longer than a whole request may take, and never idle for long.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        socket.send(Message::text("a")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while let Some(Ok(_)) = socket.next().await {}
    });
    ended.await.expect("the tunnel should have been cut");
}
