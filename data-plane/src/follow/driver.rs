//! Carries out what the [machine](super::machine) decides.
//!
//! One loop on one thread: whatever happens becomes an input, the machine answers with
//! actions, and only when all of them are done does the new position become visible. So
//! nobody sees a position before the entries that belong to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, FuturesUnordered};
use schemas::Position;
use schemas::digest::Digest;
use schemas::fleet::{FollowerState, RenewalAnswer};
use schemas::stream::Meta;
use tokio::sync::{Notify, mpsc};

use super::load;
use super::machine::{Action, Input, Machine, Notice};
use super::source::{Message, RegionSource, SourceError};
use super::status::Status;
use super::trust::Verifier;
use crate::clock::Clock;
use crate::metrics::FollowCounters;
use crate::table::KeyTable;

/// Frames that one read of the feed brings at most.
const FEED_BATCH: usize = 256;
/// How often time is told to the machine.
const TICK_MS: u64 = 50;
/// No read may hang longer than this, in milliseconds.
const READ_MS: u64 = 5_000;
/// How long to wait before subscribing again.
const SUBSCRIBE_RETRY_MS: u64 = 500;
/// An alarm is logged at most this often.
const ALARM_EVERY_MS: u64 = 10_000;

/// What the driver works with.
pub struct Driver {
    /// The region.
    pub source: Arc<dyn RegionSource>,
    /// What it believes of that.
    pub verifier: Verifier,
    /// The table it keeps current.
    pub table: Arc<KeyTable>,
    /// Where it says how it stands.
    pub status: Arc<Status>,
    /// The time.
    pub clock: Arc<Clock>,
    /// What it counts.
    pub counters: Arc<FollowCounters>,
    /// Answers of renewals, from the renewer.
    pub answers: mpsc::UnboundedReceiver<RenewalAnswer>,
    /// Wakes the renewer.
    pub renew_now: Arc<Notify>,
}

type Reads = FuturesUnordered<Pin<Box<dyn Future<Output = Read>>>>;

/// The end of something that was started.
enum Read {
    Input(Input),
    Subscribed(Result<BoxStream<'static, Message>, SourceError>),
}

// === impl Driver ===

impl Driver {
    /// Follows until it is dropped.
    pub async fn run(mut self) {
        let mut machine = Machine::new();
        let mut reads: Reads = FuturesUnordered::new();
        // Subscribed first: what changes while the snapshot is read is heard of.
        let mut messages = self.subscribe(Duration::ZERO).await;
        if messages.is_none() {
            reads.push(self.subscribing());
        }
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut alarmed_ms = None;
        loop {
            let input = tokio::select! {
                message = next(&mut messages) => match message {
                    Some(message) => match self.verifier.message(&message) {
                        Some(notice) => Input::Notice(notice),
                        None => continue,
                    },
                    None => {
                        messages = None;
                        reads.push(self.subscribing());
                        Input::Notice(Notice::Lost)
                    }
                },
                Some(read) = reads.next() => match read {
                    Read::Input(input) => input,
                    Read::Subscribed(Ok(stream)) => {
                        messages = Some(stream);
                        Input::Notice(Notice::Lost)
                    }
                    Read::Subscribed(Err(err)) => {
                        tracing::debug!(error = %err, "could not subscribe to the region");
                        reads.push(self.subscribing());
                        continue;
                    }
                },
                Some(answer) = self.answers.recv() => Input::Answer(answer),
                _ = tick.tick() => {
                    self.clock.learn_from_wall();
                    Input::Tick
                }
            };
            let now_ms = self.clock.now().steady_ms;
            let before = machine.state();
            for action in machine.step(input, now_ms) {
                if let Action::Compare(root) = action {
                    self.compare(root, &mut machine, &reads, &mut alarmed_ms, now_ms);
                } else {
                    self.perform(action, &reads, &mut alarmed_ms, now_ms);
                }
            }
            self.publish(&machine, before);
        }
    }

    /// Compares the table with its digest, and has it repaired where it differs.
    fn compare(
        &self,
        root: Digest,
        machine: &mut Machine,
        reads: &Reads,
        alarmed_ms: &mut Option<u64>,
        now_ms: u64,
    ) {
        let found = self.table.root();
        if found == root {
            return;
        }
        self.counters.table_mismatch.fetch_add(1, Ordering::Relaxed);
        let position = machine.place().position;
        tracing::error!(
            position,
            expected = %root,
            %found,
            "the table differs from the region and is compared bucket by bucket"
        );
        for action in machine.step(Input::Mismatch, now_ms) {
            self.perform(action, reads, alarmed_ms, now_ms);
        }
    }

    fn perform(&self, action: Action, reads: &Reads, alarmed_ms: &mut Option<u64>, now_ms: u64) {
        match action {
            Action::ReadMeta { asked_at } => reads.push(self.reading_meta(asked_at)),
            Action::ReadFeed { epoch, after } => reads.push(self.reading_feed(epoch, after)),
            Action::ReadSnapshot { meta } => reads.push(self.reading_snapshot(meta)),
            Action::Apply(changes) => {
                self.table.apply(&changes);
                self.counters.frames_applied.fetch_add(1, Ordering::Relaxed);
            }
            Action::Compare(_) => {}
            // The renewer reads the position only after `publish`: it is woken here, but
            // runs on this very thread.
            Action::RenewNow => self.renew_now.notify_one(),
            Action::Alarm(what) => {
                self.counters.alarms.fetch_add(1, Ordering::Relaxed);
                if alarmed_ms.is_none_or(|at| now_ms >= at + ALARM_EVERY_MS) {
                    *alarmed_ms = Some(now_ms);
                    tracing::error!(reason = what, "the region is not followed");
                }
            }
        }
    }

    fn publish(&self, machine: &Machine, before: FollowerState) {
        let was_ready = self.status.is_ready();
        self.status.publish(
            machine.state(),
            machine.miss(),
            machine.is_ready(),
            machine.place(),
            machine.word_ms(),
        );
        let place = machine.place();
        if machine.is_ready() && !was_ready {
            tracing::info!(
                generation = place.generation,
                position = place.position,
                entries = self.table.len(),
                "ready to admit requests"
            );
        }
        let state = machine.state();
        if state != before {
            if state == FollowerState::Gap {
                self.counters.gaps.fetch_add(1, Ordering::Relaxed);
            }
            match state {
                FollowerState::Stale | FollowerState::Resync => {
                    tracing::warn!(?state, position = place.position, "following the region");
                }
                _ => tracing::debug!(?state, position = place.position, "following the region"),
            }
        }
    }

    async fn subscribe(&self, after: Duration) -> Option<BoxStream<'static, Message>> {
        tokio::time::sleep(after).await;
        let subscribing = self.source.subscribe();
        let outcome = tokio::time::timeout(Duration::from_millis(READ_MS), subscribing).await;
        outcome.ok()?.ok()
    }

    fn subscribing(&self) -> Pin<Box<dyn Future<Output = Read>>> {
        let source = Arc::clone(&self.source);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(SUBSCRIBE_RETRY_MS)).await;
            Read::Subscribed(source.subscribe().await)
        })
    }

    fn reading_meta(&self, asked_at: Position) -> Pin<Box<dyn Future<Output = Read>>> {
        let (source, verifier) = (Arc::clone(&self.source), self.verifier.clone());
        Box::pin(async move {
            Read::Input(match within(source.meta()).await {
                Ok(None) => Input::Meta {
                    asked_at,
                    meta: None,
                },
                Ok(Some(fields)) => match verifier.meta(&fields) {
                    Some(meta) => Input::Meta {
                        asked_at,
                        meta: Some(meta),
                    },
                    // As if it could not be read.
                    None => Input::MetaFailed,
                },
                Err(err) => {
                    tracing::debug!(error = %err, "could not read the region's meta");
                    Input::MetaFailed
                }
            })
        })
    }

    fn reading_feed(&self, epoch: u64, after: Position) -> Pin<Box<dyn Future<Output = Read>>> {
        let (source, verifier) = (Arc::clone(&self.source), self.verifier.clone());
        Box::pin(async move {
            Read::Input(match within(source.feed(epoch, after, FEED_BATCH)).await {
                Ok(items) => {
                    // What somebody put between ours is left out; if something of ours is
                    // missing, that is a hole like any other.
                    let frames: Vec<_> = items.iter().filter_map(|it| verifier.frame(it)).collect();
                    Input::Feed {
                        epoch,
                        more: items.len() >= FEED_BATCH && !frames.is_empty(),
                        frames,
                    }
                }
                Err(err) => {
                    tracing::debug!(error = %err, "could not read the region's feed");
                    Input::FeedFailed
                }
            })
        })
    }

    fn reading_snapshot(&self, meta: Meta) -> Pin<Box<dyn Future<Output = Read>>> {
        let (source, table) = (Arc::clone(&self.source), Arc::clone(&self.table));
        let (verifier, counters) = (self.verifier.clone(), Arc::clone(&self.counters));
        Box::pin(async move {
            Read::Input(
                match load::snapshot(&*source, &verifier, &table, &meta).await {
                    Ok(through) => {
                        counters.snapshots.fetch_add(1, Ordering::Relaxed);
                        Input::Snapshot { meta, through }
                    }
                    Err(err) => {
                        tracing::warn!(error = %err, "could not read a snapshot of the region");
                        Input::SnapshotFailed
                    }
                },
            )
        })
    }
}

/// No read of the region may hang.
pub(super) async fn within<T>(
    read: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(Duration::from_millis(READ_MS), read)
        .await
        .unwrap_or_else(|elapsed| Err(SourceError::unavailable("waiting for the region", elapsed)))
}

/// The next message; waits for ever while there is no subscription.
async fn next(messages: &mut Option<BoxStream<'static, Message>>) -> Option<Message> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}
