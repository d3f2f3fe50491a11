//! Access and credentials, through a whole proxy.

use std::fs;
use std::time::Duration;

use http::Request;
use schemas::entry::{
    Access, AccessMode, Policy, SecretSource, SecretStatus, TeamPolicy, UpstreamCredential,
};
use schemas::{Limits, TargetId, TeamId};

use crate::testing::{Proxy, Upstream, WORKSPACE, change, policy, secret, target, with_key};

const TEAM: TeamId = TeamId::from_u128(7);

fn restrict(targets: &[TargetId], groups: &[&str], shadow: bool) -> Access {
    Access {
        mode: AccessMode::Restrict,
        targets: targets.to_vec(),
        groups: groups.iter().map(|it| (*it).to_owned()).collect(),
        shadow,
    }
}

fn team(access: Access) -> schemas::entry::Change {
    policy(Policy::Team(TeamPolicy {
        team_id: TEAM,
        workspace_id: WORKSPACE,
        blocked: false,
        limits: Limits::default(),
        access,
    }))
}

fn key(n: u64, access: Access) -> schemas::entry::Change {
    let mut entry = secret(n, SecretStatus::Active);
    entry.min_reader = access.min_reader();
    entry.team_id = Some(TEAM);
    entry.access = access;
    change(n, entry)
}

#[tokio::test]
async fn a_key_goes_where_every_level_lets_it() {
    let upstream = Upstream::start().await;
    let one = target("one", upstream.addr);
    let mut two = target("two", upstream.addr);
    two.groups = vec!["payments".to_owned()];
    let (one_id, two_id) = (one.target_id, two.target_id);
    let proxy = Proxy::start(vec![
        team(Access::default()),
        key(1, Access::default()),
        key(2, restrict(&[one_id], &[], false)),
        key(3, restrict(&[], &["payments"], false)),
        key(4, restrict(&[], &[], false)),
        key(5, restrict(&[TargetId::from_u128(99)], &["nobody"], false)),
        policy(Policy::Target(one.clone())),
        policy(Policy::Target(two.clone())),
    ])
    .await;
    let check = async |n, at_one: bool, at_two: bool| {
        for (path, allowed) in [("/t/one/x", at_one), ("/t/two/x", at_two)] {
            let reply = proxy.get(n, path).await;
            let expected = if allowed { "" } else { "target_not_allowed" };
            assert_eq!(reply.code(), expected, "key {n} at {path}");
            assert_eq!(reply.status, if allowed { 200 } else { 403 });
        }
    };
    check(1, true, true).await;
    check(2, true, false).await;
    check(3, false, true).await;
    check(4, false, false).await;
    check(5, false, false).await;

    // The team narrows what its keys have, and widens nothing.
    proxy
        .publish(vec![team(restrict(&[two_id], &[], false))])
        .await;
    check(1, false, true).await;
    check(2, false, false).await;
    check(3, false, true).await;

    // A group gains a member; no key is touched.
    proxy.publish(vec![team(Access::default())]).await;
    let mut one = one;
    one.groups = vec!["payments".to_owned()];
    two.groups.clear();
    proxy
        .publish(vec![
            policy(Policy::Target(one)),
            policy(Policy::Target(two)),
        ])
        .await;
    check(3, true, false).await;
    check(2, true, false).await;
}

#[tokio::test]
async fn a_restriction_in_shadow_refuses_nothing_and_is_counted() {
    let upstream = Upstream::start().await;
    let one = target("one", upstream.addr);
    let id = one.target_id;
    let proxy = Proxy::start(vec![
        team(Access::default()),
        key(1, restrict(&[], &[], true)),
        key(2, restrict(&[id], &[], true)),
        key(3, restrict(&[], &[], false)),
        policy(Policy::Target(one)),
    ])
    .await;
    let counted = async || {
        let (_, page) = proxy.admin("/metrics").await;
        let line = page
            .lines()
            .find(|it| it.starts_with("throttleproxy_shadow_denied_requests_total "));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(proxy.get(2, "/t/one/x").await.status, 200);
    assert_eq!(counted().await, "0");
    assert_eq!(proxy.get(1, "/t/one/x").await.status, 200);
    assert_eq!(proxy.get(1, "/t/one/x").await.status, 200);
    assert_eq!(counted().await, "2");
    assert_eq!(proxy.get(3, "/t/one/x").await.status, 403);
    assert_eq!(counted().await, "2");

    // The other levels stay in force.
    proxy.publish(vec![team(restrict(&[], &[], false))]).await;
    assert_eq!(proxy.get(1, "/t/one/x").await.status, 403);
}

#[tokio::test]
async fn a_wildcard_has_no_route_by_name() {
    let upstream = Upstream::start().await;
    let mut wildcard = target("all", upstream.addr);
    wildcard.host = "*.localhost".to_owned();
    let mut own = target("own", upstream.addr);
    own.host = "own.localhost".to_owned();
    own.base_path = "/v1".to_owned();
    let proxy = Proxy::start(vec![
        team(Access::default()),
        key(1, Access::default()),
        key(2, restrict(&[own.target_id], &[], false)),
        policy(Policy::Target(wildcard)),
        policy(Policy::Target(own)),
    ])
    .await;
    let port = upstream.addr.port();
    let check = async |n, host: &str, path: &str, expected: &str| {
        let origin = format!("http://{host}:{port}");
        let request = Request::get(path).header("x-throttleproxy-target", origin);
        let reply = proxy.send(with_key(n, request, "")).await;
        assert_eq!(reply.code(), expected, "key {n}: {path} at {host}");
    };
    assert_eq!(proxy.get(1, "/t/all/x").await.code(), "bad_target");
    check(1, "any.localhost", "/x", "").await;
    let seen = upstream.seen().pop().unwrap();
    assert_eq!(seen.headers["host"], format!("any.localhost:{port}"));
    check(1, "ANY.localhost.", "/x", "").await;
    check(1, "localhost", "/x", "target_not_allowed").await;
    check(1, "a.b.localhost", "/x", "target_not_allowed").await;
    check(2, "any.localhost", "/x", "target_not_allowed").await;
    // Its own target decides over a host alone, whatever a wildcard would let through.
    check(1, "own.localhost", "/v1/x", "").await;
    check(1, "own.localhost", "/x", "target_not_allowed").await;
    check(2, "own.localhost", "/v1/x", "").await;
}

#[tokio::test]
async fn a_target_gets_exactly_its_credential_or_the_request_does_not_go() {
    let upstream = Upstream::start().await;
    let credential = |header: &str| {
        Some(UpstreamCredential {
            name: "provider".to_owned(),
            header: header.to_owned(),
            format: "Token {secret}".to_owned(),
            source: SecretSource::File,
            reference: "PROVIDER".to_owned(),
        })
    };
    let mut one = target("one", upstream.addr);
    one.credential = credential("authorization");
    let mut two = target("two", upstream.addr);
    two.credential = credential("x-provider-key");
    let dir = tempfile::tempdir().unwrap();
    let credentials_dir = dir.path().to_owned();
    let proxy = Proxy::start_with(
        vec![
            change(1, secret(1, SecretStatus::Active)),
            policy(Policy::Target(one)),
            policy(Policy::Target(two)),
        ],
        |config| config.upstreams.credentials_dir = credentials_dir,
    )
    .await;
    let reply = proxy.get(1, "/t/one/x").await;
    assert_eq!((reply.status, reply.code()), (503, "stale"));
    assert!(reply.headers.contains_key("retry-after"));
    assert!(upstream.seen().is_empty());

    let of_workspace = dir.path().join(WORKSPACE.to_string());
    fs::create_dir(&of_workspace).unwrap();
    fs::write(of_workspace.join("PROVIDER"), "s3cret\n").unwrap();
    let is_read = async {
        while proxy.get(1, "/t/one/x").await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    let is_read = tokio::time::timeout(Duration::from_secs(10), is_read).await;
    is_read.expect("a file that came is read within a second");
    let request = Request::get("/t/two/x")
        .header("x-provider-key", "forged")
        .header("x_provider_key", "forged")
        .header("connection", "x-provider-key")
        .header("authorization", "Bearer sk-foreign");
    assert_eq!(proxy.send(with_key(1, request, "")).await.status, 200);
    let seen = upstream.seen();
    assert_eq!(seen[0].headers["authorization"], "Token s3cret");
    let last = seen.last().unwrap();
    let mut names: Vec<_> = last.headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-provider-key"]);
    assert_eq!(last.headers["x-provider-key"], "Token s3cret");
}
