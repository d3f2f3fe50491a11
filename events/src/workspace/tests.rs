//! Given a workspace, when a command, then events or a refusal.

use schemas::api::{Actor, ActorKind};
use schemas::{EventId, LineageId, MemberStatus, TeamId, TeamRole};

use super::*;
use crate::command::{InvitationCommand, MemberCommand};
use crate::event::InvitedTo;
use crate::refusal::FieldCode;

const NOW: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;

const OWNER: AccountId = AccountId::from_u128(1);
const ADMIN: AccountId = AccountId::from_u128(2);
const OTHER: AccountId = AccountId::from_u128(3);
const STRANGER: AccountId = AccountId::from_u128(4);
const INVITATION: InvitationId = InvitationId::from_u128(1);
const TEAM: InvitedTo = InvitedTo {
    team_id: TeamId::from_u128(1),
    role: TeamRole::TeamDeveloper,
};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(NOW + ms)
}

fn record(workspace: Option<&Workspace>, event: Event, ms: i64) -> Workspace {
    let version = workspace.map_or(1, |it| it.version + 1);
    let recorded = Recorded {
        position: version,
        lineage: LineageId::from_u128(1),
        generation: 1,
        stream: Stream::Workspace(WorkspaceId::from_u128(1)),
        stream_version: version,
        id: EventId::from_u128(1),
        at: at(ms),
        workspace_id: Some(WorkspaceId::from_u128(1)),
        actor: Actor {
            kind: ActorKind::User,
            id: OWNER.to_string(),
        },
        request_id: None,
        causation_id: None,
        event,
    };
    evolve(workspace.cloned(), &recorded).expect("a stream that begins at its beginning")
}

/// A workspace of `OWNER` with these members.
fn given(members: &[(AccountId, Role)]) -> Workspace {
    let created = Event::WorkspaceCreated {
        name: "Acme".to_owned(),
        owner: OWNER,
    };
    let mut workspace = record(None, created, 0);
    for (account_id, role) in members {
        let added = Event::MemberAdded {
            account_id: *account_id,
            role: *role,
        };
        workspace = record(Some(&workspace), added, 0);
    }
    workspace
}

fn when(workspace: &Workspace, command: WorkspaceCommand, ms: i64) -> Result<Vec<Event>, Refusal> {
    decide(Some(workspace), &command, at(ms), &SecretLook::default())
}

/// The workspace after a command that must be followed.
fn after(workspace: &Workspace, command: WorkspaceCommand, ms: i64) -> Workspace {
    let events = when(workspace, command, ms).expect("followed");
    let fold = |workspace: Workspace, event| record(Some(&workspace), event, ms);
    events.into_iter().fold(workspace.clone(), fold)
}

fn update(
    by: AccountId,
    account_id: AccountId,
    role: Option<Role>,
    status: Option<MemberStatus>,
) -> WorkspaceCommand {
    WorkspaceCommand::Member(MemberCommand::Update {
        by,
        account_id,
        role,
        status,
    })
}

fn remove(by: AccountId, account_id: AccountId) -> WorkspaceCommand {
    WorkspaceCommand::Member(MemberCommand::Remove {
        by: Some(by),
        account_id,
    })
}

fn invite(by: AccountId, role: Role, team: Option<InvitedTo>) -> WorkspaceCommand {
    WorkspaceCommand::Invitation(InvitationCommand::Create {
        by,
        id: INVITATION,
        role,
        team,
    })
}

fn accept(account_id: AccountId) -> WorkspaceCommand {
    WorkspaceCommand::Invitation(InvitationCommand::Accept {
        id: INVITATION,
        account_id,
    })
}

fn is_forbidden(result: &Result<Vec<Event>, Refusal>) -> bool {
    matches!(result, Err(Refusal::Forbidden(_)))
}

fn is_dead(result: &Result<Vec<Event>, Refusal>) -> bool {
    matches!(result, Err(Refusal::Fields(fields))
        if fields.len() == 1 && fields[0].field == "token" && fields[0].code == FieldCode::Invalid)
}

/// Who may manage whom, and into what: every pair of roles, both ways.
#[test]
fn owners_manage_all_and_admins_those_below_them() {
    let below = [Role::Developer, Role::Viewer, Role::Auditor, Role::Member];
    for actor in Role::ALL {
        for from in Role::ALL {
            for to in Role::ALL {
                let given = given(&[(ADMIN, *actor), (OTHER, *from)]);
                let result = when(&given, update(ADMIN, OTHER, Some(*to), None), 0);
                let may = match actor {
                    Role::Owner => true,
                    Role::Admin => below.contains(from) && below.contains(to),
                    _ => false,
                };
                assert_eq!(!is_forbidden(&result), may, "{actor}: {from} to {to}");
                let expected = usize::from(from != to);
                assert!(!may || result.is_ok_and(|it| it.len() == expected));

                let result = when(&given, remove(ADMIN, OTHER), 0);
                let may = *actor == Role::Owner || *actor == Role::Admin && below.contains(from);
                assert_eq!(!is_forbidden(&result), may, "{actor} removes {from}");

                let result = when(&given, invite(ADMIN, *to, None), 0);
                let may = *actor == Role::Owner || *actor == Role::Admin && below.contains(to);
                assert_eq!(!is_forbidden(&result), may, "{actor} invites {to}");
            }
        }
    }
}

#[test]
fn nobody_promotes_himself() {
    for role in Role::ALL {
        let given = given(&[(OTHER, *role)]);
        for to in [Role::Owner, Role::Admin, Role::Billing] {
            let result = when(&given, update(OTHER, OTHER, Some(to), None), 0);
            assert_eq!(
                is_forbidden(&result),
                *role != Role::Owner,
                "{role} to {to}"
            );
        }
    }
    // An admin could leave the role by himself and be missed; another one does that.
    let given = given(&[(ADMIN, Role::Admin)]);
    for command in [
        update(ADMIN, ADMIN, Some(Role::Member), None),
        update(ADMIN, ADMIN, None, Some(MemberStatus::Suspended)),
        remove(ADMIN, ADMIN),
    ] {
        assert!(is_forbidden(&when(&given, command, 0)));
    }
}

#[test]
fn the_last_active_owner_stays() {
    let alone = given(&[(ADMIN, Role::Admin)]);
    let two = given(&[(OTHER, Role::Owner)]);
    let one_suspended = after(
        &two,
        update(OWNER, OTHER, None, Some(MemberStatus::Suspended)),
        0,
    );
    for given in [&alone, &one_suspended] {
        for command in [
            update(OWNER, OWNER, Some(Role::Admin), None),
            update(OWNER, OWNER, None, Some(MemberStatus::Suspended)),
            remove(OWNER, OWNER),
            WorkspaceCommand::Member(MemberCommand::Remove {
                by: None,
                account_id: OWNER,
            }),
        ] {
            assert_eq!(when(given, command, 0), Err(Refusal::LastOwner));
        }
    }
    for command in [
        update(OWNER, OWNER, Some(Role::Member), None),
        remove(OTHER, OWNER),
    ] {
        let after = after(&two, command, 0);
        assert_eq!(after.active_role(OTHER), Some(Role::Owner));
        assert_ne!(after.active_role(OWNER), Some(Role::Owner));
    }
    // Removing a suspended owner leaves the other one.
    assert!(when(&one_suspended, remove(OWNER, OTHER), 0).is_ok());
}

/// What was decided for an owner who is none any more does not stand.
#[test]
fn who_asks_is_judged_by_what_they_are_now() {
    let two = given(&[(OTHER, Role::Owner), (ADMIN, Role::Admin)]);
    let demoted = after(&two, update(OWNER, OTHER, Some(Role::Member), None), 0);
    let suspended = after(
        &two,
        update(OWNER, OTHER, None, Some(MemberStatus::Suspended)),
        0,
    );
    let removed = after(&two, remove(OWNER, OTHER), 0);
    for given in [demoted, suspended, removed] {
        assert!(is_forbidden(&when(&given, remove(OTHER, ADMIN), 0)));
        assert!(is_forbidden(&when(
            &given,
            invite(OTHER, Role::Viewer, None),
            0
        )));
    }
}

#[test]
fn a_guest_becomes_what_was_offered_once_and_in_time() {
    let invited = after(&given(&[]), invite(OWNER, Role::Auditor, None), 0);
    let came = after(&invited, accept(OTHER), 72 * HOUR_MS - 1);
    assert_eq!(came.active_role(OTHER), Some(Role::Auditor));
    assert!(is_dead(&when(&came, accept(STRANGER), 1)), "a second use");
    assert!(is_dead(&when(&invited, accept(OTHER), 72 * HOUR_MS)));

    let again = WorkspaceCommand::Invitation(InvitationCommand::Reissue {
        by: OWNER,
        id: INVITATION,
    });
    let reissued = after(&invited, again.clone(), 100 * HOUR_MS);
    assert!(when(&reissued, accept(OTHER), 101 * HOUR_MS).is_ok());
    assert_eq!(
        when(&came, again, 0),
        Err(Refusal::NotFound("invitation")),
        "nothing is left to reissue"
    );

    let back = WorkspaceCommand::Invitation(InvitationCommand::Delete {
        by: OWNER,
        id: INVITATION,
    });
    assert!(is_dead(&when(&after(&invited, back, 1), accept(OTHER), 2)));
}

#[test]
fn an_invitation_ends_with_the_reach_of_whoever_made_it() {
    let two = given(&[(ADMIN, Role::Admin)]);
    let invited = after(&two, invite(ADMIN, Role::Developer, None), 0);
    assert!(when(&invited, accept(OTHER), 1).is_ok());
    for command in [
        update(OWNER, ADMIN, Some(Role::Developer), None),
        update(OWNER, ADMIN, None, Some(MemberStatus::Suspended)),
        remove(OWNER, ADMIN),
    ] {
        let without = after(&invited, command, 1);
        assert!(is_dead(&when(&without, accept(OTHER), 2)));
        let taken_over = WorkspaceCommand::Invitation(InvitationCommand::Reissue {
            by: OWNER,
            id: INVITATION,
        });
        let without = after(&without, taken_over, 3);
        assert!(when(&without, accept(OTHER), 4).is_ok());
    }
}

/// Whether they hold a role in that team is judged before; here is how far it reaches.
#[test]
fn a_plain_member_invites_into_a_team_and_as_a_plain_member_only() {
    let given = given(&[(OTHER, Role::Member)]);
    assert!(when(&given, invite(OTHER, Role::Member, Some(TEAM)), 0).is_ok());
    for (role, team) in [
        (Role::Member, None),
        (Role::Viewer, Some(TEAM)),
        (Role::Owner, Some(TEAM)),
    ] {
        assert!(is_forbidden(&when(&given, invite(OTHER, role, team), 0)));
    }
    assert!(is_forbidden(&when(
        &given,
        invite(STRANGER, Role::Member, Some(TEAM)),
        0
    )));
}

#[test]
fn an_invitation_changes_nothing_about_who_is_there() {
    let two = given(&[(OTHER, Role::Admin)]);
    let invited = after(&two, invite(OWNER, Role::Member, None), 0);
    assert_eq!(
        when(&invited, accept(OTHER), 1),
        Err(Refusal::Exists("membership"))
    );
    let into_team = after(&two, invite(OWNER, Role::Member, Some(TEAM)), 0);
    let joined = after(&into_team, accept(OTHER), 1);
    assert_eq!(joined.active_role(OTHER), Some(Role::Admin));

    let suspend = update(OWNER, OTHER, None, Some(MemberStatus::Suspended));
    let suspended = after(&into_team, suspend, 1);
    assert!(is_forbidden(&when(&suspended, accept(OTHER), 2)));
    let closed = after(&into_team, WorkspaceCommand::Suspend, 1);
    assert!(is_forbidden(&when(&closed, accept(STRANGER), 2)));
}

#[test]
fn suspension_can_be_repeated_and_undone() {
    let workspace = given(&[]);
    let suspended = after(&workspace, WorkspaceCommand::Suspend, 0);
    assert!(suspended.suspended);
    assert_eq!(when(&suspended, WorkspaceCommand::Suspend, 1), Ok(vec![]));
    let back = after(&suspended, WorkspaceCommand::Reinstate, 2);
    assert!(!back.suspended);
    assert_eq!(when(&back, WorkspaceCommand::Reinstate, 3), Ok(vec![]));
}

/// Those that nobody reissues go in the end, so that a workspace does not grow for ever.
#[test]
fn invitations_that_ran_out_are_forgotten_after_a_month() {
    let invited = after(&given(&[]), invite(OWNER, Role::Viewer, None), 0);
    let month_ms = 30 * 24 * HOUR_MS;
    let created = |id| Event::InvitationCreated {
        invitation_id: InvitationId::from_u128(id),
        role: Role::Viewer,
        team: None,
        by: OWNER,
        expires_at: at(0),
    };
    let kept = record(Some(&invited), created(2), 72 * HOUR_MS + month_ms - 1);
    assert!(kept.invitations.contains_key(&INVITATION));
    let gone = record(Some(&invited), created(2), 72 * HOUR_MS + month_ms);
    assert!(!gone.invitations.contains_key(&INVITATION));
}
