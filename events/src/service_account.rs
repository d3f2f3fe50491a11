//! A service account: an owner of keys that cannot log in, in one team for good.

use schemas::api::Actor;
use schemas::{Position, ServiceAccountId, TeamId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::command::ServiceAccountCommand;
use crate::event::{Event, Recorded, ServiceAccountChanges, Stream};
use crate::refusal::{self, Refusal};
use crate::text::{NAME_CHARS_MAX, SecretLook};

/// A service account, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// The service account's id.
    pub id: ServiceAccountId,
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The team it belongs to.
    pub team_id: TeamId,
    /// What people call it.
    pub name: String,
    /// Switched off, its keys are refused and its tokens open nothing.
    pub active: bool,
    /// Who made it.
    pub created_by: Actor,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// What follows from a command, or why nothing does. An empty list means that the account
/// is already as asked.
///
/// # Errors
/// [`Refusal`]; that the name is free in the team is not decided here, since one account
/// does not know the others.
pub fn decide(
    account: Option<&ServiceAccount>,
    command: &ServiceAccountCommand,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    let mut refusals = Vec::new();
    match (command, account) {
        (ServiceAccountCommand::Create { .. }, Some(_)) => Err(Refusal::Exists("service account")),
        (ServiceAccountCommand::Create { name, team_id }, None) => {
            let name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
            refusal::none(refusals)?;
            Ok(vec![Event::ServiceAccountCreated {
                name,
                team_id: *team_id,
            }])
        }
        (ServiceAccountCommand::Patch { .. }, None) => Err(Refusal::NotFound("service account")),
        (ServiceAccountCommand::Patch { name, active }, Some(account)) => {
            let mut after = account.clone();
            if let Some(name) = name {
                after.name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
            }
            refusal::none(refusals)?;
            let changes = ServiceAccountChanges::between(account, &after);
            let updated = (!changes.is_empty()).then_some(Event::ServiceAccountUpdated { changes });
            let switched = match active {
                Some(true) if !account.active => Some(Event::ServiceAccountReactivated {}),
                Some(false) if account.active => Some(Event::ServiceAccountDeactivated {}),
                _ => None,
            };
            Ok(updated.into_iter().chain(switched).collect())
        }
    }
}

/// The service account after an event.
pub fn evolve(account: Option<ServiceAccount>, recorded: &Recorded) -> Option<ServiceAccount> {
    let mut account = match (&recorded.event, recorded.stream) {
        (Event::ServiceAccountCreated { name, team_id }, Stream::ServiceAccount(id)) => {
            ServiceAccount {
                id,
                workspace_id: recorded.workspace_id?,
                team_id: *team_id,
                name: name.clone(),
                active: true,
                created_by: recorded.actor.clone(),
                created_at: recorded.at,
                version: recorded.stream_version,
                position: recorded.position,
            }
        }
        _ => account?,
    };
    match &recorded.event {
        Event::ServiceAccountUpdated { changes } => changes.apply(&mut account),
        Event::ServiceAccountDeactivated {} => account.active = false,
        Event::ServiceAccountReactivated {} => account.active = true,
        _ => {}
    }
    account.version = recorded.stream_version;
    account.position = recorded.position;
    Some(account)
}

#[cfg(test)]
mod tests;
