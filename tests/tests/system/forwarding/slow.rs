//! Clients that take their time cost next to nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use serde_json::json;
use tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, frame, literals,
    preface,
};
use tests::proxy::get;
use tests::upstream::{Manner, Rude};
use tests::wait::eventually;
use tests::{Plane, World};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// What so many slow clients may cost.
const ALLOWED_BYTES: u64 = 64 << 20;

/// Connects so many clients, lets each do the same, and holds all of them; then waits until
/// all have come `there`. The proxy may never take more than is allowed.
async fn check<C>(
    what: &str,
    proxy: &Plane,
    clients: usize,
    client: impl AsyncFn(SocketAddr) -> C,
    there: impl AsyncFn() -> Result<()>,
) -> Vec<C> {
    let address = proxy.address("proxy");
    let before = proxy.memory_bytes();
    let weigh = || {
        let more = proxy.memory_bytes().saturating_sub(before);
        assert!(more < ALLOWED_BYTES, "{what} cost {} MiB", more >> 20);
    };
    let mut held = Vec::new();
    while held.len() < clients {
        let next = (0..50.min(clients)).map(|_| client(address));
        held.extend(join_all(next).await);
        weigh();
    }
    eventually(what, Duration::from_secs(20), async || {
        weigh();
        there().await
    })
    .await;
    held
}

async fn at_once() -> Result<()> {
    Ok(())
}

async fn all_open(upstream: &Rude, count: usize) -> Result<()> {
    let open = upstream.open();
    ensure!(open == count, "{open} are open upstream");
    Ok(())
}

async fn connect(address: SocketAddr, receive_bytes: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(receive_bytes).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn a_thousand_heads_that_do_not_end() {
    let world = World::start("slowheads").await;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let line = format!("x-long: {}\r\n", "a".repeat(1_000));
        let head = format!("GET /t/echo/ HTTP/1.1\r\nHost: p\r\n{}", line.repeat(61));
        for piece in head.as_bytes().chunks(8_000) {
            // One that was given up meanwhile takes no more.
            let _ = stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        stream
    };
    let what = "1,000 heads of 62 KB";
    let _held = check(what, world.proxy(), 1_000, client, at_once).await;
    let key = &world.owner.key("quick").await.secret;
    world.all_admit(key).await;
}

#[tokio::test]
async fn a_thousand_bodies_that_stop() {
    let world = World::start("slowbodies").await;
    let key = &world.owner.key("slow").await.secret;
    let rude = Rude::start(Manner::Hangs).await;
    world.owner.target("sink", rude.port(), json!({})).await;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let head = head("POST", "/t/sink/", key, "Content-Length: 200000\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'a'; 60_000]).await.unwrap();
        stream
    };
    let there = async || all_open(&rude, 1_000).await;
    let held = check(
        "1,000 bodies that stop",
        world.proxy(),
        1_000,
        client,
        there,
    )
    .await;
    drop(held);
    eventually("all have gone", Duration::from_secs(10), async || {
        all_open(&rude, 0).await
    })
    .await;
    get(world.proxy(), key, "/t/echo/x").await.expect(200);
}

#[tokio::test]
async fn a_hundred_bodies_that_the_upstream_does_not_read() {
    let world = World::start("unreadbodies").await;
    let key = &world.owner.key("unread").await.secret;
    let deaf = Rude::start(Manner::Deaf).await;
    world.owner.target("deaf", deaf.port(), json!({})).await;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let head = head("POST", "/t/deaf/", key, "Content-Length: 9000000\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (from, mut to) = stream.into_split();
        let sending = tokio::spawn(async move {
            let _ = to.write_all(&vec![b'a'; 9_000_000]).await;
        });
        (from, sending)
    };
    let there = async || all_open(&deaf, 100).await;
    let what = "100 bodies that the upstream does not read";
    let _held = check(what, world.proxy(), 100, client, there).await;
    get(world.proxy(), key, "/t/echo/x").await.expect(200);
}

#[tokio::test]
async fn a_hundred_answers_that_nobody_reads() {
    let world = World::start("unread").await;
    let key = &world.owner.key("unread").await.secret;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let head = head("GET", "/t/echo/endless", key, "");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The answer has begun when there is something to read.
        stream.readable().await.unwrap();
        stream
    };
    let what = "100 answers that nobody reads";
    let _held = check(what, world.proxy(), 100, client, at_once).await;
    get(world.proxy(), key, "/t/echo/x").await.expect(200);
}

/// A head of HTTP/2 with a key, and its beginning where it shall not end.
fn http2_head(method: &str, path: &str, key: &str, length: &str) -> Vec<u8> {
    literals(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "p"),
        (":path", path),
        ("x-api-key", key),
        ("content-length", length),
    ])
}

#[tokio::test]
async fn a_thousand_heads_of_http2_that_do_not_end() {
    let world = World::start("slowheads2").await;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let block = literals(&[("x-long", "a".repeat(1_000).as_str()); 61]);
        let _ = stream.write_all(&preface()).await;
        for (at, piece) in block.chunks(16_000).enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let _ = stream.write_all(&frame(kind, 0, 1, piece)).await;
            tokio::task::yield_now().await;
        }
        stream
    };
    let what = "1,000 heads of 62 KB over HTTP/2";
    let _held = check(what, world.proxy(), 1_000, client, at_once).await;
    let key = &world.owner.key("quick").await.secret;
    world.all_admit(key).await;
}

#[tokio::test]
async fn a_thousand_bodies_of_http2_that_stop() {
    let world = World::start("slowbodies2").await;
    let key = &world.owner.key("slow").await.secret;
    let rude = Rude::start(Manner::Hangs).await;
    world.owner.target("sink", rude.port(), json!({})).await;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        let head = http2_head("POST", "/t/sink/", key, "200000");
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &head));
        for _ in 0..3 {
            bytes.extend(frame(DATA, 0, 1, &[b'a'; 5_000]));
        }
        stream.write_all(&bytes).await.unwrap();
        stream
    };
    let there = async || all_open(&rude, 1_000).await;
    let what = "1,000 bodies over HTTP/2 that stop";
    let held = check(what, world.proxy(), 1_000, client, there).await;
    drop(held);
    eventually("all have gone", Duration::from_secs(10), async || {
        all_open(&rude, 0).await
    })
    .await;
    get(world.proxy(), key, "/t/echo/x").await.expect(200);
}

#[tokio::test]
async fn a_hundred_answers_over_http2_that_nobody_reads() {
    let world = World::start("unread2").await;
    let key = &world.owner.key("unread").await.secret;
    let client = async |address| {
        let mut stream = connect(address, 4 << 10).await;
        // All that HTTP/2 can allow, of the stream and of the connection.
        let widest = [0, 4, 0x7f, 0xff, 0xff, 0xff];
        let wider = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
        let head = http2_head("GET", "/t/echo/endless", key, "0");
        let bytes = [
            preface(),
            frame(SETTINGS, 0, 0, &widest),
            frame(WINDOW_UPDATE, 0, 0, &wider),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &head),
        ]
        .concat();
        stream.write_all(&bytes).await.unwrap();
        stream.readable().await.unwrap();
        stream
    };
    let what = "100 answers over HTTP/2 that nobody reads";
    let _held = check(what, world.proxy(), 100, client, at_once).await;
    get(world.proxy(), key, "/t/echo/x").await.expect(200);
}

fn head(method: &str, path: &str, key: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: p\r\nx-api-key: {key}\r\n{more}\r\n")
}
