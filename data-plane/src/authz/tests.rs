//! Envoy's questions over a real connection.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::ext_authz::v3::pb::{Address, DeniedHttpResponse, HttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use ipnet::IpNet;
use schemas::Limits;
use schemas::entry::{Policy, SecretStatus};
use tonic::transport::Channel;

use super::*;
use crate::testing::{Proxy, change, credential, policy, secret, target};

type Client = AuthorizationClient<Channel>;

fn upstream() -> SocketAddr {
    // Nothing is forwarded, so nobody needs to be there.
    "127.0.0.1:9".parse().unwrap()
}

async fn proxy_trusting(networks: &[&str]) -> (Proxy, Client) {
    let mut limited = secret(2, SecretStatus::Active);
    limited.limits = Limits {
        rpm: Some(1),
        ..Limits::default()
    };
    let changes = vec![
        change(1, secret(1, SecretStatus::Active)),
        change(2, limited),
        policy(Policy::Target(target("echo", upstream()))),
    ];
    let networks: Vec<IpNet> = networks.iter().map(|it| it.parse().unwrap()).collect();
    let proxy = Proxy::start_with(changes, |config| {
        config.authz_listen = Some("127.0.0.1:0".parse().unwrap());
        config.trusted_proxies = networks;
        config.bounds.failures_max = 2;
        config.bounds.drain_ms = 500;
    })
    .await;
    let address = proxy.running.authz_addr().unwrap();
    let client = Client::connect(format!("http://{address}")).await.unwrap();
    (proxy, client)
}

fn question(
    key: &str,
    adjust: impl FnOnce(&mut HttpRequest, &mut AttributeContext),
) -> CheckRequest {
    let mut http = HttpRequest {
        method: "GET".into(),
        path: "/x?q=1".into(),
        host: upstream().to_string(),
        scheme: "http".into(),
        headers: HashMap::from([("x-api-key".to_owned(), key.to_owned())]),
        ..HttpRequest::default()
    };
    let mut attributes = AttributeContext::default();
    adjust(&mut http, &mut attributes);
    attributes.request = Some(Request {
        http: Some(http),
        ..Request::default()
    });
    CheckRequest {
        attributes: Some(attributes),
    }
}

async fn ask(client: &mut Client, question: CheckRequest) -> CheckResponse {
    client.check(question).await.unwrap().into_inner()
}

fn passed(response: CheckResponse) -> OkHttpResponse {
    assert_eq!(response.status.as_ref().unwrap().code, 0, "{response:?}");
    match response.http_response {
        Some(HttpResponse::OkResponse(passed)) => passed,
        other => panic!("{other:?}"),
    }
}

fn denied(response: CheckResponse) -> (i32, String, DeniedHttpResponse) {
    assert_ne!(response.status.as_ref().unwrap().code, 0, "{response:?}");
    match response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => {
            let status = denied.status.as_ref().unwrap().code;
            let code = header(&denied.headers, "x-throttleproxy-error").unwrap();
            (status, code, denied)
        }
        other => panic!("{other:?}"),
    }
}

fn header(
    headers: &[envoy_types::ext_authz::v3::pb::HeaderValueOption],
    name: &str,
) -> Option<String> {
    let mut found = headers.iter().filter_map(|it| it.header.as_ref());
    found.find(|it| it.key == name).map(|it| it.value.clone())
}

#[tokio::test]
async fn a_good_key_passes_and_is_taken_out() {
    let (_proxy, mut client) = proxy_trusting(&[]).await;
    let key = credential(2).reveal().to_owned();
    let response = ask(&mut client, question(&key, |_, _| {})).await;
    assert!(!format!("{response:?}").contains(&key));
    let passed = passed(response);
    let key_id = secret(2, SecretStatus::Active).key_id.to_string();
    assert_eq!(
        header(&passed.headers, "x-throttleproxy-key-id"),
        Some(key_id)
    );
    assert_eq!(passed.headers.len(), 2, "{passed:?}");
    assert!(passed.headers_to_remove.contains(&"x-api-key".to_owned()));
    assert_eq!(
        header(&passed.response_headers_to_add, "x-ratelimit-remaining").as_deref(),
        Some("0")
    );
    assert_eq!(
        header(&passed.response_headers_to_add, "x-request-id"),
        None
    );
    assert!(passed.query_parameters_to_remove.is_empty());
}

#[tokio::test]
async fn a_refusal_is_the_one_that_the_client_would_have_got_from_us() {
    let (proxy, mut client) = proxy_trusting(&[]).await;
    let (one, two) = (
        credential(1).reveal().to_owned(),
        credential(2).reveal().to_owned(),
    );
    passed(ask(&mut client, question(&two, |_, _| {})).await);
    type Adjust = fn(&mut HttpRequest, &mut AttributeContext);
    let both = format!("{one},{two}");
    let unknown = credential(9).reveal().to_owned();
    let cases: [(&str, Adjust, i32, &str); 10] = [
        (&two, |_, _| {}, 429, "rate_limited"),
        ("", |_, _| {}, 401, "missing_key"),
        (&both, |_, _| {}, 400, "ambiguous_credentials"),
        (
            &one,
            |http, _| http.host = "elsewhere.example".into(),
            403,
            "target_not_allowed",
        ),
        (
            &one,
            |http, _| http.scheme = String::new(),
            403,
            "target_not_allowed",
        ),
        (&one, |http, _| http.host = String::new(), 400, "bad_target"),
        (
            &one,
            |http, _| http.path = "/a/../b".into(),
            400,
            "bad_target",
        ),
        (&one, |http, _| http.path = String::new(), 400, "bad_target"),
        (
            &one,
            |http, _| http.method = "CONNECT".into(),
            400,
            "bad_request",
        ),
        (&unknown, |_, _| {}, 401, "invalid_key"),
    ];
    for (key, adjust, status, code) in cases {
        let (found, found_code, denied) = denied(ask(&mut client, question(key, adjust)).await);
        assert_eq!((found, found_code.as_str()), (status, code));
        let problem: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
        assert_eq!(problem["code"], code);
        let request_id = header(&denied.headers, "x-request-id").unwrap();
        assert_eq!(problem["request_id"], request_id);
        assert_eq!(
            header(&denied.headers, "content-type").as_deref(),
            Some("application/problem+json")
        );
        assert_eq!(
            header(&denied.headers, "retry-after").is_some(),
            status == 429
        );
    }
    let (status, code, _) = denied(ask(&mut client, CheckRequest::default()).await);
    assert_eq!((status, code.as_str()), (400, "bad_request"));
    let (_, metrics) = proxy.admin("/metrics").await;
    for line in [
        "throttleproxy_requests_total{outcome=\"served\"} 1",
        "throttleproxy_requests_total{outcome=\"bad_request\"} 2",
        "throttleproxy_requests_total{outcome=\"rate_limited\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn the_destination_is_the_operators_before_the_clients() {
    let (_proxy, mut client) = proxy_trusting(&[]).await;
    let key = credential(1).reveal().to_owned();
    let origin = format!("http://{}", upstream());
    let name = "x-throttleproxy-target";
    let mut check = async |extension: Option<&str>, header: Option<&str>, passes: bool| {
        let question = question(&key, |http, attributes| {
            http.host = "public.example".into();
            if let Some(it) = extension {
                attributes.context_extensions.insert(name.into(), it.into());
            }
            if let Some(it) = header {
                http.headers.insert(name.into(), it.into());
            }
        });
        let response = ask(&mut client, question).await;
        let is_ok = response.status.as_ref().unwrap().code == 0;
        assert_eq!(is_ok, passes, "{extension:?} {header:?} {response:?}");
        if passes && header.is_some() {
            assert!(
                passed(response)
                    .headers_to_remove
                    .contains(&name.to_owned())
            );
        }
    };
    check(None, None, false).await;
    check(Some(&origin), None, true).await;
    check(None, Some(&origin), true).await;
    check(Some(&origin), Some("https://elsewhere.example"), true).await;
    check(Some("https://elsewhere.example"), Some(&origin), false).await;
    check(None, Some(&format!("{origin},{origin}")), false).await;
}

#[tokio::test]
async fn failed_keys_count_against_the_client_that_a_trusted_envoy_names() {
    for (trusted, last) in [(&["127.0.0.1/32"][..], 401), (&[][..], 403)] {
        let (_proxy, mut client) = proxy_trusting(trusted).await;
        let mut statuses = Vec::new();
        for address in ["203.0.113.1", "203.0.113.1", "203.0.113.2"] {
            let question = question(credential(9).reveal(), |_, attributes| {
                attributes.source = Some(Peer {
                    address: Some(core::Address {
                        address: Some(Address::SocketAddress(core::SocketAddress {
                            address: address.into(),
                            ..core::SocketAddress::default()
                        })),
                    }),
                    ..Peer::default()
                });
            });
            statuses.push(denied(ask(&mut client, question).await).0);
        }
        assert_eq!(statuses, [401, 401, last], "{trusted:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_leaves_lets_envoy_go() {
    let (proxy, mut client) = proxy_trusting(&[]).await;
    let key = credential(1).reveal().to_owned();
    passed(ask(&mut client, question(&key, |_, _| {})).await);
    let address = proxy.running.authz_addr().unwrap();
    // The client keeps its connection; that must not keep the proxy.
    proxy.running.shutdown().await;
    assert!(client.check(question(&key, |_, _| {})).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}
