//! Self-service: what the developers of a team may make for themselves.
//!
//! The rules are judged in one order, and the first of the first two that does not hold is
//! the answer; what the others say is told together, field by field:
//!
//! 1. `self_service_disabled`: the team has it switched off;
//! 2. `self_service_max_keys`: the developer has as many live keys in the team as allowed;
//! 3. `self_service_expiry`: the key needs an expiry, or one that is not so far away;
//! 4. `self_service_limit`: an own limit is above the team's. A limit left blank passes: it
//!    stays blank, and the team's holds.
//!
//! A rotation makes no key, so it is not counted; a policy that changes changes no key, but
//! keys that it would not let be made today are marked.

use std::collections::BTreeMap;

use schemas::api::{SelfServiceRule, Source};
use schemas::entry::Owner;
use schemas::{Limits, TeamId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::{INTEGER_MAX, Key, State};
use crate::refusal::{FieldCode, FieldRefusal, Refusal};
use crate::team::{self, Team};

/// The farthest that a policy can put an expiry: a hundred years, in days.
pub const EXPIRY_DAYS_MAX: u64 = 36_500;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What a team lets its developers do by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfService {
    /// Whether they may make keys at all.
    pub enabled: bool,
    /// The most live keys of one developer in the team; `None` is no cap.
    pub max_keys_per_user: Option<u64>,
    /// Whether a key has to end by itself.
    pub require_expiry: bool,
    /// The farthest end of a key from now, in days; a cap implies an end.
    pub max_expiry_days: Option<u64>,
}

/// A key as it is asked for, or as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
    /// Its own limits.
    pub limits: Limits,
    /// How many other live keys the developer has in the team; `None` where no key is
    /// made.
    pub others: Option<u64>,
}

/// Whether a developer of the team may make or rotate this key now.
///
/// # Errors
/// [`Refusal::SelfService`] for the first two rules, [`Refusal::Fields`] for the others.
pub fn check(team: &Team, asked: &Asked, now: Timestamp) -> Result<(), Refusal> {
    let policy = &team.fields.self_service;
    if !policy.enabled {
        return Err(Refusal::SelfService(SelfServiceRule::Disabled));
    }
    if !policy.has_room(asked) {
        return Err(Refusal::SelfService(SelfServiceRule::MaxKeys));
    }
    let mut refusals: Vec<FieldRefusal> = policy.expiry_refusal(asked, now).into_iter().collect();
    let above = team::above_team(None, &asked.limits, team);
    refusals.extend(above.into_iter().map(|refusal| FieldRefusal {
        code: FieldCode::SelfService(SelfServiceRule::Limit),
        ..refusal
    }));
    crate::refusal::none(refusals)
}

/// The rules that a key breaks which was made under an earlier policy, in their order.
pub fn broken(team: &Team, asked: &Asked, now: Timestamp) -> Vec<SelfServiceRule> {
    let policy = &team.fields.self_service;
    let rules = [
        (SelfServiceRule::Disabled, !policy.enabled),
        (SelfServiceRule::MaxKeys, !policy.has_room(asked)),
        (
            SelfServiceRule::Expiry,
            policy.expiry_refusal(asked, now).is_some(),
        ),
        (
            SelfServiceRule::Limit,
            !team::above_team(None, &asked.limits, team).is_empty(),
        ),
    ];
    let broken = rules.into_iter().filter(|(_, is_broken)| *is_broken);
    broken.map(|(rule, _)| rule).collect()
}

/// The team and the owner whose policy binds a key: one that a developer made for
/// themselves, that is still theirs, and that is neither over nor switched off for good.
pub fn bound_by(key: &Key, now: Timestamp) -> Option<(TeamId, Owner)> {
    let owner = key.owner.filter(|it| matches!(it, Owner::User(_)))?;
    (key.source == Source::SelfService && is_live(key, now)).then_some((key.team_id?, owner))
}

/// Whether a key counts: switched on or off, and not past its end.
pub fn is_live(key: &Key, now: Timestamp) -> bool {
    key.state != State::Revoked && !key.purged && key.expires_at.is_none_or(|at| now < at)
}

// === impl SelfService ===

impl Default for SelfService {
    /// On, and without rules.
    fn default() -> Self {
        Self {
            enabled: true,
            max_keys_per_user: None,
            require_expiry: false,
            max_expiry_days: None,
        }
    }
}

impl SelfService {
    fn has_room(&self, asked: &Asked) -> bool {
        match (self.max_keys_per_user, asked.others) {
            (Some(most), Some(others)) => others < most,
            _ => true,
        }
    }

    fn expiry_refusal(&self, asked: &Asked, now: Timestamp) -> Option<FieldRefusal> {
        let refused = |detail| {
            Some(FieldRefusal {
                field: "expires_at".to_owned(),
                code: FieldCode::SelfService(SelfServiceRule::Expiry),
                detail,
            })
        };
        let latest = self.max_expiry_days.map(|days| {
            let days = i64::try_from(days).unwrap_or(i64::MAX);
            now.plus_ms(days.saturating_mul(DAY_MS))
        });
        match (asked.expires_at, latest) {
            (None, Some(latest)) => refused(format!("a time until {latest}, required by the team")),
            (Some(at), Some(latest)) if at > latest => {
                refused(format!("a time until {latest}, the farthest in the team"))
            }
            (None, None) if self.require_expiry => {
                refused("a time to come, required by the team".to_owned())
            }
            _ => None,
        }
    }
}

// === impl Asked ===

impl Asked {
    /// A key as it is.
    pub fn of_key(key: &Key, others: Option<u64>) -> Self {
        Self {
            expires_at: key.expires_at,
            limits: key.limits,
            others,
        }
    }
}

/// The policy after its named members were set; `None` sets all of them back.
pub(crate) fn patched(
    before: SelfService,
    patch: &Option<BTreeMap<String, Value>>,
    refusals: &mut Vec<FieldRefusal>,
) -> SelfService {
    let Some(members) = patch else {
        return SelfService::default();
    };
    let mut after = before;
    let unset = SelfService::default();
    for (name, value) in members {
        let mut refuse = |code, detail: String| {
            refusals.push(FieldRefusal {
                field: format!("self_service.{name}"),
                code,
                detail,
            });
        };
        match name.as_str() {
            "enabled" => match flag(value, unset.enabled) {
                Some(enabled) => after.enabled = enabled,
                None => refuse(FieldCode::Invalid, "true, false or null".to_owned()),
            },
            "require_expiry" => match flag(value, unset.require_expiry) {
                Some(require_expiry) => after.require_expiry = require_expiry,
                None => refuse(FieldCode::Invalid, "true, false or null".to_owned()),
            },
            "max_keys_per_user" => match count(value, 0, INTEGER_MAX) {
                Some(most) => after.max_keys_per_user = most,
                None => refuse(FieldCode::Invalid, format!("null or 0 to {INTEGER_MAX}")),
            },
            "max_expiry_days" => match count(value, 1, EXPIRY_DAYS_MAX) {
                Some(days) => after.max_expiry_days = days,
                None => refuse(
                    FieldCode::Invalid,
                    format!("null or 1 to {EXPIRY_DAYS_MAX}"),
                ),
            },
            "budget_ceiling" if value.is_null() => {}
            "budget_ceiling" => refuse(
                FieldCode::NotAvailable,
                "not enforced yet, so it cannot be set".to_owned(),
            ),
            _ => refuse(
                FieldCode::Invalid,
                "one of enabled, max_keys_per_user, budget_ceiling, require_expiry and \
                 max_expiry_days"
                    .to_owned(),
            ),
        }
    }
    after
}

fn flag(value: &Value, unset: bool) -> Option<bool> {
    match value {
        Value::Null => Some(unset),
        value => value.as_bool(),
    }
}

fn count(value: &Value, least: u64, most: u64) -> Option<Option<u64>> {
    match value {
        Value::Null => Some(None),
        value => value
            .as_u64()
            .filter(|count| (least..=most).contains(count))
            .map(Some),
    }
}

#[cfg(test)]
mod tests;
