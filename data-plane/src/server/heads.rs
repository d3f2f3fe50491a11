//! What heads that are not whole may take of the memory, all together.
//!
//! A head may have 64 KiB and ten seconds, and a client that sends one byte a second has
//! paid for neither. So the small ones are free, and the others share one account for each
//! worker: when it is empty, the head that began first goes. That is never a client that
//! sends its head in one piece, because such a head is whole before anybody counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::lane::Lane;

/// A head of up to so many bytes is not counted: the buffer of a connection has them
/// anyway.
const FREE_BYTES: usize = 4 << 10;

/// The account of one worker.
#[derive(Debug)]
pub struct Heads {
    bytes_max: usize,
    bytes: Cell<usize>,
    next: Cell<u64>,
    /// By when they were first counted.
    lanes: RefCell<BTreeMap<u64, Weak<Lane>>>,
}

/// What one lane has of the account.
#[derive(Debug)]
pub struct Share {
    heads: Rc<Heads>,
    /// What came of the head.
    bytes: Cell<usize>,
    /// What of it is counted, and since when.
    counted: Cell<Option<(u64, usize)>>,
    was_shed: Cell<bool>,
}

// === impl Heads ===

impl Heads {
    /// An account of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: Cell::new(0),
            next: Cell::new(0),
            lanes: RefCell::default(),
        }
    }

    fn enter(&self, lane: &Rc<Lane>) -> u64 {
        let at = self.next.get();
        self.next.set(at + 1);
        self.lanes.borrow_mut().insert(at, Rc::downgrade(lane));
        at
    }

    fn make_room(&self) {
        while self.bytes.get() > self.bytes_max {
            let first = self.lanes.borrow_mut().pop_first();
            let Some((_, lane)) = first else { return };
            if let Some(lane) = lane.upgrade() {
                tracing::debug!("an unfinished head was given up: there are too many");
                lane.shed();
            }
        }
    }

    fn leave(&self, at: u64, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.lanes.borrow_mut().remove(&at);
    }
}

// === impl Share ===

impl Share {
    /// Nothing yet.
    pub fn of(heads: &Rc<Heads>) -> Self {
        Self {
            heads: Rc::clone(heads),
            bytes: Cell::new(0),
            counted: Cell::new(None),
            was_shed: Cell::new(false),
        }
    }

    /// The account.
    pub fn heads(&self) -> &Rc<Heads> {
        &self.heads
    }

    /// More of the head of `lane` has come.
    pub fn grow(&self, bytes: usize, lane: &Rc<Lane>) {
        let bytes = self.bytes.get() + bytes;
        self.bytes.set(bytes);
        if bytes <= FREE_BYTES || self.was_shed.get() {
            return;
        }
        let (at, before) = match self.counted.get() {
            Some(counted) => counted,
            None => (self.heads.enter(lane), 0),
        };
        self.counted.set(Some((at, bytes)));
        self.heads
            .bytes
            .set(self.heads.bytes.get() + bytes - before);
        self.heads.make_room();
    }

    /// The head is whole, or nobody waits for it any longer.
    pub fn clear(&self) {
        self.bytes.set(0);
        if let Some((at, bytes)) = self.counted.take() {
            self.heads.leave(at, bytes);
        }
    }

    /// Gives the share back for good.
    pub fn mark_shed(&self) {
        self.clear();
        self.was_shed.set(true);
    }

    /// Whether [`Share::mark_shed`] was called.
    pub fn was_shed(&self) -> bool {
        self.was_shed.get()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lane(heads: &Rc<Heads>) -> Rc<Lane> {
        let brief = Duration::from_secs(1);
        Rc::new(Lane::new([127, 0, 0, 1].into(), heads, brief, brief))
    }

    #[test]
    fn the_head_that_began_first_makes_room() {
        let heads = Rc::new(Heads::new(20_000));
        let lanes: Vec<_> = (0..3).map(|_| lane(&heads)).collect();
        for lane in &lanes {
            lane.head_grew(7_000);
        }
        let shed: Vec<_> = lanes.iter().map(|it| it.was_shed()).collect();
        assert_eq!(shed, [true, false, false]);
        assert_eq!(heads.bytes.get(), 14_000);
    }

    #[test]
    fn small_heads_whole_ones_and_those_that_left_cost_nothing() {
        let heads = Rc::new(Heads::new(10_000));
        let small: Vec<_> = (0..100).map(|_| lane(&heads)).collect();
        for lane in &small {
            lane.head_grew(FREE_BYTES);
        }
        assert_eq!(heads.bytes.get(), 0);
        let (whole, gone) = (lane(&heads), lane(&heads));
        whole.head_grew(9_000);
        whole.begin(whole.now());
        gone.head_grew(9_000);
        drop(gone);
        assert_eq!(heads.bytes.get(), 0);
        assert!(heads.lanes.borrow().is_empty());
        assert!(!whole.was_shed());
    }
}
