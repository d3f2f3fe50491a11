//! One secret, asked of the region by a request that the table cannot answer.
//!
//! Only a proxy that is ready and not current asks. Look-ups run on the follower's
//! thread: requests for the same secret share one, at most 64 run at a time, each may
//! take 50 ms, and a secret that the region does not know is remembered for a second, so
//! that a flood of made-up keys does not become a flood of look-ups.

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
use crate::metrics::FollowCounters;

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
    counters: Arc<FollowCounters>,
    timeout: Duration,
    questions: mpsc::Receiver<(CredentialHash, oneshot::Sender<Answer>)>,
}

/// Makes the service and where to ask it.
pub fn new(
    source: Arc<dyn RegionSource>,
    counters: Arc<FollowCounters>,
    timeout: Duration,
) -> (Lookups, Service) {
    let (sender, questions) = mpsc::channel(WAITING_MAX);
    let service = Service {
        source,
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
        let timeout = self.timeout;
        async move {
            counters.lookups.fetch_add(1, Ordering::Relaxed);
            let answer = match tokio::time::timeout(timeout, source.lookup(&hash)).await {
                Ok(Ok(Some(entry))) => decode(&entry),
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

/// Reads what came. Anything that this build cannot read makes the whole unusable.
fn decode(entry: &ExactEntry) -> Answer {
    let policies: Result<Vec<_>, _> = entry
        .policies
        .iter()
        .map(|bytes| decode_policy(bytes))
        .collect();
    match (decode_secret(&entry.secret), policies) {
        (Ok(secret), Ok(policies)) => Answer::Found(Arc::new(Exact { secret, policies })),
        _ => Answer::Unavailable,
    }
}
