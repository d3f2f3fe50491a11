//! A workspace: the settings that hold for all its keys.

use schemas::entry::ErrorProfile;
use schemas::{AccountId, PlanLimits, Position, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::catalog::{self, Catalog};
use crate::command::{PatchWorkspace, WorkspaceCommand, merge_plan_limits};
use crate::event::{Event, Recorded, Stream, WorkspaceChanges};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::text::{NAME_CHARS_MAX, SecretLook};

/// The longest overlap of a rotation unless a workspace says less: 30 days, in seconds.
pub const ROTATION_OVERLAP_MAX_SECONDS: u64 = 30 * 24 * 60 * 60;

/// A workspace, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// Its first owner.
    pub owner: AccountId,
    /// What can be changed.
    pub settings: Settings,
    /// Its access groups and upstream credentials.
    #[serde(default)]
    pub catalog: Catalog,
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
}

/// What follows from a command, or why nothing does.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    workspace: Option<&Workspace>,
    command: &WorkspaceCommand,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    match (command, workspace) {
        (WorkspaceCommand::Create { .. }, Some(_)) => Err(Refusal::Exists("workspace")),
        (WorkspaceCommand::Create { name, owner }, None) => {
            let mut refusals = Vec::new();
            let name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
            refusal::none(refusals)?;
            Ok(vec![Event::WorkspaceCreated {
                name,
                owner: *owner,
            }])
        }
        (WorkspaceCommand::Patch(_) | WorkspaceCommand::Catalog(_), None) => {
            Err(Refusal::NotFound("workspace"))
        }
        (WorkspaceCommand::Catalog(command), Some(workspace)) => {
            catalog::decide(&workspace.catalog, command, look)
        }
        (WorkspaceCommand::Patch(patch), Some(workspace)) => {
            let after = patched(&workspace.settings, patch, look)?;
            let changes = WorkspaceChanges::between(&workspace.settings, &after);
            Ok(if changes.is_empty() {
                vec![]
            } else {
                vec![Event::WorkspaceUpdated { changes }]
            })
        }
    }
}

/// The workspace after an event.
pub fn evolve(workspace: Option<Workspace>, recorded: &Recorded) -> Option<Workspace> {
    let mut workspace = match (&recorded.event, recorded.stream) {
        (Event::WorkspaceCreated { name, owner }, Stream::Workspace(id)) => Workspace {
            id,
            owner: *owner,
            settings: Settings {
                name: name.clone(),
                plan_limits: PlanLimits::default(),
                error_profile: None,
                rotation_overlap_max_seconds: ROTATION_OVERLAP_MAX_SECONDS,
                allow_query_key: false,
            },
            catalog: Catalog::default(),
            created_at: recorded.at,
            version: recorded.stream_version,
            position: recorded.position,
        },
        _ => workspace?,
    };
    if let Event::WorkspaceUpdated { changes } = &recorded.event {
        changes.apply(&mut workspace.settings);
    }
    workspace.catalog.evolve(recorded);
    workspace.version = recorded.stream_version;
    workspace.position = recorded.position;
    Some(workspace)
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
    refusal::none(refusals).map(|()| after)
}
