//! One task per region: follows the log and writes what changed into the region.
//!
//! ```text
//!   lead ──▶ read the region's meta ──▶ is it of this log? ──▶ fold events ──▶ one script
//!     ▲            │ empty: a new epoch from position 0                            │
//!     └── fenced ◀─┴──────────────────────── elsewhere: read meta again ◀──────────┘
//! ```
//!
//! The checkpoint is the region's own meta record: it lives with the data it describes, so
//! a Redis that lost its last writes continues from where it really is, and a wiped one is
//! built anew, without anybody telling. Regions are independent; a dead one delays nobody.
//!
//! What is written is sealed, and what is there is not trusted: the projector itself knows
//! which revision of which entry the region must hold ([`truth`]), signs the digest of that,
//! compares the region with it bucket by bucket ([`audit`]) and its meta with every heartbeat.
//! A meta that somebody else wrote is put back; it stops nothing, because whether another
//! control plane leads is decided by the database.
//!
//! A control plane that does not lead a region watches it instead, so that it can tell its
//! own callers how far the region is.

mod audit;
mod fold;
mod lead;
mod start;
mod truth;

use std::time::Duration;

use schemas::stream::{FRAME_BYTES_MAX, Frame, HEARTBEAT_EVERY_MS, Heartbeat, Meta, MetaFields};
use schemas::{BootId, Position};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chain::Chain;
use crate::fleet::Fleet;
use crate::fresh;
use crate::region::{Batch, Led, Verdict};
use crate::store::{self, Store, log};

use fold::{Changes, Folded};
use lead::{Candidate, Term};
use truth::{Known, Truth};

pub(crate) use lead::release;

/// How often a control plane that does not lead looks at the region, and asks whether it
/// may lead. While somebody waits for a change it looks more often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY_WAITED_FOR: Duration = Duration::from_millis(25);

/// How long a control plane that could not do the work leaves it to others: longer than
/// they take to look.
const STEP_DOWN_FOR: Duration = Duration::from_millis(1_000);

/// Events folded into one batch at most; it bounds how long one script blocks a Redis.
const BATCH_EVENTS: u32 = 200;

/// How often a batch that the region does not take is tried again after what stands in its
/// way was put right.
const RETRIES_MAX: u32 = 5;

/// Projects the log into one region until the process ends.
pub struct Projector {
    store: Store,
    led: Led,
    head: watch::Receiver<Position>,
    fleet: Fleet,
    candidate: Candidate,
    folded: Folded,
    truth: Truth,
    /// What `truth` is of; `None` where it is of nothing that can be continued.
    known: Option<Known>,
    /// What the region says of itself, as it was last written or seen.
    written: Option<MetaFields>,
    /// The bucket at which looking through the region goes on.
    audit_at: u16,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Region(#[from] crate::region::Error),
    #[error("another control plane leads this region now")]
    Fenced,
    #[error("{0}")]
    Foreign(String),
}

// === impl Projector ===

impl Projector {
    /// A projector into a region, woken by `head`, which tells `fleet` how far it is.
    pub fn new(
        store: Store,
        led: Led,
        head: watch::Receiver<Position>,
        fleet: Fleet,
        boot_id: BootId,
    ) -> Self {
        let candidate = Candidate::new(store.clone(), led.region.name(), boot_id);
        Self {
            store,
            led,
            head,
            fleet,
            candidate,
            folded: Folded::default(),
            truth: Truth::new(),
            known: None,
            written: None,
            audit_at: 0,
        }
    }

    /// Runs until the task is dropped: leads when it can, watches when another does, starts
    /// over when something broke.
    pub async fn run(mut self) {
        let mut last_error = String::new();
        loop {
            match self.turn(&mut last_error).await {
                Ok(()) | Err(Error::Fenced) => self.look_on().await,
                Err(error) => {
                    // The same failure every second is one line, not one a second.
                    let text = Chain(&error).to_string();
                    if text != last_error {
                        let region = self.led.region.name();
                        tracing::error!(region, error = text, "the projector tries again");
                        last_error = text;
                    }
                    self.fleet.loses_sight(self.led.region.name());
                    // Somebody else may be able to.
                    drop(self.candidate.step_down().await);
                    sleep(STEP_DOWN_FOR).await;
                }
            }
        }
    }

    /// Leads the region for as long as that lasts; returns at once where another does.
    async fn turn(&mut self, last_error: &mut String) -> Result<(), Error> {
        let Some(mut term) = self.candidate.acquire().await? else {
            return Ok(());
        };
        let led = self.lead(&mut term, last_error).await;
        self.fleet.stops_leading(self.led.region.name());
        led
    }

    async fn lead(&mut self, term: &mut Term, last_error: &mut String) -> Result<(), Error> {
        let meta = self.led.region.meta().await?;
        let mut position = self.start_from(term, meta).await?;
        let region = self.led.region.name().to_owned();
        self.fleet
            .leads(&region, (term.lineage, term.generation), position);
        tracing::info!(
            region,
            fence = term.fence,
            epoch = term.epoch,
            position,
            "projecting"
        );
        last_error.clear();

        let mut beat_at = Instant::now();
        loop {
            tokio::select! {
                moved = self.head.changed() => if moved.is_err() { return Ok(()) },
                () = sleep_until(beat_at) => {}
            }
            position = self.catch_up(term, position).await?;
            if Instant::now() >= beat_at {
                let seen = self.look_after_meta(term, position).await?;
                if seen != position {
                    position = self.catch_up(term, seen).await?;
                }
                self.keep(term).await?;
                self.beat(term, position).await;
                self.audit_next(term).await?;
                beat_at = Instant::now() + Duration::from_millis(HEARTBEAT_EVERY_MS);
            }
        }
    }

    /// Writes everything that the log has and the region has not.
    async fn catch_up(
        &mut self,
        term: &mut Term,
        mut position: Position,
    ) -> Result<Position, Error> {
        let mut retries = 0;
        loop {
            let rows = log::after(&self.store, position, BATCH_EVENTS).await?;
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
                break;
            };
            if first.recorded.position != position + 1 {
                let missing = position + 1;
                return Err(Error::Foreign(format!(
                    "event {missing} is missing in the log"
                )));
            }
            let to = last.recorded.position;
            let chain_hash = hex::encode(last.chain_hash);
            let mut changes = Changes::default();
            for row in &rows {
                changes.merge(self.folded.fold(&self.store, &row.recorded).await?);
            }
            let changes = changes.into_valid();
            let undo = self.truth.apply(&changes);
            let meta = self.meta(term, to, chain_hash);
            let digests = self.truth.touched(&changes);
            let places: Vec<Option<u16>> = changes
                .iter()
                .map(|it| crate::region::Place::of(it).bucket())
                .collect();
            let batch = Batch::seal(&self.led.seal, meta, position, changes, digests);
            let batch = batch.map_err(crate::region::Error::of("encode an entry"))?;
            // Until the region has answered, nobody knows what it holds.
            self.known = None;
            match self.led.region.apply(&batch).await? {
                Verdict::Applied => {}
                verdict => {
                    self.truth.undo(undo);
                    // These events are folded again.
                    self.folded.clear();
                    retries += 1;
                    if retries > RETRIES_MAX {
                        return Err(Error::Foreign(format!(
                            "the region does not take a change: {verdict:?}"
                        )));
                    }
                    position = self.clear_the_way(term, position, verdict, &places).await?;
                    continue;
                }
            }
            retries = 0;
            position = to;
            self.know(&batch.meta);
            self.written = Some(batch.signed_meta.clone());
            self.fleet.region_holds(self.led.region.name(), position);
            self.publish(batch).await;
            // A long way to catch up takes longer than a leader may be silent.
            self.keep(term).await?;
        }
        Ok(position)
    }

    /// The region did not take a batch: finds out why, and where to continue.
    async fn clear_the_way(
        &mut self,
        term: &mut Term,
        position: Position,
        verdict: Verdict,
        places: &[Option<u16>],
    ) -> Result<Position, Error> {
        let seen = self.look_after_meta(term, position).await?;
        let Verdict::Refused { reason } = verdict else {
            return Ok(seen);
        };
        // An entry stands in the way that is as new as ours: somebody else wrote it, or the
        // region is an older copy of itself whose meta alone went back.
        let mut repaired = 0;
        for bucket in places.iter().flatten() {
            repaired += self.audit(term, *bucket..*bucket + 1, false).await?;
        }
        repaired += self.audit(term, 0..0, true).await?;
        if repaired == 0 && seen == position {
            return Err(Error::Foreign(reason));
        }
        Ok(seen)
    }

    async fn publish(&self, batch: Batch) {
        let mut frame = batch.frame;
        if frame.bytes.len() > FRAME_BYTES_MAX {
            let meta = &batch.meta;
            frame = self.led.seal.frame(&Frame {
                lineage: meta.lineage,
                generation: meta.generation,
                epoch: meta.epoch,
                from: batch.from,
                to: meta.position,
                changes: None,
                as_of_ms: meta.as_of_ms,
            });
        }
        if let Err(error) = self.led.region.publish_frame(&frame).await {
            // Proxies read the feed: the doorbell is not the truth.
            let region = self.led.region.name();
            tracing::debug!(error = %Chain(&error), region, "a frame was not published");
        }
    }

    /// What the region says of itself at `position`, where `truth` is.
    fn meta(&self, term: &Term, position: Position, chain_hash: String) -> Meta {
        Meta {
            lineage: term.lineage,
            generation: term.generation,
            epoch: term.epoch,
            fence: term.fence,
            position,
            chain_hash,
            as_of_ms: fresh::now().unix_ms(),
            count: self.truth.count(),
            root: self.truth.root(),
        }
    }

    fn know(&mut self, meta: &Meta) {
        self.known = Some(known_of(meta));
    }

    async fn keep(&self, term: &mut Term) -> Result<(), Error> {
        if self.candidate.keep(term).await? {
            Ok(())
        } else {
            Err(Error::Fenced)
        }
    }

    async fn beat(&self, term: &Term, position: Position) {
        let heartbeat = self.led.seal.heartbeat(&Heartbeat {
            lineage: term.lineage,
            generation: term.generation,
            epoch: term.epoch,
            to: position,
            as_of_ms: fresh::now().unix_ms(),
            root: self.truth.root(),
        });
        if let Err(error) = self.led.region.publish_heartbeat(&heartbeat).await {
            let region = self.led.region.name();
            tracing::debug!(error = %Chain(&error), region, "a heartbeat was not published");
        }
    }

    /// Sees how far a region is that another projects into.
    async fn look_on(&self) {
        let region = self.led.region.name();
        if self.see().await.is_err() {
            self.fleet.loses_sight(region);
        }
        let mut asked = self.fleet.asked();
        asked.mark_unchanged();
        if self.fleet.is_waited_for() {
            sleep(LOOK_EVERY_WAITED_FOR).await;
        } else {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                _ = asked.changed() => {}
            }
        }
    }

    async fn see(&self) -> Result<(), Error> {
        let region = self.led.region.name();
        let head = log::head(&self.store).await?;
        let fields = self.led.region.meta().await?;
        // What nobody of ours signed says nothing.
        let meta = fields.and_then(|it| self.led.seal.trust().meta(&it).ok());
        let position = match meta {
            Some(meta) => lead::is_of_this_log(&self.store, head.lineage, &meta).await?,
            None => None,
        };
        self.fleet
            .sees(region, (head.lineage, head.generation), position);
        Ok(())
    }
}

fn known_of(meta: &Meta) -> Known {
    Known {
        generation: meta.generation,
        epoch: meta.epoch,
        position: meta.position,
        root: meta.root,
    }
}
