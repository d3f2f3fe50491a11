use std::sync::Arc;

use super::*;
use crate::limit::cell::Pool;
use crate::limit::{Demand, Rates, Scope, decide};

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn an_upstream_sees_no_credential_cookie_hop_or_header_of_ours() {
    let mut headers = map(&[
        ("host", "proxy.example"),
        ("authorization", "Bearer x"),
        ("x-api-key", "x"),
        ("proxy-authorization", "Basic x"),
        ("cookie", "a=b"),
        ("x-throttleproxy-target", "https://a.example"),
        ("x-throttleproxy-anything", "1"),
        ("forwarded", "for=1"),
        ("x-forwarded-for", "1"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "1"),
        ("via", "1.1 a"),
        (
            "connection",
            "keep-alive, X-Secret-Hop, host, content-length",
        ),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("x-secret-hop", "1"),
        ("x_secret_hop", "1"),
        ("x_api_key", "x"),
        ("x_forwarded_for", "1"),
        ("x_throttleproxy_target", "x"),
        ("content_length", "5"),
        ("transfer_encoding", "chunked"),
        ("content-length", "5"),
        ("accept", "*/*"),
        ("x_custom", "1"),
        ("content-type", "text/plain"),
    ]);
    clean_request(&mut headers, HeaderValue::from_static("api.example"));
    assert_eq!(
        names(&headers),
        [
            "accept",
            "content-length",
            "content-type",
            "host",
            "x_custom"
        ]
    );
    assert_eq!(headers["host"], "api.example");
}

#[test]
fn a_client_sees_nothing_about_the_upstreams_hop() {
    let lines = [
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("alt-svc", "h3"),
        ("x-throttleproxy-error", "fake"),
        ("set-cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("upgrade", "h2c"),
        ("proxy-authenticate", "Basic"),
        ("location", "https://elsewhere.example"),
        ("etag", "x"),
    ];
    let mut headers = map(&lines);
    clean_response(&mut headers, false);
    assert_eq!(names(&headers), ["etag", "location"]);
    let mut headers = map(&lines);
    clean_response(&mut headers, true);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
}

#[test]
fn limits_are_shown_to_limited_keys_only() {
    let pool = Arc::new(Pool::default());
    let workspace = Arc::new(Pool::default());
    let show = |key: Rates, plan: Rates, requests: usize| {
        let mut headers = HeaderMap::new();
        let mut standings = Standings::default();
        for _ in 0..requests {
            let demands = [
                Demand {
                    scope: Scope::Key,
                    pool: &pool,
                    rates: key,
                },
                Demand {
                    scope: Scope::Workspace,
                    pool: &workspace,
                    rates: plan,
                },
            ];
            standings = decide(demands.into_iter(), 60_000).unwrap().standings;
        }
        show_limits(&mut headers, &standings);
        headers
    };
    assert!(show(Rates::default(), Rates::default(), 1).is_empty());

    let key = Rates {
        rps: None,
        rpm: Some(100),
    };
    let plan = Rates {
        rps: Some(50),
        rpm: None,
    };
    let headers = show(key, plan, 1);
    assert_eq!(
        headers["ratelimit-policy"],
        "\"rpm\";q=100;w=60, \"workspace-rps\";q=50;w=1"
    );
    assert_eq!(
        headers["ratelimit"],
        "\"rpm\";r=98;t=63, \"workspace-rps\";r=48;t=2"
    );
    assert_eq!(headers["x-ratelimit-limit"], "50");
    assert_eq!(headers["x-ratelimit-remaining"], "48");
    assert!(!headers.contains_key("x-ratelimit-warning"));

    let headers = show(key, Rates::default(), 77);
    assert!(!headers.contains_key("x-ratelimit-warning"));
    assert_eq!(
        show(key, Rates::default(), 1)["x-ratelimit-warning"],
        "approaching_limit"
    );
    assert_eq!(
        show(key, Rates::default(), 15)["x-ratelimit-warning"],
        "near_limit"
    );
}
