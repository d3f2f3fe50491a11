//! A region, written to by the control plane and read by a proxy: one suite, run over a
//! real Redis and NATS and over the region inside the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use control_plane::region::redis_nats::RedisNats as Written;
use control_plane::region::{
    Batch, Entry, Heard, Incoming, POLICIES_DIGEST, Region, Repair, Verdict,
};
use data_plane::follow::redis_nats::RedisNats as Read;
use data_plane::follow::{Message, RegionSource};
use futures_util::StreamExt;
use ops::embedded::Embedded;
use schemas::digest::{self, Digest, Leaf};
use schemas::entry::{
    Access, Change, GlobalPolicy, Policy, PolicyEntry, Revision, SecretEntry, SecretStatus,
    WorkspacePolicy,
};
use schemas::fleet::{FollowerState, Renewal, RenewalAnswer};
use schemas::name::{BUCKETS, bucket_of};
use schemas::seal::{FleetSecret, Seal};
use schemas::stream::{Heartbeat, Meta};
use schemas::{
    BootId, CredentialHash, KeyId, Limits, LineageId, PlanLimits, Position, SecretId, WorkspaceId,
};
use tests::wait::eventually;
use tests::world::shared_servers;

static REGIONS: AtomicU32 = AtomicU32::new(0);
const SOON: Duration = Duration::from_secs(5);

/// Both sides of one region.
struct Sides {
    name: String,
    region: Arc<dyn Region>,
    source: Arc<dyn RegionSource>,
}

async fn real() -> Sides {
    let (_, redis, nats) = shared_servers().await;
    let name = format!("suite-{}", REGIONS.fetch_add(1, Ordering::Relaxed));
    let region = Written::open(&name, &redis.url(), Some(&nats.url()))
        .await
        .unwrap();
    let source = Read::connect(&name, &redis.url(), Some(nats.url())).unwrap();
    Sides {
        name,
        region: Arc::new(region),
        source: Arc::new(source),
    }
}

async fn embedded() -> Sides {
    let region = Embedded::new("suite");
    Sides {
        name: "suite".to_owned(),
        region: Arc::new(region.clone()),
        source: Arc::new(region),
    }
}

/// Runs a check over both kinds of region.
macro_rules! on_both {
    ($name:ident, $check:ident) => {
        mod $name {
            #[tokio::test]
            async fn on_redis_and_nats() {
                super::$check(super::real().await).await;
            }

            #[tokio::test]
            async fn in_the_process() {
                super::$check(super::embedded().await).await;
            }
        }
    };
}

on_both!(what_was_written_is_read, check_reading);
on_both!(a_batch_must_continue_where_the_region_is, check_contiguity);
on_both!(a_lower_fence_is_turned_away, check_fence);
on_both!(an_entry_never_goes_back, check_entries);
on_both!(another_lineage_is_refused, check_lineage);
on_both!(frames_and_heartbeats_arrive, check_notices);
on_both!(a_renewal_is_answered, check_renewal);
on_both!(what_is_read_is_proved, check_proof);
on_both!(
    a_meta_that_is_not_ours_is_replaced_if_it_was_seen,
    check_meta
);

fn workspace() -> WorkspaceId {
    WorkspaceId::from_u128(3)
}

fn hash(number: u8) -> CredentialHash {
    CredentialHash::of(&[number])
}

fn secret(number: u8, rev: Position, status: SecretStatus) -> Change {
    Change::Secret {
        hash: hash(number),
        secret: SecretEntry {
            min_reader: 1,
            revision: Revision { generation: 1, rev },
            key_id: KeyId::from_u128(u128::from(number)),
            secret_id: SecretId::from_u128(u128::from(number)),
            status,
            ends_at_ms: None,
            expires_at_ms: None,
            workspace_id: workspace(),
            team_id: None,
            owner: None,
            name: format!("key {number}"),
            limits: Limits::default(),
            access: Access::default(),
        },
    }
}

fn policy(rev: Position, policy: Policy) -> Change {
    let revision = Revision { generation: 1, rev };
    Change::Policy {
        policy: PolicyEntry {
            min_reader: 1,
            revision,
            policy,
        },
    }
}

fn workspace_policy() -> Policy {
    Policy::Workspace(WorkspacePolicy {
        workspace_id: workspace(),
        suspended: false,
        plan_limits: PlanLimits::default(),
        error_profile: None,
        allow_query_key: false,
    })
}

/// What the region is sealed with.
fn seal() -> Seal {
    Seal::new("suite", &[1; 32], FleetSecret::from_bytes(&[2; 32]))
}

fn batch(from: Position, to: Position, changes: Vec<Change>) -> Batch {
    batch_with(from, to, changes, |_| {})
}

/// A batch whose meta is another one.
fn batch_with(
    from: Position,
    to: Position,
    changes: Vec<Change>,
    adjust: impl FnOnce(&mut Meta),
) -> Batch {
    let mut meta = Meta {
        lineage: LineageId::from_u128(1),
        generation: 1,
        epoch: 1,
        fence: 5,
        position: to,
        chain_hash: format!("{to:064x}"),
        as_of_ms: 1_800_000_000_000,
        count: 0,
        root: Digest::EMPTY,
    };
    adjust(&mut meta);
    Batch::seal(&seal(), meta, from, changes, Vec::new()).unwrap()
}

impl Sides {
    async fn apply(&self, batch: &Batch) -> Verdict {
        self.region.apply(batch).await.unwrap()
    }

    /// A batch that must be turned away, and must leave nothing behind.
    async fn refuse(&self, batch: &Batch, expected: fn(&Verdict) -> bool) {
        let before = self.region.meta().await.unwrap();
        let verdict = self.apply(batch).await;
        assert!(expected(&verdict), "{verdict:?}");
        assert_eq!(self.region.meta().await.unwrap(), before);
    }

    async fn status(&self, number: u8) -> Option<SecretStatus> {
        let entry = self.region.entry(1, &hash(number)).await.unwrap()?;
        Some(
            schemas::entry::decode_secret(entry.as_bytes())
                .unwrap()
                .status,
        )
    }
}

async fn check_reading(sides: Sides) {
    use SecretStatus::Active;
    assert_eq!(sides.region.meta().await.unwrap(), None);
    assert!(sides.source.meta().await.unwrap().is_none());
    let global = Policy::Global(GlobalPolicy {
        limits: PlanLimits::default(),
        error_profile: Default::default(),
    });
    let changes = vec![
        policy(1, workspace_policy()),
        policy(2, global),
        secret(1, 3, Active),
    ];
    let first = batch(0, 3, changes);
    assert_eq!(sides.apply(&first).await, Verdict::Applied);
    let second = batch(3, 7, vec![secret(2, 5, Active)]);
    assert_eq!(sides.apply(&second).await, Verdict::Applied);

    let meta = Some(second.signed_meta.clone());
    assert_eq!(sides.source.meta().await.unwrap(), meta);
    assert_eq!(sides.region.meta().await.unwrap(), meta);
    let (first, second) = (first.frame, second.frame);
    let feed = async |after, limit| sides.source.feed(1, after, limit).await.unwrap();
    assert_eq!(feed(0, 10).await, [first.clone(), second.clone()]);
    assert_eq!(feed(3, 10).await, [second]);
    assert_eq!(feed(0, 1).await, [first]);
    assert_eq!(feed(7, 10).await, []);

    let place = bucket_of(&hash(1));
    let part = sides.source.read(1, place..place + 1, true).await.unwrap();
    assert_eq!(part.meta, meta);
    assert!(
        part.buckets[0]
            .1
            .iter()
            .any(|(field, _)| *field == hash(1).to_string())
    );
    let same = sides.region.read(1, place..place + 1, false).await.unwrap();
    assert_eq!((same.buckets, same.policies), (part.buckets, None));
    let mut policies: Vec<_> = part
        .policies
        .unwrap()
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    policies.sort();
    assert_eq!(
        policies,
        [
            "global:instance".to_owned(),
            format!("workspace:{}", workspace())
        ]
    );

    let found = sides.source.lookup(&hash(1)).await.unwrap().unwrap();
    let seal = seal();
    let bytes = seal.trust().entry(&hash(1).to_string(), found.secret);
    let entry = schemas::entry::decode_secret(&bytes.unwrap()).unwrap();
    assert_eq!(entry.name, "key 1");
    assert_eq!(found.policies.len(), 2);
    for (name, policy) in found.policies {
        assert!(seal.trust().entry(&name, policy).is_ok(), "{name}");
    }
    assert!(sides.source.lookup(&hash(9)).await.unwrap().is_none());
}

async fn check_contiguity(sides: Sides) {
    let elsewhere = |verdict: &Verdict| *verdict == Verdict::Elsewhere;
    sides.refuse(&batch(4, 5, vec![]), elsewhere).await;
    assert_eq!(sides.apply(&batch(0, 5, vec![])).await, Verdict::Applied);
    sides.refuse(&batch(0, 5, vec![]), elsewhere).await;
    sides.refuse(&batch(6, 7, vec![]), elsewhere).await;
    let other_epoch = batch_with(5, 6, vec![], |meta| meta.epoch = 2);
    sides.refuse(&other_epoch, elsewhere).await;
    assert_eq!(sides.apply(&batch(5, 6, vec![])).await, Verdict::Applied);
}

async fn check_fence(sides: Sides) {
    assert_eq!(sides.apply(&batch(0, 1, vec![])).await, Verdict::Applied);
    let successor = batch_with(1, 2, vec![], |meta| meta.fence = 6);
    assert_eq!(sides.apply(&successor).await, Verdict::Applied);
    // The projector of before wakes up.
    sides
        .refuse(&batch(2, 3, vec![]), |verdict| *verdict == Verdict::Fenced)
        .await;
}

async fn check_entries(sides: Sides) {
    use SecretStatus::{Active, Ended, Inactive, Purged, Revoked};
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused { .. });
    let first = vec![secret(1, 1, Active), secret(2, 2, Active)];
    assert_eq!(sides.apply(&batch(0, 2, first)).await, Verdict::Applied);

    // One entry that is not newer spoils the whole batch.
    for rev in [1, 2] {
        let stale = vec![secret(1, 3, Inactive), secret(2, rev, Inactive)];
        sides.refuse(&batch(2, 3, stale), refused).await;
        assert_eq!(sides.status(1).await, Some(Active));
    }
    for (number, status) in [(3, Revoked), (4, Ended), (5, Purged)] {
        let (from, to) = (Position::from(number) - 1, Position::from(number));
        let off = batch(from, to, vec![secret(number, to, status)]);
        assert_eq!(sides.apply(&off).await, Verdict::Applied);
        let back = batch(to, to + 1, vec![secret(number, to + 1, Active)]);
        sides.refuse(&back, refused).await;
        assert_eq!(sides.status(number).await, Some(status));
    }
}

async fn check_lineage(sides: Sides) {
    assert_eq!(sides.apply(&batch(0, 1, vec![])).await, Verdict::Applied);
    let other = batch_with(1, 2, vec![], |meta| meta.lineage = LineageId::from_u128(2));
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused { .. });
    sides.refuse(&other, refused).await;
    let older = batch_with(1, 2, vec![], |meta| meta.generation = 0);
    sides.refuse(&older, refused).await;
}

async fn check_notices(sides: Sides) {
    let mut messages = sides.source.subscribe().await.unwrap();
    let small = batch(0, 1, vec![secret(1, 1, SecretStatus::Active)]);
    let many = (0..=255)
        .map(|number| secret(number, 2, SecretStatus::Active))
        .collect();
    let large = batch(1, 2, many);
    let heartbeat = Heartbeat {
        lineage: small.meta.lineage,
        generation: 1,
        epoch: 1,
        to: 2,
        as_of_ms: small.meta.as_of_ms,
        root: Digest::EMPTY,
    };
    let heartbeat = seal().heartbeat(&heartbeat);
    let mut heard = Vec::new();
    // A subscription may take a moment to reach the server, so all is said again.
    eventually(
        "both frames and the heartbeat are heard",
        SOON,
        async || {
            sides.region.publish_frame(&small.frame).await?;
            sides.region.publish_frame(&large.frame).await?;
            sides.region.publish_heartbeat(&heartbeat).await?;
            while let Ok(Some(message)) =
                tokio::time::timeout(Duration::from_millis(50), messages.next()).await
            {
                heard.push(message);
            }
            for frame in [&small.frame, &large.frame] {
                let is_it = |it: &Message| matches!(it, Message::Frame(it) if it == frame);
                ensure!(heard.iter().any(is_it));
            }
            ensure!(
                heard
                    .iter()
                    .any(|it| matches!(it, Message::Heartbeat(it) if *it == heartbeat))
            );
            Ok(())
        },
    )
    .await;
}

/// A batch whose digests and root are those of these secrets, which are all there are.
fn digested(to: Position, changes: Vec<Change>) -> Batch {
    let mut buckets = vec![Vec::new(); usize::from(BUCKETS)];
    for change in &changes {
        if let Change::Secret { hash, secret } = change {
            buckets[usize::from(bucket_of(hash))].push(Leaf {
                hash: *hash,
                revision: secret.revision,
            });
        }
    }
    let buckets: Vec<Digest> = buckets.into_iter().map(digest::of_bucket).collect();
    let policies = digest::of_policies([]);
    let root = digest::of_root(&buckets, policies);
    let mut batch = batch_with(0, to, changes, |meta| meta.root = root);
    let digests = (0..).zip(buckets).chain([(POLICIES_DIGEST, policies)]);
    batch.digests = digests.collect();
    batch
}

async fn check_proof(sides: Sides) {
    use SecretStatus::{Active, Revoked};
    let sealed = digested(3, vec![secret(1, 2, Revoked), secret(2, 3, Active)]);
    assert_eq!(sides.apply(&sealed).await, Verdict::Applied);
    let seal = seal();
    let place = bucket_of(&hash(1));
    let read = async || {
        let part = sides.source.read(1, place..place + 1, false).await.unwrap();
        let digests = part.digests(seal.trust()).unwrap().unwrap();
        let (bucket, stored) = part.buckets.into_iter().next().unwrap();
        digests.open_bucket(seal.trust(), bucket, stored)
    };
    assert_eq!(read().await.unwrap().len(), 1);

    // Its own older entry, put where the newest was; then that again.
    let put = async |change: &Change| {
        let repair = Repair {
            fence: 5,
            epoch: 1,
            entries: vec![Entry::seal(&seal, change).unwrap()],
            ..Repair::default()
        };
        assert!(sides.region.repair(&repair).await.unwrap());
    };
    put(&secret(1, 1, Active)).await;
    assert!(read().await.is_err());
    put(&secret(1, 2, Revoked)).await;
    assert!(read().await.is_ok());

    let gone = Repair {
        fence: 5,
        epoch: 1,
        strangers: vec![(Some(place), hash(1).to_string())],
        ..Repair::default()
    };
    assert!(sides.region.repair(&gone).await.unwrap());
    assert!(read().await.is_err(), "one is missing");
    // A projector of before does not repair what it no longer leads.
    let late = Repair { fence: 4, ..gone };
    assert!(!sides.region.repair(&late).await.unwrap());
}

async fn check_meta(sides: Sides) {
    let first = batch(0, 1, vec![]);
    assert_eq!(sides.apply(&first).await, Verdict::Applied);
    let digests = vec![7; 1_025 * 32];
    let other = seal().meta(&batch_with(0, 9, vec![], |meta| meta.fence = 6).meta);
    let replace = async |seen| sides.region.replace_meta(seen, &other, &digests).await;
    assert!(!replace(&other).await.unwrap(), "another one is there");
    assert!(replace(&first.signed_meta).await.unwrap());
    let part = sides.region.read(1, 0..0, false).await.unwrap();
    assert_eq!(
        (part.meta, part.digests),
        (Some(other.clone()), digests.clone())
    );
}

async fn check_renewal(sides: Sides) {
    let mut heard = sides.region.listen().await.unwrap();
    let control_plane = tokio::spawn(async move {
        while let Some(heard) = heard.next().await {
            let Heard::Renewal(Incoming { renewal, reply }) = heard else {
                continue;
            };
            let renewal = seal().renewal(&renewal).unwrap();
            let answer = RenewalAnswer {
                boot_id: renewal.boot_id,
                counter: renewal.counter,
                lineage: LineageId::from_u128(1),
                generation: 1,
                head: 42,
                now_ms: 0,
            };
            drop(reply.send(seal().answer(&answer)));
        }
    });
    let renewal = Renewal {
        region: sides.name.clone(),
        proxy_id: "a".to_owned(),
        boot_id: BootId::from_u128(1),
        counter: 1,
        version: "0".to_owned(),
        reader: 1,
        lineage: None,
        generation: 0,
        position: 0,
        state: FollowerState::Boot,
        freshness_ms: 0,
        uses: Vec::new(),
        uses_complete: true,
        goodbye: false,
    };
    let renewal = seal().trust().renewal(&renewal);
    let answer = eventually("the renewal is answered", SOON, async || {
        Ok(sides.source.renew(&renewal).await?)
    })
    .await;
    let answer = seal().trust().answer(&answer).unwrap();
    assert_eq!((answer.counter, answer.head), (1, 42));
    control_plane.abort();
}
