//! The rules, one by one and all together.

use std::collections::BTreeMap;

use proptest::option;
use proptest::prelude::*;
use schemas::api::{Actor, ActorKind};
use schemas::entry::Access;
use schemas::{TeamId, WorkspaceId};

use super::*;
use crate::team::TeamFields;

const NOW: i64 = 1_800_000_000_000;

fn now() -> Timestamp {
    Timestamp::from_unix_ms(NOW)
}

fn in_days(days: i64) -> Option<Timestamp> {
    Some(now().plus_ms(days * DAY_MS))
}

fn team(self_service: SelfService, rpm: Option<u64>) -> Team {
    Team {
        id: TeamId::from_u128(1),
        workspace_id: WorkspaceId::from_u128(1),
        fields: TeamFields {
            name: "checkout".to_owned(),
            limits: Limits {
                rpm,
                ..Limits::default()
            },
            self_service,
            access: Access::default(),
            blocked: false,
        },
        members: BTreeMap::new(),
        created_by: Actor {
            kind: ActorKind::User,
            id: "acc_1".to_owned(),
        },
        created_at: now(),
        deleted: false,
        version: 1,
        position: 1,
    }
}

fn asked(expires_at: Option<Timestamp>, rpm: Option<u64>, others: Option<u64>) -> Asked {
    Asked {
        expires_at,
        limits: Limits {
            rpm,
            ..Limits::default()
        },
        others,
    }
}

/// The rules that an answer names.
fn named(result: Result<(), Refusal>) -> Vec<SelfServiceRule> {
    match result {
        Ok(()) => vec![],
        Err(Refusal::SelfService(rule)) => vec![rule],
        Err(Refusal::Fields(fields)) => fields
            .into_iter()
            .map(|field| match field.code {
                FieldCode::SelfService(rule) => rule,
                other => panic!("{other:?}"),
            })
            .collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn each_rule_refuses_what_it_is_about() {
    use SelfServiceRule::{Disabled, Expiry, Limit, MaxKeys};
    let open = SelfService::default();
    let check = |policy, asked: Asked, expected: &[SelfServiceRule]| {
        let team = team(policy, Some(100));
        assert_eq!(
            named(check(&team, &asked, now())),
            expected,
            "{policy:?} {asked:?}"
        );
    };
    let off = SelfService {
        enabled: false,
        ..open
    };
    let two = SelfService {
        max_keys_per_user: Some(2),
        ..open
    };
    let none = SelfService {
        max_keys_per_user: Some(0),
        ..open
    };
    let ends = SelfService {
        require_expiry: true,
        ..open
    };
    let month = SelfService {
        max_expiry_days: Some(30),
        ..open
    };
    check(open, asked(None, None, Some(1_000)), &[]);
    check(off, asked(None, Some(500), Some(0)), &[Disabled]);
    check(two, asked(None, None, Some(1)), &[]);
    check(two, asked(None, Some(500), Some(2)), &[MaxKeys]);
    check(two, asked(None, None, None), &[]);
    check(none, asked(None, None, Some(0)), &[MaxKeys]);
    check(ends, asked(None, None, Some(0)), &[Expiry]);
    check(ends, asked(in_days(9_999), None, Some(0)), &[]);
    check(month, asked(None, None, Some(0)), &[Expiry]);
    check(month, asked(in_days(30), None, Some(0)), &[]);
    check(
        month,
        asked(Some(in_days(30).unwrap().plus_ms(1)), Some(101), Some(0)),
        &[Expiry, Limit],
    );
    check(open, asked(None, Some(100), Some(0)), &[]);
    check(open, asked(None, Some(101), Some(0)), &[Limit]);
}

#[test]
fn a_policy_does_not_reach_beyond_time() {
    let team = team(
        SelfService {
            max_expiry_days: Some(EXPIRY_DAYS_MAX),
            ..SelfService::default()
        },
        None,
    );
    let farthest = in_days(i64::try_from(EXPIRY_DAYS_MAX).unwrap());
    assert_eq!(check(&team, &asked(farthest, None, None), now()), Ok(()));
}

fn policies() -> impl Strategy<Value = SelfService> {
    let fields = (
        any::<bool>(),
        option::of(0_u64..4),
        any::<bool>(),
        option::of(1_u64..40),
    );
    fields.prop_map(
        |(enabled, max_keys_per_user, require_expiry, max_expiry_days)| SelfService {
            enabled,
            max_keys_per_user,
            require_expiry,
            max_expiry_days,
        },
    )
}

proptest! {
    /// Said again in other words: what is admitted keeps every rule, what is refused breaks
    /// the rules that are named, and all that are broken show on a key that exists.
    #[test]
    fn an_answer_names_exactly_the_rules_that_are_broken(
        policy in policies(),
        team_rpm in option::of(0_u64..4),
        days in option::of(-2_i64..50),
        rpm in option::of(0_u64..4),
        others in option::of(0_u64..5),
    ) {
        let team = team(policy, team_rpm);
        let asked = asked(days.and_then(in_days), rpm, others);
        let mut expected = Vec::new();
        if !policy.enabled {
            expected.push(SelfServiceRule::Disabled);
        }
        if let (Some(most), Some(others)) = (policy.max_keys_per_user, others)
            && others + 1 > most
        {
            expected.push(SelfServiceRule::MaxKeys);
        }
        let needs_end = policy.require_expiry || policy.max_expiry_days.is_some();
        let is_too_far = match (policy.max_expiry_days, days) {
            (Some(most), Some(days)) => days > i64::try_from(most).unwrap(),
            _ => false,
        };
        if needs_end && days.is_none() || is_too_far {
            expected.push(SelfServiceRule::Expiry);
        }
        if let (Some(own), Some(most)) = (rpm, team_rpm)
            && own > most
        {
            expected.push(SelfServiceRule::Limit);
        }
        prop_assert_eq!(broken(&team, &asked, now()), expected.clone());

        let alone = expected.first().filter(|rule| {
            matches!(rule, SelfServiceRule::Disabled | SelfServiceRule::MaxKeys)
        });
        let told = alone.map_or(expected.clone(), |rule| vec![*rule]);
        prop_assert_eq!(named(check(&team, &asked, now())), told);
    }

    /// A policy that gets narrower never lets more through.
    #[test]
    fn narrower_is_never_wider(
        policy in policies(),
        fewer in 0_u64..4,
        days in option::of(1_i64..50),
        others in 0_u64..5,
    ) {
        let asked = asked(days.and_then(in_days), None, Some(others));
        let narrower = SelfService {
            max_keys_per_user: Some(policy.max_keys_per_user.map_or(fewer, |it| it.min(fewer))),
            require_expiry: true,
            ..policy
        };
        if check(&team(narrower, None), &asked, now()).is_ok() {
            prop_assert_eq!(check(&team(policy, None), &asked, now()), Ok(()));
        }
    }
}
