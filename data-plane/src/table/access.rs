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
