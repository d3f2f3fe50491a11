//! Given events, when a command, then events or a refusal.

use schemas::api::ActorKind;
use schemas::{EventId, LineageId};

use super::*;
use crate::refusal::FieldCode;

fn created() -> ServiceAccountCommand {
    ServiceAccountCommand::Create {
        name: "  deploy ".to_owned(),
        team_id: TeamId::from_u128(3),
    }
}

fn patch(name: Option<&str>, active: Option<bool>) -> ServiceAccountCommand {
    ServiceAccountCommand::Patch {
        name: name.map(str::to_owned),
        active,
    }
}

fn record(version: u64, event: Event) -> Recorded {
    Recorded {
        position: version,
        lineage: LineageId::from_u128(1),
        generation: 1,
        stream: Stream::ServiceAccount(ServiceAccountId::from_u128(7)),
        stream_version: version,
        id: EventId::from_u128(u128::from(version)),
        at: Timestamp::from_unix_ms(1_800_000_000_000),
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

/// A service account after commands that all succeed.
fn given(commands: &[ServiceAccountCommand]) -> Option<ServiceAccount> {
    commands.iter().fold(None, |account, command| {
        let events = decide(account.as_ref(), command, &SecretLook::default()).unwrap();
        events
            .into_iter()
            .fold(account, |account: Option<ServiceAccount>, event| {
                let version = account.as_ref().map_or(0, |it| it.version) + 1;
                evolve(account, &record(version, event))
            })
    })
}

#[track_caller]
fn check(
    before: &[ServiceAccountCommand],
    command: ServiceAccountCommand,
    expected: Result<&[&str], Refusal>,
) {
    let decided = decide(given(before).as_ref(), &command, &SecretLook::default());
    let kinds = decided.map(|events| {
        let kinds = events.iter().map(|it| crate::codec::kind(it).unwrap());
        kinds.collect::<Vec<_>>()
    });
    let expected = expected.map(|kinds| kinds.iter().map(|it| (*it).to_owned()).collect());
    assert_eq!(kinds, expected);
}

#[test]
fn it_is_made_in_a_team_and_switched_off_and_on() {
    check(&[], created(), Ok(&["service_account.created"]));
    check(
        &[created()],
        created(),
        Err(Refusal::Exists("service account")),
    );
    let account = given(&[created()]).unwrap();
    assert_eq!((account.name.as_str(), account.active), ("deploy", true));

    let off = || patch(None, Some(false));
    check(&[created()], off(), Ok(&["service_account.deactivated"]));
    check(&[created(), off()], off(), Ok(&[]));
    check(
        &[created(), off()],
        patch(None, Some(true)),
        Ok(&["service_account.reactivated"]),
    );
    check(&[created()], patch(None, Some(true)), Ok(&[]));
    assert!(!given(&[created(), off()]).unwrap().active);
    let again = given(&[created(), off(), patch(None, Some(true))]).unwrap();
    assert!(again.active);
    check(&[], off(), Err(Refusal::NotFound("service account")));
}

#[test]
fn one_change_may_rename_and_switch() {
    let both = patch(Some("release"), Some(false));
    check(
        &[created()],
        both.clone(),
        Ok(&["service_account.updated", "service_account.deactivated"]),
    );
    let account = given(&[created(), both]).unwrap();
    assert_eq!((account.name.as_str(), account.active), ("release", false));
    assert_eq!(account.version, 3);
    check(&[created()], patch(Some("deploy"), None), Ok(&[]));
}

#[test]
fn its_name_is_no_secret_and_no_address() {
    for (name, code) in [
        ("bot@example.com", FieldCode::LooksLikeSecret),
        ("sk-abcdef", FieldCode::LooksLikeSecret),
        (" ", FieldCode::Invalid),
        ("two\nlines", FieldCode::Invalid),
    ] {
        let command = patch(Some(name), None);
        let refused = decide(
            given(&[created()]).as_ref(),
            &command,
            &SecretLook::default(),
        );
        let Err(Refusal::Fields(fields)) = refused else {
            panic!("{name}: {refused:?}");
        };
        assert_eq!((fields[0].field.as_str(), fields[0].code), ("name", code));
    }
}
