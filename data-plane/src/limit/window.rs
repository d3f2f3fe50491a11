//! A rolling count of events over a window, exact and without a lock.
//!
//! The window is cut into sub-buckets. An event is counted in the bucket of its tick and
//! leaves the count when that whole bucket is older than the window, so **no interval of
//! the window's length ever holds more than the cap**, and the full cap may be used at
//! once. A GCRA would be smaller, but admits up to twice the cap in one window.
//!
//! `total` is the gate: a compare-and-swap from below the cap to one more. The buckets
//! only remember when to take counts out of `total` again. Every race is decided towards
//! counting too long, never towards counting too little.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sub-buckets of a window of a second.
pub const SECOND_BUCKETS: usize = 10;
/// Sub-buckets of a window of a minute.
pub const MINUTE_BUCKETS: usize = 20;

/// A rolling count over `SLOTS - 1` ticks. `SLOTS` is one more than the sub-buckets,
/// because the tick that is being filled and the one that is about to leave are both
/// partly inside the window.
#[derive(Debug)]
pub struct Window<const SLOTS: usize> {
    /// Events that count now, and those whose bucket is about to be written.
    total: AtomicU64,
    /// The tick at which what had left was last taken out: most events find this tick
    /// here and look at no bucket but their own.
    swept: AtomicU64,
    /// Each bucket is its tick in the upper 32 bits and its count in the lower ones, so
    /// that one compare-and-swap changes both.
    buckets: [AtomicU64; SLOTS],
}

/// A count over one second.
pub type SecondWindow = Window<{ SECOND_BUCKETS + 1 }>;
/// A count over one minute.
pub type MinuteWindow = Window<{ MINUTE_BUCKETS + 1 }>;

/// Evidence of one counted event, with which it can be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    tick: u32,
    /// What counted right after this event, itself included.
    pub total: u64,
}

/// The cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Milliseconds until the oldest counted events leave the window.
    pub free_in_ms: u64,
}

// === impl Window ===

impl<const SLOTS: usize> Window<SLOTS> {
    /// Length of a tick in milliseconds.
    const TICK_MS: u64 = if SLOTS == SECOND_BUCKETS + 1 {
        1_000 / SECOND_BUCKETS as u64
    } else {
        60_000 / MINUTE_BUCKETS as u64
    };
    /// Ticks after which a bucket has left the window.
    const REACH: u32 = SLOTS as u32 - 1;

    /// An empty window.
    pub fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    /// Counts one event at `now_ms` (milliseconds on a clock that does not go back)
    /// unless `cap` events count already. Without a cap every event is counted.
    ///
    /// # Errors
    /// [`Full`]; nothing was counted.
    pub fn take(&self, now_ms: u64, cap: Option<u64>) -> Result<Taken, Full> {
        let tick = Self::tick(now_ms);
        self.sweep(tick);
        let total = match cap {
            None => self.total.fetch_add(1, Ordering::AcqRel) + 1,
            Some(cap) => {
                self.total
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |total| {
                        (total < cap).then_some(total + 1)
                    })
                    .map_err(|_| Full {
                        free_in_ms: self.free_in_ms(now_ms),
                    })?
                    + 1
            }
        };
        let tick = self.count(tick);
        Ok(Taken { tick, total })
    }

    /// Puts one counted event back. An event whose bucket has left the window is no
    /// longer counted, so there is nothing to put back.
    pub fn give_back(&self, taken: Taken) {
        let bucket = &self.buckets[Self::slot(taken.tick)];
        let found = bucket.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let (tick, count) = unpack(word);
            (tick == taken.tick && count > 0).then(|| pack(tick, count - 1))
        });
        if found.is_ok() {
            self.total.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How many events count at `now_ms`.
    pub fn used(&self, now_ms: u64) -> u64 {
        self.sweep(Self::tick(now_ms));
        self.total.load(Ordering::Acquire)
    }

    /// Milliseconds until the oldest counted events leave; at least 1. One tick when
    /// nothing counts.
    pub fn free_in_ms(&self, now_ms: u64) -> u64 {
        let now_tick = Self::tick(now_ms);
        let oldest_age = self
            .buckets
            .iter()
            .map(|bucket| unpack(bucket.load(Ordering::Acquire)))
            .filter(|&(tick, count)| count > 0 && now_tick.saturating_sub(tick) <= Self::REACH)
            .map(|(tick, _)| now_tick.saturating_sub(tick))
            .max();
        let Some(age) = oldest_age else {
            return 1;
        };
        let leaves_ms = (u64::from(now_tick - age) + u64::from(Self::REACH) + 1) * Self::TICK_MS;
        leaves_ms.saturating_sub(now_ms).max(1)
    }

    fn tick(now_ms: u64) -> u32 {
        // Tick 0 stands for a bucket that was never written.
        u32::try_from(now_ms / Self::TICK_MS)
            .unwrap_or(u32::MAX)
            .max(1)
    }

    fn slot(tick: u32) -> usize {
        tick as usize % SLOTS
    }

    /// Takes what has left the window out of `total`. Any thread may do it; the bucket is
    /// emptied first, so that no count is taken out twice.
    fn sweep(&self, now_tick: u32) {
        if self.swept.load(Ordering::Acquire) >= u64::from(now_tick) {
            return;
        }
        for bucket in &self.buckets {
            let word = bucket.load(Ordering::Relaxed);
            let (tick, count) = unpack(word);
            if count > 0
                && now_tick.saturating_sub(tick) > Self::REACH
                && bucket
                    .compare_exchange(word, pack(tick, 0), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                self.total.fetch_sub(u64::from(count), Ordering::AcqRel);
            }
        }
        // Only now: who finds this tick here must find the total without them.
        self.swept.fetch_max(u64::from(now_tick), Ordering::AcqRel);
    }

    /// Writes one event into the bucket of `tick`, or into a newer one that has taken its
    /// place meanwhile; returns the tick it was written under.
    fn count(&self, tick: u32) -> u32 {
        let bucket = &self.buckets[Self::slot(tick)];
        let mut word = bucket.load(Ordering::Relaxed);
        loop {
            let (held, count) = unpack(word);
            let (next, left_over) = if held >= tick {
                (pack(held, count.saturating_add(1)), 0)
            } else {
                (pack(tick, 1), count)
            };
            match bucket.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    if left_over > 0 {
                        self.total.fetch_sub(u64::from(left_over), Ordering::AcqRel);
                    }
                    return held.max(tick);
                }
                Err(changed) => word = changed,
            }
        }
    }
}

impl<const SLOTS: usize> Default for Window<SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}

fn pack(tick: u32, count: u32) -> u64 {
    u64::from(tick) << 32 | u64::from(count)
}

fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests;
