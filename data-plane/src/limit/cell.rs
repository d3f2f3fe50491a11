//! Where counts live: a pool of windows for each key, team, owner and workspace, and for
//! each secret what was used of it and not yet reported.
//!
//! Cells are made at the first use and found by id, never by table entry, so that counts
//! outlive a rotated secret, a changed limit and a rebuilt table. A cell that nobody used
//! for two minutes counts nothing any more and is let go.
//!
//! **Letting go.** Each use first writes its time into the cell (`touched_s`); the
//! sweeper retires a cell by a compare-and-swap from a stale time. So a retired cell has
//! no use in the making, and whoever meets one starts a fresh cell: no count is lost.
//!
//! **Reporting uses.** A use is marked *before* the request's last look at the table. A
//! proxy that says "position P, all uses up to there" first swapped the table, then
//! collected; both sides order the two by a sequentially consistent fence, so a request
//! that the old table admitted has its mark in the report. Marks reach the collector
//! through two queues, one per parity of its round: a cell is queued once a round, and the
//! queue that is being emptied is never the one that is being filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering, fence};

use crossbeam_queue::SegQueue;
use hashbrown::DefaultHashBuilder;
use papaya::{HashMap, Operation};
use schemas::fleet::Use;
use schemas::{KeyId, SecretId};

use super::window::{MinuteWindow, SecondWindow, Taken};
use super::{PoolFull, Rates, Span};

/// A cell that nobody used for this long is let go, in seconds. Longer than the longest
/// window, so that nothing in it counts any more.
pub const IDLE_S: u64 = 120;

/// `touched_s` of a cell that was let go.
const RETIRED: u64 = u64::MAX;

/// The counts of one scope.
#[derive(Debug, Default)]
pub struct Pool {
    /// When it was last used; the pools of keys are let go by it.
    touched_s: AtomicU64,
    second: SecondWindow,
    minute: MinuteWindow,
}

/// What is kept of one secret.
#[derive(Debug)]
pub struct SecretCell {
    key_id: KeyId,
    secret_id: SecretId,
    /// The counts of the key, which its secrets share.
    pool: Arc<Pool>,
    touched_s: AtomicU64,
    /// The collector's round in which this cell was queued.
    queued_round: AtomicU64,
    /// Unix milliseconds of the first use since the last collection; 0 is none.
    first_ms: AtomicI64,
    /// Unix milliseconds of the last use.
    last_ms: AtomicI64,
    /// Uses since the last collection.
    requests: AtomicU64,
    /// Whether the control plane has acknowledged a use of this secret.
    known_used: AtomicBool,
}

/// A use that was collected.
#[derive(Debug, Clone)]
pub struct CollectedUse {
    /// What is reported.
    pub spent: Use,
    /// Whether no use of this secret was acknowledged yet: these go first, because a
    /// purge waits for them.
    pub is_first: bool,
    cell: Arc<SecretCell>,
}

/// All cells of a proxy.
#[derive(Debug)]
pub struct Cells {
    secrets: HashMap<u128, Arc<SecretCell>, DefaultHashBuilder>,
    keys: HashMap<u128, Arc<Pool>, DefaultHashBuilder>,
    round: AtomicU64,
    used: [SegQueue<Arc<SecretCell>>; 2],
}

// === impl Pool ===

impl Pool {
    /// Counts one request in both windows, or in none.
    pub(crate) fn take(&self, now_ms: u64, rates: Rates) -> Result<(Taken, Taken), PoolFull> {
        let second = self
            .second
            .take(now_ms, rates.rps)
            .map_err(|full| (Span::Second, full))?;
        match self.minute.take(now_ms, rates.rpm) {
            Ok(minute) => Ok((second, minute)),
            Err(full) => {
                self.second.give_back(second);
                Err((Span::Minute, full))
            }
        }
    }

    pub(crate) fn give_back(&self, second: Taken, minute: Taken) {
        self.second.give_back(second);
        self.minute.give_back(minute);
    }

    pub(crate) fn used(&self, now_ms: u64) -> (u64, u64) {
        (self.second.used(now_ms), self.minute.used(now_ms))
    }

    pub(crate) fn free_in_ms(&self, span: Span, now_ms: u64) -> u64 {
        match span {
            Span::Second => self.second.free_in_ms(now_ms),
            Span::Minute => self.minute.free_in_ms(now_ms),
        }
    }
}

// === impl SecretCell ===

impl SecretCell {
    /// The counts of the key.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// False when the cell was let go.
    fn touch(&self, now_s: u64) -> bool {
        touch(&self.touched_s, now_s) && touch(&self.pool.touched_s, now_s)
    }
}

// === impl CollectedUse ===

impl CollectedUse {
    /// The control plane has it.
    pub fn acknowledge(&self) {
        self.cell.known_used.store(true, Ordering::Relaxed);
    }

    /// Adds a later use of the same secret.
    pub fn merge(&mut self, later: &Self) {
        self.spent.first_at_ms = self.spent.first_at_ms.min(later.spent.first_at_ms);
        self.spent.last_at_ms = self.spent.last_at_ms.max(later.spent.last_at_ms);
        self.spent.requests += later.spent.requests;
        self.cell = Arc::clone(&later.cell);
    }
}

// === impl Cells ===

impl Cells {
    /// No cells yet.
    pub fn new() -> Self {
        Self {
            secrets: HashMap::with_hasher(DefaultHashBuilder::default()),
            keys: HashMap::with_hasher(DefaultHashBuilder::default()),
            round: AtomicU64::new(1),
            used: [SegQueue::new(), SegQueue::new()],
        }
    }

    /// The cell of a secret, made when it is not there. `now_ms` is of the steady clock.
    pub fn secret(&self, key_id: KeyId, secret_id: SecretId, now_ms: u64) -> Arc<SecretCell> {
        let now_s = now_ms / 1_000;
        let secrets = self.secrets.pin();
        loop {
            if let Some(cell) = secrets.get(&secret_id.to_u128()) {
                if cell.touch(now_s) {
                    return Arc::clone(cell);
                }
                let retired = cell;
                let _ = secrets.remove_if(&secret_id.to_u128(), |_, it| Arc::ptr_eq(it, retired));
            }
            let fresh = Arc::new(SecretCell {
                key_id,
                secret_id,
                pool: self.key(key_id, now_s),
                touched_s: AtomicU64::new(now_s),
                queued_round: AtomicU64::new(0),
                first_ms: AtomicI64::new(0),
                last_ms: AtomicI64::new(0),
                requests: AtomicU64::new(0),
                known_used: AtomicBool::new(false),
            });
            let cell = secrets.get_or_insert(secret_id.to_u128(), fresh);
            if cell.touch(now_s) {
                return Arc::clone(cell);
            }
        }
    }

    /// Marks one use at `unix_ms`. Call it before the request's last look at the table.
    pub fn mark_used(&self, cell: &Arc<SecretCell>, unix_ms: i64) {
        cell.last_ms.fetch_max(unix_ms, Ordering::Relaxed);
        let _ = cell
            .first_ms
            .compare_exchange(0, unix_ms, Ordering::Relaxed, Ordering::Relaxed);
        cell.requests.fetch_add(1, Ordering::SeqCst);
        let round = self.round.load(Ordering::SeqCst);
        if cell.queued_round.load(Ordering::SeqCst) != round {
            self.used[(round & 1) as usize].push(Arc::clone(cell));
            cell.queued_round.store(round, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Everything that was marked since the last collection. One thread collects.
    pub fn collect(&self) -> Vec<CollectedUse> {
        fence(Ordering::SeqCst);
        let ended = self.round.fetch_add(1, Ordering::SeqCst);
        let queue = &self.used[(ended & 1) as usize];
        let mut uses = Vec::with_capacity(queue.len());
        while let Some(cell) = queue.pop() {
            let requests = cell.requests.swap(0, Ordering::SeqCst);
            let first_at_ms = cell.first_ms.swap(0, Ordering::Relaxed);
            if requests == 0 {
                // Queued twice, or marked between two rounds and already collected.
                continue;
            }
            let last_at_ms = cell.last_ms.load(Ordering::Relaxed);
            uses.push(CollectedUse {
                spent: Use {
                    key_id: cell.key_id,
                    secret_id: cell.secret_id,
                    first_at_ms: if first_at_ms == 0 {
                        last_at_ms
                    } else {
                        first_at_ms
                    },
                    last_at_ms,
                    requests,
                },
                is_first: !cell.known_used.load(Ordering::Relaxed),
                cell,
            });
        }
        uses
    }

    /// Lets go of cells that nobody used for [`IDLE_S`]; `now_ms` is of the steady clock.
    pub fn sweep(&self, now_ms: u64) {
        let now_s = now_ms / 1_000;
        self.secrets
            .pin()
            .retain(|_, cell| !retire(&cell.touched_s, now_s));
        self.keys
            .pin()
            .retain(|_, cell| !retire(&cell.touched_s, now_s));
    }

    /// Secrets that have a cell.
    pub fn len(&self) -> usize {
        self.secrets.pin().len()
    }

    /// Whether no secret has a cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, key_id: KeyId, now_s: u64) -> Arc<Pool> {
        let keys = self.keys.pin();
        let fresh = || {
            Arc::new(Pool {
                touched_s: AtomicU64::new(now_s),
                ..Pool::default()
            })
        };
        // One atomic step decides between keeping the cell and replacing a retired one,
        // so that two secrets of a key never end up with two pools.
        let found = keys.compute(key_id.to_u128(), |held| match held {
            Some((_, cell)) if touch(&cell.touched_s, now_s) => Operation::Abort(Arc::clone(cell)),
            _ => Operation::Insert(fresh()),
        });
        match found {
            papaya::Compute::Inserted(_, cell) => Arc::clone(cell),
            papaya::Compute::Updated { new: (_, cell), .. } => Arc::clone(cell),
            papaya::Compute::Aborted(cell) => cell,
            papaya::Compute::Removed(..) => unreachable!("this computation never removes"),
        }
    }
}

impl Default for Cells {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes the time of a use; false when the cell was let go.
fn touch(touched_s: &AtomicU64, now_s: u64) -> bool {
    let mut held = touched_s.load(Ordering::Acquire);
    // Most requests find the second already written and write nothing.
    while held < now_s {
        match touched_s.compare_exchange_weak(held, now_s, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(changed) => held = changed,
        }
    }
    held != RETIRED
}

/// Lets a cell go if nobody used it for long; true when it is gone.
fn retire(touched_s: &AtomicU64, now_s: u64) -> bool {
    let held = touched_s.load(Ordering::Acquire);
    held == RETIRED
        || held.saturating_add(IDLE_S) < now_s
            && touched_s
                .compare_exchange(held, RETIRED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
}

#[cfg(test)]
mod tests;
