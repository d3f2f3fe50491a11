//! What an account may do in a workspace at this moment.
//!
//! Rights are looked up for every request and kept nowhere: who was demoted, suspended or
//! removed is so from the next request on, with every session and token they have.

use std::collections::{BTreeMap, BTreeSet};

use schemas::problem::Code;
use schemas::{AccountId, MemberStatus, Role, TeamId, TeamRole, WorkspaceId};

use super::failure::Failure;
use super::permission::{Permission, Reach};
use crate::store::{Error, Store};
use crate::view;

/// How an account stands to a workspace.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// An active member of an active workspace.
    Member(Rights),
    /// A member who is suspended.
    Suspended,
    /// A member of a workspace that is suspended.
    WorkspaceSuspended,
    /// Not a member, or there is no such workspace: which of the two is not told.
    Stranger,
}

/// What an active member may do, narrowed to the scopes of the token in use.
#[derive(Debug, Clone)]
pub(crate) struct Rights {
    /// The role in the workspace.
    pub(crate) role: Role,
    /// The roles in teams.
    pub(crate) teams: BTreeMap<TeamId, TeamRole>,
    /// Whether the workspace asks for a second factor.
    pub(crate) require_totp: bool,
    /// Only these are held, whatever the roles bring; `None` holds all that they bring.
    scopes: Option<BTreeSet<Permission>>,
}

/// What a list may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Visible {
    /// Everything in the workspace.
    All,
    /// What belongs to some teams, and of others only what is the caller's own.
    Some {
        /// Everything in these.
        teams: BTreeSet<TeamId>,
        /// In these, what is the caller's own.
        own_in: BTreeSet<TeamId>,
    },
}

// === impl Standing ===

impl Standing {
    /// Looks up how an account stands now.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn load(
        store: &Store,
        account_id: AccountId,
        workspace_id: WorkspaceId,
        scopes: Option<&[String]>,
    ) -> Result<Self, Error> {
        let found = view::workspace::membership(store, workspace_id, account_id).await?;
        let Some(membership) = found else {
            return Ok(Self::Stranger);
        };
        if membership.status == MemberStatus::Suspended {
            return Ok(Self::Suspended);
        }
        if membership.workspace_suspended {
            return Ok(Self::WorkspaceSuspended);
        }
        let teams = view::team::roles_of(store, workspace_id, account_id).await?;
        Ok(Self::Member(Rights {
            role: membership.role,
            teams: teams.into_iter().collect(),
            require_totp: membership.require_totp,
            scopes: scopes.map(named),
        }))
    }
}

/// The permissions that scopes name. A name that is none any more brings nothing.
fn named(scopes: &[String]) -> BTreeSet<Permission> {
    let scopes = scopes.iter();
    scopes.filter_map(|it| Permission::of_name(it)).collect()
}

// === impl Rights ===

impl Rights {
    /// Whether the caller may, anywhere in the workspace; asked after the object was looked
    /// up, so that a foreign id is 404 and a known one without the permission 403.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn permit(&self, permission: Permission) -> Result<(), Failure> {
        self.permit_in(permission, None, false)
    }

    /// Whether the caller may with something that belongs to a team, and is or is not the
    /// caller's own.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn permit_in(
        &self,
        permission: Permission,
        team: Option<TeamId>,
        is_own: bool,
    ) -> Result<(), Failure> {
        if self.holds_in(permission, team, is_own) {
            Ok(())
        } else {
            Err(Failure::new(
                Code::Forbidden,
                format!("the permission {} is needed", permission.as_str()),
            ))
        }
    }

    /// Whether the caller holds a permission for something of a team.
    pub(crate) fn holds_in(
        &self,
        permission: Permission,
        team: Option<TeamId>,
        is_own: bool,
    ) -> bool {
        self.holds(permission)
            || self.in_scope(permission) && self.holds_by_team(permission, team, is_own)
    }

    /// Whether the caller holds a permission in the whole workspace.
    pub(crate) fn holds(&self, permission: Permission) -> bool {
        self.in_scope(permission)
            && (permission.is_held_by(self.role)
                || self
                    .teams
                    .values()
                    .any(|role| permission.reach_of(*role) == Some(Reach::Workspace)))
    }

    /// Whether the caller holds a permission for anything at all: what a token made now may
    /// be given.
    pub(crate) fn holds_somewhere(&self, permission: Permission) -> bool {
        self.in_scope(permission)
            && (permission.is_held_by(self.role)
                || self
                    .teams
                    .values()
                    .any(|role| permission.reach_of(*role).is_some()))
    }

    /// What a list of things under a permission may show.
    pub(crate) fn reach(&self, permission: Permission) -> Visible {
        if self.holds(permission) {
            return Visible::All;
        }
        let with = |reach| {
            self.teams
                .iter()
                .filter(|(_, role)| {
                    self.in_scope(permission) && permission.reach_of(**role) == Some(reach)
                })
                .map(|(team, _)| *team)
                .collect()
        };
        Visible::Some {
            teams: with(Reach::Team),
            own_in: with(Reach::Own),
        }
    }

    /// Whether the caller sees whose something of a team is. Viewers do not, unless a role
    /// in that team shows it to them.
    pub(crate) fn sees_owners(&self, team: Option<TeamId>, is_own: bool) -> bool {
        self.role != Role::Viewer || self.holds_by_team(Permission::KeyRead, team, is_own)
    }

    /// What the caller holds in the whole workspace, in the order of the matrix.
    pub(crate) fn permissions(&self) -> impl Iterator<Item = Permission> + '_ {
        Permission::all().filter(|it| self.holds(*it))
    }

    /// What the caller's role in a team brings there.
    pub(crate) fn permissions_in(&self, role: TeamRole) -> impl Iterator<Item = Permission> + '_ {
        Permission::of_team_role(role)
            .map(|(permission, _)| permission)
            .filter(|it| self.in_scope(*it))
    }

    fn holds_by_team(&self, permission: Permission, team: Option<TeamId>, is_own: bool) -> bool {
        let role = team.and_then(|team| self.teams.get(&team));
        match role.and_then(|role| permission.reach_of(*role)) {
            Some(Reach::Workspace | Reach::Team) => true,
            Some(Reach::Own) => is_own,
            None => false,
        }
    }

    fn in_scope(&self, permission: Permission) -> bool {
        let scopes = self.scopes.as_ref();
        scopes.is_none_or(|it| it.contains(&permission))
    }
}

#[cfg(test)]
mod tests;
