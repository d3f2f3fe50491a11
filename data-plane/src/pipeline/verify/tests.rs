//! What other proxies are told, asked as they ask.

use bytes::Bytes;
use http::Request;
use http::request::Builder;
use schemas::Limits;
use schemas::entry::{ErrorProfile, Policy, SecretStatus};

use crate::testing::{
    Proxy, Upstream, change, credential, eventually, policy, secret, target, with_key, workspace,
};

const VERIFY: &str = "/.throttleproxy/verify";

/// Key 1 may go to `upstream` below `/v1`; key 2 may do so twice a minute; key 3 is off.
async fn proxy_to(upstream: &Upstream) -> Proxy {
    let mut below = target("below", upstream.addr);
    below.base_path = "/v1".to_owned();
    let mut limited = secret(2, SecretStatus::Active);
    limited.limits = Limits {
        rpm: Some(2),
        ..Limits::default()
    };
    Proxy::start(vec![
        change(1, secret(1, SecretStatus::Active)),
        change(2, limited),
        change(3, secret(3, SecretStatus::Inactive)),
        policy(Policy::Target(below)),
    ])
    .await
}

/// A question about a GET of `path` at `upstream`, as Caddy and Traefik ask.
fn about(upstream: &Upstream, path: &str) -> Builder {
    Request::get(VERIFY)
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-proto", "http")
        .header("x-forwarded-host", upstream.addr.to_string())
        .header("x-forwarded-uri", path)
}

#[tokio::test]
async fn the_original_is_judged_by_what_the_other_proxy_says_of_it() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(&upstream).await;
    let host = upstream.addr.to_string();
    let host = host.as_str();
    let origin = format!("http://{host}");
    let origin = origin.as_str();
    let check = async |headers: &[(&str, &str)], expected: &str| {
        let request = headers
            .iter()
            .fold(Request::get(VERIFY), |request, (name, value)| {
                request.header(*name, *value)
            });
        let reply = proxy.send(with_key(1, request, "")).await;
        assert_eq!(reply.code(), expected, "{headers:?}: {reply:?}");
        assert_eq!(reply.status == 200, expected.is_empty(), "{headers:?}");
    };
    let (uri, proto) = ("x-forwarded-uri", "x-forwarded-proto");
    let (forwarded, wanted) = ("x-forwarded-host", "x-throttleproxy-target");
    let method = "x-forwarded-method";

    // By URL, as the other proxy forwards it.
    check(
        &[(forwarded, host), (uri, "/v1/x?q=%20"), (proto, "http")],
        "",
    )
    .await;
    check(&[(forwarded, host), (uri, "/v1"), (proto, "ws")], "").await;
    check(
        &[(forwarded, host), (uri, "/v10"), (proto, "http")],
        "target_not_allowed",
    )
    .await;
    check(
        &[(forwarded, host), (uri, "/v1"), (proto, "https")],
        "target_not_allowed",
    )
    .await;
    check(&[(forwarded, host), (uri, "/v1")], "target_not_allowed").await;
    check(
        &[(forwarded, "elsewhere.example"), (uri, "/v1")],
        "target_not_allowed",
    )
    .await;
    check(
        &[(forwarded, host), (uri, "/v1"), (proto, "ftp")],
        "bad_target",
    )
    .await;
    check(
        &[(forwarded, host), (uri, "/v1"), (proto, "http, https")],
        "bad_target",
    )
    .await;
    check(&[(forwarded, "a, b"), (uri, "/v1")], "bad_target").await;
    check(&[(forwarded, ""), (uri, "/v1")], "bad_target").await;
    check(&[(forwarded, host), (proto, "http")], "bad_target").await;
    // By URL, as its operator says.
    check(&[(wanted, origin), (uri, "/v1/x")], "").await;
    check(
        &[
            (wanted, origin),
            (uri, "/v1/x"),
            (forwarded, "public.example"),
        ],
        "",
    )
    .await;
    check(&[(wanted, origin)], "target_not_allowed").await;
    check(&[(wanted, origin), (uri, "/v2")], "target_not_allowed").await;
    check(
        &[(wanted, "https://elsewhere.example"), (uri, "/v1")],
        "target_not_allowed",
    )
    .await;
    check(&[(wanted, "elsewhere"), (uri, "/v1")], "bad_target").await;
    check(
        &[(wanted, origin), (wanted, origin), (uri, "/v1")],
        "bad_target",
    )
    .await;
    // By name.
    check(&[(uri, "/t/below/x")], "").await;
    check(&[(uri, "/t/nowhere/x")], "unknown_target").await;
    check(&[(uri, "/elsewhere")], "bad_target").await;
    check(&[], "bad_target").await;
    // Paths that may be read in two ways.
    for path in [
        "/v1/../x",
        "/v1/%2e%2e/x",
        "/v1/a%2f..%2fb",
        "/v1/%00",
        "/v1/..;/x",
    ] {
        check(&[(wanted, origin), (uri, path)], "bad_target").await;
    }
    for path in [
        "",
        "*",
        "v1/x",
        "http://127.0.0.1/v1",
        "/v1#/../x",
        "/v1/a b",
    ] {
        check(&[(wanted, origin), (uri, path)], "bad_target").await;
    }
    // Said twice: one of the two is the client's.
    check(
        &[(wanted, origin), (uri, "/v1"), (uri, "/v1/x")],
        "bad_target",
    )
    .await;
    check(
        &[(forwarded, host), (forwarded, host), (uri, "/v1")],
        "bad_target",
    )
    .await;
    check(
        &[(wanted, origin), (uri, "/v1"), (method, "A"), (method, "B")],
        "bad_target",
    )
    .await;
    // Methods.
    check(&[(wanted, origin), (uri, "/v1"), (method, "DELETE")], "").await;
    check(
        &[(wanted, origin), (uri, "/v1"), (method, "CONNECT")],
        "bad_request",
    )
    .await;
    check(
        &[(wanted, origin), (uri, "/v1"), (method, "TRACE")],
        "bad_request",
    )
    .await;
    check(
        &[(wanted, origin), (uri, "/v1"), (method, "A B")],
        "bad_request",
    )
    .await;

    assert!(upstream.seen().is_empty(), "nothing was forwarded");
}

#[tokio::test]
async fn a_yes_is_200_without_a_body_and_names_the_key_by_its_id() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(&upstream).await;
    let reply = proxy.send(with_key(2, about(&upstream, "/v1/x"), "")).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, ""));
    let entry = secret(2, SecretStatus::Active);
    assert_eq!(
        reply.headers["x-throttleproxy-key-id"],
        entry.key_id.to_string()
    );
    assert_eq!(
        reply.headers["x-throttleproxy-workspace-id"],
        entry.workspace_id.to_string()
    );
    assert_eq!(reply.headers["x-ratelimit-limit"], "2");
    assert_eq!(reply.headers["x-ratelimit-remaining"], "1");
    assert_eq!(reply.headers["x-request-id"].len(), 26);
    let shown = format!("{:?}", reply.headers);
    assert!(!shown.contains(credential(2).reveal()), "{shown}");
}

#[tokio::test]
async fn a_yes_is_counted_like_a_request_and_a_no_is_not() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(&upstream).await;
    let ask = async |path: &str| {
        let reply = proxy.send(with_key(2, about(&upstream, path), "")).await;
        reply.code().to_owned()
    };
    for _ in 0..5 {
        assert_eq!(ask("/elsewhere").await, "target_not_allowed");
    }
    // One count for what passes here and what is only judged here.
    assert_eq!(ask("/v1/x").await, "");
    assert_eq!(proxy.get(2, "/t/below/x").await.status, 200);
    let refused = proxy.send(with_key(2, about(&upstream, "/v1/x"), "")).await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(proxy.get(2, "/t/below/x").await.code(), "rate_limited");
    assert_eq!(upstream.seen().len(), 1);

    // What was let through here is a use of the key, for its last use and for a purge.
    let key_id = secret(2, SecretStatus::Active).key_id;
    eventually("both uses are reported", || {
        let renewals = proxy.region.renewals();
        let uses = renewals.iter().flat_map(|it| &it.uses);
        uses.filter(|it| it.key_id == key_id)
            .map(|it| it.requests)
            .sum::<u64>()
            == 2
    })
    .await;
    let (_, metrics) = proxy.admin("/metrics").await;
    for line in [
        "throttleproxy_requests_total{outcome=\"served\"} 2",
        "throttleproxy_requests_total{outcome=\"target_not_allowed\"} 5",
        "throttleproxy_requests_total{outcome=\"rate_limited\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_proxy_that_knows_one_refusal_gets_403_and_the_real_status() {
    let upstream = Upstream::start().await;
    let mut compact = workspace();
    compact.error_profile = Some(ErrorProfile::Compact);
    let proxy = proxy_to(&upstream).await;
    let ask = async |query: &str, key: Option<u64>, path: &str| {
        let uri = format!("{VERIFY}{query}");
        let request = about(&upstream, path).uri(uri);
        match key {
            Some(key) => proxy.send(with_key(key, request, "")).await,
            None => proxy.send(request.body(Bytes::new().into()).unwrap()).await,
        }
    };
    for (key, path, status, code) in [
        (None, "/v1", "401", "missing_key"),
        (Some(9), "/v1", "401", "invalid_key"),
        (Some(3), "/v1", "401", "inactive_key"),
        (Some(1), "/v2", "403", "target_not_allowed"),
        (Some(1), "/v1/..", "400", "bad_target"),
    ] {
        let reply = ask("?deny=403", key, path).await;
        assert_eq!((reply.status, reply.code()), (403, code));
        assert_eq!(reply.headers["x-throttleproxy-status"], status);
        // In all else it is the same refusal.
        let plain = ask("", key, path).await;
        assert_eq!(plain.status.to_string(), status);
        assert!(!plain.headers.contains_key("x-throttleproxy-status"));
        assert_eq!(plain.code(), code);
        let names = |reply: &crate::testing::Reply| {
            let challenge = reply.headers.get("www-authenticate").cloned();
            (challenge, reply.headers["content-type"].clone())
        };
        assert_eq!(names(&reply), names(&plain));
    }
    assert_eq!(ask("?deny=403", Some(1), "/v1").await.status, 200);
    // Only here, and only so.
    assert_eq!(ask("?deny=401", Some(3), "/v1").await.status, 401);
    assert_eq!(proxy.get(3, "/t/below/x?deny=403").await.status, 401);
    proxy
        .publish(vec![policy(Policy::Workspace(compact))])
        .await;
    let reply = ask("?deny=403", Some(3), "/v1").await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.text(), r#"{"error": "Inactive API Key"}"#);
}

#[tokio::test]
async fn a_key_in_the_query_does_not_pass_where_nobody_takes_it_out() {
    let upstream = Upstream::start().await;
    let mut allows = workspace();
    allows.allow_query_key = true;
    let proxy = proxy_to(&upstream).await;
    proxy.publish(vec![policy(Policy::Workspace(allows))]).await;
    let key = credential(1).reveal().to_owned();
    for (path, with_header, expected) in [
        (format!("/v1?x_api_key={key}"), false, "bad_request"),
        (format!("/v1?x%5Fapi_key={key}"), false, "bad_request"),
        (format!("/v1?a=1&x_api_key={key}"), true, "bad_request"),
        ("/v1?x_api_key=other".to_owned(), true, "bad_request"),
        (
            format!("/v1?x_api_key={}", credential(2).reveal()),
            true,
            "ambiguous_credentials",
        ),
        (
            format!("/v1?x_api_key={}", credential(9).reveal()),
            false,
            "invalid_key",
        ),
        ("/v1?x-api-key=1".to_owned(), true, ""),
    ] {
        let mut request = about(&upstream, &path);
        if with_header {
            request = request.header("x-api-key", &key);
        }
        let reply = proxy.send(request.body(Bytes::new().into()).unwrap()).await;
        assert_eq!(reply.code(), expected, "{path}");
    }
}

#[tokio::test]
async fn any_method_may_ask_and_a_body_is_not_read() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(&upstream).await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let request = about(&upstream, "/v1").method(method);
        let reply = proxy.send(with_key(1, request, "")).await;
        assert_eq!(reply.status, 200, "{method}");
    }
    // A length that was copied from the original, and no body after it.
    let (status, _) = proxy
        .raw(
            format!(
                "GET {VERIFY} HTTP/1.1\r\nhost: proxy\r\nx-api-key: {}\r\n\
                 x-throttleproxy-target: http://{}\r\nx-forwarded-uri: /v1\r\n\
                 content-length: 999999999\r\nconnection: close\r\n\r\n",
                credential(1).reveal(),
                upstream.addr
            )
            .as_bytes(),
        )
        .await;
    assert_eq!(status, 200);
    // There is nothing else of ours.
    for path in [
        "/.throttleproxy/verify/",
        "/.throttleproxy/Verify",
        "/.throttleproxy/verify/x",
    ] {
        assert_eq!(proxy.get(1, path).await.code(), "bad_target", "{path}");
    }
}
