//! Who was asked into a workspace and has not come yet.
//!
//! An invitation rests on the role of whoever made it: it is dead when theirs does not
//! reach so far any more. The address and the link are not here; they are not in the log.

use schemas::{AccountId, InvitationId, MemberStatus, Role, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Workspace, members};
use crate::command::InvitationCommand;
use crate::event::{Event, InvitedTo, Recorded};
use crate::refusal::{FieldRefusal, Refusal};

/// How long a link is good: 72 h, in milliseconds.
pub const TERM_MS: i64 = 72 * 60 * 60 * 1_000;

/// How long an invitation that ran out can be reissued: 30 days, in milliseconds.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// An invitation that was not accepted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// What the guest becomes.
    pub role: Role,
    /// The team that the guest joins, and as what.
    pub team: Option<InvitedTo>,
    /// Whose role it rests on.
    pub by: AccountId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its link is dead.
    pub expires_at: Timestamp,
    /// Number of the event of the workspace that last changed it.
    pub version: u64,
}

pub(super) fn decide(
    workspace: &Workspace,
    command: &InvitationCommand,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    match command {
        InvitationCommand::Create { by, id, role, team } => {
            check_reach(workspace, *by, *role, team.as_ref())?;
            Ok(vec![Event::InvitationCreated {
                invitation_id: *id,
                role: *role,
                team: *team,
                by: *by,
                expires_at: now.plus_ms(TERM_MS),
            }])
        }
        InvitationCommand::Reissue { by, id } => {
            let invitation = find(workspace, *id)?;
            check_reach(workspace, *by, invitation.role, invitation.team.as_ref())?;
            Ok(vec![Event::InvitationReissued {
                invitation_id: *id,
                by: *by,
                expires_at: now.plus_ms(TERM_MS),
            }])
        }
        InvitationCommand::Delete { by, id } => {
            let invitation = find(workspace, *id)?;
            check_reach(workspace, *by, invitation.role, invitation.team.as_ref())?;
            Ok(vec![Event::InvitationDeleted { invitation_id: *id }])
        }
        InvitationCommand::Accept { id, account_id } => {
            let invitation = find(workspace, *id).map_err(|_| dead())?;
            let team = invitation.team.as_ref();
            if now >= invitation.expires_at
                || check_reach(workspace, invitation.by, invitation.role, team).is_err()
            {
                return Err(dead());
            }
            if workspace.suspended {
                return Err(Refusal::Forbidden("the workspace is suspended"));
            }
            let added = match workspace.members.get(account_id) {
                None => Some(Event::MemberAdded {
                    account_id: *account_id,
                    role: invitation.role,
                }),
                Some(it) if it.status == MemberStatus::Suspended => {
                    return Err(Refusal::Forbidden("the membership is suspended"));
                }
                // A member who is asked into a team stays what they are outside of it.
                Some(_) if team.is_some() => None,
                Some(_) => return Err(Refusal::Exists("membership")),
            };
            let accepted = Event::InvitationAccepted {
                invitation_id: *id,
                account_id: *account_id,
            };
            Ok(std::iter::once(accepted).chain(added).collect())
        }
    }
}

pub(super) fn evolve(workspace: &mut Workspace, recorded: &Recorded) {
    let invitations = &mut workspace.invitations;
    match &recorded.event {
        Event::InvitationCreated {
            invitation_id,
            role,
            team,
            by,
            expires_at,
        } => {
            invitations.retain(|_, it| recorded.at < it.expires_at.plus_ms(KEPT_MS));
            let invitation = Invitation {
                role: *role,
                team: *team,
                by: *by,
                created_at: recorded.at,
                expires_at: *expires_at,
                version: recorded.stream_version,
            };
            invitations.insert(*invitation_id, invitation);
        }
        Event::InvitationReissued {
            invitation_id,
            by,
            expires_at,
        } => {
            if let Some(invitation) = invitations.get_mut(invitation_id) {
                invitation.by = *by;
                invitation.expires_at = *expires_at;
                invitation.version = recorded.stream_version;
            }
        }
        Event::InvitationDeleted { invitation_id }
        | Event::InvitationAccepted { invitation_id, .. } => {
            invitations.remove(invitation_id);
        }
        _ => {}
    }
}

fn find(workspace: &Workspace, id: InvitationId) -> Result<&Invitation, Refusal> {
    let invitation = workspace.invitations.get(&id);
    invitation.ok_or(Refusal::NotFound("invitation"))
}

/// What a link says that is used, taken back, replaced or run out: all the same.
fn dead() -> Refusal {
    Refusal::Fields(vec![FieldRefusal::invalid(
        "token",
        "the token of an invitation that is open; ask for a new one",
    )])
}

/// Whether a member may ask somebody in as `role`. Who only has a role in a team (judged
/// before) asks people into that team, as plain members of the workspace.
fn check_reach(
    workspace: &Workspace,
    by: AccountId,
    role: Role,
    team: Option<&InvitedTo>,
) -> Result<(), Refusal> {
    let into_team = role == Role::Member && team.is_some();
    match workspace.active_role(by) {
        Some(own) if members::manages(own, role) => Ok(()),
        Some(Role::Admin) => Err(Refusal::Forbidden(
            "admins invite developers, viewers, auditors and members only",
        )),
        Some(_) if into_team => Ok(()),
        _ => Err(Refusal::Forbidden(
            "only owners and admins invite into the whole workspace",
        )),
    }
}
