//! Given events, when a command, then events or a refusal.

use schemas::api::{ActorKind, SelfServiceRule};
use schemas::{EventId, LineageId};
use serde_json::{Value, json};

use super::*;
use crate::command::LimitsPatch;
use crate::refusal::FieldCode;

const CREATOR: &str = "acc_1";

fn somebody(number: u128) -> AccountId {
    AccountId::from_u128(number)
}

fn named(name: &str) -> PatchTeam {
    PatchTeam {
        name: Some(name.to_owned()),
        ..PatchTeam::default()
    }
}

fn created() -> TeamCommand {
    TeamCommand::Create(Box::new(named("checkout")))
}

fn patch(patch: PatchTeam) -> TeamCommand {
    TeamCommand::Patch(Box::new(patch))
}

fn limits(members: &[(&str, Option<u64>)]) -> PatchTeam {
    let members = members.iter();
    PatchTeam {
        limits: Some(LimitsPatch::Merge(
            members
                .map(|(name, it)| ((*name).to_owned(), *it))
                .collect(),
        )),
        ..PatchTeam::default()
    }
}

fn policy(policy: Value) -> PatchTeam {
    let members = match policy {
        Value::Object(members) => Some(members.into_iter().collect()),
        _ => None,
    };
    PatchTeam {
        self_service: Some(members),
        ..PatchTeam::default()
    }
}

fn set(number: u128, role: TeamRole) -> TeamCommand {
    TeamCommand::SetMember {
        account_id: somebody(number),
        role,
    }
}

fn remove(number: u128) -> TeamCommand {
    TeamCommand::RemoveMember {
        account_id: somebody(number),
    }
}

fn record(version: u64, event: Event) -> Recorded {
    Recorded {
        position: version,
        lineage: LineageId::from_u128(1),
        generation: 1,
        stream: Stream::Team(TeamId::from_u128(7)),
        stream_version: version,
        id: EventId::from_u128(u128::from(version)),
        at: Timestamp::from_unix_ms(1_800_000_000_000),
        workspace_id: Some(WorkspaceId::from_u128(1)),
        actor: Actor {
            kind: ActorKind::User,
            id: CREATOR.to_owned(),
        },
        request_id: None,
        causation_id: None,
        event,
    }
}

/// A team after commands that all succeed.
fn given(commands: &[TeamCommand]) -> Option<Team> {
    commands.iter().fold(None, |team, command| {
        let events = when(team.as_ref(), command).unwrap();
        events.into_iter().fold(team, |team: Option<Team>, event| {
            let version = team.as_ref().map_or(0, |it| it.version) + 1;
            evolve(team, &record(version, event))
        })
    })
}

fn when(team: Option<&Team>, command: &TeamCommand) -> Result<Vec<Event>, Refusal> {
    decide(team, command, &SecretLook::default())
}

#[track_caller]
fn check(before: &[TeamCommand], command: TeamCommand, expected: Result<Vec<Event>, Refusal>) {
    assert_eq!(when(given(before).as_ref(), &command), expected);
}

/// The fields that are refused, and why.
#[track_caller]
fn check_refused(before: &[TeamCommand], command: TeamCommand, expected: &[(&str, FieldCode)]) {
    match when(given(before).as_ref(), &command) {
        Err(Refusal::Fields(fields)) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|it| (it.field.as_str(), it.code))
                .collect();
            assert_eq!(fields, expected);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_team_lets_its_developers_make_keys() {
    let team = given(&[created()]).unwrap();
    assert_eq!(team.fields.name, "checkout");
    assert!(team.fields.self_service.enabled);
    assert!(!team.fields.blocked);
    assert_eq!(team.fields.limits, Limits::default());
    assert_eq!(team.created_by.id, CREATOR);
    check(&[created()], created(), Err(Refusal::Exists("team")));
}

#[test]
fn a_change_says_from_what_to_what_and_only_if_something_changes() {
    let changed = when(
        given(&[created()]).as_ref(),
        &patch(limits(&[("rpm", Some(100))])),
    )
    .unwrap();
    let [Event::TeamUpdated { changes }] = &changed[..] else {
        panic!("{changed:?}");
    };
    let limits_changed = changes.limits.as_ref().unwrap();
    assert_eq!(limits_changed.from.rpm, None);
    assert_eq!(limits_changed.to.rpm, Some(100));
    assert_eq!(changes.name, None);
    check(&[created()], patch(named("checkout")), Ok(vec![]));
    check(&[created()], patch(limits(&[("rpm", None)])), Ok(vec![]));
    check(&[], patch(named("x")), Err(Refusal::NotFound("team")));
}

#[test]
fn limits_and_policy_merge_by_member() {
    let team = given(&[
        created(),
        patch(limits(&[("rpm", Some(100)), ("rps", Some(5))])),
        patch(limits(&[("rps", None)])),
        patch(policy(
            json!({ "max_keys_per_user": 3, "max_expiry_days": 30 }),
        )),
        patch(policy(
            json!({ "require_expiry": true, "max_expiry_days": null, "enabled": null }),
        )),
    ])
    .unwrap();
    assert_eq!(
        (team.fields.limits.rpm, team.fields.limits.rps),
        (Some(100), None)
    );
    let expected = SelfService {
        enabled: true,
        max_keys_per_user: Some(3),
        require_expiry: true,
        max_expiry_days: None,
    };
    assert_eq!(team.fields.self_service, expected);
    let cleared = given(&[
        created(),
        patch(policy(json!({ "enabled": false, "max_keys_per_user": 0 }))),
        patch(policy(Value::Null)),
    ])
    .unwrap();
    assert_eq!(cleared.fields.self_service, SelfService::default());
}

#[test]
fn every_wrong_field_is_named_and_what_is_not_enforced_cannot_be_set() {
    use FieldCode::{Invalid, LooksLikeSecret, NotAvailable};
    let all = PatchTeam {
        name: Some("ops@example.com".to_owned()),
        limits: limits(&[("rpd", Some(1)), ("rpx", Some(1)), ("rpm", Some(u64::MAX))]).limits,
        self_service: policy(json!({
            "budget_ceiling": 5, "enabled": 1, "max_expiry_days": 0, "max_keys": 1,
            "max_keys_per_user": -1, "require_expiry": "yes",
        }))
        .self_service,
        ..PatchTeam::default()
    };
    let expected = [
        ("name", LooksLikeSecret),
        ("limits.rpx", Invalid),
        ("limits.rpm", Invalid),
        ("limits.rpd", NotAvailable),
        ("self_service.budget_ceiling", NotAvailable),
        ("self_service.enabled", Invalid),
        ("self_service.max_expiry_days", Invalid),
        ("self_service.max_keys", Invalid),
        ("self_service.max_keys_per_user", Invalid),
        ("self_service.require_expiry", Invalid),
    ];
    check_refused(&[created()], patch(all.clone()), &expected);
    check_refused(&[], TeamCommand::Create(Box::new(all)), &expected);
    check_refused(
        &[],
        TeamCommand::Create(Box::default()),
        &[("name", Invalid)],
    );
    let unset = policy(json!({ "budget_ceiling": null }));
    check(&[created()], patch(unset), Ok(vec![]));
}

#[test]
fn people_get_roles_and_lose_them() {
    use TeamRole::{TeamAdmin, TeamDeveloper};
    let set_event = |from, role| Event::TeamMemberSet {
        account_id: somebody(2),
        from,
        role,
    };
    check(
        &[created()],
        set(2, TeamDeveloper),
        Ok(vec![set_event(None, TeamDeveloper)]),
    );
    let with = [created(), set(2, TeamDeveloper)];
    check(&with, set(2, TeamDeveloper), Ok(vec![]));
    check(
        &with,
        set(2, TeamAdmin),
        Ok(vec![set_event(Some(TeamDeveloper), TeamAdmin)]),
    );
    check(
        &with,
        remove(2),
        Ok(vec![Event::TeamMemberRemoved {
            account_id: somebody(2),
            role: TeamDeveloper,
        }]),
    );
    check(
        &with,
        remove(3),
        Err(Refusal::NotFound("member of the team")),
    );
    let left = given(&[created(), set(2, TeamDeveloper), remove(2)]).unwrap();
    assert!(left.members.is_empty());
}

#[test]
fn a_deleted_team_has_nobody_and_takes_no_orders() {
    let before = [created(), set(2, TeamRole::TeamAdmin), TeamCommand::Delete];
    let team = given(&before).unwrap();
    assert!(team.deleted && team.members.is_empty());
    let gone = || Err(Refusal::NotFound("team"));
    for command in [
        TeamCommand::Delete,
        patch(named("again")),
        set(2, TeamRole::TeamAdmin),
        remove(2),
    ] {
        check(&before, command, gone());
    }
    check(&before, created(), Err(Refusal::Exists("team")));
}

/// A limit may be at most its ceiling; blank is neither above nor below anything; 0 refuses
/// all and so fits everywhere. What a change leaves alone is not judged again.
#[test]
fn a_limit_is_compared_with_its_ceiling_when_it_is_written() {
    let with = |rpm, rps| Limits {
        rpm,
        rps,
        ..Limits::default()
    };
    let check = |before: Option<Limits>, after: Limits, plan: PlanLimits, expected: &[&str]| {
        let above = above_plan(before.as_ref(), &after, plan);
        let fields: Vec<_> = above.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, expected, "{before:?} {after:?} {plan:?}");
    };
    let plan = PlanLimits {
        rps: Some(10),
        rpm: Some(100),
    };
    check(None, with(Some(100), Some(10)), plan, &[]);
    check(None, with(None, Some(0)), plan, &[]);
    check(
        None,
        with(Some(101), Some(11)),
        plan,
        &["limits.rps", "limits.rpm"],
    );
    check(None, with(Some(101), None), PlanLimits::default(), &[]);
    check(
        Some(with(Some(500), None)),
        with(Some(500), Some(1)),
        plan,
        &[],
    );
    check(
        Some(with(Some(500), None)),
        with(Some(400), None),
        plan,
        &["limits.rpm"],
    );
    check(
        None,
        with(Some(1), None),
        PlanLimits {
            rps: None,
            rpm: Some(0),
        },
        &["limits.rpm"],
    );
}

#[test]
fn a_rule_of_self_service_has_the_name_of_its_code() {
    for rule in [
        SelfServiceRule::Disabled,
        SelfServiceRule::MaxKeys,
        SelfServiceRule::Expiry,
        SelfServiceRule::Limit,
    ] {
        assert_eq!(json!(rule), rule.as_str());
    }
}
