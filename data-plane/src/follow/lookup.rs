//! One secret, asked of the region by a request that the table cannot answer.
//!
//! Only a proxy that is ready and not current asks. Look-ups run on the follower's
//! thread: requests for the same secret share one, at most 64 run at a time, each may
//! take 50 ms, and a secret that the region does not know is remembered for a second, so
//! that a flood of made-up keys does not become a flood of look-ups.
//!
//! **What is believed.** A look-up reads a handful of entries, not the bucket that a digest
//! could be compared with: that would be hundreds of kilobytes for each made-up key. Two
//! things make up for it. Each entry carries a MAC, so nobody can make one. And an entry of a
//! revision that the table has passed is not used: the table holds everything up to its own
//! position, so what it does not hold although it is older is gone, and somebody put it
//! back; so is what is older than what it holds. What remains is an entry that is newer than the table and no longer the newest;
//! the change that ended it is then above this proxy's position too, and so is not
//! confirmed. Policies merge with those of the table by revision, for the same reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use schemas::CredentialHash;
use schemas::entry::{PolicyEntry, SecretEntry, decode_policy, decode_secret};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::source::{ExactEntry, RegionSource};
use super::status::Status;
use super::trust::Verifier;
use crate::metrics::FollowCounters;
use crate::table::KeyTable;

/// Look-ups that run at a time.
const RUNNING_MAX: usize = 64;
/// Questions that wait to be taken up.
const WAITING_MAX: usize = 1_024;
/// Requests that share one look-up.
const SHARING_MAX: usize = 1_024;
/// Unknown secrets that are remembered.
const UNKNOWN_MAX: usize = 8_192;
/// How long an unknown secret is remembered.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// What the region said.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It holds the secret.
    Found(Arc<Exact>),
    /// It does not.
    Unknown,
    /// It could not say.
    Unavailable,
}

/// One secret with the policies around it, decoded.
#[derive(Debug)]
pub struct Exact {
    /// The secret.
    pub secret: SecretEntry,
    /// Its policies, those that exist.
    pub policies: Vec<PolicyEntry>,
}

/// Where requests ask.
#[derive(Debug, Clone)]
pub struct Lookups {
    questions: mpsc::Sender<(CredentialHash, oneshot::Sender<Answer>)>,
}

/// The task that answers.
pub struct Service {
    source: Arc<dyn RegionSource>,
    verifier: Verifier,
    status: Arc<Status>,
    table: Arc<KeyTable>,
    counters: Arc<FollowCounters>,
    timeout: Duration,
    questions: mpsc::Receiver<(CredentialHash, oneshot::Sender<Answer>)>,
}

/// Makes the service and where to ask it.
pub fn new(
    source: Arc<dyn RegionSource>,
    verifier: Verifier,
    status: Arc<Status>,
    table: Arc<KeyTable>,
    counters: Arc<FollowCounters>,
    timeout: Duration,
) -> (Lookups, Service) {
    let (sender, questions) = mpsc::channel(WAITING_MAX);
    let service = Service {
        source,
        verifier,
        status,
        table,
        counters,
        timeout,
        questions,
    };
    (Lookups { questions: sender }, service)
}

// === impl Lookups ===

impl Lookups {
    /// Asks for one secret. Too many questions at once are not answered.
    pub async fn ask(&self, hash: CredentialHash) -> Answer {
        let (sender, answer) = oneshot::channel();
        if self.questions.try_send((hash, sender)).is_err() {
            return Answer::Unavailable;
        }
        answer.await.unwrap_or(Answer::Unavailable)
    }
}

// === impl Service ===

impl Service {
    /// Answers until nobody can ask any more.
    pub async fn run(mut self) {
        let mut running = FuturesUnordered::new();
        let mut asking: HashMap<CredentialHash, Vec<oneshot::Sender<Answer>>> = HashMap::new();
        let mut unknown: HashMap<CredentialHash, Instant> = HashMap::new();
        loop {
            tokio::select! {
                question = self.questions.recv() => {
                    let Some((hash, sender)) = question else { return };
                    let now = Instant::now();
                    if unknown.get(&hash).is_some_and(|&until| now < until) {
                        let _ = sender.send(Answer::Unknown);
                    } else if let Some(sharing) = asking.get_mut(&hash) {
                        // Dropping the sender of one too many answers it as unavailable.
                        if sharing.len() < SHARING_MAX {
                            sharing.push(sender);
                        }
                    } else if running.len() < RUNNING_MAX {
                        asking.insert(hash, vec![sender]);
                        running.push(self.look_up(hash));
                    }
                }
                Some((hash, answer)) = running.next() => {
                    if matches!(answer, Answer::Unknown) {
                        let now = Instant::now();
                        if unknown.len() >= UNKNOWN_MAX {
                            unknown.retain(|_, &mut until| now < until);
                        }
                        if unknown.len() < UNKNOWN_MAX {
                            unknown.insert(hash, now + UNKNOWN_FOR);
                        }
                    }
                    for sender in asking.remove(&hash).unwrap_or_default() {
                        let _ = sender.send(answer.clone());
                    }
                }
            }
        }
    }

    fn look_up(
        &self,
        hash: CredentialHash,
    ) -> impl Future<Output = (CredentialHash, Answer)> + use<> {
        let (source, counters) = (Arc::clone(&self.source), Arc::clone(&self.counters));
        let (verifier, status) = (self.verifier.clone(), Arc::clone(&self.status));
        let table = Arc::clone(&self.table);
        let timeout = self.timeout;
        async move {
            counters.lookups.fetch_add(1, Ordering::Relaxed);
            let answer = match tokio::time::timeout(timeout, source.lookup(&hash)).await {
                Ok(Ok(Some(entry))) => judge(&verifier, &status, &table, &hash, entry),
                Ok(Ok(None)) => Answer::Unknown,
                Ok(Err(_)) | Err(_) => Answer::Unavailable,
            };
            if matches!(answer, Answer::Unavailable) {
                counters.lookups_failed.fetch_add(1, Ordering::Relaxed);
            }
            (hash, answer)
        }
    }
}

/// Reads what came. Anything that nobody proved or this build cannot read makes the whole
/// unusable.
fn judge(
    verifier: &Verifier,
    status: &Status,
    table: &KeyTable,
    hash: &CredentialHash,
    found: ExactEntry,
) -> Answer {
    let open = |field: &str, stored| verifier.believed(verifier.trust().entry(field, stored));
    let policies: Option<Vec<_>> = found
        .policies
        .into_iter()
        .map(|(field, stored)| decode_policy(&open(&field, stored)?).ok())
        .collect();
    let secret = open(&hash.to_string(), found.secret);
    let secret = secret.and_then(|it| decode_secret(&it).ok());
    let (Some(secret), Some(policies)) = (secret, policies) else {
        return Answer::Unavailable;
    };
    let revision = secret.revision;
    let is_current = match table.get(hash) {
        Some(known) => revision >= known.revision,
        None => {
            let place = status.place();
            (revision.generation, revision.rev) > (place.generation, place.position)
        }
    };
    if is_current {
        Answer::Found(Arc::new(Exact { secret, policies }))
    } else {
        Answer::Unavailable
    }
}
