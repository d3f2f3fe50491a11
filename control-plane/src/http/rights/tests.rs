//! Roles of the workspace and of teams, side by side, and narrowed by scopes.

use super::*;

const TEAM: TeamId = TeamId::from_u128(1);
const OTHER: TeamId = TeamId::from_u128(2);

fn rights(role: Role, teams: &[(TeamId, TeamRole)], scopes: Option<&[&str]>) -> Rights {
    Rights {
        role,
        teams: teams.iter().copied().collect(),
        require_totp: false,
        scopes: scopes.map(|it| named(&it.iter().map(ToString::to_string).collect::<Vec<_>>())),
    }
}

#[test]
fn a_role_in_a_team_ends_at_the_team() {
    let admin = rights(Role::Member, &[(TEAM, TeamRole::TeamAdmin)], None);
    let developer = rights(Role::Member, &[(TEAM, TeamRole::TeamDeveloper)], None);
    let update = Permission::KeyUpdate;
    assert!(admin.holds_in(update, Some(TEAM), false));
    assert!(!admin.holds_in(update, Some(OTHER), true));
    assert!(!admin.holds_in(update, None, true));
    assert!(!developer.holds_in(update, Some(TEAM), true));
    let read = Permission::KeyRead;
    assert!(developer.holds_in(read, Some(TEAM), true));
    assert!(!developer.holds_in(read, Some(TEAM), false));
    assert!(!developer.holds_in(read, Some(OTHER), true));
}

#[test]
fn lists_show_what_roles_reach() {
    let teams = [
        (TEAM, TeamRole::TeamAdmin),
        (OTHER, TeamRole::TeamDeveloper),
    ];
    let member = rights(Role::Member, &teams, None);
    assert_eq!(
        member.reach(Permission::KeyRead),
        Visible::Some {
            teams: [TEAM].into(),
            own_in: [OTHER].into(),
        }
    );
    assert_eq!(member.reach(Permission::TargetRead), Visible::All);
    let nothing = Visible::Some {
        teams: BTreeSet::new(),
        own_in: BTreeSet::new(),
    };
    assert_eq!(member.reach(Permission::AuditRead), nothing);
    let developer = rights(Role::Developer, &teams, None);
    assert_eq!(developer.reach(Permission::KeyRead), Visible::All);
}

#[test]
fn scopes_narrow_what_roles_bring_and_add_nothing() {
    let scopes = ["key.read", "audit.read", "gone.since"];
    let owner = rights(Role::Owner, &[], Some(&scopes));
    assert!(owner.holds(Permission::KeyRead));
    assert!(!owner.holds(Permission::KeyUpdate));
    let developer = rights(
        Role::Developer,
        &[(TEAM, TeamRole::TeamAdmin)],
        Some(&scopes),
    );
    assert!(!developer.holds(Permission::AuditRead));
    assert!(!developer.holds_in(Permission::TeamUpdate, Some(TEAM), true));
    assert!(!developer.holds_somewhere(Permission::TeamUpdate));
    let all = rights(Role::Developer, &[(TEAM, TeamRole::TeamAdmin)], None);
    assert!(all.holds_somewhere(Permission::TeamUpdate));
    assert!(!all.holds(Permission::TeamUpdate));
}

#[test]
fn viewers_do_not_see_owners_outside_of_their_teams() {
    let viewer = rights(Role::Viewer, &[(TEAM, TeamRole::TeamAdmin)], None);
    assert!(!viewer.sees_owners(None, false));
    assert!(!viewer.sees_owners(Some(OTHER), true));
    assert!(viewer.sees_owners(Some(TEAM), false));
    assert!(rights(Role::Auditor, &[], None).sees_owners(None, false));
}
