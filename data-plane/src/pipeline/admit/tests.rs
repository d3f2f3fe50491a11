//! What stops a key beside itself, and what must be known before it is let through.

use schemas::entry::{Access, Change, OwnerPolicy, Policy, SecretStatus, TeamPolicy};
use schemas::{AccountId, Limits, ServiceAccountId, TeamId};

use super::*;
use crate::table::KeyTable;
use crate::testing::{WORKSPACE, change, credential, policy, secret, workspace};

const TEAM: TeamId = TeamId::from_u128(1);
const PERSON: Owner = Owner::User(AccountId::from_u128(2));
const MACHINE: Owner = Owner::ServiceAccount(ServiceAccountId::from_u128(3));

fn team(blocked: bool) -> Change {
    policy(Policy::Team(TeamPolicy {
        team_id: TEAM,
        workspace_id: WORKSPACE,
        blocked,
        limits: Limits::default(),
        access: Access::default(),
    }))
}

fn owner(owner: Owner, blocked: bool) -> Change {
    policy(Policy::Owner(OwnerPolicy {
        owner,
        workspace_id: WORKSPACE,
        blocked,
        limits: Limits::default(),
    }))
}

/// The verdict on a key of a team and an owner, where only these policies are known.
#[track_caller]
fn check(
    team_id: Option<TeamId>,
    owner: Option<Owner>,
    known: &[Change],
    expected: Result<(), Code>,
) {
    let mut entry = secret(1, SecretStatus::Active);
    (entry.team_id, entry.owner) = (team_id, owner);
    let table = KeyTable::new();
    table.apply(&[change(1, entry), policy(Policy::Workspace(workspace()))]);
    table.apply(known);
    let found = table.get(&credential(1).hash()).unwrap();
    let policies = table.policies();
    let verdict = judge(&found, policies.workspace(found.workspace).unwrap(), 0);
    assert_eq!(verdict.map_err(|it| it.code), expected);
}

#[test]
fn a_blocked_team_stops_its_keys() {
    check(Some(TEAM), None, &[team(false)], Ok(()));
    check(Some(TEAM), None, &[team(true)], Err(Code::InactiveKey));
    check(None, None, &[team(true)], Ok(()));
}

#[test]
fn a_blocked_owner_stops_its_keys() {
    for who in [PERSON, MACHINE] {
        check(None, Some(who), &[owner(who, false)], Ok(()));
        check(None, Some(who), &[owner(who, true)], Err(Code::InactiveKey));
    }
    check(None, Some(PERSON), &[owner(MACHINE, true)], Ok(()));
}

/// Teams and service accounts are made before their keys, so one that is not known is
/// missing; of a person nothing needs to have been said.
#[test]
fn what_must_be_known_and_is_not_refuses() {
    check(Some(TEAM), None, &[], Err(Code::Stale));
    check(None, Some(MACHINE), &[], Err(Code::Stale));
    check(None, Some(PERSON), &[], Ok(()));
}
