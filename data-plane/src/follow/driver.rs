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

use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{StreamExt, stream};
use schemas::Position;
use schemas::entry::{Revision, decode_policy, decode_secret};
use schemas::fleet::{FollowerState, RenewalAnswer};
use schemas::name::BUCKETS;
use schemas::stream::Meta;
use tokio::sync::{Notify, mpsc};

use super::machine::{Action, Input, Machine};
use super::source::{Notice, RegionSource, SourceError};
use super::status::Status;
use crate::clock::Clock;
use crate::metrics::FollowCounters;
use crate::table::{KeyTable, Snapshot, Swept};

/// Frames that one read of the feed brings at most.
const FEED_BATCH: usize = 256;
/// Buckets that are read at the same time.
const BUCKETS_AT_ONCE: usize = 16;
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
    Subscribed(Result<BoxStream<'static, Notice>, SourceError>),
}

// === impl Driver ===

impl Driver {
    /// Follows until it is dropped.
    pub async fn run(mut self) {
        let mut machine = Machine::new();
        let mut reads: Reads = FuturesUnordered::new();
        // Subscribed first: what changes while the snapshot is read is heard of.
        let mut notices = self.subscribe(Duration::ZERO).await;
        if notices.is_none() {
            reads.push(self.subscribing());
        }
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut alarmed_ms = None;
        loop {
            let input = tokio::select! {
                notice = next(&mut notices) => match notice {
                    Some(notice) => Input::Notice(notice),
                    None => {
                        notices = None;
                        reads.push(self.subscribing());
                        Input::Notice(Notice::Lost)
                    }
                },
                Some(read) = reads.next() => match read {
                    Read::Input(input) => input,
                    Read::Subscribed(Ok(stream)) => {
                        notices = Some(stream);
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
                self.perform(action, &reads, &mut alarmed_ms, now_ms);
            }
            self.publish(&machine, before);
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

    async fn subscribe(&self, after: Duration) -> Option<BoxStream<'static, Notice>> {
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
        let source = Arc::clone(&self.source);
        Box::pin(async move {
            Read::Input(match within(source.meta()).await {
                Ok(meta) => Input::Meta { asked_at, meta },
                Err(err) => {
                    tracing::debug!(error = %err, "could not read the region's meta");
                    Input::MetaFailed
                }
            })
        })
    }

    fn reading_feed(&self, epoch: u64, after: Position) -> Pin<Box<dyn Future<Output = Read>>> {
        let source = Arc::clone(&self.source);
        Box::pin(async move {
            Read::Input(match within(source.feed(epoch, after, FEED_BATCH)).await {
                Ok(frames) => Input::Feed {
                    epoch,
                    more: frames.len() >= FEED_BATCH,
                    frames,
                },
                Err(err) => {
                    tracing::debug!(error = %err, "could not read the region's feed");
                    Input::FeedFailed
                }
            })
        })
    }

    fn reading_snapshot(&self, meta: Meta) -> Pin<Box<dyn Future<Output = Read>>> {
        let (source, table) = (Arc::clone(&self.source), Arc::clone(&self.table));
        let counters = Arc::clone(&self.counters);
        Box::pin(async move {
            Read::Input(match load_snapshot(&*source, &table, &meta).await {
                Ok(()) => {
                    counters.snapshots.fetch_add(1, Ordering::Relaxed);
                    Input::Snapshot { meta }
                }
                Err(err) => {
                    tracing::warn!(error = %err, "could not read a snapshot of the region");
                    Input::SnapshotFailed
                }
            })
        })
    }
}

/// Reads the whole region and merges it, bucket by bucket, into the live table: an entry
/// is only ever replaced by a newer one, so requests may go on meanwhile.
async fn load_snapshot(
    source: &dyn RegionSource,
    table: &KeyTable,
    meta: &Meta,
) -> Result<(), SourceError> {
    let mut snapshot = Snapshot::default();
    let policies = within(source.policies(meta.epoch)).await?;
    let policies = policies
        .into_iter()
        .filter_map(|(field, bytes)| Some((field.parse().ok()?, decode_policy(&bytes))))
        .collect();
    table.merge_policies(&mut snapshot, policies);

    let mut buckets = stream::iter(0..BUCKETS)
        .map(|bucket| async move {
            let entries = within(source.bucket(meta.epoch, bucket)).await?;
            Ok::<_, SourceError>((bucket, entries))
        })
        .buffer_unordered(BUCKETS_AT_ONCE);
    while let Some(bucket) = buckets.next().await {
        let (bucket, entries) = bucket?;
        let entries = entries
            .into_iter()
            .filter_map(|(field, bytes)| Some((field.parse().ok()?, decode_secret(&bytes))))
            .collect();
        table.merge_bucket(bucket, entries);
    }

    // An epoch may have been thrown away while it was read: then what was read is not
    // the whole, and nothing may be concluded from what was not in it.
    let after = within(source.meta()).await?;
    let is_whole = after.is_some_and(|after| {
        (after.lineage, after.generation, after.epoch)
            == (meta.lineage, meta.generation, meta.epoch)
            && after.position >= meta.position
    });
    if !is_whole {
        return Err(SourceError::malformed(
            "reading a snapshot",
            "the region changed its build meanwhile",
        ));
    }
    let through = Revision {
        generation: meta.generation,
        rev: meta.position,
    };
    match table.finish_snapshot(snapshot, through) {
        Swept::Dropped(0) => {}
        Swept::Dropped(count) => {
            tracing::info!(count, "dropped secrets that the region no longer holds")
        }
        Swept::TooMany(count) => tracing::error!(
            count,
            entries = table.len(),
            "the region lacks more than half of the table; nothing was dropped"
        ),
    }
    Ok(())
}

async fn within<T>(read: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    tokio::time::timeout(Duration::from_millis(READ_MS), read)
        .await
        .unwrap_or_else(|elapsed| Err(SourceError::unavailable("waiting for the region", elapsed)))
}

/// The next notice; waits for ever while there is no subscription.
async fn next(notices: &mut Option<BoxStream<'static, Notice>>) -> Option<Notice> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
