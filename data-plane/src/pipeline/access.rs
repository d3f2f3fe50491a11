//! Does the key's access include this target? Every level must let it through: the
//! workspace has the target, its team lets it, the key lets it.

use std::sync::atomic::{AtomicU64, Ordering};

use schemas::api::AccessLevel;

use crate::clock::Now;
use crate::rejection::{Code, Rejection};
use crate::table::access::Restriction;
use crate::table::policy::Group;
use crate::table::{Found, Target, Workspace};

/// Lines that the shadow writes in a second, at most: it is a hint, not a record.
const LINES_PER_SECOND: u64 = 5;

/// What the levels make of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The widest level that refuses it.
    pub refused: Option<AccessLevel>,
    /// The widest level in shadow that would refuse it.
    pub shadow: Option<AccessLevel>,
}

/// What restrictions in shadow would have refused, for the whole proxy.
#[derive(Debug, Default)]
pub struct Shadow {
    denied: AtomicU64,
    /// The second of the last line.
    second: AtomicU64,
    lines: AtomicU64,
}

// === impl Verdict ===

impl Verdict {
    /// What a key's levels make of a target.
    pub fn of(found: &Found, workspace: &Workspace, target: &Target) -> Self {
        let team = found.team.and_then(|team| workspace.team(team));
        let team = match team {
            Some(Group::Known { access, .. }) => access.as_deref(),
            // Such a key was not admitted.
            Some(Group::Unreadable) | None => None,
        };
        let mut verdict = Self::default();
        for (level, restriction) in [
            (AccessLevel::Team, team),
            (AccessLevel::Key, found.access.as_deref()),
        ] {
            let Some(restriction) = restriction.filter(|it: &&Restriction| !it.lets(target)) else {
                continue;
            };
            let place = match restriction.is_shadow {
                true => &mut verdict.shadow,
                false => &mut verdict.refused,
            };
            place.get_or_insert(level);
        }
        verdict
    }

    /// The refusal, if a level that is in force refuses.
    ///
    /// # Errors
    /// `target_not_allowed`.
    pub fn allowed(self) -> Result<(), Rejection> {
        let detail = match self.refused {
            None => return Ok(()),
            Some(AccessLevel::Team) => "The access of the key's team does not include this target.",
            Some(_) => "The key's access does not include this target.",
        };
        Err(Rejection::new(Code::TargetNotAllowed, detail))
    }
}

// === impl Shadow ===

impl Shadow {
    /// Notes a request that a restriction in shadow would have refused.
    pub fn note(&self, level: AccessLevel, found: &Found, target: &Target, now: Now) {
        self.denied.fetch_add(1, Ordering::Relaxed);
        let second = now.steady_ms / 1_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND {
            tracing::info!(
                level = ?level,
                key_id = %found.key_id,
                target_id = %target.id(),
                "a restriction in shadow would refuse this request"
            );
        }
    }

    /// How many there were.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}
