//! From events to entries.

use schemas::api::{Actor, ActorKind, Source};
use schemas::entry::SecretStatus;
use schemas::{
    Credential, Environment, EventId, KeyId, LineageId, SecretId, Timestamp, WorkspaceId,
};

use super::*;
use crate::command::{CreateKey, KeyCommand, PatchKey, RotateKey};
use crate::event::{SecretMade, Stream};
use crate::{Command, SecretLook};

/// What each command changed, as `(secret number, status, rev)`.
fn projected(commands: &[KeyCommand]) -> Vec<Vec<(u128, SecretStatus, Position)>> {
    let now = Timestamp::from_unix_ms(1_800_000_000_000);
    let id = KeyId::from_u128(7);
    let mut aggregate = None;
    let mut position = 0;
    let mut all = Vec::new();
    for command in commands {
        let command = Command::Key(id, command.clone());
        let decided = crate::decide(aggregate.as_ref(), &command, now, &SecretLook::default());
        for event in decided.unwrap() {
            position += 1;
            let recorded = Recorded {
                position,
                lineage: LineageId::from_u128(1),
                generation: 1,
                stream: Stream::Key(id),
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
            let changes = project(aggregate.as_ref(), &after, &recorded);
            all.push(changes.iter().map(summary).collect());
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
