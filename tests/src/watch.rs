//! Watching what proxies say of themselves, all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::plane::Plane;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A place in a region's history: generation and position.
type Place = (u64, u64);

/// The positions that proxies show, over and over.
#[derive(Debug)]
pub struct Positions {
    stop: Arc<AtomicBool>,
    watches: Vec<JoinHandle<Result<usize, String>>>,
}

// === impl Positions ===

impl Positions {
    /// Begins to watch.
    pub fn watch(proxies: &[Arc<Plane>]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let watches = proxies
            .iter()
            .map(|proxy| tokio::spawn(watch(proxy.clone(), stop.clone())))
            .collect();
        Self { stop, watches }
    }

    /// Asserts that within one boot no proxy ever showed a lower position than before.
    pub async fn never_went_back(self) {
        self.stop.store(true, Ordering::Relaxed);
        for watch in self.watches {
            match watch.await.expect("a watch does not panic") {
                Ok(looks) => assert!(looks > 0, "a proxy was never seen"),
                Err(what) => panic!("{what}"),
            }
        }
    }
}

async fn watch(proxy: Arc<Plane>, stop: Arc<AtomicBool>) -> Result<usize, String> {
    let mut looks = 0;
    let mut last: Option<(SocketAddr, Place)> = None;
    while !stop.load(Ordering::Relaxed) {
        // Each start listens on ports of its own, so the address tells boots apart.
        let boot = proxy.address("admin");
        if let Ok(table) = proxy.table().await {
            let number = |member: &str| table[member].as_u64().unwrap_or(0);
            let place = (number("generation"), number("position"));
            if boot == proxy.address("admin") {
                if let Some((_, before)) = last.filter(|(seen, _)| *seen == boot)
                    && place < before
                {
                    return Err(format!(
                        "{} went from {before:?} to {place:?}",
                        proxy.name()
                    ));
                }
                last = Some((boot, place));
                looks += 1;
            }
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(looks)
}
