//! Counters, one set per worker, so that no request touches memory that another core
//! writes. They are added up when somebody looks.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::seal::Kind;

use crate::rejection::Code;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's answer was passed on whole, or the proxy's own given.
    Served,
    /// It was refused.
    Refused(Code),
    /// The answer was cut after its head had gone.
    Cut,
    /// The client went away.
    Left,
}

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Counters {
    served: AtomicU64,
    cut: AtomicU64,
    left: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
    /// Bytes of request bodies passed on.
    pub request_bytes: AtomicU64,
    /// Bytes of answers passed on.
    pub response_bytes: AtomicU64,
    /// Connections of clients accepted.
    pub connections: AtomicU64,
    /// Connections to upstreams made.
    pub upstream_connects: AtomicU64,
    /// Requests that went over a connection that was already there.
    pub upstream_reuses: AtomicU64,
}

/// What the follower and the renewer count.
#[derive(Debug, Default)]
pub struct FollowCounters {
    /// Frames applied.
    pub frames_applied: AtomicU64,
    /// Times that a message was missing.
    pub gaps: AtomicU64,
    /// Snapshots read.
    pub snapshots: AtomicU64,
    /// Words of the region that contradict what this proxy knows.
    pub alarms: AtomicU64,
    /// Renewals answered.
    pub renewals: AtomicU64,
    /// Renewals without an answer.
    pub renewals_failed: AtomicU64,
    /// Exact look-ups made.
    pub lookups: AtomicU64,
    /// Exact look-ups that gave no answer.
    pub lookups_failed: AtomicU64,
    /// Times that the table was not what the region's digest says.
    pub table_mismatch: AtomicU64,
    /// Things that the region's control plane did not write, by kind.
    unverified: [AtomicU64; Kind::ALL.len()],
}

/// Writes metrics in the text format of Prometheus.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

// === impl Counters ===

impl Counters {
    /// Counts one request.
    pub fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Served => &self.served,
            Outcome::Refused(code) => &self.refused[code.index()],
            Outcome::Cut => &self.cut,
            Outcome::Left => &self.left,
        };
        add(counter, 1);
    }
}

// === impl FollowCounters ===

impl FollowCounters {
    /// The counter of one kind.
    pub fn unverified(&self, kind: Kind) -> &AtomicU64 {
        let at = Kind::ALL.iter().position(|it| *it == kind).unwrap_or(0);
        &self.unverified[at]
    }
}

/// Writes what was dropped because nobody proved it.
pub fn write_unverified(page: &mut Page, follow: &FollowCounters) {
    const NAME: &str = "throttleproxy_unverified_messages_total";
    page.head(
        NAME,
        "counter",
        "Things that are not signed by whom they should be and were dropped, by kind.",
    );
    // A proxy sends renewals and reads none.
    for kind in Kind::ALL.into_iter().filter(|it| *it != Kind::Renewal) {
        let count = follow.unverified(kind).load(Ordering::Relaxed);
        page.labelled(NAME, "kind", kind.as_str(), count);
    }
}

/// Adds to a counter that only this thread writes: a plain load and store, which unlike
/// a locked addition costs next to nothing.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}

/// Writes what all workers counted.
pub fn write_requests(page: &mut Page, workers: &[std::sync::Arc<Counters>]) {
    let sum = |pick: &dyn Fn(&Counters) -> &AtomicU64| -> u64 {
        workers
            .iter()
            .map(|it| pick(it).load(Ordering::Relaxed))
            .sum()
    };
    page.head(
        "throttleproxy_requests_total",
        "counter",
        "Requests by how they ended; a code is a refusal.",
    );
    page.labelled(
        "throttleproxy_requests_total",
        "outcome",
        "served",
        sum(&|it| &it.served),
    );
    page.labelled(
        "throttleproxy_requests_total",
        "outcome",
        "cut",
        sum(&|it| &it.cut),
    );
    page.labelled(
        "throttleproxy_requests_total",
        "outcome",
        "left",
        sum(&|it| &it.left),
    );
    for &code in Code::ALL {
        let count = sum(&|it| &it.refused[code.index()]);
        page.labelled(
            "throttleproxy_requests_total",
            "outcome",
            code.as_str(),
            count,
        );
    }
    page.counter(
        "throttleproxy_request_body_bytes_total",
        "Bytes of request bodies passed on.",
        sum(&|it| &it.request_bytes),
    );
    page.counter(
        "throttleproxy_response_body_bytes_total",
        "Bytes of answers passed on.",
        sum(&|it| &it.response_bytes),
    );
    page.counter(
        "throttleproxy_connections_total",
        "Connections of clients accepted.",
        sum(&|it| &it.connections),
    );
    page.counter(
        "throttleproxy_upstream_connects_total",
        "Connections to upstreams made.",
        sum(&|it| &it.upstream_connects),
    );
    page.counter(
        "throttleproxy_upstream_reuses_total",
        "Requests over an upstream connection that was already there.",
        sum(&|it| &it.upstream_reuses),
    );
}

// === impl Page ===

impl Page {
    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.row(format_args!("{name} {value}"));
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.row(format_args!("{name} {value}"));
    }

    /// The whole page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.row(format_args!("# HELP {name} {help}"));
        self.row(format_args!("# TYPE {name} {kind}"));
    }

    fn labelled(&mut self, name: &str, label: &str, of: &str, value: u64) {
        self.row(format_args!("{name}{{{label}=\"{of}\"}} {value}"));
    }

    fn row(&mut self, row: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{row}").expect("writing into memory cannot fail");
    }
}
