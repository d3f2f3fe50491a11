//! Where a connection really goes: to an address that was judged, whatever a name says a
//! moment later.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::proxy::{get, refused};
use tests::upstream::{Manner, Rude};
use tests::wait::eventually;
use tests::{Dns, Upstream, World};
use tokio::net::TcpListener;

/// In the range of public addresses, but given to nobody: nothing is ever sent there,
/// since no route leads to it.
const NOBODY: &str = "2d00::1";

async fn target(world: &World, name: &str, host: &str, port: u16, more: Value) {
    let mut body = json!({ "name": name, "host": host, "scheme": "http", "port": port });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world
        .owner
        .post("/targets?wait=applied", body)
        .await
        .expect(201);
}

/// A name that is public when it is judged and private a moment later gains nothing: there
/// is no second question.
#[tokio::test]
async fn an_answer_that_changes_between_check_and_connect_does_not_win() {
    let dns = Dns::start().await;
    let world = World::builder("rebind")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    let port = world.upstream.port();
    let public_only = json!({ "allow_private": false, "scheme": "https", "port": port });
    dns.say(
        "rebind.example.com",
        0,
        &[&[NOBODY], &["127.0.0.1"], &["127.0.0.1"]],
    );
    target(&world, "rebind", "rebind.example.com", port, public_only).await;
    let reply = get(world.proxy(), &key, "/t/rebind/x").await;
    refused(reply, 502, "upstream_unreachable", "upstream unreachable");
    assert_eq!(dns.asked("rebind.example.com"), 1);
    // The next request asks anew, and what it is told now is judged now.
    let reply = get(world.proxy(), &key, "/t/rebind/x").await;
    refused(reply, 403, "unsafe_target", "Target not allowed");
    assert_eq!(dns.asked("rebind.example.com"), 2);
    assert!(world.upstream.seen().is_empty());

    // Where private addresses are allowed, the connection goes to the first answer's.
    let there = TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], port)))
        .await
        .unwrap();
    dns.say("pinned.example.com", 0, &[&["127.0.0.1"], &["127.0.0.2"]]);
    target(&world, "pinned", "pinned.example.com", port, json!({})).await;
    let reply = get(world.proxy(), &key, "/t/pinned/x").await.expect(200);
    assert_eq!(reply.json()["path"], "/x");
    assert_eq!(dns.asked("pinned.example.com"), 1);
    let seen = world.upstream.last("/x");
    assert_eq!(seen.headers["host"], format!("pinned.example.com:{port}"));
    let nobody = tokio::time::timeout(Duration::from_millis(100), there.accept()).await;
    assert!(nobody.is_err(), "somebody connected to the second answer");
}

/// One bad address among good ones is a bad answer.
#[tokio::test]
async fn every_address_of_an_answer_must_be_public() {
    let dns = Dns::start().await;
    let world = World::builder("mixed")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    for (number, bad) in [
        "127.0.0.1",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001::1",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
        "2a00:1450::5efe:10.0.0.1",
    ]
    .into_iter()
    .enumerate()
    {
        let host = format!("mixed-{number}.example.com");
        let name = format!("mixed-{number}");
        dns.say(&host, 60, &[&[NOBODY, bad]]);
        let more = json!({ "allow_private": false, "scheme": "https" });
        target(&world, &name, &host, 443, more).await;
        let reply = get(world.proxy(), &key, &format!("/t/{name}/x")).await;
        refused(reply, 403, "unsafe_target", "Target not allowed");
    }
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_say() {
    let dns = Dns::start().await;
    let world = World::builder("ttl")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    // It closes each time, so each request makes a new connection.
    let upstream = Rude::start(Manner::Says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ))
    .await;
    for (name, ttl, questions) in [("kept", 3_600, 1), ("fresh", 0, 3)] {
        let host = format!("{name}.example.com");
        dns.say(&host, ttl, &[&["127.0.0.1"]]);
        target(&world, name, &host, upstream.port(), json!({})).await;
        for _ in 0..3 {
            let path = format!("/t/{name}/x");
            get(world.proxy(), &key, &path).await.expect(200);
        }
        assert_eq!(dns.asked(&host), questions, "{name}");
    }
    let unknown = json!({ "allow_private": false, "scheme": "https" });
    target(&world, "unknown", "unknown.example.com", 443, unknown).await;
    let reply = get(world.proxy(), &key, "/t/unknown/x").await;
    refused(reply, 502, "upstream_unreachable", "upstream unreachable");
}

/// What the installation listens on is no upstream, whatever else is allowed.
#[tokio::test]
async fn a_request_does_not_lead_back_to_the_installation() {
    let dns = Dns::start().await;
    let world = World::builder("loop")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    let proxy = world.proxy();
    for listener in ["proxy", "admin"] {
        let port = proxy.address(listener).port();
        for (number, host) in ["127.0.0.1", "127.0.0.2", "[::1]", "0.0.0.0", "localhost"]
            .into_iter()
            .enumerate()
        {
            let name = format!("{listener}-{number}");
            target(&world, &name, host, port, json!({})).await;
            let reply = get(proxy, &key, &format!("/t/{name}/healthz")).await;
            refused(reply, 403, "unsafe_target", "Target not allowed");
        }
        let host = format!("{listener}.example.com");
        dns.say(&host, 60, &[&["127.0.0.1"]]);
        target(&world, listener, &host, port, json!({})).await;
        let reply = get(proxy, &key, &format!("/t/{listener}/healthz")).await;
        refused(reply, 403, "unsafe_target", "Target not allowed");
    }
}

/// Without its name server a proxy resolves nothing, and never another way.
#[tokio::test]
async fn without_a_name_server_a_name_leads_nowhere() {
    let dns = Dns::start().await;
    let world = World::builder("no-dns")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    let other = Upstream::start().await;
    dns.say("api.example.com", 0, &[&["127.0.0.1"]]);
    let quick = json!({ "timeouts": { "connect_ms": 500 } });
    target(&world, "api", "api.example.com", other.port(), quick).await;
    drop(dns);
    eventually("the server is gone", Duration::from_secs(5), async || {
        let reply = get(world.proxy(), &key, "/t/api/x").await;
        anyhow::ensure!(reply.status != 200, "it still answers");
        Ok(())
    })
    .await;
    let reply = get(world.proxy(), &key, "/t/api/x").await;
    assert!([502, 504].contains(&reply.status), "{}", reply.text());
    // What is at an address goes on.
    get(world.proxy(), &key, "/t/echo/x").await.expect(200);
}
