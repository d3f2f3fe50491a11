//! Reports to the control plane: where the table stands, and which secrets were used.
//!
//! A report goes out each second, and at once (within 10 ms) when the position changes.
//! Uses are delivered at least once: what was sent and not acknowledged is kept and
//! merged with what comes. Uses of secrets that the control plane has not yet
//! acknowledged any use of go first, because a purge waits for exactly those.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemas::entry::READER;
use schemas::fleet::{RENEW_EVERY_MS, Renewal, RenewalAnswer, USES_MAX};
use schemas::{BootId, SecretId};
use tokio::sync::{Notify, mpsc};

use super::source::RegionSource;
use super::status::Status;
use super::trust::Verifier;
use crate::clock::Clock;
use crate::limit::cell::{Cells, CollectedUse};
use crate::metrics::FollowCounters;

/// Swaps within this time share one report.
const COALESCE_MS: u64 = 10;
/// How long an answer is waited for.
const ANSWER_MS: u64 = 1_000;
/// How soon to try again until the first answer of this boot.
const EAGER_MS: u64 = 200;

/// What the renewer works with.
pub struct Renewer {
    /// The region.
    pub source: Arc<dyn RegionSource>,
    /// Proves reports, and believes answers.
    pub verifier: Verifier,
    /// Where the table stands.
    pub status: Arc<Status>,
    /// The time; the control plane's is learnt from its answers.
    pub clock: Arc<Clock>,
    /// Where uses are collected.
    pub cells: Arc<Cells>,
    /// What it counts.
    pub counters: Arc<FollowCounters>,
    /// The region's name.
    pub region: String,
    /// This proxy.
    pub proxy_id: String,
    /// This start of it.
    pub boot_id: BootId,
    /// Where answers go.
    pub answers: mpsc::UnboundedSender<RenewalAnswer>,
    /// Wakes it.
    pub renew_now: Arc<Notify>,
    /// Uses that wait to be acknowledged.
    pub backlog: Arc<AtomicU64>,
}

/// Uses that were collected and not acknowledged.
#[derive(Default)]
struct Backlog {
    uses: HashMap<SecretId, CollectedUse>,
}

// === impl Renewer ===

impl Renewer {
    /// Reports until `leaving` is notified; then says goodbye and returns.
    pub async fn run(self, leaving: Arc<Notify>) {
        let mut backlog = Backlog::default();
        let mut counter = 0;
        let mut answered = false;
        loop {
            counter += 1;
            answered |= self.renew(counter, false, &mut backlog).await;
            let pause_ms = if answered { RENEW_EVERY_MS } else { EAGER_MS };
            tokio::select! {
                () = leaving.notified() => break,
                () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
                () = self.renew_now.notified() => {
                    tokio::time::sleep(Duration::from_millis(COALESCE_MS)).await;
                }
            }
        }
        self.renew(counter + 1, true, &mut backlog).await;
    }

    async fn renew(&self, counter: u64, goodbye: bool, backlog: &mut Backlog) -> bool {
        // The position first, the uses after it: a use that the table of this position
        // did not admit may be among them, one that an older table admitted is.
        let place = self.status.place();
        let state = self.status.state();
        let freshness_ms = self.status.freshness_ms(self.clock.now().steady_ms);
        backlog.take_in(self.cells.collect());
        let (sent, uses_complete) = backlog.take_out();
        let renewal = Renewal {
            region: self.region.clone(),
            proxy_id: self.proxy_id.clone(),
            boot_id: self.boot_id,
            counter,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reader: READER,
            lineage: place.lineage,
            generation: place.generation,
            position: place.position,
            state,
            freshness_ms,
            uses: sent.iter().map(|it| it.spent).collect(),
            uses_complete,
            goodbye,
        };
        let renewal = self.verifier.renewal(&renewal);
        let renewing = self.source.renew(&renewal);
        let outcome = tokio::time::timeout(Duration::from_millis(ANSWER_MS), renewing).await;
        let outcome = outcome.map(|it| it.map(|answer| self.verifier.answer(&answer)));
        let answered = match outcome {
            // An answer to another report is as good as none, also one that was recorded.
            Ok(Ok(Some(answer))) if answer.boot_id == self.boot_id && answer.counter == counter => {
                self.counters.renewals.fetch_add(1, Ordering::Relaxed);
                self.clock.learn(answer.now_ms);
                for spent in &sent {
                    spent.acknowledge();
                }
                // The follower ends only with the whole proxy.
                let _ = self.answers.send(answer);
                true
            }
            failed => {
                if let Ok(Err(err)) = failed {
                    tracing::debug!(error = %err, "a renewal was not answered");
                }
                self.counters
                    .renewals_failed
                    .fetch_add(1, Ordering::Relaxed);
                backlog.take_in(sent);
                false
            }
        };
        self.backlog
            .store(backlog.uses.len() as u64, Ordering::Relaxed);
        answered
    }
}

// === impl Backlog ===

impl Backlog {
    fn take_in(&mut self, uses: Vec<CollectedUse>) {
        for new in uses {
            match self.uses.entry(new.spent.secret_id) {
                std::collections::hash_map::Entry::Occupied(mut held) => held.get_mut().merge(&new),
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(new);
                }
            }
        }
    }

    /// What goes with the next report, and whether every secret is in it whose use the
    /// control plane does not know of.
    fn take_out(&mut self) -> (Vec<CollectedUse>, bool) {
        let mut order: Vec<(bool, i64, SecretId)> = self
            .uses
            .values()
            .map(|it| (!it.is_first, it.spent.first_at_ms, it.spent.secret_id))
            .collect();
        if order.len() > USES_MAX {
            order.select_nth_unstable(USES_MAX);
        }
        let complete = order.iter().skip(USES_MAX).all(|&(is_known, ..)| is_known);
        let mut sent: Vec<CollectedUse> = order
            .iter()
            .take(USES_MAX)
            .filter_map(|(_, _, id)| self.uses.remove(id))
            .collect();
        // In one order for all proxies, so that whoever stores two reports at the same
        // time takes the rows in the same order.
        sent.sort_unstable_by_key(|it| it.spent.secret_id);
        (sent, complete)
    }
}

#[cfg(test)]
mod tests {
    use schemas::KeyId;

    use super::*;

    fn collected(n: u128, known: bool) -> CollectedUse {
        let cells = Cells::new();
        let cell = cells.secret(KeyId::from_u128(n), SecretId::from_u128(n), 0);
        if known {
            cells.mark_used(&cell, 1);
            cells.collect()[0].acknowledge();
        }
        cells.mark_used(&cell, 1_000 - n as i64);
        cells.collect().remove(0)
    }

    #[test]
    fn uses_that_were_not_acknowledged_are_merged_with_later_ones() {
        let mut backlog = Backlog::default();
        backlog.take_in(vec![collected(1, false)]);
        let (sent, complete) = backlog.take_out();
        assert!(complete);
        backlog.take_in(vec![collected(1, false)]);
        backlog.take_in(sent);
        assert_eq!(backlog.take_out().0[0].spent.requests, 2);
    }

    #[test]
    fn unknown_secrets_go_first_and_only_they_make_a_report_incomplete() {
        let mut backlog = Backlog::default();
        let many = USES_MAX as u128;
        backlog.take_in((1..=many).map(|n| collected(n, true)).collect());
        backlog.take_in(vec![collected(many + 1, false)]);
        let (sent, complete) = backlog.take_out();
        assert_eq!(sent.len(), USES_MAX);
        assert!(sent.iter().any(|it| it.is_first));
        assert!(complete, "what waits is known to be used");

        backlog.take_in(
            (1..=many + 1)
                .map(|n| collected(n + 10_000, false))
                .collect(),
        );
        assert!(!backlog.take_out().1);
    }
}
