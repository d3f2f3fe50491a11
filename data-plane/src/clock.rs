//! Two times: one that only ever moves forward for limits and deadlines, and the unix
//! time by which keys expire.
//!
//! A proxy's *now* is the later of its own wall clock and what the control plane last
//! said plus what passed since, and it never goes back: a wall clock that is set back
//! must not bring an expired key to life.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The clock of one proxy, shared by all its threads.
#[derive(Debug)]
pub struct Clock {
    /// Where the steady time counts from.
    started: Instant,
    /// The unix time at `started`, by the most advanced source heard so far. It only
    /// rises, so that no reader sees time go back.
    started_unix_ms: AtomicI64,
}

/// One reading of the clock, passed down so that a request is judged at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the proxy started; never goes back.
    pub steady_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: i64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            started_unix_ms: AtomicI64::new(wall_unix_ms()),
        }
    }

    /// Both times.
    pub fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// Both times at an instant that was already read.
    pub fn at(&self, instant: Instant) -> Now {
        let steady_ms = millis(instant.saturating_duration_since(self.started));
        Now {
            steady_ms,
            unix_ms: self
                .started_unix_ms
                .load(Ordering::Relaxed)
                .saturating_add_unsigned(steady_ms),
        }
    }

    /// Takes in what another clock says it is now. A clock that is behind changes nothing.
    pub fn learn(&self, unix_ms: i64) {
        let passed_ms = millis(self.started.elapsed());
        self.started_unix_ms.fetch_max(
            unix_ms.saturating_sub_unsigned(passed_ms),
            Ordering::Relaxed,
        );
    }

    /// Takes in the machine's own wall clock; called about once a second.
    pub fn learn_from_wall(&self) {
        self.learn(wall_unix_ms());
    }
}

fn wall_unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_changes_nothing_and_one_ahead_is_followed() {
        let clock = Clock::start();
        let before = clock.now().unix_ms;
        clock.learn(before - 60_000);
        assert!(clock.now().unix_ms >= before);
        clock.learn(before + 60_000);
        assert!(clock.now().unix_ms >= before + 60_000);
        clock.learn_from_wall();
        assert!(clock.now().unix_ms >= before + 60_000);
    }
}
