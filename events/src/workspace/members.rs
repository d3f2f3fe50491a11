//! Who belongs to a workspace, and who may change that.
//!
//! Whether a caller may speak of members at all is judged before; here is what depends on
//! the members themselves, so that it is decided on what is true at that moment: an admin's
//! reach, and the last active owner.

use schemas::{AccountId, MemberStatus, Role, Timestamp};
use serde::{Deserialize, Serialize};

use super::Workspace;
use crate::command::MemberCommand;
use crate::event::{Event, MemberChanges, Recorded};
use crate::refusal::Refusal;

/// A person in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What they are.
    pub role: Role,
    /// Whether they are let in.
    pub status: MemberStatus,
    /// When they came.
    pub joined_at: Timestamp,
}

// === impl Member ===

impl Member {
    /// A member who has just come.
    pub(super) fn joined(role: Role, at: Timestamp) -> Self {
        Self {
            role,
            status: MemberStatus::Active,
            joined_at: at,
        }
    }

    fn is_active_owner(&self) -> bool {
        self.role == Role::Owner && self.status == MemberStatus::Active
    }
}

// === impl Workspace ===

impl Workspace {
    /// The role of a member who is let in; `None` for all others.
    pub fn active_role(&self, account_id: AccountId) -> Option<Role> {
        let member = self.members.get(&account_id)?;
        (member.status == MemberStatus::Active).then_some(member.role)
    }

    /// Whether an owner who is let in would be left without this member.
    fn has_owner_without(&self, account_id: AccountId) -> bool {
        self.members
            .iter()
            .any(|(id, member)| *id != account_id && member.is_active_owner())
    }
}

/// Whether a role manages members of another: owners all, admins those below them.
pub(super) fn manages(role: Role, other: Role) -> bool {
    match role {
        Role::Owner => true,
        Role::Admin => matches!(
            other,
            Role::Developer | Role::Viewer | Role::Auditor | Role::Member
        ),
        _ => false,
    }
}

pub(super) fn decide(
    workspace: &Workspace,
    command: &MemberCommand,
) -> Result<Vec<Event>, Refusal> {
    match command {
        MemberCommand::Update {
            by,
            account_id,
            role,
            status,
        } => {
            let before = find(workspace, *account_id)?;
            let after = Member {
                role: role.unwrap_or(before.role),
                status: status.unwrap_or(before.status),
                ..before.clone()
            };
            check_reach(workspace, *by, *account_id, before.role)?;
            check_reach(workspace, *by, *account_id, after.role)?;
            let changes = MemberChanges::between(before, &after);
            if changes.is_empty() {
                return Ok(vec![]);
            }
            let ends_owner = before.is_active_owner() && !after.is_active_owner();
            if ends_owner && !workspace.has_owner_without(*account_id) {
                return Err(Refusal::LastOwner);
            }
            Ok(vec![Event::MemberUpdated {
                account_id: *account_id,
                changes,
            }])
        }
        MemberCommand::Remove { by, account_id } => {
            let before = find(workspace, *account_id)?;
            if let Some(by) = by {
                check_reach(workspace, *by, *account_id, before.role)?;
            }
            if before.is_active_owner() && !workspace.has_owner_without(*account_id) {
                return Err(Refusal::LastOwner);
            }
            Ok(vec![Event::MemberRemoved {
                account_id: *account_id,
            }])
        }
    }
}

pub(super) fn evolve(workspace: &mut Workspace, recorded: &Recorded) {
    match &recorded.event {
        Event::MemberUpdated {
            account_id,
            changes,
        } => {
            if let Some(member) = workspace.members.get_mut(account_id) {
                changes.apply(member);
            }
        }
        Event::MemberRemoved { account_id } => {
            workspace.members.remove(account_id);
        }
        Event::MemberAdded { account_id, role } => {
            let member = Member::joined(*role, recorded.at);
            workspace.members.insert(*account_id, member);
        }
        _ => {}
    }
}

fn find(workspace: &Workspace, account_id: AccountId) -> Result<&Member, Refusal> {
    let member = workspace.members.get(&account_id);
    member.ok_or(Refusal::NotFound("member"))
}

/// Whether whoever asks may touch a member of `role`, or make somebody one.
fn check_reach(
    workspace: &Workspace,
    by: AccountId,
    account_id: AccountId,
    role: Role,
) -> Result<(), Refusal> {
    let own = workspace.active_role(by);
    match own {
        Some(Role::Admin) if by == account_id => {
            Err(Refusal::Forbidden("admins do not manage themselves"))
        }
        Some(own) if manages(own, role) => Ok(()),
        Some(Role::Admin) => Err(Refusal::Forbidden(
            "admins manage developers, viewers, auditors and members only",
        )),
        _ => Err(Refusal::Forbidden("only owners and admins manage members")),
    }
}
