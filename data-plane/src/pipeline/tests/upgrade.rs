//! Connections that become something else than HTTP.

use std::sync::Arc;
use std::time::Duration;

use schemas::entry::SecretStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::proxy_to;
use crate::testing::{Proxy, change, credential, eventually, raw_upstream, secret};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nsec-websocket-accept: x\r\nset-cookie: a=b\r\n\r\n";

/// Asks for an upgrade; the stream and the head of the answer.
async fn upgrade(proxy: &Proxy, extra: &str, early: &[u8]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let key = credential(1);
    let head = format!(
        "GET /t/echo/chat HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n{extra}\r\n",
        key.reveal()
    );
    stream
        .write_all(&[head.as_bytes(), early].concat())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    (stream, String::from_utf8(head).unwrap())
}

const ASK: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket, h2c\r\n\
    HTTP2-Settings: AAMAAABk\r\nSec-WebSocket-Key: k\r\n";

/// An upstream that switches and says everything back, and at the end `bye`.
async fn echo() -> std::net::SocketAddr {
    raw_upstream(|mut stream| async move {
        stream.write_all(SWITCH).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        // The other side has closed its half; this one goes on.
        let _ = to.write_all(b"bye").await;
    })
    .await
}

#[tokio::test]
async fn bytes_pass_both_ways_and_a_half_may_close() {
    let proxy = proxy_to(echo().await, |_| {}).await;
    let (mut stream, head) = upgrade(&proxy, ASK, b"early ").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: x\r\n"), "{head}");
    assert!(!head.contains("set-cookie"), "{head}");
    assert!(head.contains("x-request-id: "), "{head}");
    stream.write_all(b"late").await.unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"early late");
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    for _ in 0..500 {
        let (_, metrics) = proxy.admin("/metrics").await;
        if metrics.contains("throttleproxy_requests_total{outcome=\"served\"} 1") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the tunnel was never counted");
}

#[tokio::test]
async fn what_the_upstream_sees_is_made_anew_and_is_never_http2() {
    let check = async |extra: &str, expected: Option<&str>| {
        let upstream = crate::testing::Upstream::start().await;
        let proxy = proxy_to(upstream.addr, |_| {}).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let key = credential(1);
        let head = format!(
            "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n{extra}\r\n",
            key.reveal()
        );
        // It does not upgrade, and the connection goes on either way.
        for _ in 0..2 {
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                answer.push(stream.read_u8().await.unwrap());
            }
        }
        for seen in upstream.seen() {
            let found = seen.headers.get("upgrade").map(|it| it.to_str().unwrap());
            assert_eq!(found, expected, "{extra:?}");
            let named = seen
                .headers
                .get("connection")
                .map(|it| it.to_str().unwrap());
            assert_eq!(named, expected.map(|_| "upgrade"), "{extra:?}");
            assert!(!seen.headers.contains_key("http2-settings"));
        }
    };
    check(
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        Some("websocket"),
    )
    .await;
    check(ASK, Some("websocket")).await;
    check(
        "Connection: upgrade\r\nUpgrade: a/1\r\nUpgrade: b\r\n",
        Some("a/1, b"),
    )
    .await;
    check(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
        None,
    )
    .await;
    // Nobody but this hop was meant, so it is not an upgrade.
    check("Upgrade: websocket\r\n", None).await;
    check("Connection: keep-alive\r\nUpgrade: websocket\r\n", None).await;
}

#[tokio::test]
async fn an_upstream_that_switches_to_something_else_is_refused() {
    let check = async |extra: &str, answer: &'static [u8]| {
        let addr = raw_upstream(move |mut stream| async move {
            let _ = stream.write_all(answer).await;
            let _ = stream.read_u8().await;
        })
        .await;
        let proxy = proxy_to(addr, |_| {}).await;
        let (_stream, head) = upgrade(&proxy, extra, b"").await;
        assert!(head.starts_with("HTTP/1.1 502"), "{extra:?} got {head}");
    };
    check("", SWITCH).await;
    check("Connection: upgrade\r\nUpgrade: other\r\n", SWITCH).await;
    check(ASK, b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
    let both = b"HTTP/1.1 101 x\r\nUpgrade: websocket, other\r\nConnection: upgrade\r\n\r\n";
    check(ASK, both).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_nothing_is_said_or_the_key_is_switched_off() {
    let proxy = proxy_to(echo().await, |bounds| bounds.idle_ms = 200).await;
    let (mut stream, _) = upgrade(&proxy, ASK, b"").await;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest))
        .await
        .expect("the tunnel should have been cut")
        .ok();
    assert!(rest.is_empty());

    let proxy = proxy_to(echo().await, |bounds| {
        bounds.stream_check_ms = 50;
        // The whole request may not take as long as this tunnel stands.
        bounds.total_ms = 1;
    })
    .await;
    let (mut stream, head) = upgrade(&proxy, ASK, b"").await;
    if !head.starts_with("HTTP/1.1 101") {
        // The upstream was too slow for such a deadline.
        return;
    }
    stream.write_all(b"a").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    proxy
        .publish(vec![change(1, secret(1, SecretStatus::Inactive))])
        .await;
    let reading = stream.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .expect("the tunnel should have been cut")
        .ok();
    let (_, metrics) = proxy.admin("/metrics").await;
    assert!(
        metrics.contains("throttleproxy_requests_total{outcome=\"cut\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_tunnel_with_it() {
    let left = Arc::new(Notify::new());
    let tells = Arc::clone(&left);
    let addr = raw_upstream(move |mut stream| {
        let tells = Arc::clone(&tells);
        async move {
            stream.write_all(SWITCH).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            tells.notify_one();
        }
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    let (stream, _) = upgrade(&proxy, ASK, b"").await;
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), left.notified())
        .await
        .expect("the upstream should have been told");
}

#[tokio::test]
async fn a_drain_waits_for_a_tunnel() {
    let proxy = proxy_to(echo().await, |_| {}).await;
    let (mut stream, _) = upgrade(&proxy, ASK, b"").await;
    let addr = proxy.addr();
    let leaving = tokio::spawn(proxy.running.shutdown());
    let mut refuses = false;
    eventually("nobody is let in", || {
        refuses = refuses || std::net::TcpStream::connect(addr).is_err();
        refuses
    })
    .await;
    stream.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");
    assert!(!leaving.is_finished());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), leaving)
        .await
        .expect("the drain should have ended")
        .unwrap();
}
