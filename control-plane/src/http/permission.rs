//! What callers may be allowed to do, and which role brings what: one table, in the order
//! of the product's permission matrix.

use schemas::{Role, TeamRole};

/// A permission in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Permission {
    KeyRead,
    KeyCreate,
    KeyUpdate,
    KeyRevoke,
    KeyRotate,
    KeyCreateSelf,
    TargetRead,
    TargetUpdate,
    TeamRead,
    TeamUpdate,
    ServiceAccountUpdate,
    MemberRead,
    MemberUpdate,
    InvitationUpdate,
    WorkspaceUpdate,
    UsageRead,
    LogRead,
    AuditRead,
    FleetRead,
}

/// How far a permission of a team role goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// What is the caller's own, in the team.
    Own,
    /// What belongs to the team.
    Team,
    /// The whole workspace.
    Workspace,
}

/// One row of the matrix: who of the workspace's roles holds a permission, and how far it
/// goes for those who only have a role in a team.
struct Row {
    permission: Permission,
    name: &'static str,
    /// owner, admin, developer, billing, viewer, auditor; `member` holds none.
    roles: [bool; 6],
    /// team_admin, team_developer, team_viewer.
    teams: [Option<Reach>; 3],
}

#[rustfmt::skip]
const MATRIX: [Row; 19] = {
    use Permission as P;
    const fn row(permission: P, name: &'static str, roles: [bool; 6], teams: [Option<Reach>; 3]) -> Row {
        Row { permission, name, roles, teams }
    }
    const X: bool = true;
    const O: bool = false;
    const NONE: Option<Reach> = None;
    const OWN: Option<Reach> = Some(Reach::Own);
    const TEAM: Option<Reach> = Some(Reach::Team);
    const ALL: Option<Reach> = Some(Reach::Workspace);
    [
        //                                                     own adm dev bil vie aud   admin developer viewer
        row(P::KeyRead,              "key.read",               [X,  X,  X,  O,  X,  X], [TEAM, OWN,  NONE]),
        row(P::KeyCreate,            "key.create",             [X,  X,  X,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::KeyUpdate,            "key.update",             [X,  X,  X,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::KeyRevoke,            "key.revoke",             [X,  X,  X,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::KeyRotate,            "key.rotate",             [X,  X,  X,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::KeyCreateSelf,        "key.create_self",        [X,  X,  X,  O,  O,  O], [TEAM, OWN,  NONE]),
        row(P::TargetRead,           "target.read",            [X,  X,  X,  O,  X,  X], [ALL,  ALL,  ALL ]),
        row(P::TargetUpdate,         "target.update",          [X,  X,  X,  O,  O,  O], [NONE, NONE, NONE]),
        row(P::TeamRead,             "team.read",              [X,  X,  X,  O,  X,  X], [TEAM, TEAM, TEAM]),
        row(P::TeamUpdate,           "team.update",            [X,  X,  O,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::ServiceAccountUpdate, "service_account.update", [X,  X,  O,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::MemberRead,           "member.read",            [X,  X,  X,  O,  O,  X], [TEAM, NONE, NONE]),
        row(P::MemberUpdate,         "member.update",          [X,  X,  O,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::InvitationUpdate,     "invitation.update",      [X,  X,  O,  O,  O,  O], [TEAM, NONE, NONE]),
        row(P::WorkspaceUpdate,      "workspace.update",       [X,  X,  O,  O,  O,  O], [NONE, NONE, NONE]),
        row(P::UsageRead,            "usage.read",             [X,  X,  X,  X,  X,  X], [TEAM, OWN,  TEAM]),
        row(P::LogRead,              "log.read",               [X,  X,  X,  O,  O,  X], [TEAM, OWN,  NONE]),
        row(P::AuditRead,            "audit.read",             [X,  X,  O,  O,  O,  X], [NONE, NONE, NONE]),
        row(P::FleetRead,            "fleet.read",             [X,  X,  X,  O,  O,  X], [NONE, NONE, NONE]),
    ]
};

// === impl Permission ===

impl Permission {
    /// All of them, in the order of the matrix.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        MATRIX.iter().map(|row| row.permission)
    }

    /// The name as it stands in scopes and in `GET /me`.
    pub(crate) const fn as_str(self) -> &'static str {
        MATRIX[self as usize].name
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::all().find(|it| it.as_str() == name)
    }

    /// Whether a role holds this in its whole workspace.
    pub(crate) const fn is_held_by(self, role: Role) -> bool {
        let roles = &MATRIX[self as usize].roles;
        match role {
            Role::Owner => roles[0],
            Role::Admin => roles[1],
            Role::Developer => roles[2],
            Role::Billing => roles[3],
            Role::Viewer => roles[4],
            Role::Auditor => roles[5],
            Role::Member => false,
        }
    }

    /// What a role in a team brings, and how far.
    pub(crate) fn of_team_role(role: TeamRole) -> impl Iterator<Item = (Self, Reach)> {
        Self::all().filter_map(move |it| Some((it, it.reach_of(role)?)))
    }

    /// How far this goes for a role in a team; `None` where the role does not hold it.
    pub(crate) const fn reach_of(self, role: TeamRole) -> Option<Reach> {
        let teams = &MATRIX[self as usize].teams;
        match role {
            TeamRole::TeamAdmin => teams[0],
            TeamRole::TeamDeveloper => teams[1],
            TeamRole::TeamViewer => teams[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_permissions() {
        for (number, row) in MATRIX.iter().enumerate() {
            assert_eq!(row.permission as usize, number, "{}", row.name);
            assert_eq!(Permission::of_name(row.name), Some(row.permission));
        }
    }

    #[test]
    fn a_member_holds_nothing_and_an_owner_everything() {
        for permission in Permission::all() {
            assert!(!permission.is_held_by(Role::Member), "{permission:?}");
            assert!(permission.is_held_by(Role::Owner), "{permission:?}");
        }
    }

    /// What no role but the two may do, so that a slip in the table does not pass.
    #[test]
    fn people_and_settings_are_for_owners_and_admins() {
        for permission in [
            Permission::MemberUpdate,
            Permission::InvitationUpdate,
            Permission::WorkspaceUpdate,
            Permission::TeamUpdate,
            Permission::ServiceAccountUpdate,
        ] {
            for role in Role::ALL {
                let expected = matches!(role, Role::Owner | Role::Admin);
                assert_eq!(permission.is_held_by(*role), expected, "{role}");
            }
        }
    }
}
