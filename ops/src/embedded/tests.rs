use futures_util::StreamExt as _;
use schemas::digest::Digest;
use schemas::entry::{
    Access, GlobalPolicy, Policy, PolicyEntry, Revision, SecretEntry, SecretStatus, WorkspacePolicy,
};
use schemas::entry::{Change, ErrorProfile};
use schemas::fleet::{FollowerState, Renewal, RenewalAnswer};
use schemas::name::{BUCKETS, bucket_of};
use schemas::seal::{FleetSecret, Seal};
use schemas::stream::{Heartbeat, Meta};
use schemas::{BootId, KeyId, Limits, LineageId, PlanLimits, SecretId, WorkspaceId};

use super::*;

const WORKSPACE: WorkspaceId = WorkspaceId::from_parts(1, 1);

fn hash() -> CredentialHash {
    CredentialHash::of(b"a key")
}

fn secret(rev: Position, status: SecretStatus) -> Change {
    Change::Secret {
        hash: hash(),
        secret: SecretEntry {
            min_reader: 1,
            revision: Revision { generation: 1, rev },
            key_id: KeyId::from_parts(1, 2),
            secret_id: SecretId::from_parts(1, 3),
            status,
            ends_at_ms: None,
            expires_at_ms: None,
            workspace_id: WORKSPACE,
            team_id: None,
            owner: None,
            name: "a key".to_owned(),
            limits: Limits::default(),
            access: Access::default(),
        },
    }
}

fn policy(rev: Position, policy: Policy) -> Change {
    Change::Policy {
        policy: PolicyEntry {
            min_reader: 1,
            revision: Revision { generation: 1, rev },
            policy,
        },
    }
}

fn workspace(rev: Position) -> Change {
    policy(
        rev,
        Policy::Workspace(WorkspacePolicy {
            workspace_id: WORKSPACE,
            suspended: false,
            plan_limits: PlanLimits::default(),
            error_profile: None,
            allow_query_key: false,
        }),
    )
}

fn global(rev: Position) -> Change {
    policy(
        rev,
        Policy::Global(GlobalPolicy {
            limits: PlanLimits::default(),
            error_profile: ErrorProfile::Standard,
        }),
    )
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
        lineage: LineageId::from_parts(1, 9),
        generation: 1,
        epoch: 1,
        fence: 5,
        position: to,
        chain_hash: "00".repeat(32),
        as_of_ms: 0,
        count: 0,
        root: Digest::EMPTY,
    };
    adjust(&mut meta);
    Batch::seal(&seal(), meta, from, changes, Vec::new()).unwrap()
}

/// A region at position 3 that holds an active secret and its policies.
async fn region() -> Embedded {
    let region = Embedded::new("local");
    let changes = vec![global(1), workspace(2), secret(3, SecretStatus::Active)];
    let verdict = region.apply(&batch(0, 3, changes)).await.unwrap();
    assert_eq!(verdict, Verdict::Applied);
    region
}

fn renewal() -> Renewal {
    Renewal {
        region: "local".to_owned(),
        proxy_id: "p".to_owned(),
        boot_id: BootId::from_parts(1, 1),
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
    }
}

#[tokio::test]
async fn a_batch_that_does_not_belong_here_changes_nothing() {
    let refused = |reason: &str| Verdict::Refused {
        reason: reason.to_owned(),
    };
    let inactive = || vec![secret(4, SecretStatus::Inactive)];
    let cases: Vec<(&str, Batch, Verdict)> = vec![
        (
            "it begins elsewhere",
            batch(2, 4, inactive()),
            Verdict::Elsewhere,
        ),
        (
            "it leaves a gap",
            batch(4, 5, inactive()),
            Verdict::Elsewhere,
        ),
        (
            "it is of another epoch",
            batch_with(3, 4, inactive(), |meta| meta.epoch = 2),
            Verdict::Elsewhere,
        ),
        (
            "a later projector has written",
            batch_with(3, 4, inactive(), |meta| meta.fence = 4),
            Verdict::Fenced,
        ),
        (
            "it is of another lineage",
            batch_with(3, 4, inactive(), |meta| {
                meta.lineage = LineageId::from_parts(1, 8)
            }),
            refused("the region belongs to another lineage"),
        ),
        (
            "it is of an older generation",
            batch_with(3, 4, inactive(), |meta| meta.generation = 0),
            refused("the region belongs to another lineage"),
        ),
        (
            "an entry is not newer",
            batch(3, 4, vec![workspace(4), secret(3, SecretStatus::Inactive)]),
            refused("an entry is not newer than the stored one"),
        ),
    ];
    for (case, batch, expected) in cases {
        let region = region().await;
        let read = async || {
            let mut part = RegionSource::read(&region, 1, 0..BUCKETS, true)
                .await
                .unwrap();
            part.policies.as_mut().unwrap().sort();
            part
        };
        let before = read().await;
        assert_eq!(region.apply(&batch).await.unwrap(), expected, "{case}");
        assert_eq!(read().await, before, "{case}");
        let meta = Region::meta(&region).await.unwrap().unwrap();
        assert_eq!(meta["position"], "3", "{case}");
        assert_eq!(region.feed(1, 0, 10).await.unwrap().len(), 1, "{case}");
    }
}

#[tokio::test]
async fn what_is_off_for_good_stays_off() {
    let region = region().await;
    let revoked = batch(3, 4, vec![secret(4, SecretStatus::Revoked)]);
    assert_eq!(region.apply(&revoked).await.unwrap(), Verdict::Applied);
    let back = batch(4, 5, vec![secret(5, SecretStatus::Active)]);
    let verdict = region.apply(&back).await.unwrap();
    assert!(matches!(verdict, Verdict::Refused { .. }), "{verdict:?}");
    let entry = region.entry(1, &hash()).await.unwrap().unwrap();
    assert!(entry.contains("\"revoked\""), "{entry}");
}

#[tokio::test]
async fn an_empty_region_takes_only_the_beginning_and_knows_nothing() {
    let region = Embedded::new("local");
    let later = batch(3, 4, vec![]);
    assert_eq!(region.apply(&later).await.unwrap(), Verdict::Elsewhere);
    assert_eq!(Region::meta(&region).await.unwrap(), None);
    assert!(region.lookup(&hash()).await.is_err());
}

#[tokio::test]
async fn a_proxy_reads_what_the_projector_wrote() {
    let region = region().await;
    let secret = region
        .entry(1, &hash())
        .await
        .unwrap()
        .unwrap()
        .into_bytes();

    let found = region.lookup(&hash()).await.unwrap().unwrap();
    assert_eq!(found.secret, secret);
    assert_eq!(found.policies.len(), 2);
    assert_eq!(
        region.lookup(&CredentialHash::of(b"other")).await.unwrap(),
        None
    );

    let part = RegionSource::read(&region, 1, 0..BUCKETS, true)
        .await
        .unwrap();
    assert_eq!(part.meta, Region::meta(&region).await.unwrap());
    let held: Vec<_> = part.buckets.iter().filter(|it| !it.1.is_empty()).collect();
    assert_eq!(
        held,
        [&(bucket_of(&hash()), vec![(hash().to_string(), secret)])]
    );

    let mut names: Vec<String> = part
        .policies
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "global:instance".to_owned(),
            format!("workspace:{WORKSPACE}")
        ]
    );
    let other = RegionSource::read(&region, 2, 0..BUCKETS, true)
        .await
        .unwrap();
    assert_eq!(other.policies, Some(Vec::new()));
    assert!(other.buckets.iter().all(|it| it.1.is_empty()));
}

#[tokio::test]
async fn the_feed_begins_above_a_position() {
    let region = region().await;
    for position in 3..6 {
        region
            .apply(&batch(position, position + 1, vec![]))
            .await
            .unwrap();
    }
    let to = async |after, limit| -> Vec<Position> {
        let frames = region.feed(1, after, limit).await.unwrap();
        let read = |frame| seal().trust().frame(frame).unwrap().to;
        frames.iter().map(read).collect()
    };
    assert_eq!(to(0, 10).await, [3, 4, 5, 6]);
    assert_eq!(to(3, 2).await, [4, 5]);
    assert_eq!(to(6, 10).await, [0; 0]);
}

#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_so() {
    let region = region().await;
    let mut notices = region.subscribe().await.unwrap();
    let heartbeat = Heartbeat {
        lineage: LineageId::from_parts(1, 9),
        generation: 1,
        epoch: 1,
        to: 3,
        as_of_ms: 0,
        root: Digest::EMPTY,
    };
    let heartbeat = seal().heartbeat(&heartbeat);
    for _ in 0..=MESSAGES_MAX {
        region.publish_heartbeat(&heartbeat).await.unwrap();
    }
    assert!(matches!(notices.next().await, Some(Message::Lost)));
    assert!(matches!(notices.next().await, Some(Message::Heartbeat(_))));
}

#[tokio::test]
async fn a_renewal_is_answered_by_whoever_listens_or_not_at_all() {
    let region = region().await;
    let renewal = seal().trust().renewal(&renewal());
    assert!(region.renew(&renewal).await.is_err());

    let mut renewals = region.listen().await.unwrap();
    let control_plane = async {
        let Some(Heard::Renewal(incoming)) = renewals.next().await else {
            panic!("a renewal is heard");
        };
        let renewal = seal().renewal(&incoming.renewal).unwrap();
        let answer = RenewalAnswer {
            boot_id: renewal.boot_id,
            counter: renewal.counter,
            lineage: LineageId::from_parts(1, 9),
            generation: 1,
            head: 3,
            now_ms: 0,
        };
        incoming.reply.send(seal().answer(&answer)).unwrap();
    };
    let (answer, ()) = tokio::join!(region.renew(&renewal), control_plane);
    let answer = seal().trust().answer(&answer.unwrap());
    assert_eq!(answer.unwrap().head, 3);

    // A control plane that does not lead the region drops the question.
    let follower = async { drop(renewals.next().await) };
    let (answer, ()) = tokio::join!(region.renew(&renewal), follower);
    assert!(answer.is_err());
}
