//! What must not work: each has its code, and the server goes on.

use std::time::Duration;

use serde_json::{Value, json};
use tests::http::{raw, read_raw};
use tests::proxy::{get, refused, send};
use tests::{Ask, World};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn the_control_api_refuses_what_it_cannot_read() {
    let world = World::start("unread").await;
    let owner = &world.owner;
    let with_body = |body: &str| {
        Ask::new("POST", "/v1/api-keys")
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    for body in [
        "{",
        "{\"name\": }",
        "nonsense",
        "{\"name\": \"x\"} {}",
        "{\"name\": \"a\", \"name\": \"b\"}",
        "\u{feff}{}",
    ] {
        owner
            .send(with_body(body))
            .await
            .refused(400, "bad_request");
    }
    for body in ["", "[]", "\"name\"", "null", "7"] {
        let reply = owner.send(with_body(body)).await;
        assert!(
            [400, 422].contains(&reply.status),
            "{body}: {}",
            reply.text()
        );
    }
    let mut not_utf8 = b"{\"name\": \"".to_vec();
    not_utf8.extend([0xff, 0xfe, b'"', b'}']);
    let ask = Ask::new("POST", "/v1/api-keys")
        .header("content-type", "application/json")
        .body(not_utf8);
    owner.send(ask).await.refused(400, "bad_request");
    let deep = format!(
        "{{\"name\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    owner.send(with_body(&deep)).await.expect_refusal();
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(11 << 20));
    let reply = owner.try_send(with_body(&huge)).await;
    // The server may close before all of it was sent.
    if let Ok(reply) = reply {
        reply.refused(413, "body_too_large");
    }
    let form = Ask::new("POST", "/v1/api-keys")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("name=x");
    owner
        .send(form)
        .await
        .refused(415, "unsupported_media_type");
    goes_on(&world).await;
}

#[tokio::test]
async fn the_control_api_names_the_field_that_is_wrong() {
    let world = World::start("fields").await;
    let key = world.owner.key("victim").await;
    let cases: &[(&str, Value, &str)] = &[
        ("colour", json!("red"), "colour"),
        ("name", json!(["x"]), "name"),
        ("category", json!(7), "category"),
        ("environment", json!("production"), "environment"),
        ("expires_at", json!("2001-01-01T00:00:00Z"), "expires_at"),
        ("expires_at", json!("2999-01-01"), "expires_at"),
        ("expires_at", json!("2999-01-01T00:00:00"), "expires_at"),
        ("expires_at", json!(4_102_444_800_u64), "expires_at"),
        ("limits", json!({ "rpm": -1 }), "limits.rpm"),
        ("limits", json!({ "rpm": 1.5 }), "limits.rpm"),
        ("limits", json!({ "rpm": "10" }), "limits.rpm"),
        (
            "limits",
            json!({ "rpm": 9_007_199_254_740_992_u64 }),
            "limits.rpm",
        ),
        ("limits", json!({ "rpy": 10 }), "limits.rpy"),
        ("limits", json!([1]), "limits"),
        ("metadata", json!({ "k": 1 }), "metadata.k"),
        ("metadata", json!({ "k": "v".repeat(3000) }), "metadata"),
        (
            "metadata",
            (0..33).map(|i| (format!("k{i}"), json!("v"))).collect(),
            "metadata",
        ),
    ];
    for (field, value, named) in cases {
        let mut body = json!({ "name": "bad" });
        body[*field] = value.clone();
        let reply = world.owner.post("/api-keys", body).await;
        let asked = format!("{field}: {value}");
        let problem = reply.refused(422, "validation");
        assert_eq!(problem["errors"][0]["field"], *named, "{asked}: {problem}");
        assert!(
            problem["errors"][0]["detail"].is_string(),
            "{asked}: {problem}"
        );
    }
    // One answer names every field that is wrong.
    world
        .owner
        .post(
            "/api-keys",
            json!({ "name": 7, "limits": { "rps": -1, "rpm": "x" }, "colour": 1 }),
        )
        .await
        .refused_fields(
            "validation",
            &["name", "limits.rps", "limits.rpm", "colour"],
        );
    world
        .owner
        .post(&key.path("/rotate"), json!({ "overlap_seconds": "60" }))
        .await
        .refused_fields("validation", &["overlap_seconds"]);
    goes_on(&world).await;
}

#[tokio::test]
async fn ids_that_nobody_knows_are_not_found() {
    let world = World::start("ids").await;
    let key = world.owner.key("present").await;
    let target = world.owner.get("/targets").await.expect(200).json()["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let unknown = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    let lower = key.id.to_lowercase();
    for id in [
        &unknown, &target, &lower, "key_", "..", "%2e%2e", "nonsense",
    ] {
        for (method, rest) in [
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/deactivate"),
            ("POST", "/reactivate"),
            ("POST", "/rotate"),
            ("POST", "/purge"),
            ("GET", "/history"),
            ("GET", "/rotation"),
        ] {
            let ask = Ask::new(method, format!("/v1/api-keys/{id}{rest}"));
            let ask = match method {
                "PATCH" => ask.json(&json!({ "category": "x" })),
                "POST" if rest == "/rotate" => ask.json(&json!({ "overlap_seconds": 0 })),
                "POST" => ask.json(&json!({})),
                _ => ask,
            };
            world.owner.send(ask).await.refused(404, "not_found");
        }
    }
    world
        .owner
        .get("/targets/tgt_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        .await
        .refused(404, "not_found");
    world
        .owner
        .post("/api-keys", json!({ "name": "heir", "replaces": unknown }))
        .await
        .refused(404, "not_found");
    world
        .owner
        .get("/nothing-here")
        .await
        .refused(404, "not_found");
    world
        .owner
        .send(Ask::get("/"))
        .await
        .refused(404, "not_found");
    world
        .owner
        .send(Ask::new("PUT", "/v1/api-keys"))
        .await
        .refused(405, "method_not_allowed");
    goes_on(&world).await;
}

#[tokio::test]
async fn targets_that_may_not_be_are_refused() {
    let world = World::start("hosts").await;
    let create = async |body: Value| world.owner.post("/targets", body).await;
    for (field, value, named) in [
        ("name", json!(""), "name"),
        ("name", json!("with space"), "name"),
        ("port", json!(0), "port"),
        ("port", json!(22), "port"),
        ("port", json!(5432), "port"),
        ("port", json!(6379), "port"),
        ("port", json!(65_536), "port"),
        ("scheme", json!("ftp"), "scheme"),
        ("base_path", json!("no-slash"), "base_path"),
        ("base_path", json!("/a/../b"), "base_path"),
        (
            "timeouts",
            json!({ "connect_ms": -1 }),
            "timeouts.connect_ms",
        ),
        (
            "bodies",
            json!({ "request_bytes_max": "x" }),
            "bodies.request_bytes_max",
        ),
    ] {
        let mut body = json!({ "name": "bad", "host": "api.example.com" });
        body[field] = value.clone();
        let reply = create(body).await;
        let problem = reply.refused(422, "validation");
        assert_eq!(
            problem["errors"][0]["field"], named,
            "{field} {value}: {problem}"
        );
    }
    for host in [
        "",
        "user@api.example.com",
        "api.example.com/path",
        "api.example.com:443",
        "http://api.example.com",
        "a b",
        "*.com",
    ] {
        let reply = create(json!({ "name": "bad", "host": host })).await;
        assert_eq!(reply.status, 422, "{host}: {}", reply.text());
    }
    // Private ones are refused where the target does not ask for them.
    for host in [
        "localhost",
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "[::1]",
        "0x7f.1",
    ] {
        let body = json!({ "name": "bad", "host": host, "allow_private": false });
        let reply = create(body).await;
        assert_eq!(reply.status, 422, "{host}: {}", reply.text());
    }
    create(json!({ "name": "plain", "host": "api.example.com", "scheme": "http", "allow_private": false }))
        .await
        .expect(422);
    world.owner.target("first", 4443, json!({})).await;
    let same_place =
        json!({ "name": "second", "host": "127.0.0.1", "scheme": "http", "port": 4443 });
    create(same_place).await.refused(409, "name_taken");
    let same_name = json!({ "name": "first", "host": "127.0.0.1", "scheme": "http", "port": 4444 });
    create(same_name).await.refused(409, "name_taken");
    goes_on(&world).await;
}

#[tokio::test]
async fn the_proxy_refuses_what_is_not_a_request() {
    let world = World::start("framing").await;
    let key = world.owner.key("framed").await.secret;
    let address = world.proxy().address("proxy");
    let ask = |head: &str| format!("{head}\r\nx-api-key: {key}\r\n");
    for (what, request) in [
        ("rubbish", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_owned()),
        ("no version", "GET /t/echo/\r\n\r\n".to_owned()),
        (
            "no host",
            format!("GET /t/echo/ HTTP/1.1\r\nx-api-key: {key}\r\n\r\n"),
        ),
        (
            "two hosts",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nhost: b") + "\r\n",
        ),
        (
            "two equal hosts",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nhost: a") + "\r\n",
        ),
        (
            "another authority",
            ask("GET http://b/t/echo/ HTTP/1.1\r\nhost: a") + "\r\n",
        ),
        (
            "lengths that differ",
            ask("POST /t/echo/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2")
                + "\r\nxx",
        ),
        (
            "a length that is none",
            ask("POST /t/echo/ HTTP/1.1\r\nhost: a\r\ncontent-length: +1") + "\r\nx",
        ),
        (
            "unknown coding",
            ask("POST /t/echo/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip") + "\r\n",
        ),
        (
            "folding",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nx-a: b\r\n folded") + "\r\n",
        ),
        (
            "bare CR",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nx-a: b\rc: d") + "\r\n",
        ),
        (
            "a space before the colon",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nx-a : b") + "\r\n",
        ),
        (
            "CONNECT",
            ask("CONNECT a:443 HTTP/1.1\r\nhost: a:443") + "\r\n",
        ),
        ("TRACE", ask("TRACE /t/echo/ HTTP/1.1\r\nhost: a") + "\r\n"),
        (
            "a control byte in a header",
            ask("GET /t/echo/ HTTP/1.1\r\nhost: a\r\nx-a: \x01") + "\r\n",
        ),
    ] {
        let reply = raw(address, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status(), Some(400), "{what}: {:?}", reply.text);
        assert!(reply.closed, "{what}: the connection stays open");
    }
    assert_eq!(
        world.upstream.seen().len(),
        0,
        "{:?}",
        world.upstream.seen()
    );

    let large = ask(&format!(
        "GET /t/echo/ HTTP/1.1\r\nhost: a\r\nx-a: {}",
        "x".repeat(100 << 10)
    )) + "\r\n";
    assert_eq!(
        raw(address, large.as_bytes()).await.unwrap().status(),
        Some(431)
    );
    let long = format!(
        "GET /t/echo/{} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n",
        "x".repeat(100 << 10)
    );
    let reply = raw(address, long.as_bytes()).await.unwrap();
    assert!(
        [Some(414), Some(431)].contains(&reply.status()),
        "{:?}",
        reply.text
    );
    let many: String = (0..150).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many = ask("GET /t/echo/ HTTP/1.1\r\nhost: a") + &many + "\r\n";
    assert_eq!(
        raw(address, many.as_bytes()).await.unwrap().status(),
        Some(431)
    );
    get(world.proxy(), &key, "/t/echo/").await.expect(200);
    goes_on(&world).await;
}

/// Two readings of one request are what smuggling lives on: whatever arrives at the
/// upstream must have been framed by us.
#[tokio::test]
async fn a_smuggled_request_is_no_request() {
    let world = World::start("smuggle").await;
    let key = world.owner.key("smuggler").await.secret;
    let address = world.proxy().address("proxy");
    let inner = "GET /t/echo/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for head in [
        format!(
            "content-length: {}\r\ntransfer-encoding: chunked",
            inner.len() + 5
        ),
        "transfer-encoding: chunked\r\ntransfer-encoding: identity".to_owned(),
        "transfer-encoding: xchunked\r\ncontent-length: 5".to_owned(),
        "content-length: 5\r\ncontent-length: 5".to_owned(),
        format!("content_length: {}\r\ncontent-length: 5", inner.len() + 5),
    ] {
        let request = format!(
            "POST /t/echo/outer HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{head}\r\n\r\n0\r\n\r\n{inner}"
        );
        raw(address, request.as_bytes()).await.unwrap();
    }
    // The inner one has no key: if it was read as a request of its own, it was refused.
    let arrived = world.upstream.seen();
    assert!(
        arrived.iter().all(|seen| !seen.path.contains("smuggled")),
        "{arrived:?}"
    );
    for seen in arrived {
        let both = seen.headers.contains_key("content-length")
            && seen.headers.contains_key("transfer-encoding");
        assert!(!both, "{seen:?}");
    }
    goes_on(&world).await;
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_not_passed_off_as_whole() {
    let world = World::start("half").await;
    let key = world.owner.key("half").await.secret;
    let address = world.proxy().address("proxy");
    for framing in [
        "content-length: 100\r\n\r\nonly this",
        "transfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST /t/echo/half HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{framing}");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let reply = read_raw(&mut stream, Duration::from_secs(5)).await.unwrap();
        assert!(reply.closed, "{:?}", reply.text);
        assert_ne!(reply.status(), Some(200), "{:?}", reply.text);
    }
    tests::wait::throughout(
        "no half body arrives whole",
        Duration::from_millis(300),
        async || {
            for seen in world
                .upstream
                .seen()
                .iter()
                .filter(|seen| seen.path == "/half")
            {
                anyhow::ensure!(seen.body.is_none(), "{seen:?}");
            }
            Ok(())
        },
    )
    .await;
    get(world.proxy(), &key, "/t/echo/").await.expect(200);
    goes_on(&world).await;
}

#[tokio::test]
async fn two_keys_and_wrong_keys_have_their_codes() {
    let world = World::start("wrongkeys").await;
    let one = world.owner.key("one").await.secret;
    let two = world.owner.key("two").await.secret;
    let both = Ask::get("/t/echo/")
        .header("x-api-key", &one)
        .header("authorization", format!("Bearer {two}"));
    let reply = send(world.proxy(), both).await.expect(400);
    assert_eq!(reply.must("x-throttleproxy-error"), "ambiguous_credentials");
    let last = if one.ends_with('a') { 'b' } else { 'a' };
    let mistyped = format!("{}{last}", &one[..51]);
    for wrong in [
        mistyped.as_str(),
        "",
        "x",
        "tp_live_",
        &one[..51],
        &format!("{one}x"),
        "nonsense",
    ] {
        let reply = get(world.proxy(), wrong, "/t/echo/").await.expect(401);
        let code = reply.must("x-throttleproxy-error").to_owned();
        assert!(
            ["invalid_key", "missing_key"].contains(&code.as_str()),
            "{wrong}: {code}"
        );
        refused(reply, 401, &code, "Invalid API Key");
    }
    assert_eq!(world.upstream.seen().len(), 0);
    goes_on(&world).await;
}

/// Both planes still do their work.
async fn goes_on(world: &World) {
    let key = world.owner.key("goes on").await;
    world.all_admit(&key.secret).await;
}

/// For refusals of which more than one code would be right.
trait ExpectRefusal {
    fn expect_refusal(self);
}

impl ExpectRefusal for tests::Reply {
    fn expect_refusal(self) {
        assert!(
            [400, 422].contains(&self.status),
            "{}: {}",
            self.asked,
            self.text()
        );
        let (status, code) = (
            self.status,
            self.json()["code"].as_str().unwrap_or("").to_owned(),
        );
        self.refused(status, &code);
    }
}
