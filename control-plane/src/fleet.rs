//! What the proxies of each region report, and who holds what.
//!
//! Every control plane listens to the renewals of its regions and so knows, without asking
//! the database, how far each proxy is. The one that leads a region also stores what the
//! proxies report and then answers them: an answered renewal is a stored one.

mod uses;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use schemas::fleet::{LIVE_MS, Renewal, RenewalAnswer};
use schemas::{BootId, KeyId, Position, Timestamp};
use serde::Serialize;
use sqlx::Row as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::chain::Chain;
use crate::execute::{self, Execute};
use crate::fresh;
use crate::region::{Incoming, Region};
use crate::store::log::{self, Head, column, position_column, to_i64};
use crate::store::{self, Store, failed};

/// A proxy that renewed within this time is live.
const LIVE: Duration = Duration::from_millis(LIVE_MS.unsigned_abs());

/// Renewals that may wait to be stored.
const WAITING_MAX: usize = 1_024;
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Why renewals were not stored.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A first use did not become an event.
    #[error("a first use was not recorded")]
    FirstUse(#[from] execute::Error),
}

/// Knowledge of all regions; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet {
    regions: Arc<Mutex<BTreeMap<String, RegionState>>>,
    /// Rises whenever something was learned, so that waiters look again.
    changed: watch::Sender<u64>,
    /// When this process began to listen: proxies that it has not heard yet may exist.
    since: Instant,
}

#[derive(Debug, Default)]
struct RegionState {
    /// Whether this process projects into the region.
    leading: bool,
    /// What the region's Redis holds, as far as this process knows.
    position: Position,
    proxies: HashMap<String, Proxy>,
}

#[derive(Debug, Clone)]
struct Proxy {
    boot_id: BootId,
    counter: u64,
    position: Position,
    renewed_at: Instant,
}

/// How far a region and its live proxies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The region.
    pub region: String,
    /// What its Redis holds; `None` where this process does not project into it.
    pub position: Option<Position>,
    /// Its live proxies, by id.
    pub proxies: Vec<(String, Position)>,
    /// Whether this process has listened long enough to know all live proxies.
    pub complete: bool,
}

// === impl Fleet ===

impl Fleet {
    /// Knows the names of its regions and nothing else yet.
    pub fn new<'a>(regions: impl IntoIterator<Item = &'a str>) -> Self {
        let regions = regions
            .into_iter()
            .map(|name| (name.to_owned(), RegionState::default()));
        Self {
            regions: Arc::new(Mutex::new(regions.collect())),
            changed: watch::Sender::new(0),
            since: Instant::now(),
        }
    }

    /// Tells when something was learned.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How far each region is.
    pub fn standings(&self) -> Vec<Standing> {
        let complete = self.since.elapsed() > LIVE;
        self.regions()
            .iter()
            .map(|(name, state)| {
                let mut proxies: Vec<_> = state
                    .proxies
                    .iter()
                    .filter(|(_, proxy)| proxy.renewed_at.elapsed() <= LIVE)
                    .map(|(id, proxy)| (id.clone(), proxy.position))
                    .collect();
                proxies.sort();
                Standing {
                    region: name.clone(),
                    position: state.leading.then_some(state.position),
                    proxies,
                    complete,
                }
            })
            .collect()
    }

    /// This process projects into the region from here on.
    pub(crate) fn start_leading(&self, region: &str, position: Position) {
        self.update(region, |state| {
            state.leading = true;
            state.position = position;
        });
    }

    /// This process no longer projects into the region.
    pub(crate) fn stop_leading(&self, region: &str) {
        self.update(region, |state| state.leading = false);
    }

    /// The region's Redis holds everything up to `position`.
    pub(crate) fn region_holds(&self, region: &str, position: Position) {
        self.update(region, |state| state.position = position);
    }

    fn hear(&self, region: &str, renewal: &Renewal) -> bool {
        let mut leading = false;
        self.update(region, |state| {
            leading = state.leading;
            let heard = state.proxies.get(&renewal.proxy_id);
            let repeated = heard
                .is_some_and(|it| it.boot_id == renewal.boot_id && it.counter >= renewal.counter);
            if renewal.goodbye {
                state.proxies.remove(&renewal.proxy_id);
            } else if !repeated {
                let proxy = Proxy {
                    boot_id: renewal.boot_id,
                    counter: renewal.counter,
                    position: renewal.position,
                    renewed_at: Instant::now(),
                };
                state.proxies.insert(renewal.proxy_id.clone(), proxy);
            }
        });
        leading
    }

    fn update(&self, region: &str, change: impl FnOnce(&mut RegionState)) {
        if let Some(state) = self.regions().get_mut(region) {
            change(state);
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn regions(&self) -> MutexGuard<'_, BTreeMap<String, RegionState>> {
        // A panic while the lock was held leaves plain data, which stays usable.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens to the renewals of one region until the process ends.
pub struct Listener {
    store: Store,
    region: Arc<dyn Region>,
    fleet: Fleet,
    execute: Execute,
}

// === impl Listener ===

impl Listener {
    /// Listens to `region`; first uses become events through `execute`.
    pub fn new(store: Store, region: Arc<dyn Region>, fleet: Fleet, execute: Execute) -> Self {
        Self {
            store,
            region,
            fleet,
            execute,
        }
    }

    /// Runs until the task is dropped.
    ///
    /// What a renewal says of its proxy's position is known at once; what has to be stored
    /// is stored by a task beside, in as few transactions as it can keep up with.
    pub async fn run(self) {
        let (to_store, waiting) = mpsc::channel(WAITING_MAX);
        let storing = self.store_all(waiting);
        let hearing = self.hear_all(to_store);
        tokio::join!(storing, hearing);
    }

    async fn hear_all(&self, to_store: mpsc::Sender<Incoming>) {
        loop {
            match self.region.renewals().await {
                Ok(mut renewals) => {
                    while let Some(incoming) = renewals.next().await {
                        if self.fleet.hear(self.region.name(), &incoming.renewal) {
                            // One that finds no room is not answered, and comes again.
                            drop(to_store.try_send(incoming));
                        }
                    }
                }
                Err(error) => {
                    let region = self.region.name();
                    tracing::warn!(error = %Chain(&error), region, "renewals cannot be heard");
                }
            }
            sleep(LISTEN_AGAIN).await;
        }
    }

    async fn store_all(&self, mut waiting: mpsc::Receiver<Incoming>) {
        let mut batch = Vec::new();
        let mut tidy_at = Instant::now();
        while waiting.recv_many(&mut batch, WAITING_MAX).await > 0 {
            match self.store_batch(&batch).await {
                Ok(head) => {
                    for incoming in batch.drain(..) {
                        let answer = answer(&incoming.renewal, &head);
                        // The proxy may be gone; it will report again.
                        drop(incoming.reply.send(answer));
                    }
                }
                Err(error) => {
                    let region = self.region.name();
                    tracing::warn!(
                        error = %Chain(&error),
                        region,
                        renewals = batch.len(),
                        "renewals were not stored and are not answered"
                    );
                    batch.clear();
                }
            }
            if Instant::now() >= tidy_at {
                tidy_at = Instant::now() + TIDY_EVERY;
                if let Err(error) = uses::forget_old_minutes(&self.store, fresh::now()).await {
                    tracing::warn!(error = %Chain(&error), "old counts were not forgotten");
                }
            }
        }
    }

    async fn store_batch(&self, batch: &[Incoming]) -> Result<Head, Error> {
        let mut merged = uses::Merged::new();
        // Of each proxy the newest report counts.
        let mut members = BTreeMap::new();
        for Incoming { renewal, .. } in batch {
            uses::merge(&mut merged, &renewal.uses);
            members.insert(renewal.proxy_id.as_str(), renewal);
        }
        uses::store(&self.store, &self.execute, &merged).await?;
        for renewal in members.values() {
            save_member(&self.store, renewal).await?;
        }
        Ok(log::head(&self.store).await?)
    }
}

fn answer(renewal: &Renewal, head: &Head) -> RenewalAnswer {
    RenewalAnswer {
        boot_id: renewal.boot_id,
        counter: renewal.counter,
        lineage: head.lineage,
        generation: head.generation,
        head: head.position,
        now_ms: fresh::now().unix_ms(),
    }
}

async fn save_member(store: &Store, renewal: &Renewal) -> Result<(), store::Error> {
    let uses_position = if renewal.uses_complete {
        renewal.position
    } else {
        0
    };
    sqlx::query(
        "INSERT INTO members (region, proxy_id, boot_id, position, uses_position, \
         renewed_at_ms, version, state, freshness_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (region, proxy_id) DO UPDATE SET boot_id = excluded.boot_id, \
         position = excluded.position, \
         uses_position = CASE WHEN excluded.uses_position > 0 THEN excluded.uses_position \
         ELSE members.uses_position END, renewed_at_ms = excluded.renewed_at_ms, \
         version = excluded.version, state = excluded.state, \
         freshness_ms = excluded.freshness_ms",
    )
    .bind(renewal.region.clone())
    .bind(renewal.proxy_id.clone())
    .bind(renewal.boot_id.to_string())
    .bind(to_i64(renewal.position))
    .bind(to_i64(uses_position))
    .bind(fresh::now().unix_ms())
    .bind(renewal.version.clone())
    .bind(format!("{:?}", renewal.state).to_lowercase())
    .bind(to_i64(renewal.freshness_ms))
    .execute(store.background())
    .await
    .map(drop)
    .map_err(failed("store a renewal"))
}

/// The proxies that renewed in the last 2 s and have not yet reported all uses up to
/// `position`, as `region/proxy`.
///
/// # Errors
/// [`store::Error`].
pub async fn not_reported(store: &Store, position: Position) -> Result<Vec<String>, store::Error> {
    let rows = sqlx::query(
        "SELECT region, proxy_id FROM members \
         WHERE renewed_at_ms > $1 AND uses_position < $2 ORDER BY region, proxy_id",
    )
    .bind(fresh::now().unix_ms() - LIVE_MS)
    .bind(to_i64(position))
    .fetch_all(store.pool())
    .await
    .map_err(failed("read the members"))?;
    rows.iter()
        .map(|row| {
            let region: String = row.try_get("region").map_err(|_| log::corrupt("members"))?;
            let proxy: String = row
                .try_get("proxy_id")
                .map_err(|_| log::corrupt("members"))?;
            Ok(format!("{region}/{proxy}"))
        })
        .collect()
}

/// Whether any proxy ever reported a use of the key.
///
/// # Errors
/// [`store::Error`].
pub async fn was_used(store: &Store, key_id: KeyId) -> Result<bool, store::Error> {
    sqlx::query("SELECT 1 FROM secret_uses WHERE key_id = $1")
        .bind(key_id.to_string())
        .fetch_optional(store.pool())
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for uses"))
}

/// What a proxy last said, as its region's control plane stored it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The proxy.
    pub proxy_id: String,
    /// The start of it that said so.
    pub boot_id: String,
    /// Every event up to here is in its table.
    pub position: Position,
    /// When it said so, by the control plane's clock.
    pub renewed_at: Timestamp,
    /// The version of its program.
    pub version: String,
    /// Its follower's state.
    pub state: String,
    /// How old its newest word from the region was, in milliseconds.
    pub freshness_ms: u64,
}

/// The proxies that ever reported in a region, by id.
///
/// # Errors
/// [`store::Error`].
pub async fn members(store: &Store, region: &str) -> Result<Vec<Member>, store::Error> {
    let rows = sqlx::query(
        "SELECT proxy_id, boot_id, position, renewed_at_ms, version, state, freshness_ms \
         FROM members WHERE region = $1 ORDER BY proxy_id",
    )
    .bind(region.to_owned())
    .fetch_all(store.pool())
    .await
    .map_err(failed("read the members"))?;
    rows.iter()
        .map(|row| {
            Ok(Member {
                proxy_id: column(row, "proxy_id")?,
                boot_id: column(row, "boot_id")?,
                position: position_column(row, "position")?,
                renewed_at: Timestamp::from_unix_ms(column(row, "renewed_at_ms")?),
                version: column(row, "version")?,
                state: column(row, "state")?,
                freshness_ms: column::<i64>(row, "freshness_ms")?.unsigned_abs(),
            })
        })
        .collect()
}
