//! How far a change has travelled, and waiting until it is there.
//!
//! A region is *applied* when its Redis and every proxy that renewed in the last 2 s hold
//! the change. A control plane that has just started does not know all proxies yet, so it
//! calls nothing applied until it has listened for that long.

use std::sync::Arc;
use std::time::Duration;

use schemas::Position;
use schemas::api::{Level, Propagation, RegionPropagation};
use tokio::time::{Instant, timeout_at};

use crate::fleet::{Fleet, Standing};
use crate::region::Region;

/// How often a region that another control plane projects into is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Measures and waits; clones share the same regions.
#[derive(Clone)]
pub struct Watcher {
    fleet: Fleet,
    regions: Vec<Arc<dyn Region>>,
}

// === impl Watcher ===

impl Watcher {
    /// Watches these regions.
    pub fn new(fleet: Fleet, regions: Vec<Arc<dyn Region>>) -> Self {
        Self { fleet, regions }
    }

    /// How far the change at `position` is now.
    pub async fn measure(&self, position: Position) -> Propagation {
        let standings = self.fleet.standings();
        let mut regions = Vec::with_capacity(standings.len());
        for standing in standings {
            let stored = match standing.position {
                Some(stored) => Some(stored),
                None => self.ask(&standing.region).await,
            };
            regions.push(judge(&standing, stored, position));
        }
        let level = regions
            .iter()
            .map(|it| it.level)
            .min()
            .unwrap_or(Level::Applied);
        Propagation {
            position,
            level,
            regions,
        }
    }

    /// Waits until the change at `position` has reached `level` everywhere, or until the
    /// time is up; the change stands either way.
    pub async fn wait(&self, position: Position, level: Level, timeout: Duration) -> Propagation {
        let deadline = Instant::now() + timeout;
        let mut changed = self.fleet.changed();
        loop {
            changed.mark_unchanged();
            let propagation = self.measure(position).await;
            let now = Instant::now();
            if propagation.level >= level || now >= deadline {
                return propagation;
            }
            // Whichever comes first; an error is the time being up.
            let next_ask = deadline.min(now + ASK_EVERY);
            drop(timeout_at(next_ask, changed.changed()).await);
        }
    }

    async fn ask(&self, name: &str) -> Option<Position> {
        let region = self.regions.iter().find(|it| it.name() == name)?;
        region.meta().await.ok().flatten().map(|meta| meta.position)
    }
}

fn judge(standing: &Standing, stored: Option<Position>, position: Position) -> RegionPropagation {
    let missing: Vec<String> = standing
        .proxies
        .iter()
        .filter(|(_, held)| *held < position)
        .map(|(id, _)| id.clone())
        .collect();
    let stored = stored.is_some_and(|stored| stored >= position);
    let applied = stored && missing.is_empty() && standing.complete;
    let proxies = standing.proxies.len() as u64;
    RegionPropagation {
        name: standing.region.clone(),
        level: if applied {
            Level::Applied
        } else {
            Level::Committed
        },
        proxies,
        applied: proxies - missing.len() as u64,
        missing,
        confirmed_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(proxies: &[(&str, Position)], complete: bool) -> Standing {
        Standing {
            region: "eu".to_owned(),
            position: None,
            proxies: proxies
                .iter()
                .map(|(id, held)| ((*id).to_owned(), *held))
                .collect(),
            complete,
        }
    }

    #[test]
    fn applied_needs_redis_and_every_live_proxy() {
        let check = |proxies: &[(&str, Position)], complete, stored, expected: Level| {
            assert_eq!(
                judge(&standing(proxies, complete), stored, 7).level,
                expected
            );
        };
        check(&[("a", 7), ("b", 9)], true, Some(7), Level::Applied);
        check(&[], true, Some(7), Level::Applied);
        check(&[("a", 6), ("b", 9)], true, Some(7), Level::Committed);
        check(&[("a", 7)], true, Some(6), Level::Committed);
        check(&[("a", 7)], true, None, Level::Committed);
        check(&[("a", 7)], false, Some(7), Level::Committed);
    }

    #[test]
    fn those_that_hold_it_back_are_named() {
        let judged = judge(&standing(&[("a", 6), ("b", 7)], true), Some(7), 7);
        assert_eq!((judged.proxies, judged.applied), (2, 1));
        assert_eq!(judged.missing, ["a"]);
    }
}
