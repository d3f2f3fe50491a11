//! The installation: its operators, and what holds for everybody.

use std::collections::BTreeSet;

use schemas::api::SignUp;
use schemas::entry::ErrorProfile;
use schemas::{AccountId, PlanLimits, Position};
use serde::{Deserialize, Serialize};

use crate::command::{InstanceCommand, merge_plan_limits};
use crate::event::{Event, InstanceChanges, Recorded};
use crate::refusal::{self, Refusal};

/// The installation, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Instance {
    /// Who stands above workspaces.
    pub operators: BTreeSet<AccountId>,
    /// What can be changed.
    pub settings: Settings,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// What can be changed in an installation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Caps over all requests.
    pub global_limits: PlanLimits,
    /// The shape of error bodies for callers without a workspace.
    pub error_profile: ErrorProfile,
    /// Who may make an account; `None` is as the installation is configured.
    pub sign_up: Option<SignUp>,
}

/// What follows from a command, or why nothing does.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    instance: Option<&Instance>,
    command: &InstanceCommand,
) -> Result<Vec<Event>, Refusal> {
    let before = instance.cloned().unwrap_or_default();
    match command {
        InstanceCommand::AddFirstOperator { account_id } => {
            if before.operators.is_empty() {
                Ok(vec![Event::OperatorAdded {
                    account_id: *account_id,
                }])
            } else {
                Err(Refusal::Exists("owner"))
            }
        }
        InstanceCommand::AddOperator { account_id } => {
            Ok(if before.operators.contains(account_id) {
                vec![]
            } else {
                vec![Event::OperatorAdded {
                    account_id: *account_id,
                }]
            })
        }
        InstanceCommand::RemoveOperator { account_id } => {
            if !before.operators.contains(account_id) {
                Err(Refusal::NotFound("operator"))
            } else if before.operators.len() == 1 {
                Err(Refusal::LastOperator)
            } else {
                Ok(vec![Event::OperatorRemoved {
                    account_id: *account_id,
                }])
            }
        }
        InstanceCommand::Patch {
            global_limits,
            error_profile,
            sign_up,
        } => {
            let mut refusals = Vec::new();
            let after = Settings {
                global_limits: merge_plan_limits(
                    "global_limits",
                    before.settings.global_limits,
                    global_limits.as_ref(),
                    &mut refusals,
                ),
                error_profile: match error_profile {
                    None => before.settings.error_profile,
                    Some(profile) => profile.unwrap_or_default(),
                },
                sign_up: sign_up.unwrap_or(before.settings.sign_up),
            };
            refusal::none(refusals)?;
            let changes = InstanceChanges::between(&before.settings, &after);
            Ok(if changes.is_empty() {
                vec![]
            } else {
                vec![Event::InstanceUpdated { changes }]
            })
        }
    }
}

/// The installation after an event.
pub fn evolve(instance: Option<Instance>, recorded: &Recorded) -> Option<Instance> {
    let mut instance = instance.unwrap_or_default();
    match &recorded.event {
        Event::OperatorAdded { account_id } => {
            instance.operators.insert(*account_id);
        }
        Event::OperatorRemoved { account_id } => {
            instance.operators.remove(account_id);
        }
        Event::InstanceUpdated { changes } => changes.apply(&mut instance.settings),
        _ => {}
    }
    instance.version = recorded.stream_version;
    instance.position = recorded.position;
    Some(instance)
}

#[cfg(test)]
mod tests;
