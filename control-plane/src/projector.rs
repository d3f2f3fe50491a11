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
//! A control plane that does not lead a region watches it instead, so that it can tell its
//! own callers how far the region is.

mod fold;
mod lead;

use std::sync::Arc;
use std::time::Duration;

use schemas::stream::{HEARTBEAT_EVERY_MS, Heartbeat, Meta};
use schemas::{BootId, Position};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chain::Chain;
use crate::fleet::Fleet;
use crate::fresh;
use crate::region::{Batch, Region, Verdict};
use crate::store::{self, Store, log};

use fold::{Changes, Folded};
use lead::{Candidate, Term};

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

/// Projects the log into one region until the process ends.
pub struct Projector {
    store: Store,
    region: Arc<dyn Region>,
    head: watch::Receiver<Position>,
    fleet: Fleet,
    candidate: Candidate,
    folded: Folded,
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
    /// A projector into `region`, woken by `head`, which tells `fleet` how far it is.
    pub fn new(
        store: Store,
        region: Arc<dyn Region>,
        head: watch::Receiver<Position>,
        fleet: Fleet,
        boot_id: BootId,
    ) -> Self {
        let candidate = Candidate::new(store.clone(), region.name(), boot_id);
        Self {
            store,
            region,
            head,
            fleet,
            candidate,
            folded: Folded::default(),
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
                        let region = self.region.name();
                        tracing::error!(region, error = text, "the projector tries again");
                        last_error = text;
                    }
                    self.fleet.loses_sight(self.region.name());
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
        self.fleet.stops_leading(self.region.name());
        led
    }

    async fn lead(&mut self, term: &mut Term, last_error: &mut String) -> Result<(), Error> {
        let meta = self.region.meta().await?;
        let mut position = self.start_from(term, meta.as_ref()).await?;
        let region = self.region.name().to_owned();
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
                // A region that lost memory says so here, and is continued from where it is.
                let seen = self.region.meta().await?;
                if seen.as_ref().map_or(0, |it| it.position) != position {
                    position = self.start_from(term, seen.as_ref()).await?;
                    position = self.catch_up(term, position).await?;
                }
                self.keep(term).await?;
                self.beat(term, position).await?;
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
            let batch = Batch {
                lineage: term.lineage,
                generation: term.generation,
                epoch: term.epoch,
                fence: term.fence,
                from: position,
                to,
                chain_hash,
                as_of_ms: fresh::now().unix_ms(),
                changes: changes.into_valid(),
            };
            match self.region.apply(&batch).await? {
                Verdict::Applied => {}
                Verdict::Fenced => return Err(Error::Fenced),
                Verdict::Elsewhere => {
                    let meta = self.region.meta().await?;
                    position = self.start_from(term, meta.as_ref()).await?;
                    continue;
                }
                Verdict::Refused { reason } => return Err(Error::Foreign(reason)),
            }
            position = to;
            self.fleet.region_holds(self.region.name(), position);
            if let Err(error) = self.region.publish_frame(&batch.frame()).await {
                // Proxies read the feed: the doorbell is not the truth.
                let region = self.region.name();
                tracing::debug!(error = %Chain(&error), region, "a frame was not published");
            }
            // A long way to catch up takes longer than a leader may be silent.
            self.keep(term).await?;
        }
        Ok(position)
    }

    /// Where to continue: after the region's own checkpoint, if it is a place in this log.
    async fn start_from(
        &mut self,
        term: &mut Term,
        meta: Option<&Meta>,
    ) -> Result<Position, Error> {
        self.folded.clear();
        let Some(meta) = meta else {
            term.epoch = self.candidate.new_epoch().await?;
            let (region, epoch) = (self.region.name(), term.epoch);
            tracing::info!(
                region,
                epoch,
                "the region is empty and is built from the log"
            );
            return Ok(0);
        };
        if meta.fence > term.fence {
            return Err(Error::Fenced);
        }
        let position = lead::is_of_this_log(&self.store, term.lineage, meta).await?;
        let position = position.ok_or_else(|| Error::Foreign(foreign(term, meta)))?;
        term.epoch = meta.epoch;
        Ok(position)
    }

    async fn keep(&self, term: &mut Term) -> Result<(), Error> {
        if self.candidate.keep(term).await? {
            Ok(())
        } else {
            Err(Error::Fenced)
        }
    }

    async fn beat(&self, term: &Term, position: Position) -> Result<(), Error> {
        let heartbeat = Heartbeat {
            lineage: term.lineage,
            generation: term.generation,
            epoch: term.epoch,
            to: position,
            as_of_ms: fresh::now().unix_ms(),
        };
        if let Err(error) = self.region.publish_heartbeat(&heartbeat).await {
            let region = self.region.name();
            tracing::debug!(error = %Chain(&error), region, "a heartbeat was not published");
        }
        Ok(())
    }

    /// Sees how far a region is that another projects into.
    async fn look_on(&self) {
        let region = self.region.name();
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
        let region = self.region.name();
        let head = log::head(&self.store).await?;
        let position = match self.region.meta().await? {
            Some(meta) => lead::is_of_this_log(&self.store, head.lineage, &meta).await?,
            None => None,
        };
        self.fleet
            .sees(region, (head.lineage, head.generation), position);
        Ok(())
    }
}

/// A region whose checkpoint is not in this log was fed by another one, or this log was
/// restored from before it. Going on would mix two histories.
fn foreign(term: &Term, meta: &Meta) -> String {
    format!(
        "the region holds position {} of lineage {}, which is not in this log (lineage {}); it \
         was fed by another database, or this database was restored from an older backup: \
         nothing is written to it",
        meta.position, meta.lineage, term.lineage
    )
}
