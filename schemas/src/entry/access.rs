//! Where a key or a team may go, as it was written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TargetId;

/// The most targets that one [`Access`] names.
pub const TARGETS_MAX: usize = 64;
/// The most groups that one [`Access`] names, and that one target is in.
pub const GROUPS_MAX: usize = 32;

/// What one level lets through. A key's level stands below its team's, and that below
/// the workspace's targets: a request passes when every level lets it.
///
/// It names targets by id and groups by name. What a group holds stands on the targets,
/// so a group gains a member without a change here; an id or a name that nothing answers
/// to lets nothing through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub struct Access {
    /// Whether the lists hold.
    pub mode: AccessMode,
    /// Targets that are let through, in order and each once; at most [`TARGETS_MAX`].
    #[serde(default)]
    pub targets: Vec<TargetId>,
    /// Groups whose targets are let through, in order and each once; at most
    /// [`GROUPS_MAX`].
    #[serde(default)]
    pub groups: Vec<String>,
    /// Only with `restrict`: this level refuses nothing; what it would refuse is logged
    /// and counted.
    #[serde(default)]
    pub shadow: bool,
}

/// What an [`Access`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// All that the level above lets through.
    #[default]
    Inherit,
    /// Only what the lists name; empty lists let nothing through.
    Restrict,
}

// === impl Access ===

impl Access {
    /// The oldest reader that keeps what this says. One that does not know access at all
    /// would let everything through, which is right unless this level refuses something.
    pub const fn min_reader(&self) -> u32 {
        if self.refuses() { 2 } else { 1 }
    }

    /// Whether this level lets everything through and has nothing to say about it: the
    /// default.
    pub fn is_inherit(&self) -> bool {
        self.mode == AccessMode::Inherit
    }

    /// Whether this level lets a target through that is in these groups, shadow or not.
    pub fn lets<G: AsRef<str>>(&self, target: TargetId, groups: &[G]) -> bool {
        let is_named = |group: &G| self.groups.iter().any(|it| it == group.as_ref());
        self.mode == AccessMode::Inherit
            || self.targets.contains(&target)
            || groups.iter().any(is_named)
    }

    /// Whether this level can refuse a request.
    pub const fn refuses(&self) -> bool {
        matches!(self.mode, AccessMode::Restrict) && !self.shadow
    }
}
