//! Hearing the renewals of one region, and storing them where this process leads.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::seal::Signed;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, sleep};

use super::{Fleet, members, uses};
use crate::chain::Chain;
use crate::execute::{self, Execute};
use crate::fresh;
use crate::region::{Heard, Incoming, Led};
use crate::store::log::{self, Head};
use crate::store::{self, Store};

/// Renewals that may wait to be stored.
const WAITING_MAX: usize = 1_024;
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// How often the listener makes sure that it would hear.
const LISTEN_CHECK: Duration = Duration::from_millis(200);
/// Longer than two heartbeats are apart, and shorter than a silent proxy counts as live: a
/// proxy that is not heard because nobody is must not be taken for one that is gone.
const HEARD: Duration = Duration::from_millis(1_500);
/// How often it is told that something unproven came.
const TELL_EVERY: Duration = Duration::from_secs(10);
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
    led: Led,
    fleet: Fleet,
    execute: Execute,
}

/// A renewal that was proven, and the way back.
struct Renewed {
    renewal: Renewal,
    reply: oneshot::Sender<Signed>,
}

/// When the region's leader was last heard, and how much came that nobody proved.
#[derive(Default)]
struct Hearing {
    heartbeat_at: Option<Instant>,
    unproven: u64,
    told_at: Option<Instant>,
}

// === impl Listener ===

impl Listener {
    /// Listens to a region; first uses become events through `execute`.
    pub fn new(store: Store, led: Led, fleet: Fleet, execute: Execute) -> Self {
        Self {
            store,
            led,
            fleet,
            execute,
        }
    }

    /// Runs until the task is dropped.
    ///
    /// What a renewal says of its proxy's position is known at once; what has to be stored
    /// is stored by a task beside, in as few transactions as it can keep up with.
    pub async fn run(self) {
        self.remember_boots().await;
        let (to_store, waiting) = mpsc::channel(WAITING_MAX);
        tokio::join!(self.store_all(waiting), self.hear_all(to_store));
    }

    /// Which starts of the proxies reported before this process began to listen.
    async fn remember_boots(&self) {
        let region = self.led.region.name();
        match members::list(&self.store, region).await {
            Ok(members) => {
                for member in members {
                    if let Ok(boot_id) = member.boot_id.parse() {
                        self.fleet.remembers(region, &member.proxy_id, boot_id);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), region, "the members could not be read");
            }
        }
    }

    async fn hear_all(&self, to_store: mpsc::Sender<Renewed>) {
        let region = self.led.region.name();
        loop {
            match self.led.region.listen().await {
                Ok(mut all) => {
                    let mut check = interval(LISTEN_CHECK);
                    let mut hearing = Hearing::default();
                    loop {
                        tokio::select! {
                            _ = check.tick() => self.fleet.hears(region, self.is_heard(&hearing)),
                            heard = all.next() => match heard {
                                Some(heard) => self.take_in(heard, &mut hearing, &to_store),
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

    /// Whether a renewal would be heard. A NATS that is frozen keeps its connections; only
    /// what comes proves anything, and only what the leader signed.
    fn is_heard(&self, hearing: &Hearing) -> bool {
        !self.led.region.carries_heartbeats()
            || hearing.heartbeat_at.is_some_and(|at| at.elapsed() < HEARD)
    }

    fn take_in(&self, heard: Heard, hearing: &mut Hearing, to_store: &mpsc::Sender<Renewed>) {
        let Incoming { renewal, reply } = match heard {
            Heard::Renewal(incoming) => incoming,
            Heard::Heartbeat(heartbeat) => {
                if self.led.seal.trust().heartbeat(&heartbeat).is_ok() {
                    hearing.heartbeat_at = Some(Instant::now());
                }
                return;
            }
        };
        let region = self.led.region.name();
        let renewal = match self.led.seal.renewal(&renewal) {
            Ok(renewal) => renewal,
            Err(error) => return hearing.unproven(region, &error),
        };
        if let Err(what) = check(&renewal, region) {
            tracing::warn!(region, what, "a renewal that makes no sense was left out");
            return;
        }
        if self.fleet.is_of_old(region, &renewal) {
            tracing::warn!(
                region,
                proxy_id = renewal.proxy_id,
                boot_id = %renewal.boot_id,
                counter = renewal.counter,
                "a renewal was left out that is older than one that was heard before: it was \
                 repeated, or the clock of the proxy's host went back"
            );
            return;
        }
        if self.fleet.hear(region, &renewal) {
            // One that finds no room is not answered, and comes again.
            drop(to_store.try_send(Renewed { renewal, reply }));
        }
    }

    async fn store_all(&self, mut waiting: mpsc::Receiver<Renewed>) {
        let mut batch = Vec::new();
        let mut tidy_at = Instant::now();
        while waiting.recv_many(&mut batch, WAITING_MAX).await > 0 {
            match self.store_batch(&batch).await {
                Ok(head) => {
                    for incoming in batch.drain(..) {
                        let answer = answer(&incoming.renewal, &head);
                        // The proxy may be gone; it will report again.
                        drop(incoming.reply.send(self.led.seal.answer(&answer)));
                    }
                }
                Err(error) => {
                    let region = self.led.region.name();
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

    async fn store_batch(&self, batch: &[Renewed]) -> Result<Head, Error> {
        let region = self.led.region.name();
        let mut merged = uses::Merged::new();
        // Of each proxy the newest report counts.
        let mut newest = BTreeMap::new();
        for Renewed { renewal, .. } in batch {
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

// === impl Hearing ===

impl Hearing {
    /// Something came that no proxy of the region sent. One line now and then, however much
    /// of it comes.
    fn unproven(&mut self, region: &str, error: &schemas::seal::Error) {
        self.unproven += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.told_at = Some(Instant::now());
            let count = self.unproven;
            tracing::error!(region, %error, count, "a renewal was left out");
        }
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
