//! From Envoy's words to ours and back.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;

use super::*;

fn asked(headers: &[(&str, &str)], path: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        path: path.into(),
        host: "api.example.com".into(),
        scheme: "https".into(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..HttpRequest::default()
    }
}

fn raw(headers: &[(&str, &str)]) -> core::HeaderMap {
    core::HeaderMap {
        headers: headers
            .iter()
            .map(|(name, value)| HeaderValue {
                key: (*name).to_owned(),
                raw_value: value.as_bytes().to_vec(),
                ..HeaderValue::default()
            })
            .collect(),
    }
}

#[test]
fn values_that_were_joined_are_taken_apart() {
    let check = |name: &str, joined: &str, expected: &[&str]| {
        assert_eq!(apart(name, joined), expected, "{name}: {joined}");
    };
    check("x-api-key", "a", &["a"]);
    check("x-api-key", "a,b", &["a", "b"]);
    check("X-Api-Key", "a, a", &["a", "a"]);
    check("authorization", "Bearer a", &["Bearer a"]);
    check(
        "authorization",
        "Bearer a,Bearer b",
        &["Bearer a", "Bearer b"],
    );
    check(
        "authorization",
        "Basic eA==, Bearer b",
        &["Basic eA==", "Bearer b"],
    );
    check(
        "authorization",
        "Digest realm=\"x\", nonce=\"y\", qop=auth",
        &["Digest realm=\"x\", nonce=\"y\", qop=auth"],
    );
    check(
        "authorization",
        "Digest realm=\"x\", nonce=\"y\",bearer b",
        &["Digest realm=\"x\", nonce=\"y\"", "bearer b"],
    );
    check("x-throttleproxy-target", "a,b", &["a,b"]);
}

#[test]
fn headers_are_read_as_envoy_sends_them() {
    let values = |http: &HttpRequest| {
        let headers = headers(http).unwrap();
        let mut values: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        values.sort_unstable();
        values
    };
    let joined = asked(
        &[("x-api-key", "a,b"), ("accept", "*/*"), (":path", "/x")],
        "/x",
    );
    assert_eq!(values(&joined), ["x-api-key=a", "x-api-key=b"]);
    let mut http = asked(&[], "/x");
    http.header_map = Some(raw(&[
        (":path", "/x"),
        ("X-Api-Key", "a,b"),
        ("x-api-key", "c"),
        ("authorization", "Bearer d"),
    ]));
    assert_eq!(
        values(&http),
        ["authorization=Bearer d", "x-api-key=a,b", "x-api-key=c"]
    );
    http.header_map = Some(raw(&[("x-api-key", "a\nb")]));
    assert_eq!(headers(&http).unwrap_err().code, Code::BadRequest);
}

#[test]
fn no_upstream_sees_what_is_between_the_client_and_us() {
    let always = [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
    ];
    let check = |names: &[&str], more: &[&str]| {
        let mut expected: Vec<_> = always.iter().chain(more).copied().collect();
        expected.sort_unstable();
        let headers: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
        assert_eq!(Removed::of(&asked(&headers, "/")).headers, expected);
        let mut http = asked(&[], "/");
        http.header_map = Some(raw(&headers));
        assert_eq!(Removed::of(&http).headers, expected);
    };
    check(&["accept", "x-forwarded-for"], &[]);
    check(&["x_api_key", "X-Api-Key"], &["x_api_key"]);
    check(&["x-throttleproxy-target"], &["x-throttleproxy-target"]);
    // Envoy removes after it sets: what is set anew must not be among them.
    check(
        &["x-throttleproxy-key-id", "x_throttleproxy-key_id"],
        &["x_throttleproxy-key_id"],
    );
    let parameters = |path: &str| Removed::of(&asked(&[], path)).parameters;
    assert_eq!(parameters("/a?x=1"), Vec::<String>::new());
    assert_eq!(
        parameters("/a?x_api_key=1&b&x%5Fapi_key=2&x_api_key"),
        ["x%5Fapi_key", "x_api_key"]
    );
}

#[test]
fn the_client_is_whom_envoy_names() {
    let from = |address: &str| AttributeContext {
        source: Some(
            envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer {
                address: Some(core::Address {
                    address: Some(Address::SocketAddress(core::SocketAddress {
                        address: address.into(),
                        ..core::SocketAddress::default()
                    })),
                }),
                ..Default::default()
            },
        ),
        ..AttributeContext::default()
    };
    for (address, expected) in [
        ("203.0.113.9", Some("203.0.113.9")),
        ("::ffff:203.0.113.9", Some("203.0.113.9")),
        ("2001:db8::1", Some("2001:db8::1")),
        ("nonsense", None),
    ] {
        let expected = expected.map(|it| it.parse().unwrap());
        assert_eq!(client(&from(address)), expected, "{address}");
    }
    assert_eq!(client(&AttributeContext::default()), None);
}

#[test]
fn a_refusal_is_passed_on_as_it_is() {
    let answer = Response::builder()
        .status(429)
        .header("retry-after", "7")
        .body(Bytes::from("{}"))
        .unwrap();
    let written = write(answer, Removed::default());
    assert_eq!(
        written.status.unwrap().code,
        i32::from(GrpcCode::ResourceExhausted)
    );
    let Some(HttpResponse::DeniedResponse(denied)) = written.http_response else {
        panic!("{:?}", written.http_response);
    };
    assert_eq!(denied.status.unwrap().code, 429);
    assert_eq!(denied.body, "{}");
    let header = denied.headers[0].header.clone().unwrap();
    assert_eq!(
        (header.key.as_str(), header.value.as_str()),
        ("retry-after", "7")
    );
}

#[test]
fn a_question_without_a_request_is_refused() {
    for attributes in [None, Some(AttributeContext::default())] {
        let question = read(CheckRequest { attributes });
        assert_eq!(question.original.unwrap_err().code, Code::BadRequest);
    }
    let mut attributes = AttributeContext {
        context_extensions: HashMap::from([("x-throttleproxy-target".into(), "a\nb".into())]),
        ..AttributeContext::default()
    };
    attributes.request = Some(
        envoy_types::pb::envoy::service::auth::v3::attribute_context::Request {
            http: Some(asked(&[], "/x")),
            ..Default::default()
        },
    );
    let question = read(CheckRequest {
        attributes: Some(attributes),
    });
    assert_eq!(question.original.unwrap_err().code, Code::BadTarget);
}
