//! The pipeline as a whole: a real proxy over a region in memory, a real upstream.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use schemas::Limits;
use schemas::entry::{ErrorProfile, Policy, SecretStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::config::Bounds;
use crate::testing::{
    MemoryRegion, Proxy, Upstream, change, credential, eventually, policy, raw_upstream, secret,
    target, with_key, workspace,
};

/// A proxy with key 1 and a target `echo` at `addr`.
async fn proxy_to(addr: std::net::SocketAddr, adjust: impl FnOnce(&mut Bounds)) -> Proxy {
    let changes = vec![
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(target("echo", addr))),
    ];
    Proxy::start_with(changes, |config| adjust(&mut config.bounds)).await
}

#[tokio::test]
async fn a_request_passes_without_what_no_upstream_may_see() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .header("set-cookie", "a=b")
            .header("alt-svc", "h3")
            .header("x-throttleproxy-error", "fake")
            .header("etag", "x")
            .body(Full::from("hello"))
            .unwrap()
    })
    .await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let request = Request::post("/t/echo/a%20b/c?x=1&x_api_key=other&y=2")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x_forwarded_for", "1.2.3.4")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "gzip, Trailers")
        .header("authorization", "Bearer sk-foreign")
        .header("x-kept", "1");
    let reply = proxy.send(with_key(1, request, "ping")).await;

    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    let mut names: Vec<_> = reply.headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "etag", "x-request-id"]);
    assert_eq!(reply.headers["x-request-id"].len(), 26);

    let seen = &upstream.seen()[0];
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.path, "/a%20b/c?x=1&y=2");
    assert_eq!(&seen.body[..], b"ping");
    let mut names: Vec<_> = seen.headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "host", "te", "x-kept"]);
    assert_eq!(seen.headers["host"], upstream.addr.to_string());
}

#[tokio::test]
async fn a_destination_by_url_must_be_one_that_the_workspace_approved() {
    let upstream = Upstream::start().await;
    let mut below = target("below", upstream.addr);
    below.base_path = "/v1".to_owned();
    let proxy = Proxy::start(vec![
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(below)),
    ])
    .await;
    let origin = format!("http://{}", upstream.addr);
    let check = async |path: &str, origin: &str, expected: &str| {
        let request = Request::get(path).header("x-throttleproxy-target", origin);
        let reply = proxy.send(with_key(1, request, "")).await;
        assert_eq!(reply.code(), expected, "{path} at {origin}");
    };
    check("/v1/x?q=1", &origin, "").await;
    check("/v1", &origin, "").await;
    check("/v10", &origin, "target_not_allowed").await;
    check("/", &origin, "target_not_allowed").await;
    check("/v1/x", "http://127.0.0.1:1", "target_not_allowed").await;
    check(
        "/v1/x",
        &origin.replace("http", "https"),
        "target_not_allowed",
    )
    .await;
    check("/v1/x", "https://elsewhere.example", "target_not_allowed").await;
    check("/v1/x", &format!("{origin}/"), "bad_target").await;
    check("/v1/%2e%2e/x", &origin, "bad_target").await;
    let paths: Vec<_> = upstream.seen().into_iter().map(|it| it.path).collect();
    assert_eq!(paths, ["/v1/x?q=1", "/v1"]);

    let twice = Request::get("/v1/x")
        .header("x-throttleproxy-target", &origin)
        .header("x-throttleproxy-target", &origin);
    assert_eq!(
        proxy.send(with_key(1, twice, "")).await.code(),
        "bad_target"
    );
    assert_eq!(proxy.get(1, "/t/below/x").await.status, 200);
    assert_eq!(upstream.seen().last().unwrap().path, "/v1/x");
}

#[tokio::test]
async fn of_targets_that_share_a_port_the_one_that_owns_it_is_meant() {
    let upstream = Upstream::start().await;
    // The one with the lower id has the port only as an extra; it lets no answer through.
    let mut borrows = target("a", upstream.addr);
    borrows.port = 9;
    borrows.extra_ports = vec![upstream.addr.port()];
    borrows.bodies.response_bytes_max = Some(1);
    let owns = target("b", upstream.addr);
    let origin = format!("http://{}", upstream.addr);
    for targets in [[borrows.clone(), owns.clone()], [owns, borrows]] {
        let changes = targets.map(|it| policy(Policy::Target(it)));
        let key = vec![change(1, secret(1, SecretStatus::Active))];
        let proxy = Proxy::start([key, changes.to_vec()].concat()).await;
        let request = Request::get("/x").header("x-throttleproxy-target", &origin);
        assert_eq!(proxy.send(with_key(1, request, "")).await.text(), "hello");
    }
}

#[tokio::test]
async fn each_refusal_has_its_code_and_status() {
    let upstream = Upstream::start().await;
    let past = Some(1_000);
    let with = |n, adjust: &dyn Fn(&mut schemas::entry::SecretEntry)| {
        let mut entry = secret(n, SecretStatus::Active);
        adjust(&mut entry);
        change(n, entry)
    };
    let mut public = target("public", upstream.addr);
    public.allow_private = false;
    let proxy = Proxy::start(vec![
        change(1, secret(1, SecretStatus::Active)),
        change(2, secret(2, SecretStatus::Inactive)),
        change(3, secret(3, SecretStatus::Revoked)),
        change(4, secret(4, SecretStatus::Ended)),
        change(5, secret(5, SecretStatus::Purged)),
        with(6, &|it| it.ends_at_ms = past),
        with(7, &|it| it.expires_at_ms = past),
        with(8, &|it| {
            it.expires_at_ms = past;
            it.status = SecretStatus::Inactive;
        }),
        with(9, &|it| it.min_reader = 99),
        with(10, &|it| {
            it.workspace_id = schemas::WorkspaceId::from_u128(77)
        }),
        policy(Policy::Target(target("echo", upstream.addr))),
        policy(Policy::Target(public)),
    ])
    .await;
    let check = async |n, path: &str, status: u16, code: &str| {
        let reply = proxy.get(n, path).await;
        assert_eq!(
            (reply.status, reply.code()),
            (status, code),
            "key {n} {path}"
        );
        assert!(reply.headers.contains_key("x-request-id"));
        assert_eq!(reply.headers.contains_key("retry-after"), status == 503);
    };
    check(1, "/t/echo/", 200, "").await;
    check(1, "/t/echo", 200, "").await;
    check(99, "/t/echo/", 401, "invalid_key").await;
    check(2, "/t/echo/", 401, "inactive_key").await;
    check(3, "/t/echo/", 401, "inactive_key").await;
    check(4, "/t/echo/", 401, "inactive_key").await;
    check(5, "/t/echo/", 401, "invalid_key").await;
    check(6, "/t/echo/", 401, "inactive_key").await;
    check(7, "/t/echo/", 401, "expired_key").await;
    check(8, "/t/echo/", 401, "inactive_key").await;
    check(9, "/t/echo/", 503, "stale").await;
    check(10, "/t/echo/", 503, "stale").await;
    check(1, "/", 400, "bad_target").await;
    check(1, "/t/", 400, "bad_target").await;
    check(1, "/t/echo/../x", 400, "bad_target").await;
    check(1, "/.throttleproxy/nothing", 400, "bad_target").await;
    check(1, "/t/nobody/", 404, "unknown_target").await;
    check(1, "/t/public/", 403, "unsafe_target").await;
    assert!(
        proxy
            .get(1, "/t/public/")
            .await
            .text()
            .contains("allow_private_upstreams")
    );

    let nobody = Request::get("/t/echo/").body(Full::default()).unwrap();
    let reply = proxy.send(nobody).await;
    assert_eq!((reply.status, reply.code()), (401, "missing_key"));
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let two = Request::get("/t/echo/").header(
        "authorization",
        format!("Bearer {}", credential(2).reveal()),
    );
    let reply = proxy.send(with_key(1, two, "")).await;
    assert_eq!((reply.status, reply.code()), (400, "ambiguous_credentials"));
    let (_, metrics) = proxy.admin("/metrics").await;
    assert!(metrics.contains("throttleproxy_requests_total{outcome=\"unknown_target\"} 1"));
    assert!(metrics.contains("throttleproxy_entries_quarantined_total 1"));
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn requests_that_nobody_can_pass_on_close_the_connection() {
    let proxy = proxy_to("127.0.0.1:9".parse().unwrap(), |_| {}).await;
    let key = credential(1);
    let key = key.reveal();
    let check = async |text: &str, expected: u16| {
        let (status, answer) = proxy.raw(text.replace("$K", key).as_bytes()).await;
        assert_eq!(status, expected, "{text:?} got {answer:?}");
    };
    check(
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        400,
    )
    .await;
    check("TRACE / HTTP/1.1\r\nHost: p\r\nx-api-key: $K\r\n\r\n", 400).await;
    check("GET /t/echo/ HTTP/1.1\r\nx-api-key: $K\r\n\r\n", 400).await;
    check(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nHost: p\r\nx-api-key: $K\r\n\r\n",
        400,
    )
    .await;
    check(
        "GET http://q/t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: $K\r\n\r\n",
        400,
    )
    .await;
    check(
        "POST /t/echo/ HTTP/1.1\r\nHost: p\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    )
    .await;
    check(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-a: b\r\n c\r\n\r\n",
        400,
    )
    .await;
    check("rubbish\r\n\r\n", 400).await;
    // `chunked` is all that is undone on the way; any other coding would be lost.
    for codings in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
    ] {
        let body = "5\r\nabcde\r\n0\r\n\r\n";
        check(
            &format!(
                "POST /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: $K\r\n{codings}\r\n\r\n{body}"
            ),
            400,
        )
        .await;
    }
    let long = format!(
        "GET / HTTP/1.1\r\nHost: p\r\nx-long: {}\r\n\r\n",
        "a".repeat(100 << 10)
    );
    check(&long, 431).await;
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    check(&format!("GET / HTTP/1.1\r\nHost: p\r\n{many}\r\n"), 431).await;
}

#[tokio::test]
async fn limits_hold_and_a_changed_limit_keeps_its_count() {
    let upstream = Upstream::start().await;
    let limited = |rpm| {
        let mut entry = secret(1, SecretStatus::Active);
        entry.limits = Limits {
            rpm,
            ..Limits::default()
        };
        change(1, entry)
    };
    let proxy = Proxy::start(vec![
        limited(Some(2)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ])
    .await;
    let reply = proxy.get(1, "/t/echo/").await;
    assert_eq!(reply.headers["ratelimit-policy"], "\"rpm\";q=2;w=60");
    assert_eq!(reply.headers["x-ratelimit-remaining"], "1");
    assert_eq!(
        proxy.get(1, "/t/echo/").await.headers["x-ratelimit-warning"],
        "near_limit"
    );
    let refused = proxy.get(1, "/t/echo/").await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.headers["x-ratelimit-remaining"], "0");
    assert!(refused.text().contains("Rate limit exceeded: rpm"));

    proxy.publish(vec![limited(None)]).await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    proxy.publish(vec![limited(Some(4))]).await;
    assert_eq!(
        proxy.get(1, "/t/echo/").await.headers["x-ratelimit-remaining"],
        "0"
    );
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 429);
    proxy.publish(vec![limited(Some(0))]).await;
    let refused = proxy.get(1, "/t/echo/").await;
    assert_eq!(refused.status, 429);
    assert!(!refused.headers.contains_key("retry-after"));
    // Looking at oneself costs nothing and answers all the same.
    let me: serde_json::Value =
        serde_json::from_str(&proxy.get(1, "/.throttleproxy/me").await.text()).unwrap();
    assert_eq!(me["name"], "key 1");
    assert_eq!(me["prefix"], credential(1).prefix());
    assert_eq!(me["environment"], "live");
    assert_eq!(me["limits"][0]["limit"], 0);
    assert_eq!(me["limits"][0]["exact"], false);
}

#[tokio::test]
async fn a_request_that_was_not_sent_costs_nothing() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = gone.local_addr().unwrap();
    drop(gone);
    let mut entry = secret(1, SecretStatus::Active);
    entry.limits.rpm = Some(1);
    let proxy = Proxy::start(vec![
        change(1, entry),
        policy(Policy::Target(target("echo", nowhere))),
    ])
    .await;
    for _ in 0..3 {
        let reply = proxy.get(1, "/t/echo/").await;
        assert_eq!((reply.status, reply.code()), (502, "upstream_unreachable"));
    }
}

#[tokio::test]
async fn plan_limits_count_all_keys_and_speak_the_compact_profile() {
    let upstream = Upstream::start().await;
    let mut plan = workspace();
    plan.plan_limits.rpm = Some(2);
    plan.error_profile = Some(ErrorProfile::Compact);
    let proxy = Proxy::start(vec![
        policy(Policy::Workspace(plan)),
        change(1, secret(1, SecretStatus::Active)),
        change(2, secret(2, SecretStatus::Active)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ])
    .await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    let second = proxy.get(2, "/t/echo/").await;
    assert_eq!(
        second.headers["ratelimit-policy"],
        "\"workspace-rpm\";q=2;w=60"
    );
    let refused = proxy.get(1, "/t/echo/").await;
    assert_eq!((refused.status, refused.code()), (429, "plan_rate_limited"));
    assert_eq!(refused.headers["content-type"], "application/json");
    assert_eq!(
        refused.text(),
        r#"{"error": "exceeded the per-minute rate limit on your subscription"}"#
    );
}

#[tokio::test]
async fn a_key_in_the_query_only_where_the_workspace_allows_it() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let path = format!("/t/echo/?x_api_key={}&a=1", credential(1).reveal());
    let send = async || {
        let request = Request::get(&path).body(Full::default()).unwrap();
        proxy.send(request).await
    };
    assert_eq!(send().await.code(), "missing_key");
    let mut open = workspace();
    open.allow_query_key = true;
    proxy.publish(vec![policy(Policy::Workspace(open))]).await;
    assert_eq!(send().await.status, 200);
    assert_eq!(upstream.seen()[0].path, "/?a=1");
}

#[tokio::test]
async fn only_failed_keys_block_an_address_and_never_a_known_key() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |bounds| bounds.failures_max = 3).await;
    let nobody = async || {
        let request = Request::get("/t/echo/").body(Full::default()).unwrap();
        proxy.send(request).await.code().to_owned()
    };
    for _ in 0..5 {
        assert_eq!(nobody().await, "missing_key");
    }
    for _ in 0..3 {
        assert_eq!(proxy.get(99, "/t/echo/").await.code(), "invalid_key");
    }
    let refused = proxy.get(99, "/t/echo/").await;
    assert_eq!((refused.status, refused.code()), (403, "ip_blocked"));
    assert_eq!(refused.headers["retry-after"], "300");
    assert_eq!(nobody().await, "ip_blocked");
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
}

#[tokio::test]
async fn upstreams_that_misbehave() {
    let check = async |answer: &'static [u8], hang: bool, expected: (u16, &str)| {
        let addr = raw_upstream(move |mut stream| async move {
            let _ = stream.write_all(answer).await;
            if hang {
                let _ = stream.read_u8().await;
            }
        })
        .await;
        let proxy = proxy_to(addr, |bounds| {
            bounds.first_byte_ms = 300;
            bounds.idle_ms = 300;
            bounds.response_bytes_max = 1_000;
        })
        .await;
        let reply = proxy.get(1, "/t/echo/").await;
        let answer = String::from_utf8_lossy(answer);
        assert_eq!((reply.status, reply.code()), expected, "{answer:?}");
        (proxy, reply)
    };
    check(b"", false, (502, "upstream_unreachable")).await;
    check(b"rubbish\r\n\r\n", false, (502, "upstream_unreachable")).await;
    check(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        true,
        (502, "upstream_unreachable"),
    )
    .await;
    check(b"", true, (504, "upstream_timeout")).await;
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n",
        true,
        (502, "response_too_large"),
    )
    .await;
    let (_, redirect) = check(
        b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n",
        false,
        (302, ""),
    )
    .await;
    assert_eq!(redirect.headers["location"], "http://10.0.0.1/");

    // What goes wrong after the head is cut, never ended cleanly.
    for (answer, hang) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"[..],
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            true,
        ),
    ] {
        let (proxy, reply) = check(answer, hang, (200, "")).await;
        assert!(reply.body.is_err(), "{:?}", String::from_utf8_lossy(answer));
        let (_, metrics) = proxy.admin("/metrics").await;
        assert!(metrics.contains("throttleproxy_requests_total{outcome=\"cut\"} 1"));
    }
    let long: &'static [u8] = [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"3e9\r\n",
        &[b'a'; 1_001],
        b"\r\n0\r\n\r\n",
    ]
    .concat()
    .leak();
    // What is too large already when the head comes can still be said.
    check(long, false, (502, "response_too_large")).await;
}

#[tokio::test]
async fn a_targets_own_deadlines_and_caps_come_first() {
    let addr = raw_upstream(|mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let mut hasty = target("hasty", addr);
    hasty.timeouts.first_byte_ms = Some(100);
    let mut brief = target("brief", addr);
    brief.timeouts.total_ms = Some(100);
    let mut narrow = target("narrow", addr);
    narrow.bodies.request_bytes_max = Some(3);
    let proxy = Proxy::start(vec![
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(hasty)),
        policy(Policy::Target(brief)),
        policy(Policy::Target(narrow)),
    ])
    .await;
    for name in ["hasty", "brief"] {
        let began = Instant::now();
        let reply = proxy.get(1, &format!("/t/{name}/")).await;
        assert_eq!(
            (reply.status, reply.code()),
            (504, "upstream_timeout"),
            "{name}"
        );
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    let reply = proxy
        .send(with_key(1, Request::post("/t/narrow/"), "four"))
        .await;
    assert_eq!((reply.status, reply.code()), (413, "request_too_large"));
}

/// Sends a head and a beginning of a chunked body, then whatever `rest` does; the answer.
async fn trickle(proxy: &Proxy, head: &str, rest: impl AsyncFnOnce(&mut TcpStream)) -> String {
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let key = credential(1);
    let head = format!(
        "POST /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n{head}\r\n\r\n",
        key.reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    rest(&mut stream).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the connection should have been closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_that_are_too_long_too_slow_or_stop_half_way() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |bounds| {
        bounds.request_bytes_max = 10;
        bounds.body_rate_window_ms = 300;
    })
    .await;
    let answer = trickle(&proxy, "Transfer-Encoding: chunked", async |stream| {
        stream
            .write_all(b"5\r\nabcde\r\n6\r\nfghijk\r\n")
            .await
            .unwrap();
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("x-throttleproxy-error: request_too_large"));

    let answer = trickle(&proxy, "Content-Length: 10", async |stream| {
        stream.write_all(b"abc").await.unwrap();
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("x-throttleproxy-error: request_timeout"));

    // A body that ends before its length never looks whole to the upstream.
    trickle(&proxy, "Content-Length: 10", async |stream| {
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    assert_eq!(
        proxy.get(1, "/t/echo/").await.status,
        200,
        "the server goes on"
    );
    let whole = upstream.seen().into_iter().filter(|it| it.method == "GET");
    assert_eq!(whole.count(), 1);
}

#[tokio::test]
async fn a_large_body_streams_both_ways() {
    let upstream = Upstream::answering(|seen| Response::new(Full::new(seen.body.clone()))).await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let body: Bytes = (0..3_000_000_u32).map(|n| n as u8).collect();
    let reply = proxy
        .send(with_key(1, Request::put("/t/echo/"), body.clone()))
        .await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.unwrap() == body);
}

#[tokio::test]
async fn events_of_a_stream_arrive_as_they_come() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let addr = raw_upstream(move |mut stream| {
        let waits = Arc::clone(&waits);
        async move {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..2 {
                stream.write_all(b"9\r\ndata: 1\n\n\r\n").await.unwrap();
                waits.notified().await;
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let head = format!(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n\r\n",
        credential(1).reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    for events in 1..=2 {
        while text.matches("data: 1").count() < events {
            let mut bytes = [0; 1_024];
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes))
                .await
                .expect("the event should have come at once")
                .unwrap();
            text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        // The upstream sends the next only after the client has this one.
        go_on.notify_one();
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_request_with_it() {
    let left = Arc::new(Notify::new());
    let tells = Arc::clone(&left);
    let addr = raw_upstream(move |mut stream| {
        let tells = Arc::clone(&tells);
        async move {
            // Ends when the proxy closes the connection.
            let _ = stream.read_u8().await;
            tells.notify_one();
        }
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let head = format!(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n\r\n",
        credential(1).reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the request has come", || {
        proxy.region.renewals().iter().any(|it| !it.uses.is_empty())
    })
    .await;
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), left.notified())
        .await
        .expect("the upstream should have been left");
}

#[tokio::test]
async fn half_closing_after_a_request_is_leaving() {
    let left = Arc::new(Notify::new());
    let tells = Arc::clone(&left);
    let addr = raw_upstream(move |mut stream| {
        let tells = Arc::clone(&tells);
        async move {
            let _ = stream.read_u8().await;
            tells.notify_one();
        }
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let head = format!(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n\r\n",
        credential(1).reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the request has come", || {
        proxy.region.renewals().iter().any(|it| !it.uses.is_empty())
    })
    .await;
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
        .await
        .expect("the connection should have been closed")
        .unwrap();
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    tokio::time::timeout(Duration::from_secs(5), left.notified())
        .await
        .expect("the upstream should have been left");
}

#[tokio::test]
async fn a_client_that_does_not_read_can_still_send_its_body() {
    const BYTES: usize = 8 << 20;
    let whole = Arc::new(Notify::new());
    let tells = Arc::clone(&whole);
    // Answers at once with far more than sockets hold, and reads the body beside it.
    let addr = raw_upstream(move |stream| {
        let tells = Arc::clone(&tells);
        async move {
            let (mut from, mut to) = stream.into_split();
            tokio::spawn(async move {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20);
                let _ = to.write_all(head.as_bytes()).await;
                let _ = to.write_all(&vec![b'a'; 64 << 20]).await;
            });
            let mut body = vec![0; BYTES];
            from.read_exact(&mut body).await.unwrap();
            tells.notify_one();
        }
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let head = format!(
        "PUT /t/echo/ HTTP/1.1\r\nHost: p\r\nContent-Length: {BYTES}\r\nx-api-key: {}\r\n\r\n",
        credential(1).reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer is under way before the body is.
    stream.write_all(&[b'b'; 1]).await.unwrap();
    stream.readable().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sending = stream.write_all(&[b'b'; BYTES - 1]);
    tokio::time::timeout(Duration::from_secs(10), sending)
        .await
        .expect("the body should have been taken")
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), whole.notified())
        .await
        .expect("the upstream should have got the body");
}

#[tokio::test]
async fn slow_heads_and_clients_that_do_not_read_are_cut() {
    let flood = raw_upstream(|mut stream| async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 80 << 20);
        let _ = stream.write_all(head.as_bytes()).await;
        let piece = vec![b'a'; 1 << 16];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let proxy = proxy_to(flood, |bounds| {
        bounds.head_ms = 200;
        bounds.idle_ms = 300;
    })
    .await;
    let (status, text) = proxy.raw(b"GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-a").await;
    assert_eq!(status, 408, "{text}");
    assert!(
        text.contains("x-throttleproxy-error: request_timeout"),
        "{text}"
    );
    assert!(text.contains("x-request-id: "), "{text}");
    let (status, text) = proxy.raw(b"").await;
    assert_eq!(status, 0, "who says nothing gets no answer: {text}");

    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let head = format!(
        "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n\r\n",
        credential(1).reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut cut = false;
    for _ in 0..500 {
        let (_, metrics) = proxy.admin("/metrics").await;
        cut = metrics.contains("throttleproxy_requests_total{outcome=\"left\"} 1");
        if cut {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        cut,
        "the connection of a client that does not read stays open"
    );
}

#[tokio::test]
async fn connections_are_reused_and_a_closed_one_is_not_missed() {
    let upstream = Upstream::start().await;
    let changes = vec![
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ];
    let proxy = Proxy::start_with(changes, |config| config.workers = 1).await;
    for _ in 0..5 {
        assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    }
    assert_eq!(upstream.connections(), 1);

    // This one answers once and closes, after the proxy has taken the connection back.
    let addr = raw_upstream(|mut stream| async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let _ = stream.write_all(answer).await;
    })
    .await;
    let proxy = proxy_to(addr, |_| {}).await;
    for _ in 0..5 {
        assert_eq!(proxy.get(1, "/t/echo/").await.text(), "ok");
    }
}

#[tokio::test]
async fn nothing_is_admitted_before_the_control_plane_has_answered() {
    let upstream = Upstream::start().await;
    let region = Arc::new(MemoryRegion::new());
    region.answers.store(false, Ordering::SeqCst);
    region.publish(vec![
        policy(Policy::Workspace(workspace())),
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ]);
    let proxy = Proxy::over(region, |_| {}).await;
    for _ in 0..20 {
        let reply = proxy.get(1, "/t/echo/").await;
        assert_eq!((reply.status, reply.code()), (503, "stale"));
    }
    assert_eq!(proxy.admin("/readyz").await.0, 503);
    assert_eq!(proxy.admin("/healthz").await.0, 200);
    proxy.region.answers.store(true, Ordering::SeqCst);
    eventually("the proxy is ready", || proxy.running.is_ready()).await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    assert_eq!(proxy.admin("/readyz").await.0, 200);
    let table: serde_json::Value = serde_json::from_str(&proxy.admin("/table").await.1).unwrap();
    assert_eq!(table["position"], 1);
    assert_eq!(table["entries"], 1);
    assert_eq!(table["ready"], true);
    assert_eq!(table["proxy_id"], "proxy");
}

#[tokio::test]
async fn the_table_serves_on_while_the_region_is_away_and_misses_are_never_401() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    proxy.region.is_away.store(true, Ordering::SeqCst);
    eventually_state(&proxy, "stale").await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    let reply = proxy.get(2, "/t/echo/").await;
    assert_eq!((reply.status, reply.code()), (503, "stale"));
    assert_eq!(proxy.admin("/readyz").await.0, 200);

    // What happened meanwhile is caught up.
    proxy.region.is_silent.store(true, Ordering::SeqCst);
    proxy.region.publish(vec![
        change(1, secret(1, SecretStatus::Revoked)),
        change(2, secret(2, SecretStatus::Active)),
    ]);
    proxy.region.is_away.store(false, Ordering::SeqCst);
    eventually_state(&proxy, "follow").await;
    assert_eq!(proxy.get(1, "/t/echo/").await.code(), "inactive_key");
    assert_eq!(proxy.get(2, "/t/echo/").await.status, 200);
    assert_eq!(proxy.get(3, "/t/echo/").await.code(), "invalid_key");
}

#[tokio::test]
async fn a_wiped_region_changes_nothing() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    proxy
        .publish(vec![change(2, secret(2, SecretStatus::Revoked))])
        .await;
    proxy.region.wipe();
    eventually_state(&proxy, "stale").await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    assert_eq!(proxy.get(2, "/t/echo/").await.code(), "inactive_key");
    assert_eq!(proxy.get(3, "/t/echo/").await.code(), "stale");
}

async fn eventually_state(proxy: &Proxy, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let table: serde_json::Value =
            serde_json::from_str(&proxy.admin("/table").await.1).unwrap();
        if table["state"] == state {
            return;
        }
        assert!(Instant::now() < deadline, "never {state}: {table}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_set_aside_alone() {
    let upstream = Upstream::start().await;
    let region = Arc::new(MemoryRegion::new());
    region.publish(vec![
        policy(Policy::Workspace(workspace())),
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ]);
    region.publish_unreadable(credential(2).hash());
    let proxy = Proxy::over(region, |_| {}).await;
    eventually("the proxy is ready", || proxy.running.is_ready()).await;
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    assert_eq!(proxy.get(2, "/t/echo/").await.code(), "stale");
    proxy
        .publish(vec![change(2, secret(2, SecretStatus::Active))])
        .await;
    assert_eq!(proxy.get(2, "/t/echo/").await.status, 200);
}

/// A listener whose queue is full, so that connecting to it waits.
#[tokio::test]
async fn a_key_switched_off_while_its_request_waits_is_refused_and_not_charged() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    socket.listen(0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(socket.into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await
    {
        fillers.push(filler);
    }
    let mut entry = secret(1, SecretStatus::Active);
    entry.limits.rpm = Some(1);
    let proxy = Arc::new(
        Proxy::start(vec![
            change(1, entry.clone()),
            policy(Policy::Target(target("echo", addr))),
        ])
        .await,
    );
    let waiting = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.get(1, "/t/echo/").await.code().to_owned() }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        !waiting.is_finished(),
        "the request should wait for its connection"
    );
    let mut off = entry.clone();
    off.status = SecretStatus::Inactive;
    proxy.publish(vec![change(1, off)]).await;
    let serving = tokio::spawn(async move {
        let mut heads = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1];
            if let Ok(Ok(1)) =
                tokio::time::timeout(Duration::from_millis(300), stream.read(&mut head)).await
            {
                heads += 1;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
            assert_eq!(heads, 0, "a byte went upstream");
        }
    });
    assert_eq!(waiting.await.unwrap(), "inactive_key");
    assert!(!serving.is_finished());
    // Its count was put back: switched on again, the one request of this minute is free.
    proxy.publish(vec![change(1, entry)]).await;
    let me: serde_json::Value =
        serde_json::from_str(&proxy.get(1, "/.throttleproxy/me").await.text()).unwrap();
    assert_eq!(me["limits"][0]["remaining"], 1);
}

#[tokio::test]
async fn a_running_answer_ends_when_its_key_is_switched_off() {
    let addr = raw_upstream(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        while stream.write_all(b"1\r\na\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let proxy = proxy_to(addr, |bounds| bounds.stream_check_ms = 100).await;
    let (key, address) = (credential(1), proxy.addr());
    let reading = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nx-api-key: {}\r\n\r\n",
            key.reveal()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!reading.is_finished(), "a good key's answer goes on");
    proxy
        .publish(vec![change(1, secret(1, SecretStatus::Revoked))])
        .await;
    let text = tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .expect("the answer should have been cut")
        .unwrap();
    assert!(!text.ends_with("0\r\n\r\n"), "it must not look whole");
}

#[tokio::test]
async fn uses_are_reported_at_least_once() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    for _ in 0..3 {
        proxy.get(1, "/t/echo/").await;
    }
    let reported = || -> u64 {
        let renewals = proxy.region.renewals();
        renewals
            .iter()
            .flat_map(|it| &it.uses)
            .map(|it| it.requests)
            .sum()
    };
    eventually("the uses are reported", || reported() >= 3).await;
    let renewals = proxy.region.renewals();
    assert!(renewals.windows(2).all(|it| it[0].counter < it[1].counter));
    assert!(renewals.iter().all(|it| it.uses_complete));
}

#[tokio::test]
async fn a_taken_port_names_its_setting() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let region: Arc<dyn crate::follow::RegionSource> = Arc::new(MemoryRegion::new());
    let mut config = crate::testing::config();
    config.listen = taken.local_addr().unwrap();
    let Err(error) = crate::start(config, Arc::clone(&region)).await else {
        panic!("the port is taken");
    };
    assert!(error.to_string().contains("[data] listen"), "{error}");
    assert!(
        error.to_string().contains("THROTTLEPROXY__DATA__LISTEN"),
        "{error}"
    );

    // Also when the one who has it shares its port, as another proxy of ours does.
    let other = Proxy::start(Vec::new()).await;
    let mut config = crate::testing::config();
    config.listen = other.addr();
    assert!(crate::start(config, Arc::clone(&region)).await.is_err());
    let mut config = crate::testing::config();
    config.admin_listen = other.running.admin_addr();
    let Err(error) = crate::start(config, region).await else {
        panic!("the port is taken");
    };
    assert!(error.to_string().contains("[data] admin_listen"), "{error}");
}

#[tokio::test]
async fn a_shutdown_lets_running_requests_end() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let addr = raw_upstream(move |mut stream| {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let Proxy { region, running } = proxy_to(addr, |_| {}).await;
    let address = running.proxy_addr();
    let request = with_key(1, Request::get("/t/echo/"), "");
    let waiting = tokio::spawn(crate::testing::exchange(address, request));
    eventually("the request is on its way", || {
        region.renewals().iter().any(|it| !it.uses.is_empty())
    })
    .await;
    let leaving = tokio::spawn(running.shutdown());
    let mut refused = false;
    for _ in 0..500 {
        refused = TcpStream::connect(address).await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused, "new connections are still accepted");
    go_on.notify_one();
    assert_eq!(waiting.await.unwrap().text(), "ok");
    leaving.await.unwrap();
    assert!(region.renewals().last().unwrap().goodbye);
}

mod access;
mod http2;
mod trailers;
mod upgrade;
