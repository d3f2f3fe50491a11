//! How did it end? Counted once for every request, whichever way it ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::identify::{Arrival, RequestId};
use crate::metrics::{Outcome, add};
use crate::server::Worker;
use crate::server::lane::Lane;

/// The record of one request. It closes when it is dropped: after the last piece of the
/// answer, or when the client has gone and everything about the request is thrown away.
#[derive(Debug)]
pub struct Record {
    worker: Rc<Worker>,
    /// The client's connection, on which the request's time runs.
    pub lane: Rc<Lane>,
    request_id: RequestId,
    outcome: Cell<Outcome>,
}

// === impl Record ===

impl Record {
    /// Opens the record of a request that has just come.
    pub fn open(worker: Rc<Worker>, lane: Rc<Lane>, arrival: &Arrival) -> Self {
        let total = Duration::from_millis(worker.shared.config.bounds.total_ms);
        lane.begin(arrival.instant + total);
        Self {
            worker,
            lane,
            request_id: arrival.request_id,
            outcome: Cell::new(Outcome::Left),
        }
    }

    /// How the request ends, unless something later changes it.
    pub fn ends(&self, outcome: Outcome) {
        self.outcome.set(outcome);
    }

    /// Bytes of the answer were passed on.
    pub fn passed_on(&self, bytes: usize) {
        add(&self.worker.counters.response_bytes, bytes as u64);
    }

    /// The worker that serves the request.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = self.outcome.get();
        self.worker.counters.count(outcome);
        self.lane.end();
        tracing::trace!(
            request_id = self.request_id.as_str(),
            ?outcome,
            "a request ended"
        );
    }
}
