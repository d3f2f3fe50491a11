//! What the rest of the proxy sees of the follower: a few words that requests read
//! without a lock.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use schemas::fleet::FollowerState;
use schemas::{LineageId, Position};

/// What a request may conclude when the table does not hold its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The table is current: there is no such secret.
    IsFinal,
    /// The table may be behind: ask the region for this one secret.
    AskRegion,
    /// Neither the table nor the region can tell.
    CannotTell,
}

/// A place in the history of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The history; `None` before the first table.
    pub lineage: Option<LineageId>,
    /// Its generation.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// Every event up to here is in the table.
    pub position: Position,
}

/// The follower's state for everybody else.
#[derive(Debug, Default)]
pub struct Status {
    ready: AtomicBool,
    miss: AtomicU8,
    state: AtomicU8,
    /// When the region was last heard, on the steady clock.
    word_ms: AtomicU64,
    /// Not read by requests.
    place: Mutex<Place>,
}

const STATES: [FollowerState; 6] = [
    FollowerState::Boot,
    FollowerState::Snapshot,
    FollowerState::Follow,
    FollowerState::Gap,
    FollowerState::Resync,
    FollowerState::Stale,
];

const MISSES: [Miss; 3] = [Miss::CannotTell, Miss::AskRegion, Miss::IsFinal];

// === impl Status ===

impl Status {
    /// Whether requests may be admitted: a table is loaded, the control plane has
    /// answered this boot, and the table has once reached what was heard of.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What a miss means now.
    pub fn miss(&self) -> Miss {
        MISSES[usize::from(self.miss.load(Ordering::Acquire)) % MISSES.len()]
    }

    /// The follower's state.
    pub fn state(&self) -> FollowerState {
        STATES[usize::from(self.state.load(Ordering::Acquire)) % STATES.len()]
    }

    /// Where the table stands.
    pub fn place(&self) -> Place {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How old the newest word of the region is, in milliseconds.
    pub fn freshness_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.word_ms.load(Ordering::Relaxed))
    }

    pub(super) fn publish(
        &self,
        state: FollowerState,
        miss: Miss,
        ready: bool,
        place: Place,
        word_ms: u64,
    ) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
        self.word_ms.store(word_ms, Ordering::Relaxed);
        let state = STATES.iter().position(|&it| it == state).unwrap_or(0);
        let miss = MISSES.iter().position(|&it| it == miss).unwrap_or(0);
        self.state.store(state as u8, Ordering::Release);
        self.miss.store(miss as u8, Ordering::Release);
        self.ready.store(ready, Ordering::Release);
    }
}
