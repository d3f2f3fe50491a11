//! Messages of every form that HTTP has.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::json;
use tests::proxy::{get, send};
use tests::upstream::{Manner, Rude};
use tests::wait::eventually;
use tests::{Ask, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http2;

/// Reads until the bytes end so, or the connection does.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => break,
            }
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(10), reading).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(within.is_ok(), "{end:?} never came: {text}");
    text
}

#[tokio::test]
async fn answers_without_a_body_keep_what_they_say_of_it() {
    let world = World::start("bodiless").await;
    let key = world.owner.key("forms").await.secret;
    let head = Ask::new("HEAD", "/t/echo/big/1234").header("x-api-key", &key);
    let reply = send(world.proxy(), head).await.expect(200);
    assert_eq!(
        (reply.must("content-length"), reply.body.len()),
        ("1234", 0)
    );
    // Larger than any answer may be, but none comes.
    let rude = Rude::start(Manner::Says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n",
    ))
    .await;
    world.owner.target("vast", rude.port(), json!({})).await;
    let head = Ask::new("HEAD", "/t/vast/").header("x-api-key", &key);
    assert_eq!(
        send(world.proxy(), head)
            .await
            .expect(200)
            .must("content-length"),
        "999999999999"
    );
    for status in [204, 304] {
        let reply = get(world.proxy(), &key, &format!("/t/echo/status/{status}")).await;
        assert_eq!((reply.status, reply.body.len()), (status, 0));
    }
    let ask = Ask::get("/t/echo/range")
        .header("x-api-key", &key)
        .header("range", "bytes=1-3");
    let reply = send(world.proxy(), ask).await.expect(206);
    assert_eq!(
        (reply.must("content-range"), reply.text().as_str()),
        ("bytes 1-3/26", "bcd")
    );
    assert_eq!(world.upstream.last("/range").headers["range"], "bytes=1-3");
}

#[tokio::test]
async fn other_answers_before_the_answer_do_not_pass() {
    let world = World::start("interim").await;
    let key = world.owner.key("forms").await.secret;
    let rude = Rude::start(Manner::Says(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
          HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ))
    .await;
    world.owner.target("hints", rude.port(), json!({})).await;
    let mut stream = TcpStream::connect(world.proxy().address("proxy"))
        .await
        .unwrap();
    let head = format!("GET /t/hints/ HTTP/1.1\r\nHost: p\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("link"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_hears_it_only_when_it_may() {
    let world = World::start("expect").await;
    let key = world.owner.key("forms").await.secret;
    let open = async |key: &str| {
        let mut stream = TcpStream::connect(world.proxy().address("proxy"))
            .await
            .unwrap();
        let head = format!(
            "POST /t/echo/x HTTP/1.1\r\nHost: p\r\nx-api-key: {key}\r\n\
             Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        (stream, head)
    };
    let (mut stream, interim) = open(&key).await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ping").await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        world.upstream.last("/x").body.as_deref(),
        Some(&b"ping"[..])
    );
    let (_, refused) = open("rubbish").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let world = World::start("leaves").await;
    let key = world.owner.key("forms").await.secret;
    let rude = Rude::start(Manner::Hangs).await;
    world.owner.target("hangs", rude.port(), json!({})).await;
    let open = async |count: usize| {
        eventually("so many are upstream", Duration::from_secs(5), async || {
            anyhow::ensure!(rude.open() == count, "{}", rude.open());
            Ok(())
        })
        .await;
    };
    let head = format!("GET /t/hangs/ HTTP/1.1\r\nHost: p\r\nx-api-key: {key}\r\n\r\n");
    // All of the connection, or only its half: both are the same FIN.
    for is_half in [false, true] {
        let mut stream = TcpStream::connect(world.proxy().address("proxy"))
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        open(1).await;
        if is_half {
            stream.shutdown().await.unwrap();
        } else {
            drop(stream);
        }
        open(0).await;
    }
    // One stream of HTTP/2, and then the connection of another.
    let ask = || {
        Request::get("http://p/t/hangs/")
            .header("x-api-key", &key)
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let stream = TcpStream::connect(world.proxy().address("proxy"))
        .await
        .unwrap();
    let mut client = http2(stream).await;
    let asking = tokio::spawn(client.send_request(ask()));
    open(1).await;
    asking.abort();
    open(0).await;
    let asking = tokio::spawn(client.send_request(ask()));
    open(1).await;
    drop(client);
    asking.abort();
    open(0).await;
}

#[tokio::test]
async fn events_come_one_by_one_over_http2_as_well() {
    let world = World::start("events2").await;
    let key = world.owner.key("forms").await.secret;
    world.all_admit(&key).await;
    let stream = TcpStream::connect(world.proxy().address("proxy"))
        .await
        .unwrap();
    let ask = Request::get("http://p/t/echo/events")
        .header("x-api-key", &key)
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut body = http2(stream)
        .await
        .send_request(ask)
        .await
        .unwrap()
        .into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame());
        let frame = frame.await.expect("it should have come").unwrap().unwrap();
        frame.into_data().unwrap()
    };
    assert_eq!(next().await, "data: one\n\n");
    world.upstream.release();
    assert_eq!(next().await, "data: two\n\n");
}

#[tokio::test]
async fn trailer_fields_pass_both_ways() {
    let world = World::start("trailers").await;
    let key = world.owner.key("forms").await.secret;
    let mut stream = TcpStream::connect(world.proxy().address("proxy"))
        .await
        .unwrap();
    let text = format!(
        "POST /t/echo/trailers HTTP/1.1\r\nHost: p\r\nx-api-key: {key}\r\nTE: trailers\r\n\
         Trailer: x-sum, authorization\r\nTransfer-Encoding: chunked\r\n\r\n\
         4\r\nping\r\n0\r\nx-sum: 2\r\nauthorization: x\r\nx-other: 1\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "0\r\nx-sum: 1\r\n\r\n").await;
    assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
    assert!(!answer.contains("set-cookie"), "{answer}");
    let seen = world.upstream.last("/trailers");
    assert_eq!(
        (
            seen.headers["trailer"].as_bytes(),
            seen.headers["te"].as_bytes()
        ),
        (&b"x-sum"[..], &b"trailers"[..])
    );
    let trailers = seen.trailers.unwrap();
    assert_eq!(
        (trailers.len(), trailers["x-sum"].as_bytes()),
        (1, &b"2"[..])
    );
}
