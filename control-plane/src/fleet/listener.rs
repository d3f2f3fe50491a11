//! Hearing the renewals of one region, and storing them where this process leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use schemas::fleet::{Renewal, RenewalAnswer};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};

use super::{Fleet, members, uses};
use crate::chain::Chain;
use crate::execute::{self, Execute};
use crate::fresh;
use crate::region::{Incoming, Region};
use crate::store::log::{self, Head};
use crate::store::{self, Store};

/// Renewals that may wait to be stored.
const WAITING_MAX: usize = 1_024;
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// How often the listener makes sure that it would hear.
const LISTEN_CHECK: Duration = Duration::from_millis(200);
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// The longest words of a proxy about itself, in bytes.
const WORD_BYTES_MAX: usize = 128;
/// The most requests that one report can count; more is a mistake.
const REQUESTS_MAX: u64 = 1 << 40;

/// Why renewals were not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A first use did not become an event.
    #[error("a first use was not recorded")]
    FirstUse(#[from] execute::Error),
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
        tokio::join!(self.store_all(waiting), self.hear_all(to_store));
    }

    async fn hear_all(&self, to_store: mpsc::Sender<Incoming>) {
        let region = self.region.name();
        loop {
            match self.region.renewals().await {
                Ok(mut renewals) => {
                    let mut check = interval(LISTEN_CHECK);
                    loop {
                        tokio::select! {
                            _ = check.tick() => self.fleet.hears(region, self.region.is_heard()),
                            incoming = renewals.next() => match incoming {
                                Some(incoming) => self.take_in(incoming, &to_store),
                                None => break,
                            }
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), region, "renewals cannot be heard");
                }
            }
            self.fleet.hears(region, false);
            sleep(LISTEN_AGAIN).await;
        }
    }

    fn take_in(&self, incoming: Incoming, to_store: &mpsc::Sender<Incoming>) {
        let region = self.region.name();
        if let Err(what) = check(&incoming.renewal, region) {
            tracing::warn!(region, what, "a renewal that makes no sense was left out");
            return;
        }
        if self.fleet.hear(region, &incoming.renewal) {
            // One that finds no room is not answered, and comes again.
            drop(to_store.try_send(incoming));
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
        let region = self.region.name();
        let mut merged = uses::Merged::new();
        // Of each proxy the newest report counts.
        let mut newest = BTreeMap::new();
        for Incoming { renewal, .. } in batch {
            uses::merge(&mut merged, &renewal.uses);
            newest.insert(renewal.proxy_id.as_str(), renewal);
        }
        uses::store(&self.store, &self.execute, &merged).await?;
        for renewal in newest.values() {
            if renewal.goodbye {
                members::forget(&self.store, region, renewal).await?;
            } else {
                members::save(&self.store, region, renewal).await?;
            }
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

/// What can be stored beside others without spoiling the batch for all of them.
fn check(renewal: &Renewal, region: &str) -> Result<(), &'static str> {
    let is_word = |word: &str| {
        (1..=WORD_BYTES_MAX).contains(&word.len()) && !word.chars().any(char::is_control)
    };
    if renewal.region != region {
        return Err("it is of another region");
    }
    if !is_word(&renewal.proxy_id) || !is_word(&renewal.version) {
        return Err("its proxy_id or version is empty, too long, or not text");
    }
    if renewal
        .uses
        .iter()
        .any(|it| it.requests > REQUESTS_MAX || it.last_at_ms < 0)
    {
        return Err("it counts what cannot be");
    }
    Ok(())
}
