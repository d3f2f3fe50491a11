//! What the proxy believes of what comes from its region.
//!
//! Redis and NATS are only carriers: whoever can write there can say anything. A message
//! that the region's control plane did not sign is dropped here, before anything looks at
//! what it says, and counted; an alarm tells of it now and then. So a forged message costs
//! its signature check and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::seal::{Error, Signed, Trust};
use schemas::stream::{Digests, Meta, MetaFields, Part};

use super::machine::Notice;
use super::source::Message;
use crate::clock::Clock;
use crate::metrics::FollowCounters;

/// An alarm is logged at most this often.
const ALARM_EVERY_MS: u64 = 10_000;

/// Trust in one region, and the count of what did not deserve it.
#[derive(Debug, Clone)]
pub struct Verifier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    trust: Trust,
    clock: Arc<Clock>,
    counters: Arc<FollowCounters>,
    /// When the last alarm was, on the steady clock, plus one; 0 is never.
    alarmed_ms: AtomicU64,
}

// === impl Verifier ===

impl Verifier {
    /// Believes what `trust` believes.
    pub fn new(trust: Trust, clock: Arc<Clock>, counters: Arc<FollowCounters>) -> Self {
        Self(Arc::new(Shared {
            trust,
            clock,
            counters,
            alarmed_ms: AtomicU64::new(0),
        }))
    }

    /// What it believes by.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// What a message says; `None` where it is not used.
    pub(super) fn message(&self, message: &Message) -> Option<Notice> {
        match message {
            Message::Frame(frame) => self.believed(self.trust().frame(frame)).map(Notice::Frame),
            Message::Heartbeat(beat) => self
                .believed(self.trust().heartbeat(beat))
                .map(Notice::Heartbeat),
            Message::Lost => Some(Notice::Lost),
        }
    }

    /// A frame of the feed; `None` where it is not used.
    pub(super) fn frame(&self, frame: &Signed) -> Option<schemas::stream::Frame> {
        self.believed(self.trust().frame(frame))
    }

    /// What the region says of itself; `None` where it is not used.
    pub(super) fn meta(&self, fields: &MetaFields) -> Option<Meta> {
        self.believed(self.trust().meta(fields))
    }

    /// The digests in a part of the table; `None` where the region is empty or they are not
    /// used.
    pub(super) fn digests(&self, part: &Part) -> Option<Digests> {
        self.believed(part.digests(self.trust())).flatten()
    }

    /// A report, with what proves it.
    pub(super) fn renewal(&self, renewal: &Renewal) -> Signed {
        self.trust().renewal(renewal)
    }

    /// The answer to a report; `None` where it is not used.
    pub(super) fn answer(&self, answer: &Signed) -> Option<RenewalAnswer> {
        self.believed(self.trust().answer(answer))
    }

    /// What was read, or nothing, which is counted.
    pub(super) fn believed<T>(&self, read: Result<T, Error>) -> Option<T> {
        read.inspect_err(|err| self.doubt(err)).ok()
    }

    /// Counts something that is not used.
    pub(super) fn doubt(&self, err: &Error) {
        if let Error::Unverified(kind) = err {
            self.0
                .counters
                .unverified(*kind)
                .fetch_add(1, Ordering::Relaxed);
        }
        let now_ms = self.0.clock.now().steady_ms + 1;
        let alarmed_ms = self.0.alarmed_ms.load(Ordering::Relaxed);
        if alarmed_ms == 0 || now_ms >= alarmed_ms + ALARM_EVERY_MS {
            self.0.alarmed_ms.store(now_ms, Ordering::Relaxed);
            tracing::error!(error = %err, "something of the region is not used");
        }
    }
}
