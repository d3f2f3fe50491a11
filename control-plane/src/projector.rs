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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use events::{Aggregate, Stream, project};
use schemas::entry::{self, Change, PolicyId};
use schemas::stream::{HEARTBEAT_EVERY_MS, Heartbeat, Meta};
use schemas::{BootId, CredentialHash, Position};
use sqlx::Row as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chain::Chain;
use crate::fleet::Fleet;
use crate::fresh;
use crate::region::{Batch, Region, Verdict};
use crate::store::log::{self, Head, column, to_i64};
use crate::store::{self, Store, failed};

/// How long a leader leads without renewing, in milliseconds.
const LEAD_MS: i64 = 3_000;
const LEAD_RENEW: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);

/// Events folded into one batch at most; it bounds how long one script blocks a Redis.
const BATCH_EVENTS: u32 = 200;

/// Aggregates remembered between batches; one that is forgotten is folded again from its
/// stream.
const FOLDED_MAX: usize = 50_000;

/// Projects the log into one region until the process ends.
pub struct Projector {
    store: Store,
    region: Arc<dyn Region>,
    head: watch::Receiver<Position>,
    fleet: Fleet,
    boot_id: BootId,
    folded: Folded,
}

/// The right to write into a region.
#[derive(Debug, Clone, Copy)]
struct Term {
    fence: u64,
    epoch: u64,
    renew_at: Instant,
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
        Self {
            store,
            region,
            head,
            fleet,
            boot_id,
            folded: Folded::default(),
        }
    }

    /// Runs until the task is dropped: leads when it can, starts over when something broke.
    pub async fn run(mut self) {
        let mut last_error = String::new();
        loop {
            match self.lead().await {
                Ok(()) | Err(Error::Fenced) => {}
                Err(error) => {
                    // The same failure five times a second is one line, not five.
                    let text = error.to_string();
                    if text != last_error {
                        let region = self.region.name();
                        tracing::error!(
                            region,
                            error = %Chain(&error),
                            "the projector stopped and tries again"
                        );
                        last_error = text;
                    }
                }
            }
            self.fleet.stop_leading(self.region.name());
            sleep(RETRY).await;
        }
    }

    /// Leads the region for as long as that lasts; returns at once where another does.
    async fn lead(&mut self) -> Result<(), Error> {
        let Some(mut term) = self.acquire().await? else {
            return Ok(());
        };
        self.folded.clear();
        let meta = self.region.meta().await?;
        let mut position = self.start_from(&mut term, meta.as_ref()).await?;
        self.fleet.start_leading(self.region.name(), position);
        let region = self.region.name();
        tracing::info!(
            region,
            fence = term.fence,
            epoch = term.epoch,
            position,
            "projecting"
        );

        let mut beat_at = Instant::now();
        loop {
            tokio::select! {
                moved = self.head.changed() => if moved.is_err() { return Ok(()) },
                () = sleep_until(beat_at) => {}
            }
            position = self.catch_up(&mut term, position).await?;
            if Instant::now() >= beat_at {
                // A region that lost memory says so here, and is continued from where it is.
                let seen = self.region.meta().await?;
                if seen.as_ref().map_or(0, |it| it.position) != position {
                    position = self.start_from(&mut term, seen.as_ref()).await?;
                    position = self.catch_up(&mut term, position).await?;
                }
                self.keep(&mut term).await?;
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
            let Some(last) = rows.last() else { break };
            let to = last.recorded.position;
            let chain_hash = hex::encode(last.chain_hash);
            let lineage = last.recorded.lineage;
            let generation = last.recorded.generation;
            let mut changes = Changes::default();
            for row in &rows {
                let changed = self.folded.fold(&self.store, &row.recorded).await?;
                changes.merge(changed);
            }
            let batch = Batch {
                lineage,
                generation,
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
                    self.folded.clear();
                    position = self.start_from(term, meta.as_ref()).await?;
                    continue;
                }
                Verdict::Refused { reason } => return Err(Error::Foreign(reason)),
            }
            position = to;
            // A long way to catch up takes longer than one lease.
            self.keep(term).await?;
            self.fleet.region_holds(self.region.name(), position);
            if let Err(error) = self.region.publish_frame(&batch.frame()).await {
                tracing::warn!(%error, region = self.region.name(), "a frame was not published; proxies read the feed");
            }
        }
        Ok(position)
    }

    /// Where to continue: after the region's own checkpoint, if it is a place in this log.
    async fn start_from(
        &mut self,
        term: &mut Term,
        meta: Option<&Meta>,
    ) -> Result<Position, Error> {
        let Some(meta) = meta else {
            term.epoch = self.new_epoch().await?;
            self.folded.clear();
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
        let head = log::head(&self.store).await?;
        check_same_history(&self.store, &head, meta).await?;
        term.epoch = meta.epoch;
        Ok(meta.position)
    }

    async fn beat(&self, term: Term, position: Position) -> Result<(), Error> {
        let head = log::head(&self.store).await?;
        self.fleet.region_holds(self.region.name(), position);
        let heartbeat = Heartbeat {
            lineage: head.lineage,
            generation: head.generation,
            epoch: term.epoch,
            to: position,
            as_of_ms: fresh::now().unix_ms(),
        };
        if let Err(error) = self.region.publish_heartbeat(&heartbeat).await {
            tracing::warn!(%error, region = self.region.name(), "a heartbeat was not published");
        }
        Ok(())
    }

    /// Becomes the leader of the region, with a fence above every earlier one, unless
    /// another leads.
    async fn acquire(&self) -> Result<Option<Term>, Error> {
        let now_ms = fresh::now().unix_ms();
        let row = sqlx::query(
            "INSERT INTO regions (name, leader, fence, lease_until_ms, epoch) \
             VALUES ($1, $2, 1, $3, 0) \
             ON CONFLICT (name) DO UPDATE SET leader = excluded.leader, \
             fence = regions.fence + 1, lease_until_ms = excluded.lease_until_ms \
             WHERE regions.leader = excluded.leader OR regions.lease_until_ms < $4 \
             RETURNING fence, epoch",
        )
        .bind(self.region.name().to_owned())
        .bind(self.boot_id.to_string())
        .bind(now_ms + LEAD_MS)
        .bind(now_ms)
        .fetch_optional(self.store.background())
        .await
        .map_err(failed("lead a region"))?;
        row.map(|row| {
            Ok(Term {
                fence: column::<i64>(&row, "fence")?.unsigned_abs(),
                epoch: column::<i64>(&row, "epoch")?.unsigned_abs(),
                renew_at: Instant::now() + LEAD_RENEW,
            })
        })
        .transpose()
    }

    /// Goes on leading, or finds out that another does.
    async fn keep(&self, term: &mut Term) -> Result<(), Error> {
        if Instant::now() < term.renew_at {
            return Ok(());
        }
        let done = sqlx::query(
            "UPDATE regions SET lease_until_ms = $1 WHERE name = $2 AND leader = $3 AND fence = $4",
        )
        .bind(fresh::now().unix_ms() + LEAD_MS)
        .bind(self.region.name().to_owned())
        .bind(self.boot_id.to_string())
        .bind(to_i64(term.fence))
        .execute(self.store.background())
        .await
        .map_err(failed("go on leading a region"))?;
        term.renew_at = Instant::now() + LEAD_RENEW;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Error::Fenced)
        }
    }

    async fn new_epoch(&self) -> Result<u64, Error> {
        let row =
            sqlx::query("UPDATE regions SET epoch = epoch + 1 WHERE name = $1 RETURNING epoch")
                .bind(self.region.name().to_owned())
                .fetch_one(self.store.background())
                .await
                .map_err(failed("begin an epoch"))?;
        let epoch: i64 = row
            .try_get("epoch")
            .map_err(|_| log::corrupt("regions.epoch"))?;
        Ok(epoch.unsigned_abs())
    }
}

/// A region whose checkpoint is not in this log was fed by another one, or this log was
/// restored from before it. Going on would mix two histories.
async fn check_same_history(store: &Store, head: &Head, meta: &Meta) -> Result<(), Error> {
    let known = log::chain_hash_at(store, meta.position).await?;
    let same = head.lineage == meta.lineage
        && known.is_some_and(|known| hex::encode(known) == meta.chain_hash);
    if same {
        return Ok(());
    }
    Err(Error::Foreign(format!(
        "the region holds position {} of lineage {}, which is not in this log (lineage {}, \
         head {}); it was fed by another database, or this database was restored from an older \
         backup: nothing is written to it",
        meta.position, meta.lineage, head.lineage, head.position
    )))
}

/// Lets others lead at once what this process led.
pub(crate) async fn release(store: &Store, boot_id: BootId) -> Result<(), store::Error> {
    sqlx::query("UPDATE regions SET lease_until_ms = 0 WHERE leader = $1")
        .bind(boot_id.to_string())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("stop leading"))
}

// === folding ===

/// Aggregates at the projector's position.
#[derive(Default)]
struct Folded(HashMap<Stream, Option<Aggregate>>);

impl Folded {
    fn clear(&mut self) {
        self.0.clear();
    }

    /// Folds the next event and says which entries it changed.
    async fn fold(
        &mut self,
        store: &Store,
        recorded: &events::Recorded,
    ) -> Result<Vec<Change>, store::Error> {
        if self.0.len() >= FOLDED_MAX {
            self.0.clear();
        }
        let stream = recorded.stream;
        let before = match self.0.remove(&stream) {
            Some(before) => before,
            None if recorded.stream_version == 1 => None,
            None => {
                let history = log::of_stream(store, stream, recorded.position - 1).await?;
                history
                    .iter()
                    .fold(None, |state, row| events::evolve(state, &row.recorded))
            }
        };
        let after = events::evolve(before.clone(), recorded);
        let changes = after
            .as_ref()
            .map(|after| project::project(before.as_ref(), after, recorded))
            .unwrap_or_default();
        self.0.insert(stream, after);
        Ok(changes)
    }
}

/// The entries of a batch: of each, only the last.
#[derive(Default)]
struct Changes {
    order: Vec<EntryName>,
    entries: HashMap<EntryName, Change>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum EntryName {
    Secret(CredentialHash),
    Policy(PolicyId),
}

impl Changes {
    fn merge(&mut self, changes: Vec<Change>) {
        for change in changes {
            let name = match &change {
                Change::Secret { hash, .. } => EntryName::Secret(*hash),
                Change::Policy { policy } => EntryName::Policy(policy.policy.id()),
            };
            if self.entries.insert(name, change).is_none() {
                self.order.push(name);
            }
        }
    }

    /// The entries, checked with the same code that a proxy reads them with. One that
    /// could not be read is left out and reported: it must not hold up all the others.
    fn into_valid(mut self) -> Vec<Change> {
        let entries = self
            .order
            .iter()
            .filter_map(|name| self.entries.remove(name));
        entries
            .filter(|change| {
                let checked = match change {
                    Change::Secret { secret, .. } => entry::encode(secret)
                        .and_then(|text| entry::decode_secret(text.as_bytes()).map(drop)),
                    Change::Policy { policy } => entry::encode(policy)
                        .and_then(|text| entry::decode_policy(text.as_bytes()).map(drop)),
                };
                if let Err(error) = &checked {
                    tracing::error!(%error, "an entry cannot be published and was left out");
                }
                checked.is_ok()
            })
            .collect()
    }
}
