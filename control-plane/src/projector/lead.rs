//! Who projects into a region: one control plane at a time, by a row in the database.
//!
//! The row holds a fence, which rises with every change of the leader and which the region
//! itself checks: it, and not the lease, keeps two leaders from mixing their writes. The
//! lease only says when another may try. It is not a time of day, which hosts disagree
//! about: a leader moves `beat`, and whoever sees that it has not moved for [`SILENT`] of
//! their own time may take over.

use std::time::Duration;

use schemas::{BootId, LineageId, Position};
use sqlx::Row as _;
use tokio::time::Instant;

use crate::store::log::{self, column, to_i64};
use crate::store::{Error, Store, failed};

/// A leader that has not moved its beat for so long may be replaced.
const SILENT: Duration = Duration::from_secs(3);
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The right to write into a region, and the history that is written.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) fence: u64,
    pub(super) epoch: u64,
    pub(super) lineage: LineageId,
    pub(super) generation: u32,
    beat_at: Instant,
}

/// What a process that wants to lead has seen of the one that does.
#[derive(Debug)]
pub(super) struct Candidate {
    store: Store,
    region: String,
    boot_id: BootId,
    seen: Option<(Seen, Instant)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    leader: String,
    fence: u64,
    beat: i64,
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(store: Store, region: &str, boot_id: BootId) -> Self {
        Self {
            store,
            region: region.to_owned(),
            boot_id,
            seen: None,
        }
    }

    /// Becomes the leader, with a fence above every earlier one, unless another leads.
    pub(super) async fn acquire(&mut self) -> Result<Option<Term>, Error> {
        let row = self.look().await?;
        let is_silent = match &self.seen {
            Some((seen, since)) if *seen == row => since.elapsed() >= SILENT,
            _ => {
                self.seen = Some((row.clone(), Instant::now()));
                false
            }
        };
        let is_free = row.leader.is_empty() || row.leader == self.boot_id.to_string();
        if !is_free && !is_silent {
            return Ok(None);
        }
        self.seen = None;
        let taken = sqlx::query(
            "UPDATE regions SET leader = $1, fence = fence + 1, beat = beat + 1 \
             WHERE name = $2 AND fence = $3 AND beat = $4 RETURNING fence, epoch",
        )
        .bind(self.boot_id.to_string())
        .bind(self.region.clone())
        .bind(to_i64(row.fence))
        .bind(row.beat)
        .fetch_optional(self.store.background())
        .await
        .map_err(failed("lead a region"))?;
        let Some(taken) = taken else { return Ok(None) };
        let head = log::head(&self.store).await?;
        Ok(Some(Term {
            fence: column::<i64>(&taken, "fence")?.unsigned_abs(),
            epoch: column::<i64>(&taken, "epoch")?.unsigned_abs(),
            lineage: head.lineage,
            generation: head.generation,
            beat_at: Instant::now() + BEAT_EVERY,
        }))
    }

    /// Goes on leading; `false` where another does.
    pub(super) async fn keep(&self, term: &mut Term) -> Result<bool, Error> {
        if Instant::now() < term.beat_at {
            return Ok(true);
        }
        self.keep_now(term).await
    }

    /// The same, and asks the database however recently it was asked.
    pub(super) async fn keep_now(&self, term: &mut Term) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE regions SET beat = beat + 1 WHERE name = $1 AND leader = $2 AND fence = $3",
        )
        .bind(self.region.clone())
        .bind(self.boot_id.to_string())
        .bind(to_i64(term.fence))
        .execute(self.store.background())
        .await
        .map_err(failed("go on leading a region"))?;
        term.beat_at = Instant::now() + BEAT_EVERY;
        Ok(done.rows_affected() == 1)
    }

    /// Lets another lead: this process cannot do the work at the moment.
    pub(super) async fn step_down(&self) -> Result<(), Error> {
        sqlx::query("UPDATE regions SET leader = '' WHERE name = $1 AND leader = $2")
            .bind(self.region.clone())
            .bind(self.boot_id.to_string())
            .execute(self.store.background())
            .await
            .map(drop)
            .map_err(failed("stop leading a region"))
    }

    /// Begins a new build of the region's table.
    pub(super) async fn new_epoch(&self) -> Result<u64, Error> {
        let row =
            sqlx::query("UPDATE regions SET epoch = epoch + 1 WHERE name = $1 RETURNING epoch")
                .bind(self.region.clone())
                .fetch_one(self.store.background())
                .await
                .map_err(failed("begin an epoch"))?;
        Ok(column::<i64>(&row, "epoch")?.unsigned_abs())
    }

    async fn look(&self) -> Result<Seen, Error> {
        let row = sqlx::query("SELECT leader, fence, beat FROM regions WHERE name = $1")
            .bind(self.region.clone())
            .fetch_optional(self.store.background())
            .await
            .map_err(failed("see who leads a region"))?;
        let Some(row) = row else {
            sqlx::query(
                "INSERT INTO regions (name, leader, fence, beat, epoch) VALUES ($1, '', 0, 0, 0) \
                 ON CONFLICT (name) DO NOTHING",
            )
            .bind(self.region.clone())
            .execute(self.store.background())
            .await
            .map_err(failed("name a region"))?;
            return Ok(Seen {
                leader: String::new(),
                fence: 0,
                beat: 0,
            });
        };
        Ok(Seen {
            leader: row
                .try_get("leader")
                .map_err(|_| log::corrupt("regions.leader"))?,
            fence: column::<i64>(&row, "fence")?.unsigned_abs(),
            beat: column(&row, "beat")?,
        })
    }
}

/// Lets others lead at once what this process led.
pub(crate) async fn release(store: &Store, boot_id: BootId) -> Result<(), Error> {
    sqlx::query("UPDATE regions SET leader = '' WHERE leader = $1")
        .bind(boot_id.to_string())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("stop leading"))
}

/// Where a region is, if that is a place in the history that is written.
pub(super) async fn is_of_this_log(
    store: &Store,
    lineage: LineageId,
    meta: &schemas::stream::Meta,
) -> Result<Option<Position>, Error> {
    if meta.lineage != lineage {
        return Ok(None);
    }
    let known = log::chain_hash_at(store, meta.position).await?;
    let is_same = known.is_some_and(|known| hex::encode(known) == meta.chain_hash);
    Ok(is_same.then_some(meta.position))
}
