//! From facts to what a proxy needs: the entries that an event changes.
//!
//! Entries are computed from the aggregate before and after an event and compared, so
//! that no list of "events that matter" can lag behind the events there are.

use schemas::entry::{
    Change, GlobalPolicy, Owner, OwnerPolicy, Policy, PolicyEntry, Revision, SecretEntry,
    SecretStatus, TargetPolicy, TeamPolicy, WorkspacePolicy,
};
use schemas::{CredentialHash, Limits, Position};

use crate::Aggregate;
use crate::event::Recorded;
use crate::instance::Instance;
use crate::key::{Key, Secret, State};
use crate::service_account::ServiceAccount;
use crate::target::Target;
use crate::team::Team;
use crate::workspace::Workspace;

/// The entries that `recorded` changed, given its aggregate before and after.
pub fn project(before: Option<&Aggregate>, after: &Aggregate, recorded: &Recorded) -> Vec<Change> {
    let revision = Revision {
        generation: recorded.generation,
        rev: recorded.position,
    };
    let before = before.map(entries).unwrap_or_default();
    entries(after)
        .into_iter()
        .filter(|entry| !before.contains(entry) && !before.iter().any(|it| it.is_end_of(entry)))
        .map(|entry| entry.at(revision))
        .collect()
}

/// An entry without its revision.
#[derive(PartialEq)]
enum Bare {
    Secret(CredentialHash, Box<SecretEntry>),
    Policy(Box<Policy>),
}

impl Bare {
    /// Whether nothing that may follow changes what a proxy makes of this entry: its secret
    /// is off for good. A key that was rotated a thousand times is renamed in one entry.
    fn is_end_of(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Secret(hash, secret), Self::Secret(later, _)) => {
                hash == later && secret.status.is_absorbing()
            }
            _ => false,
        }
    }

    fn at(self, revision: Revision) -> Change {
        match self {
            Self::Secret(hash, secret) => Change::Secret {
                hash,
                secret: SecretEntry {
                    revision,
                    ..*secret
                },
            },
            Self::Policy(policy) => Change::Policy {
                policy: PolicyEntry {
                    min_reader: policy.min_reader(),
                    revision,
                    policy: *policy,
                },
            },
        }
    }
}

fn entries(aggregate: &Aggregate) -> Vec<Bare> {
    match aggregate {
        Aggregate::Key(key) => key
            .secrets
            .iter()
            .map(|it| Bare::Secret(it.hash, Box::new(secret_entry(key, it))))
            .collect(),
        Aggregate::Workspace(it) => vec![Bare::Policy(Box::new(workspace_policy(it)))],
        Aggregate::Target(it) => vec![Bare::Policy(Box::new(target_policy(it)))],
        // No proxy needs to know.
        Aggregate::Denied(_) => vec![],
        Aggregate::Team(it) => vec![Bare::Policy(Box::new(team_policy(it)))],
        Aggregate::ServiceAccount(it) => vec![Bare::Policy(Box::new(owner_policy(it)))],
        Aggregate::Instance(it) => vec![Bare::Policy(Box::new(global_policy(it)))],
    }
}

fn secret_entry(key: &Key, secret: &Secret) -> SecretEntry {
    const UNSET: Position = 0;
    SecretEntry {
        min_reader: key.access.min_reader(),
        revision: Revision {
            generation: 0,
            rev: UNSET,
        },
        key_id: key.id,
        secret_id: secret.id,
        status: secret_status(key, secret),
        ends_at_ms: secret.ends_at.map(|at| at.unix_ms()),
        expires_at_ms: key.expires_at.map(|at| at.unix_ms()),
        workspace_id: key.workspace_id,
        team_id: key.team_id,
        owner: key.owner,
        name: key.name.clone(),
        limits: key.limits,
        access: key.access.clone(),
    }
}

/// Ended and revoked come first: both are absorbing, whichever happened first.
fn secret_status(key: &Key, secret: &Secret) -> SecretStatus {
    if secret.ended {
        SecretStatus::Ended
    } else if key.state == State::Revoked {
        SecretStatus::Revoked
    } else if key.purged {
        SecretStatus::Purged
    } else if key.state == State::Inactive {
        SecretStatus::Inactive
    } else {
        SecretStatus::Active
    }
}

fn workspace_policy(workspace: &Workspace) -> Policy {
    Policy::Workspace(WorkspacePolicy {
        workspace_id: workspace.id,
        suspended: workspace.suspended,
        plan_limits: workspace.settings.plan_limits,
        error_profile: workspace.settings.error_profile,
        allow_query_key: workspace.settings.allow_query_key,
    })
}

fn target_policy(target: &Target) -> Policy {
    let fields = &target.fields;
    Policy::Target(TargetPolicy {
        target_id: target.id,
        workspace_id: target.workspace_id,
        deleted: target.deleted,
        name: fields.name.clone(),
        scheme: fields.scheme,
        host: fields.host.clone(),
        port: fields.port,
        extra_ports: fields.extra_ports.clone(),
        base_path: fields.base_path.clone(),
        allow_private: fields.allow_private,
        allow_set_cookie: fields.allow_set_cookie,
        timeouts: fields.timeouts,
        bodies: fields.bodies,
        groups: fields.groups.clone(),
        credential: fields.credential.clone(),
    })
}

/// A deleted team has no live keys; blocked, none can come back.
fn team_policy(team: &Team) -> Policy {
    Policy::Team(TeamPolicy {
        team_id: team.id,
        workspace_id: team.workspace_id,
        blocked: team.fields.blocked || team.deleted,
        limits: team.fields.limits,
        access: team.fields.access.clone(),
    })
}

/// Only service accounts are ever stopped as owners: what stops a person's keys is an event
/// of each key.
fn owner_policy(account: &ServiceAccount) -> Policy {
    Policy::Owner(OwnerPolicy {
        owner: Owner::ServiceAccount(account.id),
        workspace_id: account.workspace_id,
        blocked: !account.active,
        limits: Limits::default(),
    })
}

fn global_policy(instance: &Instance) -> Policy {
    Policy::Global(GlobalPolicy {
        limits: instance.settings.global_limits,
        error_profile: instance.settings.error_profile,
    })
}

/// The hashes that a key can be looked up by, newest last.
pub fn hashes(key: &Key) -> Vec<CredentialHash> {
    key.secrets.iter().map(|it| it.hash).collect()
}

#[cfg(test)]
mod tests;
