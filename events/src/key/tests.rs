//! Given events, when a command, then events or a refusal.

use proptest::prelude::*;
use schemas::api::{Actor, ActorKind, KeyStatus, Source};
use schemas::{
    AccountId, Credential, Environment, EventId, KeyId, Limits, LineageId, SecretId,
    ServiceAccountId, Timestamp, WorkspaceId,
};

use super::*;
use crate::command::{KeyCommand, LimitsPatch, MetadataPatch, PatchKey, RotateKey};
use crate::event::{Change, Event, KeyTransfer, Recorded, SecretMade, Stream};
use crate::refusal::FieldCode;

const NOW: i64 = 1_800_000_000_000;
const DAY_S: u64 = 86_400;

fn now() -> Timestamp {
    Timestamp::from_unix_ms(NOW)
}

fn key_id() -> KeyId {
    KeyId::from_u128(7)
}

fn secret(number: u8) -> SecretMade {
    let credential = Credential::generate(Environment::Live, || number);
    SecretMade {
        id: SecretId::from_u128(u128::from(number)),
        hash: credential.hash(),
        prefix: credential.prefix().to_owned(),
        last4: credential.last4().to_owned(),
    }
}

fn create() -> CreateKey {
    CreateKey {
        name: "checkout-worker-staging".to_owned(),
        category: None,
        environment: Environment::Live,
        team_id: None,
        owner: None,
        expires_at: None,
        limits: Limits::default(),
        access: Access::default(),
        metadata: BTreeMap::new(),
        replaces: None,
        rotation_due_at: None,
        source: Source::Api,
        secret: secret(1),
    }
}

fn rotate(number: u8, overlap_seconds: Option<u64>, reason: Option<&str>) -> KeyCommand {
    KeyCommand::Rotate(RotateKey {
        overlap_seconds,
        overlap_max_seconds: 30 * DAY_S,
        reason: reason.map(str::to_owned),
        self_service: false,
        secret: secret(number),
    })
}

fn patch(patch: PatchKey) -> KeyCommand {
    KeyCommand::Patch(Box::new(patch))
}

fn record(version: u64, event: Event) -> Recorded {
    Recorded {
        position: version,
        lineage: LineageId::from_u128(1),
        generation: 1,
        stream: Stream::Key(key_id()),
        stream_version: version,
        id: EventId::from_u128(u128::from(version)),
        at: now(),
        workspace_id: Some(WorkspaceId::from_u128(1)),
        actor: Actor {
            kind: ActorKind::User,
            id: "acc_1".to_owned(),
        },
        request_id: None,
        causation_id: None,
        event,
    }
}

/// A key after commands that all succeed.
fn given(commands: &[KeyCommand]) -> Option<Key> {
    let look = SecretLook::default();
    commands.iter().fold(None, |key, command| {
        let events = decide(key.as_ref(), command, now(), &look).unwrap();
        events.into_iter().fold(key, |key: Option<Key>, event| {
            let version = key.as_ref().map_or(0, |it| it.version) + 1;
            evolve(key, &record(version, event))
        })
    })
}

fn created() -> KeyCommand {
    KeyCommand::Create(Box::new(create()))
}

fn when(key: Option<&Key>, command: &KeyCommand) -> Result<Vec<Event>, Refusal> {
    decide(key, command, now(), &SecretLook::default())
}

#[track_caller]
fn check(before: &[KeyCommand], command: KeyCommand, expected: Result<Vec<Event>, Refusal>) {
    assert_eq!(when(given(before).as_ref(), &command), expected);
}

/// The fields that are refused, and why.
fn refused(result: Result<Vec<Event>, Refusal>) -> Vec<(String, FieldCode)> {
    match result {
        Err(Refusal::Fields(fields)) => fields.into_iter().map(|it| (it.field, it.code)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn switching_off_and_on_may_be_repeated() {
    use KeyCommand::{Deactivate, Reactivate};
    check(&[created()], Deactivate, Ok(vec![Event::KeyDeactivated {}]));
    check(&[created(), Deactivate], Deactivate, Ok(vec![]));
    check(
        &[created(), Deactivate],
        Reactivate,
        Ok(vec![Event::KeyReactivated {}]),
    );
    check(&[created()], Reactivate, Ok(vec![]));
    check(&[], Deactivate, Err(Refusal::NotFound("key")));
}

#[test]
fn a_key_changes_hands_with_its_history() {
    let person = Owner::User(AccountId::from_u128(5));
    let account = Owner::ServiceAccount(ServiceAccountId::from_u128(6));
    let team_id = Some(TeamId::from_u128(3));
    let owned = KeyCommand::Create(Box::new(CreateKey {
        owner: Some(person),
        ..create()
    }));
    let to = |owner, team_id| KeyCommand::Transfer { owner, team_id };
    let key = given(&[owned.clone(), to(Some(account), team_id)]).unwrap();
    assert_eq!((key.owner, key.team_id), (Some(account), team_id));
    assert_eq!(key.secrets.len(), 1);
    let changes = KeyTransfer {
        owner: Change::between(&Some(person), &None),
        team_id: None,
    };
    check(
        std::slice::from_ref(&owned),
        to(None, None),
        Ok(vec![Event::KeyTransferred { changes }]),
    );
    check(
        std::slice::from_ref(&owned),
        to(Some(person), None),
        Ok(vec![]),
    );
    check(
        &[owned, KeyCommand::Revoke],
        to(None, None),
        Err(Refusal::KeyRevoked),
    );
    check(&[], to(None, None), Err(Refusal::NotFound("key")));
}

#[test]
fn revoked_is_for_good() {
    use KeyCommand::{Deactivate, Reactivate, Revoke};
    let revoked = [created(), Revoke];
    check(&[created()], Revoke, Ok(vec![Event::KeyRevoked {}]));
    check(
        &[created(), Deactivate],
        Revoke,
        Ok(vec![Event::KeyRevoked {}]),
    );
    check(&revoked, Revoke, Ok(vec![]));
    for command in [
        Deactivate,
        Reactivate,
        rotate(2, Some(0), None),
        patch(PatchKey {
            name: Some("x".to_owned()),
            ..PatchKey::default()
        }),
    ] {
        check(&revoked, command, Err(Refusal::KeyRevoked));
    }
}

#[test]
fn a_key_that_was_used_has_a_history() {
    let used = KeyCommand::RecordFirstUse {
        secret_id: secret(1).id,
        used_at: now(),
    };
    let off = || KeyCommand::Deactivate;
    check(&[created()], KeyCommand::Purge, Err(Refusal::KeyActive));
    check(
        &[created(), off()],
        KeyCommand::Purge,
        Ok(vec![Event::KeyPurged {}]),
    );
    check(
        &[created(), used.clone()],
        KeyCommand::Purge,
        Err(Refusal::KeyHasHistory),
    );
    check(&[created(), used.clone()], used.clone(), Ok(vec![]));
    check(
        &[created(), off(), KeyCommand::Purge],
        used,
        Err(Refusal::NotFound("key")),
    );
    check(
        &[created(), off(), KeyCommand::Purge],
        KeyCommand::Revoke,
        Err(Refusal::NotFound("key")),
    );
}

#[test]
fn status_is_the_first_that_holds() {
    use KeyCommand::{Deactivate, Revoke};
    let expiring = || {
        let expires_at = Some(now().plus_ms(1_000));
        KeyCommand::Create(Box::new(CreateKey {
            expires_at,
            ..create()
        }))
    };
    let status = |commands: &[KeyCommand], later_ms| {
        given(commands).unwrap().status(now().plus_ms(later_ms))
    };
    assert_eq!(status(&[expiring()], 999), KeyStatus::Active);
    assert_eq!(status(&[expiring()], 1_000), KeyStatus::Expired);
    assert_eq!(
        status(&[expiring(), Deactivate], 1_000),
        KeyStatus::Inactive
    );
    assert_eq!(
        status(&[expiring(), Deactivate, Revoke], 1_000),
        KeyStatus::Revoked
    );
}

#[test]
fn a_rotation_with_overlap_lets_the_old_secret_live_on_for_a_while() {
    let key = given(&[created(), rotate(2, Some(60), None)]).unwrap();
    let live = |later_ms| {
        key.live_secrets(now().plus_ms(later_ms))
            .map(|it| it.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(live(59_999), [secret(1).id, secret(2).id]);
    assert_eq!(live(60_000), [secret(2).id]);
    assert!(!key.secrets[0].ended, "it ends by time, not by state");
}

#[test]
fn a_rotation_without_overlap_ends_all_others_by_state() {
    for last in [rotate(3, Some(0), None), rotate(3, None, Some("leaked"))] {
        let key = given(&[created(), rotate(2, Some(60), None), last]).unwrap();
        let live: Vec<_> = key.live_secrets(now()).map(|it| it.id).collect();
        assert_eq!(live, [secret(3).id]);
        assert!(key.secrets[0].ended && key.secrets[1].ended);
    }
}

#[test]
fn at_most_two_secrets_are_live() {
    let overlapping = [created(), rotate(2, Some(60), None)];
    check(
        &overlapping,
        rotate(3, Some(60), None),
        Err(Refusal::RotationInProgress),
    );
    assert!(when(given(&overlapping).as_ref(), &rotate(3, Some(0), None)).is_ok());
}

#[test]
fn an_overlap_must_be_said_and_may_not_protect_a_leaked_secret() {
    let key = given(&[created()]);
    for bad in [
        rotate(2, None, None),
        rotate(2, None, Some("scheduled")),
        rotate(2, Some(31 * DAY_S), None),
        rotate(2, Some(1), Some("leaked")),
    ] {
        let expected = [("overlap_seconds".to_owned(), FieldCode::Invalid)];
        assert_eq!(refused(when(key.as_ref(), &bad)), expected);
    }
    for good in [
        rotate(2, Some(30 * DAY_S), None),
        rotate(2, None, Some("leaked")),
        rotate(2, Some(0), Some("leaked")),
    ] {
        assert!(when(key.as_ref(), &good).is_ok());
    }
}

#[test]
fn bad_fields_are_all_named_at_once() {
    let bad = CreateKey {
        name: "jane@example.com".to_owned(),
        category: Some("c".repeat(65)),
        expires_at: Some(now()),
        limits: Limits {
            rps: Some(INTEGER_MAX + 1),
            rpd: Some(1),
            ..Limits::default()
        },
        metadata: BTreeMap::from([("note".to_owned(), "x".repeat(2_048))]),
        ..create()
    };
    let expected = [
        ("name", FieldCode::LooksLikeSecret),
        ("category", FieldCode::Invalid),
        ("expires_at", FieldCode::Invalid),
        ("limits.rps", FieldCode::Invalid),
        ("limits.rpd", FieldCode::NotAvailable),
        ("metadata", FieldCode::Invalid),
    ];
    let refused = refused(when(None, &KeyCommand::Create(Box::new(bad))));
    let expected = expected.map(|(field, code)| (field.to_owned(), code));
    assert_eq!(refused, expected);
}

#[test]
fn names_have_1_to_255_characters_after_trimming() {
    for (name, is_right) in [
        ("", false),
        ("   ", false),
        ("a", true),
        ("ü".repeat(255).as_str(), true),
        ("u".repeat(256).as_str(), false),
        ("two\nlines", false),
    ] {
        let command = KeyCommand::Create(Box::new(CreateKey {
            name: name.to_owned(),
            ..create()
        }));
        assert_eq!(when(None, &command).is_ok(), is_right, "{name:?}");
    }
    let trimmed = CreateKey {
        name: "  spaced ".to_owned(),
        ..create()
    };
    assert_eq!(
        given(&[KeyCommand::Create(Box::new(trimmed))])
            .unwrap()
            .name,
        "spaced"
    );
}

#[test]
fn a_patch_merges_members_and_says_from_what_to_what() {
    let first = PatchKey {
        limits: Some(LimitsPatch::Merge(BTreeMap::from([
            ("rps".to_owned(), Some(5)),
            ("rpm".to_owned(), Some(100)),
        ]))),
        metadata: Some(MetadataPatch::Merge(BTreeMap::from([(
            "team".to_owned(),
            Some("pay".to_owned()),
        )]))),
        ..PatchKey::default()
    };
    let given_first = [created(), patch(first)];
    let second = PatchKey {
        limits: Some(LimitsPatch::Merge(BTreeMap::from([(
            "rps".to_owned(),
            None,
        )]))),
        ..PatchKey::default()
    };
    let events = when(given(&given_first).as_ref(), &patch(second)).unwrap();
    let [Event::KeyUpdated { changes }] = &events[..] else {
        panic!("{events:?}")
    };
    let change = changes.limits.as_ref().unwrap();
    assert_eq!((change.from.rps, change.from.rpm), (Some(5), Some(100)));
    assert_eq!((change.to.rps, change.to.rpm), (None, Some(100)));
    assert!(changes.metadata.is_none());

    let nothing = PatchKey {
        name: Some(create().name),
        ..PatchKey::default()
    };
    check(&given_first, patch(nothing), Ok(vec![]));
}

#[test]
fn rotating_keeps_what_hangs_on_the_key() {
    let limits = Limits {
        rpm: Some(9),
        ..Limits::default()
    };
    let limited = KeyCommand::Create(Box::new(CreateKey { limits, ..create() }));
    let before = given(std::slice::from_ref(&limited)).unwrap();
    let after = given(&[limited, rotate(2, Some(0), None)]).unwrap();
    assert_eq!((before.id, before.limits), (after.id, after.limits));
    assert_eq!(
        (before.name, before.created_at),
        (after.name, after.created_at)
    );
}

fn any_command() -> impl Strategy<Value = KeyCommand> {
    prop_oneof![
        Just(KeyCommand::Deactivate),
        Just(KeyCommand::Reactivate),
        Just(KeyCommand::Revoke),
        Just(KeyCommand::Purge),
        (2_u8..200, prop_oneof![Just(0_u64), Just(60)]).prop_map(|(number, overlap)| rotate(
            number,
            Some(overlap),
            None
        )),
        (2_u8..200).prop_map(|number| rotate(number, None, Some("leaked"))),
        Just(KeyCommand::RecordFirstUse {
            secret_id: secret(1).id,
            used_at: now()
        }),
    ]
}

proptest! {
    /// Whatever is asked: revoked stays revoked, an ended secret stays ended, at most two
    /// are live, and what was used is not purged.
    #[test]
    fn no_order_of_commands_breaks_an_invariant(
        commands in prop::collection::vec(any_command(), 1..30),
    ) {
        let look = SecretLook::default();
        let mut key = given(&[created()]);
        for command in &commands {
            let before = key.clone().unwrap();
            if let Ok(events) = decide(Some(&before), command, now(), &look) {
                for event in events {
                    let version = key.as_ref().unwrap().version + 1;
                    key = evolve(key, &record(version, event));
                }
            }
            let after = key.as_ref().unwrap();
            prop_assert!(before.state != State::Revoked || after.state == State::Revoked);
            for (old, new) in before.secrets.iter().zip(&after.secrets) {
                prop_assert!(!old.ended || new.ended);
            }
            prop_assert!(after.live_secrets(now()).count() <= 2);
            prop_assert!(!(after.purged && after.first_used_at.is_some()));
        }
    }

    /// `evolve` takes any order of events and never brings a revoked key back.
    #[test]
    fn no_order_of_events_revives_a_revoked_key(
        events in prop::collection::vec(
            prop_oneof![
                Just(Event::KeyDeactivated {}),
                Just(Event::KeyReactivated {}),
                Just(Event::KeyRevoked {}),
            ],
            1..20,
        ),
    ) {
        let mut key = given(&[created()]);
        let mut revoked = false;
        for event in events {
            revoked |= event == Event::KeyRevoked {};
            let version = key.as_ref().unwrap().version + 1;
            key = evolve(key, &record(version, event));
            prop_assert!(!revoked || key.as_ref().unwrap().state == State::Revoked);
        }
    }
}
