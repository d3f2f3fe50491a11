//! A proxy whose region somebody else can write to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use schemas::Position;
use schemas::entry::{Policy, SecretStatus};
use schemas::seal::{FleetSecret, Kind, Seal};
use schemas::stream::Frame;

use crate::follow::Message;
use crate::follow::status::Miss;
use crate::testing::{
    MemoryRegion, Proxy, Upstream, change, credential, eventually, heartbeat, policy, revision,
    seal, secret, target, workspace,
};

/// Whoever has the carriers and not the keys.
fn attacker() -> Seal {
    Seal::new("test", &[66; 32], FleetSecret::from_bytes(&[66; 32]))
}

/// A region with a workspace, a target and key 1, which is active.
async fn region(upstream: &Upstream) -> Arc<MemoryRegion> {
    let region = Arc::new(MemoryRegion::new());
    region.publish(vec![
        policy(Policy::Workspace(workspace())),
        policy(Policy::Target(target("echo", upstream.addr))),
        change(1, secret(1, SecretStatus::Active)),
    ]);
    region
}

async fn ready(region: Arc<MemoryRegion>) -> Proxy {
    let proxy = Proxy::over(region, |_| {}).await;
    eventually("the proxy is ready", || proxy.running.is_ready()).await;
    proxy
}

fn unverified(proxy: &Proxy, kind: Kind) -> u64 {
    let follow = &proxy.running.shared().follow;
    follow.unverified(kind).load(Ordering::Relaxed)
}

fn frame(to: Position, n: u64) -> Frame {
    let mut entry = secret(n, SecretStatus::Active);
    entry.revision = revision(to);
    Frame {
        lineage: schemas::LineageId::from_u128(1),
        generation: 1,
        epoch: 1,
        from: 0,
        to,
        changes: Some(vec![change(n, entry)]),
        as_of_ms: 0,
    }
}

#[tokio::test]
async fn a_forged_entry_beside_the_others_is_left_out() {
    let upstream = Upstream::start().await;
    let region = region(&upstream).await;
    let mut entry = secret(2, SecretStatus::Active);
    entry.revision = revision(1);
    let text = serde_json::to_string(&entry).unwrap();
    let field = credential(2).hash().to_string();
    for stored in [text.clone(), attacker().entry(&field, &text)] {
        region.spoil(credential(2).hash(), stored.as_bytes());
        let proxy = ready(Arc::clone(&region)).await;
        assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
        assert_eq!(proxy.get(2, "/t/echo/").await.code(), "invalid_key");
        let shared = proxy.running.shared();
        assert_eq!(shared.follow.table_mismatch.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn an_old_entry_in_place_of_the_newest_is_never_loaded() {
    let upstream = Upstream::start().await;
    let region = region(&upstream).await;
    let active = region.stored(credential(1).hash());
    region.publish(vec![change(1, secret(1, SecretStatus::Revoked))]);
    let revoked = region.stored(credential(1).hash());

    // Sealed, but no longer the one that the root speaks of.
    region.spoil(credential(1).hash(), &active);
    let proxy = Proxy::over(Arc::clone(&region), |_| {}).await;
    eventually("it is seen", || unverified(&proxy, Kind::Entry) > 0).await;
    assert!(!proxy.running.is_ready(), "what is missing is not known");

    region.spoil(credential(1).hash(), &revoked);
    eventually("the proxy is ready", || proxy.running.is_ready()).await;
    assert_eq!(proxy.get(1, "/t/echo/").await.code(), "inactive_key");
}

#[tokio::test]
async fn forged_messages_are_counted_and_change_nothing() {
    let upstream = Upstream::start().await;
    let proxy = ready(region(&upstream).await).await;
    let attacker = attacker();
    let huge = 1 << 40;
    let frame = frame(huge, 2);
    let forged = [
        Message::Frame(attacker.frame(&frame)),
        Message::Heartbeat(attacker.heartbeat(&heartbeat(1, huge))),
        // A true message, said to be of another kind.
        Message::Heartbeat(seal().frame(&frame)),
    ];
    for message in forged {
        proxy.region.send(message);
    }
    eventually("all are counted", || {
        (
            unverified(&proxy, Kind::Frame),
            unverified(&proxy, Kind::Heartbeat),
        ) == (1, 2)
    })
    .await;
    // What is true goes on as if nothing had been.
    proxy
        .publish(vec![change(3, secret(3, SecretStatus::Active))])
        .await;
    assert_eq!(proxy.running.shared().status.place().position, 2);
    assert_eq!(proxy.running.shared().status.miss(), Miss::IsFinal);
    assert_eq!(proxy.get(2, "/t/echo/").await.code(), "invalid_key");
    assert_eq!(proxy.get(3, "/t/echo/").await.status, 200);
}

#[tokio::test]
async fn a_table_that_went_wrong_is_found_with_a_heartbeat_and_repaired() {
    let upstream = Upstream::start().await;
    let proxy = ready(region(&upstream).await).await;
    proxy
        .publish(vec![change(2, secret(2, SecretStatus::Inactive))])
        .await;
    let shared = proxy.running.shared();

    // One that nobody made, and another that nobody changed.
    let (mut made, mut changed) = (
        secret(3, SecretStatus::Active),
        secret(1, SecretStatus::Inactive),
    );
    (made.revision, changed.revision) = (revision(1), revision(2));
    shared.table.apply(&[change(3, made), change(1, changed)]);

    let right = proxy.region.root();
    proxy.region.beat();
    eventually("the table is right again", || shared.table.root() == right).await;
    assert!(shared.follow.table_mismatch.load(Ordering::Relaxed) > 0);
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
    assert_eq!(proxy.get(2, "/t/echo/").await.code(), "inactive_key");
    assert_eq!(proxy.get(3, "/t/echo/").await.code(), "invalid_key");
    let metrics = proxy.admin("/metrics").await.1;
    assert!(
        metrics.contains("\nthrottleproxy_table_mismatch_total "),
        "{metrics}"
    );
    assert!(
        metrics.contains("throttleproxy_unverified_messages_total{kind=\"frame\"} 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_look_up_believes_no_entry_that_was_made_up_or_put_back() {
    let upstream = Upstream::start().await;
    let region = region(&upstream).await;
    region.publish(vec![change(2, secret(2, SecretStatus::Active))]);
    let was_active = region.stored(credential(2).hash());
    // A region that no longer holds the tombstone of key 2, as after an epoch of its own.
    let fresh = self::region(&upstream).await;
    fresh.publish(Vec::new());
    let proxy = ready(fresh).await;
    proxy.region.is_silent.store(true, Ordering::SeqCst);
    proxy.region.stop_meta();
    eventually("the table is stale", || {
        proxy.running.shared().status.miss() == Miss::AskRegion
    })
    .await;

    // Sealed once, of a revision that the table has passed.
    proxy.region.spoil(credential(2).hash(), &was_active);
    let mut made_up = secret(3, SecretStatus::Active);
    made_up.revision = revision(9);
    let text = serde_json::to_string(&made_up).unwrap();
    let field = credential(3).hash().to_string();
    let made_up = attacker().entry(&field, &text);
    proxy.region.spoil(credential(3).hash(), made_up.as_bytes());
    // One of the region itself, for comparison.
    let mut newer = secret(4, SecretStatus::Active);
    newer.revision = revision(9);
    let text = serde_json::to_string(&newer).unwrap();
    let newer = seal().entry(&credential(4).hash().to_string(), &text);
    proxy.region.spoil(credential(4).hash(), newer.as_bytes());

    assert_eq!(proxy.get(2, "/t/echo/").await.code(), "stale");
    assert_eq!(proxy.get(3, "/t/echo/").await.code(), "stale");
    assert_eq!(proxy.get(4, "/t/echo/").await.status, 200);
}
