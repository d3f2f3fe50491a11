//! Real nginx, Caddy and Envoy in front of a service, with the configurations of
//! `ops/deploy`: they let through what our proxy would let through, and nothing else.
//!
//! Traefik is not in Debian; there, what it sends is sent for it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tests::http::raw;
use tests::proxy::send;
use tests::server::gate::{Around, Gate, Kind, deployed};
use tests::upstream::Seen;
use tests::wait::eventually;
use tests::{Ask, Key, Reply, World};

/// A service behind a proxy that asks ours. The service is the target `api`, and its part
/// below `/v1` is what keys may call.
struct Site {
    world: World,
    gate: Gate,
    kind: Kind,
}

impl Site {
    async fn start(name: &'static str, kind: Kind) -> Self {
        let world = world(name).await;
        let gate = Gate::start(kind, &world.dir, around(&world)).await;
        Self { world, gate, kind }
    }

    async fn ask(&self, ask: Ask) -> Reply {
        ask.send(self.gate.address())
            .await
            .unwrap_or_else(|err| panic!("{:?} answers: {err:#}", self.kind))
    }

    async fn get(&self, key: &str, path: &str) -> Reply {
        self.ask(Ask::get(path).header("x-api-key", key)).await
    }

    /// A refusal at the client, and nothing of it at the service.
    async fn refuses(&self, ask: Ask, status: u16, code: &str) -> Reply {
        let before = self.world.upstream.seen().len();
        let reply = self.ask(ask).await.expect(status);
        assert_eq!(reply.must("x-throttleproxy-error"), code, "{:?}", self.kind);
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        let problem = reply.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["request_id"], reply.must("x-request-id"));
        assert_eq!(self.world.upstream.seen().len(), before, "{:?}", self.kind);
        reply
    }
}

async fn world(name: &'static str) -> World {
    let world = World::builder(name).authz().start().await;
    let api = json!({ "host": "api.example.com", "scheme": "https", "base_path": "/v1" });
    world.owner.target("api", 443, api).await;
    world
}

fn around(world: &World) -> Around {
    Around {
        proxy: world.proxy().address("proxy"),
        authz: world.proxy().address("authz"),
        service: world.upstream.port(),
    }
}

fn limited(name: &str, rpm: u64) -> Value {
    json!({ "name": name, "limits": { "rpm": rpm } })
}

/// Nothing of what is between a client and us has reached the service.
fn check_clean(seen: &Seen, key: &Key) {
    let text = format!("{seen:?}");
    assert!(!text.contains(&key.secret), "{text}");
    for name in [
        "x-api-key",
        "authorization",
        "cookie",
        "x-throttleproxy-target",
    ] {
        assert!(!seen.headers.contains_key(name), "{name} in {text}");
    }
    let of_key = |name: &str| {
        let values: Vec<_> = seen.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name} in {text}");
        values[0].to_str().unwrap().to_owned()
    };
    assert_eq!(of_key("x-throttleproxy-key-id"), key.id);
    assert!(
        of_key("x-throttleproxy-workspace-id").starts_with("ws_"),
        "{text}"
    );
}

/// Everything that must hold, whoever asks.
async fn check(site: &Site) {
    let (world, owner) = (&site.world, &site.world.owner);
    let key = owner.key("good").await;
    let other = owner.key("other").await;
    world.all_admit(&other.secret).await;

    // A good key passes, and leaves nothing behind.
    let ask = Ask::post("/v1/things?a=1&b=%20", "a body")
        .header("x-api-key", &key.secret)
        .header("cookie", "session=1")
        .header("x-throttleproxy-key-id", "key_made_up")
        .header("x-throttleproxy-workspace-id", "made up")
        .header("x-kept", "yes");
    site.ask(ask).await.expect(200);
    let seen = world.upstream.last("/v1/things");
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/v1/things?a=1&b=%20")
    );
    assert_eq!(seen.body.as_deref(), Some(&b"a body"[..]));
    assert_eq!(seen.headers["x-kept"], "yes");
    check_clean(&seen, &key);
    let bearer = Ask::get("/v1/bearer").header("authorization", format!("Bearer {}", key.secret));
    site.ask(bearer).await.expect(200);
    check_clean(&world.upstream.last("/v1/bearer"), &key);

    // Without one nothing does.
    let reply = site.refuses(Ask::get("/v1/x"), 401, "missing_key").await;
    assert_eq!(reply.must("www-authenticate"), "Bearer");
    let foreign = Ask::get("/v1/x").header("x-api-key", "sk-somebody-elses");
    site.refuses(foreign, 401, "invalid_key").await;
    let two = Ask::get("/v1/x")
        .header("x-api-key", &key.secret)
        .header("x-api-key", &other.secret);
    site.refuses(two, 400, "ambiguous_credentials").await;

    // Where it may not go, it does not, whatever the client says of where it goes.
    let outside = || Ask::get("/v2/x").header("x-api-key", &key.secret);
    site.refuses(outside(), 403, "target_not_allowed").await;
    for (name, value) in [
        ("x-forwarded-uri", "/v1/x"),
        ("x-forwarded-host", "127.0.0.1"),
        ("x-forwarded-method", "OPTIONS"),
        ("x-original-uri", "/v1/x"),
        ("x-throttleproxy-target", "https://api.example.com/v1"),
    ] {
        site.refuses(outside().header(name, value), 403, "target_not_allowed")
            .await;
    }
    let echo = outside().header("x-throttleproxy-target", world.upstream.origin());
    site.refuses(echo, 403, "target_not_allowed").await;
    let led_away = Ask::get("/v1/x")
        .header("x-api-key", &key.secret)
        .header("x-throttleproxy-target", "https://elsewhere.example");
    site.ask(led_away).await.expect(200);
    for path in ["/v1/../v2", "/v1/%2e%2e/v2", "/v1/a%2f..%2f..%2fv2"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: front\r\nx-api-key: {}\r\nconnection: close\r\n\r\n",
            key.secret
        );
        let reply = raw(site.gate.address(), request.as_bytes()).await.unwrap();
        assert_eq!(reply.status(), Some(400), "{path}: {}", reply.text);
    }
    assert!(
        world
            .upstream
            .seen()
            .iter()
            .all(|it| !it.path.contains("v2"))
    );

    // A limit is one limit, whichever way requests come.
    let tight = owner.key_with(limited("tight", 2)).await;
    site.get(&tight.secret, "/v1/x").await.expect(200);
    let straight = tests::proxy::get(world.proxy(), &tight.secret, "/t/echo/x").await;
    straight.expect(200);
    let ask = Ask::get("/v1/x").header("x-api-key", &tight.secret);
    let reply = site.refuses(ask, 429, "rate_limited").await;
    assert!(reply.must("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(
        reply.must("ratelimit").contains("\"rpm\";r=0"),
        "{:?}",
        reply.headers
    );

    // A revoked key is refused as soon as the proxy knows.
    owner.delete(&other.path("?wait=applied")).await;
    world.all_refuse(&other.secret, "inactive_key").await;
    let ask = Ask::get("/v1/x").header("x-api-key", &other.secret);
    site.refuses(ask, 401, "inactive_key").await;

    // The uses are known.
    eventually("the use is shown", Duration::from_secs(5), async || {
        let shown = owner.get(&key.path("")).await.check(200)?.json();
        ensure!(!shown["last_used_at"].is_null(), "{shown}");
        Ok(())
    })
    .await;

    // Nobody to ask: nothing passes.
    let before = world.upstream.seen().len();
    world.proxy().kill().await;
    let status = match site.kind {
        Kind::Nginx => 500,
        Kind::Caddy => 502,
        Kind::Envoy => 503,
    };
    for _ in 0..3 {
        site.get(&key.secret, "/v1/x").await.expect(status);
    }
    assert_eq!(world.upstream.seen().len(), before);
}

#[tokio::test]
async fn nginx_lets_through_what_we_would() {
    let site = Site::start("fanginx", Kind::Nginx).await;
    let key = site
        .world
        .owner
        .key_with(limited("first", 100))
        .await
        .secret;
    site.world.all_admit(&key).await;
    let reply = site.get(&key, "/v1/limits").await.expect(200);
    assert!(
        reply.must("ratelimit").contains("\"rpm\";r=98"),
        "{:?}",
        reply.headers
    );
    check_no_query(&site, &key).await;
    check(&site).await;
}

#[tokio::test]
async fn caddy_lets_through_what_we_would() {
    let site = Site::start("facaddy", Kind::Caddy).await;
    let key = site.world.owner.key("in query").await.secret;
    site.world.all_admit(&key).await;
    check_no_query(&site, &key).await;
    check(&site).await;
}

#[tokio::test]
async fn envoy_lets_through_what_we_would() {
    let site = Site::start("faenvoy", Kind::Envoy).await;
    let world = &site.world;
    let key = world.owner.key_with(limited("first", 100)).await;
    world.all_admit(&key.secret).await;
    let reply = site.get(&key.secret, "/v1/limits").await.expect(200);
    assert!(
        reply.must("ratelimit").contains("\"rpm\";r=98"),
        "{:?}",
        reply.headers
    );

    // Envoy can take a key out of the query, so there it may stand.
    let patch = json!({ "allow_query_key": true });
    world
        .owner
        .patch("/workspace?wait=applied", patch)
        .await
        .expect(200);
    for path in [
        format!("/v1/q?a=1&x_api_key={}&b=2", key.secret),
        format!("/v1/q?a=1&x%5Fapi_key={}&b=2", key.secret),
    ] {
        site.ask(Ask::get(path)).await.expect(200);
        let seen = world.upstream.last("/v1/q");
        assert_eq!(seen.path, "/v1/q?a=1&b=2");
        check_clean(&seen, &key);
    }
    let odd = Ask::get("/v1/odd")
        .header("x-api-key", &key.secret)
        .header("x_api_key", &key.secret)
        .header("x_throttleproxy_key_id", "made up");
    site.ask(odd).await.expect(200);
    let seen = world.upstream.last("/v1/odd");
    check_clean(&seen, &key);
    assert!(
        !seen.headers.contains_key("x_throttleproxy_key_id"),
        "{seen:?}"
    );
    check(&site).await;
}

#[tokio::test]
async fn two_keys_are_noticed_also_where_envoy_joins_them() {
    let world = world("fajoined").await;
    let line = "encode_raw_headers: true\n";
    let gate = Gate::start_without(Kind::Envoy, &world.dir, around(&world), line).await;
    let one = world.owner.key("one").await.secret;
    let two = world.owner.key("two").await.secret;
    world.all_admit(&one).await;
    world.all_admit(&two).await;
    let bearer = |key: &str| format!("Bearer {key}");
    for (name, first, second, status) in [
        ("x-api-key", one.clone(), two.clone(), 400),
        ("x-api-key", one.clone(), one.clone(), 200),
        ("authorization", bearer(&one), bearer(&two), 400),
        ("authorization", bearer(&one), "Basic dTpw".to_owned(), 400),
        ("authorization", bearer(&one), bearer(&one), 200),
    ] {
        let ask = Ask::get("/v1/x").header(name, &first).header(name, &second);
        let reply = ask.send(gate.address()).await.unwrap().expect(status);
        if status == 400 {
            let code = reply.must("x-throttleproxy-error");
            assert_eq!(code, "ambiguous_credentials", "{name}");
        }
    }
}

/// A key in the query would reach the service: these proxies do not take it out.
async fn check_no_query(site: &Site, key: &str) {
    let patch = json!({ "allow_query_key": true });
    let owner = &site.world.owner;
    owner
        .patch("/workspace?wait=applied", patch)
        .await
        .expect(200);
    let ask = Ask::get(format!("/v1/x?x_api_key={key}"));
    site.refuses(ask, 400, "bad_request").await;
}

/// What Traefik asks with: the headers that `authRequestHeaders` names, as they came, and
/// those that it sets itself.
fn as_traefik(headers: &[(&str, &str)], uri: &str) -> Ask {
    let question = [
        ("accept-encoding", "gzip"),
        ("user-agent", "Go-http-client/1.1"),
        ("x-throttleproxy-target", "https://api.example.com"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example.com"),
        ("x-forwarded-uri", uri),
    ];
    headers
        .iter()
        .chain(&question)
        .fold(Ask::get("/.throttleproxy/verify"), |ask, (name, value)| {
            ask.header(name, *value)
        })
}

#[tokio::test]
async fn traefik_gets_the_answers_that_it_acts_on() {
    let world = world("fatraefik").await;
    let key = world.owner.key_with(limited("tight", 2)).await;
    world.all_admit(&key.secret).await;
    let bearer = format!("Bearer {}", key.secret);
    for (headers, uri, status, code) in [
        (&[("authorization", &*bearer)][..], "/v1/x?q=1", 200, None),
        (
            &[("x-api-key", &*key.secret)],
            "/v2/x",
            403,
            Some("target_not_allowed"),
        ),
        (
            &[("x-api-key", &*key.secret)],
            "/v1/../x",
            400,
            Some("bad_target"),
        ),
        (
            &[("x-api-key", &*key.secret)],
            "/v1/x",
            429,
            Some("rate_limited"),
        ),
        (&[], "/v1/x", 401, Some("missing_key")),
    ] {
        let reply = send(world.proxy(), as_traefik(headers, uri)).await;
        let reply = reply.expect(status);
        assert_eq!(reply.header("x-throttleproxy-error"), code, "{uri}");
        if status == 200 {
            assert_eq!(reply.text(), "");
            assert_eq!(reply.must("x-throttleproxy-key-id"), key.id);
            assert!(!reply.must("x-throttleproxy-workspace-id").is_empty());
        } else {
            assert!(!reply.headers.contains_key("x-throttleproxy-key-id"));
        }
    }
    // The file that is documented says the same.
    let documented = deployed("traefik.yaml");
    for line in [
        "address: http://127.0.0.1:7080/.throttleproxy/verify",
        "authRequestHeaders: [X-Api-Key, Authorization, X-Throttleproxy-Target]",
        "authResponseHeaders: [X-Throttleproxy-Key-Id, X-Throttleproxy-Workspace-Id]",
        "X-Throttleproxy-Target: https://api.example.com",
        "middlewares: [throttleproxy-target, throttleproxy, throttleproxy-strip]",
    ] {
        assert!(documented.contains(line), "{line}");
    }
}
