//! Access, compiled when it arrives: at request time it is a search in short sorted lists.

use std::sync::Arc;

use schemas::TargetId;
use schemas::entry::{Access, AccessMode};

use super::policy::Target;

/// What a team or a key lets through. There is none where it inherits.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Restriction {
    /// In order.
    targets: Box<[TargetId]>,
    /// In order.
    groups: Box<[Box<str>]>,
    /// It refuses nothing; what it would refuse is counted.
    pub is_shadow: bool,
}

// === impl Restriction ===

impl Restriction {
    /// `None` where all that the level above lets through passes.
    pub(crate) fn compile(access: &Access) -> Option<Arc<Self>> {
        if access.mode == AccessMode::Inherit {
            return None;
        }
        let mut targets = access.targets.clone();
        targets.sort_unstable();
        let mut groups: Vec<Box<str>> = access.groups.iter().map(|it| it.as_str().into()).collect();
        groups.sort_unstable();
        Some(Arc::new(Self {
            targets: targets.into(),
            groups: groups.into(),
            is_shadow: access.shadow,
        }))
    }

    /// Whether it names the target or a group that the target is in.
    pub fn lets(&self, target: &Target) -> bool {
        let is_named = |group: &String| {
            self.groups
                .binary_search_by(|it| (**it).cmp(group.as_str()))
                .is_ok()
        };
        self.targets.binary_search(&target.id()).is_ok()
            || target.policy.groups.iter().any(is_named)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::api::AccessLevel;
    use schemas::entry::{Policy, SecretStatus, TargetPolicy, TeamPolicy};
    use schemas::{Limits, TeamId};

    use super::*;
    use crate::pipeline::access::Verdict;
    use crate::table::KeyTable;
    use crate::testing::{WORKSPACE, change, credential, policy, secret, target, workspace};

    const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
    const TEAM: TeamId = TeamId::from_u128(7);

    fn groups() -> impl Strategy<Value = Vec<String>> {
        let chosen = proptest::sample::subsequence(&GROUPS[..], 0..=GROUPS.len());
        chosen.prop_map(|it| it.into_iter().map(str::to_owned).collect())
    }

    /// Ids of targets that there are (1 to 4) and that there are not.
    fn access() -> impl Strategy<Value = Access> {
        let targets = proptest::collection::vec(1..8_u128, 0..4);
        let mode = prop_oneof![Just(AccessMode::Inherit), Just(AccessMode::Restrict)];
        (mode, targets, groups(), any::<bool>()).prop_map(|(mode, targets, groups, shadow)| {
            Access {
                mode,
                targets: targets.into_iter().map(TargetId::from_u128).collect(),
                groups,
                shadow,
            }
        })
    }

    fn named(id: u128, groups: Vec<String>) -> TargetPolicy {
        TargetPolicy {
            target_id: TargetId::from_u128(id),
            name: format!("t{id}"),
            groups,
            ..target("t", "127.0.0.1:9".parse().unwrap())
        }
    }

    proptest! {
        /// What the compiled lists say is what the words of the contract say, for every
        /// level by itself and for all of them together.
        #[test]
        fn the_levels_only_narrow(
            of_team in access(),
            of_key in access(),
            memberships in proptest::collection::vec(groups(), 4),
        ) {
            let table = KeyTable::new();
            let mut entry = secret(1, SecretStatus::Active);
            entry.team_id = Some(TEAM);
            entry.access = of_key.clone();
            let mut changes = vec![
                policy(Policy::Workspace(workspace())),
                policy(Policy::Team(TeamPolicy {
                    team_id: TEAM,
                    workspace_id: WORKSPACE,
                    blocked: false,
                    limits: Limits::default(),
                    access: of_team.clone(),
                })),
                change(1, entry),
            ];
            for (id, groups) in (1..).zip(&memberships) {
                changes.push(policy(Policy::Target(named(id, groups.clone()))));
            }
            table.apply(&changes);

            let found = table.get(&credential(1).hash()).unwrap();
            let policies = table.policies();
            let compiled = policies.workspace(found.workspace).unwrap();
            for (id, groups) in (1..).zip(&memberships) {
                let target = compiled.target_by_name(&format!("t{id}")).unwrap();
                let verdict = Verdict::of(&found, compiled, target);
                let says_no = |level: AccessLevel, access: &Access, shadow: bool| {
                    let is_listed = access.targets.iter().any(|it| it.to_u128() == id)
                        || access.groups.iter().any(|it| groups.contains(it));
                    let is_no = access.mode == AccessMode::Restrict
                        && !is_listed
                        && access.shadow == shadow;
                    is_no.then_some(level)
                };
                let expected = |shadow| {
                    says_no(AccessLevel::Team, &of_team, shadow)
                        .or(says_no(AccessLevel::Key, &of_key, shadow))
                };
                prop_assert_eq!(verdict.refused, expected(false));
                prop_assert_eq!(verdict.shadow, expected(true));
                prop_assert_eq!(verdict.allowed().is_ok(), expected(false).is_none());
            }
        }
    }

    #[test]
    fn a_wildcard_covers_one_label_and_no_host_that_has_its_own_target() {
        let table = KeyTable::new();
        let at = |id: u128, host: &str| {
            let mut it = named(id, Vec::new());
            it.host = host.to_owned();
            policy(Policy::Target(it))
        };
        table.apply(&[
            change(1, secret(1, SecretStatus::Active)),
            at(1, "*.example.com"),
            at(2, "api.example.com"),
            at(3, "*.api.example.com"),
        ]);
        let found = table.get(&credential(1).hash()).unwrap();
        let policies = table.policies();
        let compiled = policies.workspace(found.workspace).unwrap();
        let check = |host: &str, expected: Option<u128>| {
            let covering = compiled.targets_by_wildcard(host).first();
            assert_eq!(covering.map(|it| it.id().to_u128()), expected, "{host}");
        };
        check("www.example.com", Some(1));
        check("x-1.example.com", Some(1));
        check("a.api.example.com", Some(3));
        for host in [
            "api.example.com",
            "example.com",
            "com",
            "",
            ".example.com",
            "a.b.example.com",
            "a.b.api.example.com",
            "wwwexample.com",
            "www.example.com.evil.org",
            "*.example.com",
            "www.example.org",
        ] {
            let expected = (host == "*.example.com").then_some(1);
            check(host, expected);
        }
        assert!(compiled.targets_by_host("*.example.com").is_empty());
    }
}
