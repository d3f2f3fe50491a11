//! What the proxies of each region report, and who holds what.
//!
//! Every control plane listens to the renewals of its regions and so knows, without asking
//! the database, how far each proxy is. The one that leads a region also stores what the
//! proxies report and then answers them: an answered renewal is a stored one.
//!
//! A position alone says nothing: it is a place in one history. Whatever is known here is
//! known of the history that the log has now, and anything else counts as nothing.

mod listener;
mod members;
mod uses;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::fleet::{LIVE_MS, Renewal};
use schemas::{BootId, KeyId, LineageId, Position};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{self, Store, failed};

pub use listener::Listener;
pub use members::{Member, list as members};

/// A proxy that renewed within this time is live.
const LIVE: Duration = Duration::from_millis(LIVE_MS.unsigned_abs());

/// A proxy that was not heard for so long is forgotten here.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How long the newest boot of a proxy is remembered, so that a report of one before it,
/// recorded by somebody and sent again, is not taken for news.
const BOOTS_KEPT: Duration = Duration::from_secs(25 * 3_600);
/// Proxies of a region whose newest boot is remembered.
const BOOTS_MAX: usize = 100_000;

/// One history of the log: its lineage and generation.
pub(crate) type History = (LineageId, u32);

/// Knowledge of all regions; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    regions: Mutex<BTreeMap<String, RegionState>>,
    /// Rises whenever something was learned, so that waiters look again.
    changed: watch::Sender<u64>,
    /// Rises whenever somebody begins to wait, so that watchers look sooner.
    asked: watch::Sender<u64>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct RegionState {
    /// Whether this process projects into the region.
    leading: bool,
    /// What the region's Redis holds of `history`; `None` where that is not known.
    position: Option<Position>,
    /// The history that the log has.
    history: Option<History>,
    /// Since when every renewal of the region would have been heard. A proxy that has been
    /// live for less than that may still be unknown.
    hearing_since: Option<Instant>,
    proxies: HashMap<String, Proxy>,
    boots: HashMap<String, Boot>,
}

/// The newest report of a proxy. Boots are ordered by their ids, which begin with the time
/// of the start.
#[derive(Debug, Clone, Copy)]
struct Boot {
    boot_id: BootId,
    counter: u64,
    heard_at: Instant,
}

#[derive(Debug, Clone)]
struct Proxy {
    boot_id: BootId,
    counter: u64,
    history: Option<History>,
    position: Position,
    renewed_at: Instant,
}

/// How far a region and its live proxies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The region.
    pub region: String,
    /// What its Redis holds; `None` where that is not known.
    pub position: Option<Position>,
    /// Its live proxies, by id.
    pub proxies: Vec<Live>,
    /// Whether this process has listened long enough to know all live proxies.
    pub is_complete: bool,
}

/// A proxy that renewed in the last 2 s.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Live {
    /// The proxy.
    pub id: String,
    /// The start of it.
    pub boot_id: BootId,
    /// How far it is in the history of the log; 0 where its table is of another.
    pub position: Position,
}

/// Held by whoever waits for a change to travel.
#[derive(Debug)]
pub struct Waiting(Fleet);

// === impl Fleet ===

impl Fleet {
    /// Knows the names of its regions and nothing else yet.
    pub fn new<'a>(regions: impl IntoIterator<Item = &'a str>) -> Self {
        let unknown = |name: &str| (name.to_owned(), RegionState::unknown());
        Self(Arc::new(Shared {
            regions: Mutex::new(regions.into_iter().map(unknown).collect()),
            changed: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Tells when something was learned.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Says that somebody waits, so that regions are looked at more often.
    pub fn wait(&self) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
        self.0.asked.send_modify(|count| *count += 1);
        Waiting(self.clone())
    }

    /// How far each region is.
    pub fn standings(&self) -> Vec<Standing> {
        self.regions()
            .iter()
            .map(|(name, state)| state.standing(name))
            .collect()
    }

    pub(crate) fn asked(&self) -> watch::Receiver<u64> {
        self.0.asked.subscribe()
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) > 0
    }

    /// This process projects into the region from here on.
    pub(crate) fn leads(&self, region: &str, history: History, position: Position) {
        self.update(region, |state| {
            state.leading = true;
            state.history = Some(history);
            state.position = Some(position);
        });
    }

    /// This process no longer projects into the region.
    pub(crate) fn stops_leading(&self, region: &str) {
        self.update(region, |state| state.leading = false);
    }

    /// The region's Redis holds everything up to `position`, because we wrote it.
    pub(crate) fn region_holds(&self, region: &str, position: Position) {
        self.update(region, |state| state.position = Some(position));
    }

    /// Another projects into the region, and this is how far it is seen to be.
    pub(crate) fn sees(&self, region: &str, history: History, position: Option<Position>) {
        self.update(region, |state| {
            state.history = Some(history);
            state.position = position;
        });
    }

    /// The region cannot be looked at.
    pub(crate) fn loses_sight(&self, region: &str) {
        self.update(region, |state| state.position = None);
    }

    /// Whether every renewal of the region is heard at this moment.
    fn hears(&self, region: &str, is_hearing: bool) {
        self.update(region, |state| {
            if !is_hearing {
                state.hearing_since = None;
            } else if state.hearing_since.is_none() {
                state.hearing_since = Some(Instant::now());
            }
        });
    }

    /// Takes in how far a proxy is; says whether this process is the one to answer.
    fn hear(&self, region: &str, renewal: &Renewal) -> bool {
        let mut leading = false;
        self.update(region, |state| {
            leading = state.leading;
            state.remember(&renewal.proxy_id, renewal.boot_id, renewal.counter);
            state.hear(renewal);
        });
        leading
    }

    /// Whether a report is not newer than one of the same proxy that was heard before.
    fn is_of_old(&self, region: &str, renewal: &Renewal) -> bool {
        let regions = self.regions();
        let state = regions.get(region);
        state.is_some_and(|state| state.is_of_old(renewal))
    }

    /// Takes in which start of a proxy reported before this process began to listen.
    fn remembers(&self, region: &str, proxy_id: &str, boot_id: BootId) {
        self.update(region, |state| state.remember(proxy_id, boot_id, 0));
    }

    fn update(&self, region: &str, change: impl FnOnce(&mut RegionState)) {
        if let Some(state) = self.regions().get_mut(region) {
            change(state);
        }
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn regions(&self) -> MutexGuard<'_, BTreeMap<String, RegionState>> {
        // A panic while the lock was held leaves plain data, which stays usable.
        self.0
            .regions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl RegionState ===

impl RegionState {
    fn unknown() -> Self {
        Self {
            leading: false,
            position: None,
            history: None,
            hearing_since: None,
            proxies: HashMap::new(),
            boots: HashMap::new(),
        }
    }

    fn is_of_old(&self, renewal: &Renewal) -> bool {
        self.boots.get(&renewal.proxy_id).is_some_and(|newest| {
            (renewal.boot_id, renewal.counter) <= (newest.boot_id, newest.counter)
        })
    }

    fn remember(&mut self, proxy_id: &str, boot_id: BootId, counter: u64) {
        if self.boots.len() >= BOOTS_MAX {
            self.boots
                .retain(|_, boot| boot.heard_at.elapsed() < BOOTS_KEPT);
        }
        let boot = Boot {
            boot_id,
            counter,
            heard_at: Instant::now(),
        };
        self.boots.insert(proxy_id.to_owned(), boot);
    }

    fn hear(&mut self, renewal: &Renewal) {
        let heard = self.proxies.get(&renewal.proxy_id);
        let is_same_boot = heard.is_some_and(|it| it.boot_id == renewal.boot_id);
        let is_older = is_same_boot && heard.is_some_and(|it| it.counter >= renewal.counter);
        if renewal.goodbye {
            // The goodbye of a boot before says nothing of the one that followed it.
            if is_same_boot {
                self.proxies.remove(&renewal.proxy_id);
            }
        } else if !is_older {
            let proxy = Proxy {
                boot_id: renewal.boot_id,
                counter: renewal.counter,
                history: renewal.lineage.map(|lineage| (lineage, renewal.generation)),
                position: renewal.position,
                renewed_at: Instant::now(),
            };
            self.proxies.insert(renewal.proxy_id.clone(), proxy);
        }
        self.proxies
            .retain(|_, proxy| proxy.renewed_at.elapsed() < FORGOTTEN);
    }

    fn standing(&self, name: &str) -> Standing {
        let mut proxies: Vec<Live> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.renewed_at.elapsed() <= LIVE)
            .map(|(id, proxy)| Live {
                id: id.clone(),
                boot_id: proxy.boot_id,
                position: if proxy.history == self.history {
                    proxy.position
                } else {
                    0
                },
            })
            .collect();
        proxies.sort();
        Standing {
            region: name.to_owned(),
            position: self.position,
            proxies,
            is_complete: self
                .hearing_since
                .is_some_and(|since| since.elapsed() > LIVE),
        }
    }
}

/// The live proxies that have not yet reported all uses up to `position`, and the regions
/// of which not all live proxies are known; as `region/proxy` and `region`.
///
/// What counts is who was *heard*: a proxy whose reports are heard and not stored holds the
/// proof back, and so does a region that is not heard.
///
/// # Errors
/// [`store::Error`].
pub async fn not_reported(
    fleet: &Fleet,
    store: &Store,
    position: Position,
) -> Result<Vec<String>, store::Error> {
    let mut missing = Vec::new();
    for standing in fleet.standings() {
        let region = &standing.region;
        if !standing.is_complete {
            missing.push(region.clone());
        }
        let stored = members::uses_stored(store, region).await?;
        for proxy in standing.proxies {
            let reported = stored.get(&(proxy.id.clone(), proxy.boot_id.to_string()));
            if reported.is_none_or(|reported| *reported < position) {
                missing.push(format!("{region}/{}", proxy.id));
            }
        }
    }
    Ok(missing)
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

#[cfg(test)]
mod tests;
