//! Where a key or a team may go: how it is changed and what it comes to.
//!
//! Levels only narrow: a request passes when the workspace has the target, the key's team
//! lets it through and the key lets it through. A level in shadow refuses nothing.

use schemas::TargetId;
use schemas::api::{AccessBy, AccessLevel, AccessReason};
use schemas::entry::{Access, AccessMode, GROUPS_MAX, TARGETS_MAX};

use crate::refusal::FieldRefusal;

/// How access changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessPatch {
    /// Back to `inherit`.
    Clear,
    /// The named members are set; the inner `None` clears one.
    Merge(AccessMembers),
}

/// Members of an access to change; the outer `None` leaves one as it is, the inner one
/// clears it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each is the member of `Access` of the same name
pub struct AccessMembers {
    pub mode: Option<Option<AccessMode>>,
    pub targets: Option<Option<Vec<TargetId>>>,
    pub groups: Option<Option<Vec<String>>>,
    pub shadow: Option<Option<bool>>,
}

// === impl AccessPatch ===

impl AccessPatch {
    /// The change that makes everything as in `access`.
    pub fn of(access: &Access) -> Self {
        Self::Merge(AccessMembers {
            mode: Some(Some(access.mode)),
            targets: Some(Some(access.targets.clone())),
            groups: Some(Some(access.groups.clone())),
            shadow: Some(Some(access.shadow)),
        })
    }
}

/// The access after a change, in its normal form: lists in order and each name once. Who
/// goes back to `inherit` and says nothing else gives up lists and shadow too, which mean
/// nothing there.
///
/// Whether targets and groups exist is not decided here, since a key does not know them.
pub fn merged(before: &Access, patch: &AccessPatch, refusals: &mut Vec<FieldRefusal>) -> Access {
    let AccessPatch::Merge(members) = patch else {
        return Access::default();
    };
    let mut after = match members.mode {
        Some(mode) if mode.unwrap_or_default() == AccessMode::Inherit => Access::default(),
        _ => before.clone(),
    };
    if let Some(mode) = members.mode {
        after.mode = mode.unwrap_or_default();
    }
    if let Some(targets) = &members.targets {
        after.targets = targets.clone().unwrap_or_default();
    }
    if let Some(groups) = &members.groups {
        after.groups = groups.clone().unwrap_or_default();
    }
    if let Some(shadow) = members.shadow {
        after.shadow = shadow.unwrap_or_default();
    }
    after.targets.sort_unstable();
    after.targets.dedup();
    after.groups.sort_unstable();
    after.groups.dedup();
    check(&after, refusals);
    after
}

/// What each level makes of a target that is in `groups`, the levels being given the
/// widest first.
pub fn reasons<'a>(
    levels: impl IntoIterator<Item = (AccessLevel, &'a Access)>,
    target: TargetId,
    groups: &[String],
) -> Vec<AccessReason> {
    let reason = |(level, access): (AccessLevel, &Access)| {
        let group = groups.iter().find(|it| access.groups.contains(it));
        let by = match access.mode {
            AccessMode::Inherit => Some(AccessBy::Inherit),
            AccessMode::Restrict if access.targets.contains(&target) => Some(AccessBy::Target),
            AccessMode::Restrict => group.map(|_| AccessBy::Group),
        };
        AccessReason {
            level,
            mode: access.mode,
            shadow: access.shadow,
            allowed: by.is_some(),
            by,
            name: group.filter(|_| by == Some(AccessBy::Group)).cloned(),
        }
    };
    levels.into_iter().map(reason).collect()
}

fn check(access: &Access, refusals: &mut Vec<FieldRefusal>) {
    let mut refuse = |member: &str, detail: String| {
        refusals.push(FieldRefusal::invalid(format!("access.{member}"), detail));
    };
    if access.targets.len() > TARGETS_MAX {
        refuse("targets", format!("at most {TARGETS_MAX} targets"));
    }
    if access.groups.len() > GROUPS_MAX {
        refuse("groups", format!("at most {GROUPS_MAX} groups"));
    }
    if access.mode == AccessMode::Inherit {
        // It would be kept and mean nothing.
        for (member, is_set) in [
            ("targets", !access.targets.is_empty()),
            ("groups", !access.groups.is_empty()),
            ("shadow", access.shadow),
        ] {
            if is_set {
                refuse(member, "only together with mode \"restrict\"".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restrict(targets: &[u128], groups: &[&str], shadow: bool) -> Access {
        Access {
            mode: AccessMode::Restrict,
            targets: targets.iter().map(|&it| TargetId::from_u128(it)).collect(),
            groups: groups.iter().map(|&it| it.to_owned()).collect(),
            shadow,
        }
    }

    #[test]
    fn a_change_merges_by_member() {
        let before = restrict(&[1], &["a"], false);
        let check = |patch, expected: Access| {
            let mut refusals = Vec::new();
            assert_eq!(merged(&before, &patch, &mut refusals), expected);
            assert_eq!(refusals, []);
        };
        check(AccessPatch::Clear, Access::default());
        check(AccessPatch::Merge(AccessMembers::default()), before.clone());
        check(
            AccessPatch::Merge(AccessMembers {
                groups: Some(Some(vec!["b".into(), "a".into(), "b".into()])),
                ..AccessMembers::default()
            }),
            restrict(&[1], &["a", "b"], false),
        );
        check(
            AccessPatch::Merge(AccessMembers {
                targets: Some(None),
                shadow: Some(Some(true)),
                ..AccessMembers::default()
            }),
            restrict(&[], &["a"], true),
        );
        for inherit in [Some(AccessMode::Inherit), None] {
            let mode = Some(inherit);
            check(
                AccessPatch::Merge(AccessMembers {
                    mode,
                    ..AccessMembers::default()
                }),
                Access::default(),
            );
        }
    }

    #[test]
    fn what_would_mean_nothing_or_not_fit_is_refused() {
        let check = |access: Access, expected: &[&str]| {
            let mut refusals = Vec::new();
            merged(&Access::default(), &AccessPatch::of(&access), &mut refusals);
            let fields: Vec<_> = refusals.iter().map(|it| it.field.as_str()).collect();
            assert_eq!(fields, expected);
        };
        check(restrict(&[], &[], false), &[]);
        let inherit = Access {
            mode: AccessMode::Inherit,
            ..restrict(&[1], &["a"], true)
        };
        check(
            inherit,
            &["access.targets", "access.groups", "access.shadow"],
        );
        let targets: Vec<u128> = (0..65).collect();
        check(restrict(&targets[..64], &[], false), &[]);
        check(restrict(&targets, &[], false), &["access.targets"]);
        let groups: Vec<String> = (0..33).map(|it| format!("g{it}")).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        check(restrict(&[], &groups[..32], false), &[]);
        check(restrict(&[], &groups, false), &["access.groups"]);
    }

    #[test]
    fn a_reason_says_what_lets_a_target_through() {
        let access = restrict(&[1], &["a", "b"], false);
        let check = |target, groups: &[&str], by, name: Option<&str>| {
            let groups: Vec<String> = groups.iter().map(|&it| it.to_owned()).collect();
            let target = TargetId::from_u128(target);
            let levels = [(AccessLevel::Key, &access)];
            let reason = reasons(levels, target, &groups).remove(0);
            assert_eq!((reason.by, reason.name.as_deref()), (by, name));
            assert_eq!(reason.allowed, access.lets(target, &groups));
        };
        check(1, &[], Some(AccessBy::Target), None);
        check(1, &["a"], Some(AccessBy::Target), None);
        check(2, &["x", "b"], Some(AccessBy::Group), Some("b"));
        check(2, &["x"], None, None);
        check(2, &[], None, None);
    }
}
