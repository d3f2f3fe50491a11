//! A request through a real proxy: where it goes, what it leaves behind, what it says.

use std::time::Duration;

use anyhow::ensure;
use http_body_util::BodyExt;
use serde_json::json;
use tests::proxy::{Verdict, check_verdict, get, refused, send};
use tests::upstream::{Manner, Rude};
use tests::wait::eventually;
use tests::{Ask, World};

#[tokio::test]
async fn a_target_is_reached_by_name() {
    let world = World::start("byname").await;
    let key = world.owner.key("by name").await.secret;
    let second = tests::Upstream::start().await;
    world
        .owner
        .target("based", second.port(), json!({ "base_path": "/v2" }))
        .await;
    for (asked, arrived) in [
        ("/t/echo", "/"),
        ("/t/echo/", "/"),
        ("/t/echo/a/b", "/a/b"),
        ("/t/echo/a//b/", "/a//b/"),
        ("/t/echo/a%20b%2Bc?x=1&y=%20", "/a%20b%2Bc?x=1&y=%20"),
        ("/t/echo/?q", "/?q"),
        ("/t/based/users", "/v2/users"),
        ("/t/based", "/v2/"),
    ] {
        let reply = get(world.proxy(), &key, asked).await.expect(200);
        assert_eq!(reply.json()["path"], arrived, "{asked}");
        assert!(!reply.must("x-request-id").is_empty());
    }
    let reply = get(world.proxy(), &key, "/t/nowhere/x").await;
    refused(reply, 404, "unknown_target", "Unknown target");
    let reply = get(world.proxy(), &key, "/elsewhere").await.expect(400);
    assert_eq!(reply.must("x-throttleproxy-error"), "bad_target");
}

#[tokio::test]
async fn a_target_is_reached_by_url() {
    let world = World::start("byurl").await;
    let key = world.owner.key("by url").await.secret;
    let (origin, port) = (world.upstream.origin(), world.upstream.port());
    let by_url = async |target: &str, path: &str| {
        send(
            world.proxy(),
            Ask::get(path)
                .header("x-api-key", &key)
                .header("x-throttleproxy-target", target),
        )
        .await
    };
    let reply = by_url(&origin, "/a%2Bb?x=1").await.expect(200);
    assert_eq!(reply.json()["path"], "/a%2Bb?x=1");
    let host = format!("127.0.0.1:{port}");
    assert_eq!(world.upstream.last("/a%2Bb").headers["host"], host.as_str());

    for target in [
        format!("{origin}/"),
        format!("{origin}/path"),
        format!("{origin}?q"),
        format!("http://user@{host}"),
        host.clone(),
        "ftp://127.0.0.1".into(),
        String::new(),
        "http://".into(),
    ] {
        let reply = by_url(&target, "/x").await.expect(400);
        assert_eq!(
            reply.must("x-throttleproxy-error"),
            "bad_target",
            "{target}"
        );
    }
    for target in [
        "https://api.example.com".to_owned(),
        format!("https://{host}"),
        format!("http://127.0.0.1:{}", port.wrapping_add(1).max(1024)),
        format!("http://localhost:{port}"),
    ] {
        let reply = by_url(&target, "/x").await;
        refused(reply, 403, "target_not_allowed", "Target not allowed");
    }
    let twice = Ask::get("/x")
        .header("x-api-key", &key)
        .header("x-throttleproxy-target", &origin)
        .header("x-throttleproxy-target", &origin);
    let reply = send(world.proxy(), twice).await.expect(400);
    assert_eq!(reply.must("x-throttleproxy-error"), "bad_target");
}

#[tokio::test]
async fn a_base_path_is_a_fence() {
    let world = World::start("fence").await;
    let key = world.owner.key("fenced").await.secret;
    let rude = Rude::start(Manner::Says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ))
    .await;
    world
        .owner
        .target("fenced", rude.port(), json!({ "base_path": "/v2" }))
        .await;
    let target = format!("http://127.0.0.1:{}", rude.port());
    for (path, status) in [
        ("/v2", 200),
        ("/v2/x", 200),
        ("/v2?x", 200),
        ("/v20", 403),
        ("/", 403),
        ("/V2/x", 403),
    ] {
        let ask = Ask::get(path)
            .header("x-api-key", &key)
            .header("x-throttleproxy-target", &target);
        let reply = send(world.proxy(), ask).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_path_that_climbs_goes_nowhere() {
    let world = World::start("climb").await;
    let key = world.owner.key("climber").await.secret;
    for path in [
        "/t/echo/../x",
        "/t/echo/a/..",
        "/t/echo/./x",
        "/t/echo/%2e%2e/x",
        "/t/echo/.%2E/x",
        "/t/echo/a%2f..%2fx",
        "/t/echo/a%2F%2e%2e",
        "/t/echo/a\\..\\x",
        "/t/echo/a%5c..%5cx",
        "/t/echo/..;x/y",
        "/t/echo/a%00b",
        "/t/echo/a%0d%0ab",
        "/t/echo/%7f",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: proxy\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
        );
        let reply = tests::http::raw(world.proxy().address("proxy"), request.as_bytes())
            .await
            .unwrap();
        assert_eq!(reply.status(), Some(400), "{path}: {}", reply.text);
    }
    for path in [
        "/t/echo/...",
        "/t/echo/..a",
        "/t/echo/%252e%252e/x",
        "/t/echo/a;../x",
    ] {
        get(world.proxy(), &key, path).await.expect(200);
    }
}

#[tokio::test]
async fn the_upstream_sees_nothing_that_is_ours() {
    let world = World::start("strip").await;
    let key = world.owner.key("stripped").await.secret;
    let ask = Ask::post(
        "/t/echo/stripped?a=1&x_api_key=tp_x&b=2&x%5Fapi_key=z",
        "a body",
    )
    .header("x-api-key", &key)
    .header("authorization", "Bearer somebody-elses")
    .header("proxy-authorization", "Basic eA==")
    .header("cookie", "session=1")
    .header("x-throttleproxy-anything", "1")
    .header("x_throttleproxy_target", "1")
    .header("x_api_key", "1")
    .header("forwarded", "for=1.2.3.4")
    .header("x-forwarded-for", "1.2.3.4")
    .header("x-forwarded-anything", "1")
    .header("x_forwarded_for", "1.2.3.4")
    .header("x-real-ip", "1.2.3.4")
    .header("via", "1.1 somebody")
    .header(
        "connection",
        "x-named, host, content-length, transfer-encoding",
    )
    .header("x-named", "1")
    .header("keep-alive", "timeout=5")
    .header("te", "gzip")
    .header("upgrade", "h2c")
    .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")
    .header("content_length", "3")
    .header("transfer_encoding", "chunked")
    .header("x-kept", "yes")
    .header("accept", "application/json")
    .header("user-agent", "a client")
    .header("content-type", "text/plain");
    send(world.proxy(), ask).await.expect(200);
    let seen = world.upstream.last("/stripped");
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.path, "/stripped?a=1&b=2");
    assert_eq!(seen.body.as_deref(), Some(b"a body".as_slice()));
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "x-kept"
        ]
    );
    assert_eq!(
        seen.headers["host"],
        format!("127.0.0.1:{}", world.upstream.port()).as_str()
    );
}

#[tokio::test]
async fn the_client_sees_nothing_that_is_the_upstreams_own() {
    let world = World::start("loud").await;
    let key = world.owner.key("listener").await.secret;
    let reply = get(world.proxy(), &key, "/t/echo/loud").await.expect(200);
    for gone in [
        "set-cookie",
        "alt-svc",
        "x-throttleproxy-error",
        "x-throttleproxy-anything",
        "x-named-by-connection",
        "keep-alive",
        "proxy-authenticate",
    ] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert_eq!(reply.must("x-kept"), "yes");

    let rude = Rude::start(Manner::Says(
        b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
    ))
    .await;
    world
        .owner
        .target("cookies", rude.port(), json!({ "allow_set_cookie": true }))
        .await;
    let reply = get(world.proxy(), &key, "/t/cookies/").await.expect(200);
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[tokio::test]
async fn what_the_upstream_answers_is_passed_on() {
    let world = World::start("pass").await;
    let key = world.owner.key("passed").await.secret;
    for status in [200, 201, 204, 304, 401, 404, 429, 500, 503] {
        let reply = get(world.proxy(), &key, &format!("/t/echo/status/{status}")).await;
        assert_eq!(reply.status, status);
        assert_eq!(Verdict::of(&reply), Verdict::Admitted);
    }
    let reply = get(world.proxy(), &key, "/t/echo/redirect")
        .await
        .expect(302);
    assert_eq!(reply.must("location"), "https://elsewhere.example/");
    let reply = get(world.proxy(), &key, "/t/echo/chunked")
        .await
        .expect(200);
    assert_eq!(reply.text(), "one,two,three");
    let reply = get(world.proxy(), &key, "/t/echo/big/3000000")
        .await
        .expect(200);
    assert_eq!(reply.body.len(), 3_000_000);
    let body = vec![7; 3_000_000];
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let ask = Ask::new(method, "/t/echo/upload")
            .header("x-api-key", &key)
            .body(body.clone());
        send(world.proxy(), ask).await.expect(200);
        let seen = world.upstream.last("/upload");
        assert_eq!(seen.method, method);
        assert_eq!(seen.body.unwrap().len(), body.len());
    }
    let head = Ask::new("HEAD", "/t/echo/big/10").header("x-api-key", &key);
    let reply = send(world.proxy(), head).await.expect(200);
    assert_eq!(reply.must("content-length"), "10");
    assert!(reply.body.is_empty());
}

#[tokio::test]
async fn events_are_not_held_back() {
    let world = World::start("events").await;
    let key = world.owner.key("follower").await.secret;
    let ask = Ask::get("/t/echo/events").header("x-api-key", &key);
    let answer = ask.open(world.proxy().address("proxy")).await.unwrap();
    let mut body = answer.into_body();
    // The second event leaves the upstream only after the first was seen here.
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "data: one\n\n");
    world.upstream.release();
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(second, "data: two\n\n");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_key_may_come_either_way_but_not_two_ways() {
    let world = World::start("either").await;
    let one = world.owner.key("one").await.secret;
    let two = world.owner.key("two").await.secret;
    let proxy = world.proxy();
    let bearer = |key: &str| format!("Bearer {key}");
    let ask = || Ask::get("/t/echo/either");

    send(proxy, ask().header("x-api-key", &one))
        .await
        .expect(200);
    send(proxy, ask().header("authorization", bearer(&one)))
        .await
        .expect(200);
    send(
        proxy,
        ask().header("authorization", format!("bearer {one}")),
    )
    .await
    .expect(200);
    send(
        proxy,
        ask()
            .header("x-api-key", &one)
            .header("authorization", bearer(&one)),
    )
    .await
    .expect(200);
    send(
        proxy,
        ask()
            .header("x-api-key", &one)
            .header("authorization", "Bearer sk-foreign"),
    )
    .await
    .expect(200);
    send(
        proxy,
        ask()
            .header("x-api-key", "foreign")
            .header("authorization", bearer(&one)),
    )
    .await
    .expect(200);
    for ambiguous in [
        ask()
            .header("x-api-key", &one)
            .header("authorization", bearer(&two)),
        ask().header("x-api-key", &one).header("x-api-key", &two),
        ask()
            .header("x-api-key", &one)
            .header("x-api-key", "foreign"),
        ask()
            .header("authorization", "Basic a")
            .header("authorization", "Basic b"),
    ] {
        let reply = send(proxy, ambiguous).await.expect(400);
        assert_eq!(reply.must("x-throttleproxy-error"), "ambiguous_credentials");
    }
    let missing = send(proxy, ask()).await;
    assert_eq!(missing.must("www-authenticate"), "Bearer");
    refused(missing, 401, "missing_key", "Invalid API Key");
    let mut mistyped = one.clone().into_bytes();
    mistyped[20] = if mistyped[20] == b'x' { b'y' } else { b'x' };
    let mistyped = String::from_utf8(mistyped).unwrap();
    let reply = send(proxy, ask().header("x-api-key", mistyped)).await;
    assert_eq!(reply.must("www-authenticate"), "Bearer");
    refused(reply, 401, "invalid_key", "Invalid API Key");
    let reply = send(proxy, ask().header("x-api-key", unknown_key())).await;
    refused(reply, 401, "invalid_key", "Invalid API Key");
}

#[tokio::test]
async fn a_key_in_the_query_is_read_only_where_allowed() {
    let world = World::start("query").await;
    let key = world.owner.key("in the query").await.secret;
    let ask = || Ask::get(format!("/t/echo/query?a=1&x_api_key={key}"));
    let reply = send(world.proxy(), ask()).await;
    refused(reply, 401, "missing_key", "Invalid API Key");
    world
        .owner
        .patch(
            "/workspace?wait=applied",
            json!({ "allow_query_key": true }),
        )
        .await
        .expect(200);
    send(world.proxy(), ask()).await.expect(200);
    assert_eq!(world.upstream.last("/query").path, "/query?a=1");
    let escaped = Ask::get(format!("/t/echo/query?x%5fapi%5Fkey={key}"));
    send(world.proxy(), escaped).await.expect(200);
    assert_eq!(world.upstream.last("/query").path, "/query");
}

#[tokio::test]
async fn a_rate_is_kept_told_and_changed_without_losing_its_count() {
    let world = World::start("rate").await;
    let key = world
        .owner
        .key_with(json!({ "name": "limited", "limits": { "rpm": 10 } }))
        .await;
    let proxy = world.proxy();
    for used in 1..=10_u32 {
        let reply = get(proxy, &key.secret, "/t/echo/").await.expect(200);
        assert_eq!(reply.must("x-ratelimit-limit"), "10");
        assert_eq!(reply.must("x-ratelimit-remaining"), (10 - used).to_string());
        assert!(reply.must("x-ratelimit-reset").parse::<u64>().unwrap() >= 1);
        assert_eq!(reply.must("ratelimit-policy"), "\"rpm\";q=10;w=60");
        assert!(
            reply
                .must("ratelimit")
                .starts_with(&format!("\"rpm\";r={};t=", 10 - used))
        );
        let warning = match used {
            ..8 => None,
            8..10 => Some("approaching_limit"),
            10.. => Some("near_limit"),
        };
        assert_eq!(reply.header("x-ratelimit-warning"), warning, "after {used}");
    }
    let reply = get(proxy, &key.secret, "/t/echo/").await;
    assert!(reply.must("retry-after").parse::<u64>().unwrap() >= 1);
    let problem = refused(reply, 429, "rate_limited", "Rate limit exceeded: rpm");
    assert_eq!(problem["scope"], "key");
    assert_eq!(problem["window"], "rpm");
    assert_eq!(problem["retryable"], true);

    let change = async |rpm: serde_json::Value| {
        world
            .owner
            .patch(
                &key.path("?wait=applied"),
                json!({ "limits": { "rpm": rpm } }),
            )
            .await
            .expect(200);
    };
    change(json!(12)).await;
    get(proxy, &key.secret, "/t/echo/").await.expect(200);
    get(proxy, &key.secret, "/t/echo/").await.expect(200);
    get(proxy, &key.secret, "/t/echo/").await.expect(429);
    // The window counts on while there is no limit.
    change(json!(null)).await;
    get(proxy, &key.secret, "/t/echo/").await.expect(200);
    change(json!(13)).await;
    get(proxy, &key.secret, "/t/echo/").await.expect(429);
    // And a rotation keeps it.
    let rotated = tests::Key::of(
        world
            .owner
            .post(
                &key.path("/rotate?wait=applied"),
                json!({ "overlap_seconds": 0 }),
            )
            .await
            .expect(200),
    );
    get(proxy, &rotated.secret, "/t/echo/").await.expect(429);
    change(json!(0)).await;
    let reply = get(proxy, &rotated.secret, "/t/echo/").await.expect(429);
    assert_eq!(reply.header("retry-after"), None);
    assert_eq!(reply.json()["retryable"], false);
}

#[tokio::test]
async fn a_second_frees_what_a_second_took() {
    let world = World::start("second").await;
    let key = world
        .owner
        .key_with(json!({ "name": "per second", "limits": { "rps": 2 } }))
        .await;
    let replies = [0, 1, 2, 3].map(|_| get(world.proxy(), &key.secret, "/t/echo/"));
    let replies = futures_util::future::join_all(replies).await;
    let admitted = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(admitted, 2);
    world.all_admit(&key.secret).await;
}

#[tokio::test]
async fn a_plan_holds_for_all_keys_together() {
    let world = World::start("plan").await;
    let one = world.owner.key("one").await.secret;
    let two = world.owner.key("two").await.secret;
    world
        .owner
        .patch(
            "/workspace?wait=applied",
            json!({ "plan_limits": { "rpm": 3 } }),
        )
        .await
        .expect(200);
    for key in [&one, &two, &one] {
        get(world.proxy(), key, "/t/echo/").await.expect(200);
    }
    let text = "exceeded the per-minute rate limit on your subscription";
    let reply = get(world.proxy(), &two, "/t/echo/").await;
    assert!(reply.header("retry-after").is_some());
    let problem = refused(reply, 429, "plan_rate_limited", text);
    assert_eq!(problem["scope"], "workspace");

    world
        .owner
        .patch(
            "/workspace?wait=applied",
            json!({ "error_profile": "compact" }),
        )
        .await
        .expect(200);
    let reply = get(world.proxy(), &two, "/t/echo/").await.expect(429);
    assert_eq!(reply.must("content-type"), "application/json");
    assert_eq!(reply.text(), format!("{{\"error\": \"{text}\"}}"));
}

#[tokio::test]
async fn the_compact_profile_says_one_thing() {
    let world = World::start("compact").await;
    let key = world.owner.key("compact").await;
    world
        .owner
        .patch(
            "/workspace?wait=applied",
            json!({ "error_profile": "compact" }),
        )
        .await
        .expect(200);
    world
        .owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    let reply = get(world.proxy(), &key.secret, "/t/echo/")
        .await
        .expect(401);
    assert_eq!(reply.must("content-type"), "application/json");
    assert_eq!(reply.text(), r#"{"error": "Inactive API Key"}"#);
    assert_eq!(reply.must("x-throttleproxy-error"), "inactive_key");
    // Whoever has no workspace gets the instance's profile.
    refused(
        send(world.proxy(), Ask::get("/t/echo/")).await,
        401,
        "missing_key",
        "Invalid API Key",
    );
}

#[tokio::test]
async fn an_address_that_guesses_is_blocked_and_known_keys_go_on() {
    let world = World::start("guess").await;
    let key = world.owner.key("known").await;
    for _ in 0..30 {
        let reply = get(world.proxy(), &unknown_key(), "/t/echo/").await;
        refused(reply, 401, "invalid_key", "Invalid API Key");
    }
    let reply = get(world.proxy(), &unknown_key(), "/t/echo/").await;
    let seconds: u64 = reply.must("retry-after").parse().unwrap();
    assert!((1..=300).contains(&seconds), "{seconds}");
    refused(reply, 403, "ip_blocked", "IP temporarily blocked");
    get(world.proxy(), &key.secret, "/t/echo/")
        .await
        .expect(200);
    // No guess, but whoever comes without a key from there is told the same.
    send(world.proxy(), Ask::get("/t/echo/")).await.expect(403);
    world
        .owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    let inactive = Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    };
    check_verdict(world.proxy(), &key.secret, &inactive)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_looks_at_itself() {
    let world = World::start("me").await;
    let key = world
        .owner
        .key_with(json!({ "name": "mirror", "limits": { "rpm": 2 } }))
        .await;
    let me = async || {
        get(world.proxy(), &key.secret, "/.throttleproxy/me")
            .await
            .expect(200)
            .json()
    };
    let before = me().await;
    assert_eq!(before["key_id"], key.id);
    assert_eq!(before["name"], "mirror");
    assert_eq!(before["prefix"], key.secret[..16]);
    assert_eq!(before["status"], "active");
    assert_eq!(before["environment"], "live");
    assert_eq!(before["limits"][0]["name"], "rpm");
    assert_eq!(before["limits"][0]["scope"], "key");
    assert_eq!(before["limits"][0]["limit"], 2);
    assert_eq!(before["limits"][0]["remaining"], 2);
    // Limits hold for each proxy by itself until they are shared.
    assert_eq!(before["limits"][0]["exact"], false);
    for _ in 0..3 {
        get(world.proxy(), &key.secret, "/t/echo/").await;
    }
    let spent = me().await;
    assert_eq!(spent["limits"][0]["remaining"], 0);
    world
        .owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    let reply = get(world.proxy(), &key.secret, "/.throttleproxy/me").await;
    refused(reply, 401, "inactive_key", "Inactive API Key");
}

#[tokio::test]
async fn a_private_address_needs_both_to_allow_it() {
    let world = World::builder("private")
        .proxies_without_private_upstreams()
        .start()
        .await;
    let key = world.owner.key("curious").await.secret;
    let reply = get(world.proxy(), &key, "/t/echo/").await;
    let problem = refused(reply, 403, "unsafe_target", "Target not allowed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("allow_private_upstreams"), "{detail}");
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn caps_and_deadlines_of_a_target_hold() {
    let world = World::start("caps").await;
    let key = world.owner.key("capped").await.secret;
    let proxy = world.proxy();
    let rude = Rude::start(Manner::Hangs).await;
    world
        .owner
        .target(
            "hanging",
            rude.port(),
            json!({ "timeouts": { "first_byte_ms": 300 } }),
        )
        .await;
    let reply = get(proxy, &key, "/t/hanging/").await;
    refused(reply, 504, "upstream_timeout", "upstream timeout");

    // Another host name, because scheme, host and port of a target are unique.
    world
        .owner
        .post(
            "/targets?wait=applied",
            json!({
                "name": "small", "host": "localhost", "scheme": "http",
                "port": world.upstream.port(),
                "bodies": { "request_bytes_max": 1000, "response_bytes_max": 2000 },
            }),
        )
        .await
        .expect(201);
    let upload =
        |bytes: usize| Ask::post("/t/small/upload", vec![b'x'; bytes]).header("x-api-key", &key);
    send(proxy, upload(1000)).await.expect(200);
    let reply = send(proxy, upload(1001)).await;
    refused(reply, 413, "request_too_large", "request too large");
    get(proxy, &key, "/t/small/big/2000").await.expect(200);
    let reply = get(proxy, &key, "/t/small/big/2001").await;
    refused(reply, 502, "response_too_large", "response too large");
}

#[tokio::test]
async fn an_upstream_that_misbehaves_is_the_upstreams_fault() {
    let world = World::start("rude").await;
    let key = world.owner.key("patient").await.secret;
    let proxy = world.proxy();
    let cases = [
        ("closes", Manner::Closes),
        (
            "rubbish",
            Manner::Says(b"\x16\x03\x01 this is not HTTP\r\n\r\n"),
        ),
        ("halfhead", Manner::Says(b"HTTP/1.1 200 OK\r\ncontent-le")),
        (
            "badlength",
            Manner::Says(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"),
        ),
    ];
    for (name, manner) in cases {
        let rude = Rude::start(manner).await;
        world.owner.target(name, rude.port(), json!({})).await;
        let reply = get(proxy, &key, &format!("/t/{name}/")).await;
        refused(reply, 502, "upstream_unreachable", "upstream unreachable");
    }
    let closed = tests::server::free_port().max(1024);
    world.owner.target("nobody", closed, json!({})).await;
    let reply = get(proxy, &key, "/t/nobody/").await;
    refused(reply, 502, "upstream_unreachable", "upstream unreachable");

    // Once the head has gone, what is cut short must look cut short.
    for (name, manner) in [
        (
            "short",
            Manner::Says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"),
        ),
        (
            "unchunked",
            Manner::Says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ),
    ] {
        let rude = Rude::start(manner).await;
        world.owner.target(name, rude.port(), json!({})).await;
        let ask = Ask::get(format!("/t/{name}/")).header("x-api-key", &key);
        let answer = ask.open(proxy.address("proxy")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(
            answer.into_body().collect().await.is_err(),
            "{name} ended cleanly"
        );
    }
    let rude = Rude::start(Manner::SaysThenHangs(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
    ))
    .await;
    world
        .owner
        .target(
            "stalls",
            rude.port(),
            json!({ "timeouts": { "idle_ms": 300 } }),
        )
        .await;
    let ask = Ask::get("/t/stalls/").header("x-api-key", &key);
    let answer = ask.open(proxy.address("proxy")).await.unwrap();
    assert!(
        answer.into_body().collect().await.is_err(),
        "it ended cleanly"
    );
    get(proxy, &key, "/t/echo/").await.expect(200);
}

#[tokio::test]
async fn a_proxy_tells_operators_how_it_is() {
    let world = World::start("admin").await;
    let key = world.owner.key("measured").await;
    world.all_admit(&key.secret).await;
    let proxy = world.proxy();
    for path in ["/healthz", "/readyz"] {
        proxy.admin(path).await.unwrap().expect(200);
        world.control_plane.admin(path).await.unwrap().expect(200);
    }
    let table = proxy.table().await.unwrap();
    assert_eq!(table["region"], world.regions[0].name);
    assert_eq!(table["proxy_id"], proxy.name());
    assert_eq!(table["state"], "follow");
    assert_eq!(table["ready"], true);
    for number in ["generation", "position", "epoch", "entries", "freshness_ms"] {
        assert!(table[number].is_u64(), "{number}: {table}");
    }
    assert!(table["position"].as_u64().unwrap() >= key.position);
    let metrics = proxy.admin("/metrics").await.unwrap().expect(200).text();
    assert!(metrics.contains("throttleproxy_"), "{metrics}");
    assert!(!metrics.contains("key_"), "a key id as a label");
    for line in metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        assert!(line.starts_with("throttleproxy_"), "{line}");
    }
    // What only operators may see is not on the door for everybody.
    let reply = send(proxy, Ask::get("/metrics").header("x-api-key", &key.secret)).await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn a_changed_target_is_obeyed() {
    let world = World::start("moved").await;
    let key = world.owner.key("loyal").await.secret;
    let second = tests::Upstream::start().await;
    let target = world.owner.target("moving", second.port(), json!({})).await;
    get(world.proxy(), &key, "/t/moving/first")
        .await
        .expect(200);
    assert_eq!(second.last("/first").path, "/first");
    let third = tests::Upstream::start().await;
    let path = format!("/targets/{}", target["id"].as_str().unwrap());
    world
        .owner
        .patch(
            &format!("{path}?wait=applied"),
            json!({ "port": third.port() }),
        )
        .await
        .expect(200);
    get(world.proxy(), &key, "/t/moving/second")
        .await
        .expect(200);
    assert_eq!(third.last("/second").path, "/second");
    assert_eq!(second.seen().len(), 1);
    world
        .owner
        .delete(&format!("{path}?wait=applied"))
        .await
        .expect(200);
    let reply = get(world.proxy(), &key, "/t/moving/third").await;
    refused(reply, 404, "unknown_target", "Unknown target");
}

/// SIGTERM lets what runs end, and takes nothing new.
#[tokio::test]
async fn a_proxy_that_stops_finishes_what_it_began() {
    let world = World::start("drain").await;
    let key = world.owner.key("unhurried").await.secret;
    let proxy = world.proxy().clone();
    let slow = {
        let (proxy, key) = (proxy.clone(), key.clone());
        tokio::spawn(async move { get(&proxy, &key, "/t/echo/slow/1500").await })
    };
    eventually(
        "the request has arrived",
        Duration::from_secs(5),
        async || {
            let arrived = world
                .upstream
                .seen()
                .iter()
                .any(|seen| seen.path.starts_with("/slow"));
            ensure!(arrived, "not yet");
            Ok(())
        },
    )
    .await;
    proxy.stop().await;
    slow.await.unwrap().expect(200);
    assert!(
        Ask::get("/t/echo/")
            .send(proxy.address("proxy"))
            .await
            .is_err()
    );
}

/// A key of our shape with a checksum that fits, which nobody ever made.
fn unknown_key() -> String {
    schemas::Credential::generate(schemas::Environment::Live, rand::random)
        .reveal()
        .to_owned()
}
