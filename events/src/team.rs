//! A team: people, what they may make for themselves, and what holds for all keys of it.
//!
//! A team decides over its own fields and its own people. What needs other aggregates is
//! judged beside it, under the lock of the head: that its people are members of the
//! workspace, that its limits fit the workspace's, that it has no keys when it is deleted.

use std::collections::BTreeMap;

use schemas::api::Actor;
use schemas::entry::Access;
use schemas::{AccountId, Limits, PlanLimits, Position, TeamId, TeamRole, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::access;
use crate::command::{PatchTeam, TeamCommand};
use crate::event::{Change, Event, Recorded, Stream, TeamChanges};
use crate::key::{check_limits, merge_limits};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::self_service::{self, SelfService};
use crate::text::{NAME_CHARS_MAX, SecretLook};

/// The limits of a team that a key's own are compared with. The others are not available.
pub const COMPARED: [&str; 2] = ["rps", "rpm"];

/// A team, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Team {
    /// The team's id.
    pub id: TeamId,
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// What can be changed.
    pub fields: TeamFields,
    /// Its people.
    pub members: BTreeMap<AccountId, TeamRole>,
    /// Who made it.
    pub created_by: Actor,
    /// When it was made.
    pub created_at: Timestamp,
    /// There is no such team any more.
    pub deleted: bool,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// What can be changed in a team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamFields {
    /// What people call it.
    pub name: String,
    /// A pool shared by its keys, and the most that a key of it may ask for.
    pub limits: Limits,
    /// What its developers may make for themselves.
    pub self_service: SelfService,
    /// Where its keys may go, within what the workspace allows.
    pub access: Access,
    /// Every key of it is refused.
    pub blocked: bool,
}

/// What follows from a command, or why nothing does. An empty list means that the team is
/// already as asked.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    team: Option<&Team>,
    command: &TeamCommand,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    let live = team.filter(|it| !it.deleted);
    if let TeamCommand::Create(patch) = command {
        if team.is_some() {
            return Err(Refusal::Exists("team"));
        }
        let named = PatchTeam {
            name: Some(patch.name.clone().unwrap_or_default()),
            ..(**patch).clone()
        };
        let fields = patched(&TeamFields::new(), &named, look)?;
        return Ok(vec![Event::TeamCreated(Box::new(fields))]);
    }
    let team = live.ok_or(Refusal::NotFound("team"))?;
    match command {
        TeamCommand::Create(_) => unreachable!("handled above"),
        TeamCommand::Patch(patch) => {
            let after = patched(&team.fields, patch, look)?;
            let changes = TeamChanges::between(&team.fields, &after);
            Ok(if changes.is_empty() {
                vec![]
            } else {
                vec![Event::TeamUpdated {
                    changes: Box::new(changes),
                }]
            })
        }
        TeamCommand::Delete => Ok(vec![Event::TeamDeleted {}]),
        TeamCommand::SetMember { account_id, role } => {
            let before = team.members.get(account_id).copied();
            Ok(match Change::between(&before, &Some(*role)) {
                None => vec![],
                Some(_) => vec![Event::TeamMemberSet {
                    account_id: *account_id,
                    from: before,
                    role: *role,
                }],
            })
        }
        TeamCommand::RemoveMember { account_id } => match team.members.get(account_id) {
            None => Err(Refusal::NotFound("member of the team")),
            Some(role) => Ok(vec![Event::TeamMemberRemoved {
                account_id: *account_id,
                role: *role,
            }]),
        },
    }
}

/// The team after an event.
pub fn evolve(team: Option<Team>, recorded: &Recorded) -> Option<Team> {
    let mut team = match (&recorded.event, recorded.stream) {
        (Event::TeamCreated(fields), Stream::Team(id)) => Team {
            id,
            workspace_id: recorded.workspace_id?,
            fields: (**fields).clone(),
            members: BTreeMap::new(),
            created_by: recorded.actor.clone(),
            created_at: recorded.at,
            deleted: false,
            version: recorded.stream_version,
            position: recorded.position,
        },
        _ => team?,
    };
    match &recorded.event {
        Event::TeamUpdated { changes } => changes.apply(&mut team.fields),
        Event::TeamDeleted {} => {
            team.deleted = true;
            team.members.clear();
        }
        Event::TeamMemberSet {
            account_id, role, ..
        } => {
            team.members.insert(*account_id, *role);
        }
        Event::TeamMemberRemoved { account_id, .. } => {
            team.members.remove(account_id);
        }
        _ => {}
    }
    team.version = recorded.stream_version;
    team.position = recorded.position;
    Some(team)
}

/// The limits of a team that are above those of its workspace's plan. Of a change, only
/// those that it touches: what was right when it was written may stand.
pub fn above_plan(before: Option<&Limits>, after: &Limits, plan: PlanLimits) -> Vec<FieldRefusal> {
    above(before, after, &plan.into(), "the workspace's plan has")
}

/// The limits of a key that are above those of its team. Of a change, only those that it
/// touches. A limit left blank passes: the team's holds.
pub fn above_team(before: Option<&Limits>, after: &Limits, team: &Team) -> Vec<FieldRefusal> {
    above(before, after, &team.fields.limits, "the key's team has")
}

fn above(
    before: Option<&Limits>,
    after: &Limits,
    ceiling: &Limits,
    whose: &str,
) -> Vec<FieldRefusal> {
    let named = |name| {
        let own = after.get(name).flatten()?;
        let most = ceiling.get(name).flatten()?;
        let untouched = before.is_some_and(|it| it.get(name).flatten() == Some(own));
        (own > most && !untouched).then(|| {
            FieldRefusal::invalid(
                format!("limits.{name}"),
                format!("null or 0 to {most}, which {whose}"),
            )
        })
    };
    COMPARED.into_iter().filter_map(named).collect()
}

// === impl TeamFields ===

impl TeamFields {
    /// A team about which nothing was said.
    fn new() -> Self {
        Self {
            name: String::new(),
            limits: Limits::default(),
            self_service: SelfService::default(),
            access: Access::default(),
            blocked: false,
        }
    }
}

fn patched(
    before: &TeamFields,
    patch: &PatchTeam,
    look: &SecretLook,
) -> Result<TeamFields, Refusal> {
    let mut refusals = Vec::new();
    let mut after = before.clone();
    if let Some(name) = &patch.name {
        after.name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
    }
    if let Some(limits) = &patch.limits {
        after.limits = merge_limits(before.limits, limits, &mut refusals);
        check_limits(&after.limits, &mut refusals);
    }
    if let Some(policy) = &patch.self_service {
        after.self_service = self_service::patched(before.self_service, policy, &mut refusals);
    }
    if let Some(access) = &patch.access {
        after.access = access::merged(&before.access, access, &mut refusals);
    }
    if let Some(blocked) = patch.blocked {
        after.blocked = blocked;
    }
    refusal::none(refusals).map(|()| after)
}

#[cfg(test)]
mod tests;
