//! A workspace: its people, and the settings that hold for all its keys.

pub mod invitations;
pub mod members;

use std::collections::BTreeMap;

use schemas::entry::ErrorProfile;
use schemas::{AccountId, InvitationId, PlanLimits, Position, Role, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::catalog::{self, Catalog};
use crate::command::{PatchWorkspace, WorkspaceCommand, merge_plan_limits};
use crate::event::{Event, Recorded, Stream, WorkspaceChanges};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::text::{NAME_CHARS_MAX, SecretLook};

pub use invitations::Invitation;
pub use members::Member;

/// The longest overlap of a rotation unless a workspace says less: 30 days, in seconds.
pub const ROTATION_OVERLAP_MAX_SECONDS: u64 = 30 * 24 * 60 * 60;

/// A workspace, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// What can be changed.
    pub settings: Settings,
    /// Its access groups and upstream credentials.
    #[serde(default)]
    pub catalog: Catalog,
    /// Suspended by an operator: nobody of it is let in, and every key of it is refused.
    pub suspended: bool,
    /// Its people; those who were removed are not here.
    pub members: BTreeMap<AccountId, Member>,
    /// Who was asked in and has not come yet; those that ran out stay for a while, so that
    /// they can be reissued.
    pub invitations: BTreeMap<InvitationId, Invitation>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// What can be changed in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What people call it.
    pub name: String,
    /// Caps over all its keys.
    pub plan_limits: PlanLimits,
    /// The shape of error bodies; `None` takes the instance's.
    pub error_profile: Option<ErrorProfile>,
    /// The longest overlap of a rotation, in seconds.
    pub rotation_overlap_max_seconds: u64,
    /// Whether the proxy reads `?x_api_key=`.
    pub allow_query_key: bool,
    /// Whether members need a second factor.
    pub require_totp: bool,
}

/// What follows from a command, or why nothing does. An empty list means that the
/// workspace is already as asked.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    workspace: Option<&Workspace>,
    command: &WorkspaceCommand,
    now: Timestamp,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    if let WorkspaceCommand::Create { name, owner } = command {
        return match workspace {
            Some(_) => Err(Refusal::Exists("workspace")),
            None => create(name, *owner, look).map(|event| vec![event]),
        };
    }
    let workspace = workspace.ok_or(Refusal::NotFound("workspace"))?;
    match command {
        WorkspaceCommand::Create { .. } => unreachable!("handled above"),
        WorkspaceCommand::Catalog(command) => catalog::decide(&workspace.catalog, command, look),
        WorkspaceCommand::Patch(patch) => {
            let after = patched(&workspace.settings, patch, look)?;
            let changes = WorkspaceChanges::between(&workspace.settings, &after);
            Ok(if changes.is_empty() {
                vec![]
            } else {
                vec![Event::WorkspaceUpdated { changes }]
            })
        }
        WorkspaceCommand::Suspend => Ok(if workspace.suspended {
            vec![]
        } else {
            vec![Event::WorkspaceSuspended {}]
        }),
        WorkspaceCommand::Reinstate => Ok(if workspace.suspended {
            vec![Event::WorkspaceReinstated {}]
        } else {
            vec![]
        }),
        WorkspaceCommand::Member(command) => members::decide(workspace, command),
        WorkspaceCommand::Invitation(command) => invitations::decide(workspace, command, now),
    }
}

/// The workspace after an event.
pub fn evolve(workspace: Option<Workspace>, recorded: &Recorded) -> Option<Workspace> {
    let mut workspace = match (&recorded.event, recorded.stream) {
        (Event::WorkspaceCreated { name, owner }, Stream::Workspace(id)) => Workspace {
            id,
            settings: Settings {
                name: name.clone(),
                plan_limits: PlanLimits::default(),
                error_profile: None,
                rotation_overlap_max_seconds: ROTATION_OVERLAP_MAX_SECONDS,
                allow_query_key: false,
                require_totp: false,
            },
            catalog: Catalog::default(),
            suspended: false,
            members: [(*owner, Member::joined(Role::Owner, recorded.at))].into(),
            invitations: BTreeMap::new(),
            created_at: recorded.at,
            version: recorded.stream_version,
            position: recorded.position,
        },
        _ => workspace?,
    };
    match &recorded.event {
        Event::WorkspaceUpdated { changes } => changes.apply(&mut workspace.settings),
        Event::WorkspaceSuspended {} => workspace.suspended = true,
        Event::WorkspaceReinstated {} => workspace.suspended = false,
        _ => {
            members::evolve(&mut workspace, recorded);
            invitations::evolve(&mut workspace, recorded);
        }
    }
    workspace.catalog.evolve(recorded);
    workspace.version = recorded.stream_version;
    workspace.position = recorded.position;
    Some(workspace)
}

fn create(name: &str, owner: AccountId, look: &SecretLook) -> Result<Event, Refusal> {
    let mut refusals = Vec::new();
    let name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
    refusal::none(refusals).map(|()| Event::WorkspaceCreated { name, owner })
}

fn patched(
    before: &Settings,
    patch: &PatchWorkspace,
    look: &SecretLook,
) -> Result<Settings, Refusal> {
    let mut refusals = Vec::new();
    let mut after = before.clone();
    if let Some(name) = &patch.name {
        after.name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
    }
    after.plan_limits = merge_plan_limits(
        "plan_limits",
        before.plan_limits,
        patch.plan_limits.as_ref(),
        &mut refusals,
    );
    if let Some(error_profile) = patch.error_profile {
        after.error_profile = error_profile;
    }
    if let Some(seconds) = patch.rotation_overlap_max_seconds {
        let seconds = seconds.unwrap_or(ROTATION_OVERLAP_MAX_SECONDS);
        if seconds > ROTATION_OVERLAP_MAX_SECONDS {
            refusals.push(FieldRefusal::invalid(
                "rotation_overlap_max_seconds",
                format!("0 to {ROTATION_OVERLAP_MAX_SECONDS} (30 days)"),
            ));
        }
        after.rotation_overlap_max_seconds = seconds;
    }
    if let Some(allow_query_key) = patch.allow_query_key {
        after.allow_query_key = allow_query_key;
    }
    if let Some(require_totp) = patch.require_totp {
        after.require_totp = require_totp;
    }
    refusal::none(refusals).map(|()| after)
}

#[cfg(test)]
mod tests;
