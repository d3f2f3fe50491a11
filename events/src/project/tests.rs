//! From events to entries.

use schemas::api::{Actor, ActorKind, Source};
use schemas::entry::{self, Access, AccessMode, SecretStatus};
use schemas::{
    AccountId, Credential, Environment, EventId, KeyId, LineageId, SecretId, ServiceAccountId,
    TargetId, TeamId, TeamRole, Timestamp, WorkspaceId,
};

use super::*;
use crate::access::AccessPatch;
use crate::command::{
    CreateKey, KeyCommand, LimitsPatch, PatchKey, PatchTeam, RotateKey, ServiceAccountCommand,
    TeamCommand,
};
use crate::event::SecretMade;
use crate::{Command, SecretLook};

/// What each command to a key changed, as `(secret number, status, rev)`.
fn projected(commands: &[KeyCommand]) -> Vec<Vec<(u128, SecretStatus, Position)>> {
    let all = changes_of_key(commands);
    all.iter()
        .map(|changes| changes.iter().map(summary).collect())
        .collect()
}

/// What each command to a key changed.
fn changes_of_key(commands: &[KeyCommand]) -> Vec<Vec<Change>> {
    let id = KeyId::from_u128(7);
    let commands: Vec<Command> = commands
        .iter()
        .map(|command| Command::Key(id, command.clone()))
        .collect();
    changes(&commands)
}

/// What each command to one aggregate changed.
fn changes(commands: &[Command]) -> Vec<Vec<Change>> {
    let now = Timestamp::from_unix_ms(1_800_000_000_000);
    let mut aggregate = None;
    let mut position = 0;
    let mut all = Vec::new();
    for command in commands {
        let decided = crate::decide(aggregate.as_ref(), command, now, &SecretLook::default());
        for event in decided.unwrap() {
            position += 1;
            let recorded = Recorded {
                position,
                lineage: LineageId::from_u128(1),
                generation: 1,
                stream: command.stream(),
                stream_version: position,
                id: EventId::from_u128(1),
                at: now,
                workspace_id: Some(WorkspaceId::from_u128(1)),
                actor: Actor {
                    kind: ActorKind::System,
                    id: "test".to_owned(),
                },
                request_id: None,
                causation_id: None,
                event,
            };
            let after = crate::evolve(aggregate.clone(), &recorded).unwrap();
            all.push(project(aggregate.as_ref(), &after, &recorded));
            aggregate = Some(after);
        }
    }
    all
}

fn summary(change: &Change) -> (u128, SecretStatus, Position) {
    match change {
        Change::Secret { secret, .. } => (
            secret.secret_id.to_u128(),
            secret.status,
            secret.revision.rev,
        ),
        Change::Policy { .. } => panic!("a key changes no policy"),
    }
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

fn create() -> KeyCommand {
    KeyCommand::Create(Box::new(CreateKey {
        name: "a".to_owned(),
        category: None,
        environment: Environment::Live,
        team_id: None,
        owner: None,
        expires_at: None,
        limits: Default::default(),
        access: Default::default(),
        metadata: Default::default(),
        replaces: None,
        rotation_due_at: None,
        source: Source::Api,
        secret: secret(1),
    }))
}

fn rotate(number: u8, overlap_seconds: u64) -> KeyCommand {
    KeyCommand::Rotate(RotateKey {
        self_service: false,
        overlap_seconds: Some(overlap_seconds),
        overlap_max_seconds: 60,
        reason: None,
        secret: secret(number),
    })
}

#[test]
fn an_event_changes_the_entries_that_differ_and_no_others() {
    use SecretStatus::{Active, Ended, Inactive, Revoked};
    let category = PatchKey {
        category: Some(Some("staging".to_owned())),
        ..PatchKey::default()
    };
    let name = PatchKey {
        name: Some("b".to_owned()),
        ..PatchKey::default()
    };
    assert_eq!(
        projected(&[
            create(),
            KeyCommand::Deactivate,
            KeyCommand::Patch(Box::new(category)),
            KeyCommand::Patch(Box::new(name)),
            KeyCommand::Reactivate,
            rotate(2, 60),
            rotate(3, 0),
            KeyCommand::Patch(Box::new(PatchKey {
                name: Some("c".to_owned()),
                ..PatchKey::default()
            })),
            KeyCommand::Revoke,
        ]),
        [
            vec![(1, Active, 1)],
            vec![(1, Inactive, 2)],
            vec![],
            vec![(1, Inactive, 4)],
            vec![(1, Active, 5)],
            vec![(1, Active, 6), (2, Active, 6)],
            vec![(1, Ended, 7), (2, Ended, 7), (3, Active, 7)],
            vec![(3, Active, 8)],
            vec![(3, Revoked, 9)],
        ]
    );
}

#[test]
fn a_purged_key_leaves_a_tombstone() {
    use SecretStatus::{Active, Inactive, Purged, Revoked};
    assert_eq!(
        projected(&[create(), KeyCommand::Deactivate, KeyCommand::Purge]),
        [
            vec![(1, Active, 1)],
            vec![(1, Inactive, 2)],
            vec![(1, Purged, 3)]
        ]
    );
    assert_eq!(
        projected(&[create(), KeyCommand::Revoke, KeyCommand::Purge]),
        [vec![(1, Active, 1)], vec![(1, Revoked, 2)], vec![]]
    );
}

/// The policies that each command changed: whether they block, and their `rpm`.
fn blocks(commands: &[Command]) -> Vec<Option<(bool, Option<u64>)>> {
    let told = |changes: &Vec<Change>| match &changes[..] {
        [] => None,
        [Change::Policy { policy }] => Some(match &policy.policy {
            Policy::Team(it) => (it.blocked, it.limits.rpm),
            Policy::Owner(it) => (it.blocked, it.limits.rpm),
            other => panic!("{other:?}"),
        }),
        other => panic!("{other:?}"),
    };
    changes(commands).iter().map(told).collect()
}

#[test]
fn a_team_tells_proxies_what_they_need_and_nothing_of_its_people() {
    let team = |command| Command::Team(TeamId::from_u128(3), command);
    let patch = |patch| team(TeamCommand::Patch(Box::new(patch)));
    let named = PatchTeam {
        name: Some("a".to_owned()),
        ..PatchTeam::default()
    };
    let blocked = |blocked| PatchTeam {
        blocked: Some(blocked),
        ..PatchTeam::default()
    };
    let limited = PatchTeam {
        limits: Some(LimitsPatch::Merge([("rpm".to_owned(), Some(9))].into())),
        ..PatchTeam::default()
    };
    assert_eq!(
        blocks(&[
            team(TeamCommand::Create(Box::new(named))),
            team(TeamCommand::SetMember {
                account_id: AccountId::from_u128(1),
                role: TeamRole::TeamAdmin,
            }),
            patch(limited),
            patch(blocked(true)),
            patch(blocked(false)),
            team(TeamCommand::Delete),
        ]),
        [
            Some((false, None)),
            None,
            Some((false, Some(9))),
            Some((true, Some(9))),
            Some((false, Some(9))),
            Some((true, Some(9))),
        ]
    );
}

#[test]
fn a_service_account_blocks_its_keys_while_it_is_switched_off() {
    let to = |command| Command::ServiceAccount(ServiceAccountId::from_u128(4), command);
    let switch = |active| {
        to(ServiceAccountCommand::Patch {
            name: None,
            active: Some(active),
        })
    };
    assert_eq!(
        blocks(&[
            to(ServiceAccountCommand::Create {
                name: "deploy".to_owned(),
                team_id: TeamId::from_u128(3),
            }),
            to(ServiceAccountCommand::Patch {
                name: Some("release".to_owned()),
                active: None,
            }),
            switch(false),
            switch(true),
        ]),
        [
            Some((false, None)),
            None,
            Some((true, None)),
            Some((false, None)),
        ]
    );
}

#[test]
fn a_key_that_changes_hands_tells_proxies_whose_it_is() {
    let transfer = KeyCommand::Transfer {
        owner: Some(Owner::ServiceAccount(ServiceAccountId::from_u128(4))),
        team_id: Some(TeamId::from_u128(3)),
    };
    let commands = [create(), transfer];
    let id = KeyId::from_u128(7);
    let all = changes(&commands.map(|command| Command::Key(id, command)));
    let [Change::Secret { secret, .. }] = &all[1][..] else {
        panic!("{all:?}");
    };
    assert_eq!(secret.team_id, Some(TeamId::from_u128(3)));
    assert_eq!(
        secret.owner,
        Some(Owner::ServiceAccount(ServiceAccountId::from_u128(4)))
    );
    assert_eq!(secret.revision.rev, 2);
}

fn restricted(targets: u128, groups: usize) -> Access {
    Access {
        mode: AccessMode::Restrict,
        targets: (0..targets).map(TargetId::from_u128).collect(),
        groups: (0..groups)
            .map(|it| format!("{it:02}{}", "g".repeat(62)))
            .collect(),
        shadow: false,
    }
}

fn restrict(access: Access) -> KeyCommand {
    KeyCommand::Patch(Box::new(PatchKey {
        access: Some(AccessPatch::of(&access)),
        ..PatchKey::default()
    }))
}

#[test]
fn a_new_secret_goes_where_the_key_goes_and_an_older_proxy_denies_it() {
    let access = restricted(1, 1);
    let changes = changes_of_key(&[
        create(),
        restrict(access.clone()),
        rotate(2, 60),
        rotate(3, 0),
    ])
    .concat();
    let last_of = |number| {
        let hash = secret(number).hash;
        let of_it = changes.iter().rev().find_map(|it| match it {
            Change::Secret { hash: its, secret } if *its == hash => Some(secret),
            _ => None,
        });
        of_it.unwrap()
    };
    for number in [1, 2, 3] {
        let entry = last_of(number);
        assert_eq!((&entry.access, entry.min_reader), (&access, 2));
    }
}

#[test]
fn the_longest_name_beside_the_longest_access_fits_into_an_entry() {
    let renamed = KeyCommand::Patch(Box::new(PatchKey {
        name: Some("\u{10ffff}".repeat(255)),
        limits: Some(LimitsPatch::Merge(
            ["rps", "rpm"]
                .map(|name| (name.to_owned(), Some(crate::key::INTEGER_MAX)))
                .into(),
        )),
        ..PatchKey::default()
    }));
    let access = restricted(64, 32);
    let changes = changes_of_key(&[create(), renamed, restrict(access.clone())]).concat();
    let Some(Change::Secret { secret, .. }) = changes.last() else {
        panic!("the key has an entry");
    };
    assert_eq!(secret.access, access);
    let mut fullest = secret.clone();
    for name in ["rps", "rpm", "rph", "rpd", "tpm", "tph", "tpd"] {
        *fullest.limits.get_mut(name).unwrap() = Some(crate::key::INTEGER_MAX);
    }
    // Some room is kept for fields to come.
    let bytes = entry::encode(&fullest).unwrap().len();
    assert!(bytes <= entry::ENTRY_BYTES_MAX - 512, "{bytes}");
}
