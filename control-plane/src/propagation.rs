//! How far a change has travelled, and waiting until it is there.
//!
//! A region is *applied* when its Redis and every proxy that renewed in the last 2 s hold
//! the change. A control plane that has not listened without a break for that long does not
//! know all proxies, so it calls nothing applied.

use std::time::Duration;

use schemas::Position;
use schemas::api::{Level, Propagation, RegionPropagation};
use tokio::time::{Instant, timeout_at};

use crate::fleet::{Fleet, Standing};

/// How often a waiter looks without having been told to: proxies fall silent without a word.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How far the change at `position` is now.
pub fn measure(fleet: &Fleet, position: Position) -> Propagation {
    let regions: Vec<_> = fleet
        .standings()
        .iter()
        .map(|it| judge(it, position))
        .collect();
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

/// Waits until the change at `position` has reached `level` everywhere, or until the time
/// is up; the change stands either way.
pub async fn wait(
    fleet: &Fleet,
    position: Position,
    level: Level,
    timeout: Duration,
) -> Propagation {
    let deadline = Instant::now() + timeout;
    let mut changed = fleet.changed();
    let _waiting = fleet.wait();
    loop {
        changed.mark_unchanged();
        let propagation = measure(fleet, position);
        let now = Instant::now();
        if propagation.level >= level || now >= deadline {
            return propagation;
        }
        // Whichever comes first; an error is the time being up.
        drop(timeout_at(deadline.min(now + LOOK_EVERY), changed.changed()).await);
    }
}

fn judge(standing: &Standing, position: Position) -> RegionPropagation {
    let missing: Vec<String> = standing
        .proxies
        .iter()
        .filter(|proxy| proxy.position < position)
        .map(|proxy| proxy.id.clone())
        .collect();
    let is_stored = standing.position.is_some_and(|stored| stored >= position);
    let is_applied = is_stored && missing.is_empty() && standing.is_complete;
    let proxies = standing.proxies.len() as u64;
    RegionPropagation {
        name: standing.region.clone(),
        level: if is_applied {
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
    use schemas::BootId;

    use super::*;
    use crate::fleet::Live;

    fn standing(
        proxies: &[(&str, Position)],
        is_complete: bool,
        position: Option<Position>,
    ) -> Standing {
        let live = |(id, position): &(&str, Position)| Live {
            id: (*id).to_owned(),
            boot_id: BootId::from_u128(1),
            position: *position,
        };
        let proxies = proxies.iter().map(live).collect();
        Standing {
            region: "eu".to_owned(),
            position,
            proxies,
            is_complete,
        }
    }

    #[test]
    fn applied_needs_redis_and_every_live_proxy() {
        let check = |proxies: &[(&str, Position)], is_complete, stored, expected: Level| {
            assert_eq!(
                judge(&standing(proxies, is_complete, stored), 7).level,
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
        let judged = judge(&standing(&[("a", 6), ("b", 7)], true, Some(7)), 7);
        assert_eq!((judged.proxies, judged.applied), (2, 1));
        assert_eq!(judged.missing, ["a"]);
    }
}
