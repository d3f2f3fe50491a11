//! A region inside the process, for `up`.
//!
//! The projector writes to it and the proxy reads from it by the same traits as a Redis
//! and a NATS, and it keeps the same rules, so that nothing else knows the difference.
//! It lives as long as the process: after a start it is empty, and the projector fills it
//! from the log as it would a Redis that was wiped.

mod state;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use control_plane::region::{self, Batch, Heard, Incoming, Region, Repair, Verdict};
use data_plane::follow::{ExactEntry, Message, RegionSource, SourceError};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use schemas::seal::Signed;
use schemas::stream::{MetaFields, Part};
use schemas::{CredentialHash, Position};
use tokio::sync::{broadcast, mpsc, oneshot};

use state::State;

/// Messages that a slow follower may leave lying before it is told that some were lost.
const MESSAGES_MAX: usize = 1_024;

const LOOKING_UP: &str = "looking up a secret";
const RENEWING: &str = "renewing";

/// Renewals that may wait for the control plane.
const RENEWALS_MAX: usize = 64;

/// The in-process region; clones are the same region.
#[derive(Debug, Clone)]
pub struct Embedded(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    /// Held for the length of one call, never over an await.
    state: Mutex<State>,
    messages: broadcast::Sender<Message>,
    /// Where renewals go: to whoever asked for them last.
    renewals: Mutex<Option<mpsc::Sender<Incoming>>>,
}

// === impl Embedded ===

impl Embedded {
    /// An empty region.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Shared {
            name: name.into(),
            state: Mutex::new(State::empty()),
            messages: broadcast::Sender::new(MESSAGES_MAX),
            renewals: Mutex::new(None),
        }))
    }

    /// The region's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// A proxy that nobody listens to is no error of the publisher.
    fn notify(&self, message: Message) {
        self.0.messages.send(message).ok();
    }
}

#[async_trait]
impl Region for Embedded {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn meta(&self) -> Result<Option<MetaFields>, region::Error> {
        Ok(self.state().meta().cloned())
    }

    async fn read(
        &self,
        epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, region::Error> {
        Ok(self.state().read(epoch, buckets, policies))
    }

    async fn apply(&self, batch: &Batch) -> Result<Verdict, region::Error> {
        Ok(self.state().apply(batch))
    }

    async fn repair(&self, repair: &Repair) -> Result<bool, region::Error> {
        Ok(self.state().repair(repair))
    }

    async fn replace_meta(
        &self,
        seen: &MetaFields,
        meta: &MetaFields,
        digests: &[u8],
    ) -> Result<bool, region::Error> {
        Ok(self.state().replace_meta(seen, meta, digests))
    }

    async fn publish_frame(&self, frame: &Signed) -> Result<(), region::Error> {
        self.notify(Message::Frame(frame.clone()));
        Ok(())
    }

    async fn publish_heartbeat(&self, heartbeat: &Signed) -> Result<(), region::Error> {
        self.notify(Message::Heartbeat(heartbeat.clone()));
        Ok(())
    }

    async fn listen(&self) -> Result<BoxStream<'static, Heard>, region::Error> {
        let (sender, receiver) = mpsc::channel(RENEWALS_MAX);
        *lock(&self.0.renewals) = Some(sender);
        let next = async |mut receiver: mpsc::Receiver<Incoming>| {
            let incoming = receiver.recv().await?;
            Some((Heard::Renewal(incoming), receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }

    fn carries_heartbeats(&self) -> bool {
        false
    }

    async fn entry(
        &self,
        epoch: u64,
        hash: &CredentialHash,
    ) -> Result<Option<String>, region::Error> {
        Ok(self.state().entry(epoch, hash).map(str::to_owned))
    }
}

#[async_trait]
impl RegionSource for Embedded {
    async fn meta(&self) -> Result<Option<MetaFields>, SourceError> {
        Ok(self.state().meta().cloned())
    }

    async fn read(
        &self,
        epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, SourceError> {
        Ok(self.state().read(epoch, buckets, policies))
    }

    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Signed>, SourceError> {
        Ok(self.state().feed(epoch, after, limit))
    }

    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError> {
        let state = self.state();
        let Some(epoch) = state.epoch() else {
            // It cannot say that a secret does not exist.
            return Err(SourceError::unavailable(LOOKING_UP, "the region is empty"));
        };
        let found = state.lookup(epoch, hash);
        Ok(found.map(|(secret, policies)| ExactEntry { secret, policies }))
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, SourceError> {
        use broadcast::error::RecvError;

        let next = async |mut messages: broadcast::Receiver<Message>| match messages.recv().await {
            Ok(message) => Some((message, messages)),
            Err(RecvError::Lagged(_)) => Some((Message::Lost, messages)),
            Err(RecvError::Closed) => None,
        };
        Ok(stream::unfold(self.0.messages.subscribe(), next).boxed())
    }

    async fn renew(&self, renewal: &Signed) -> Result<Signed, SourceError> {
        let (reply, answer) = oneshot::channel();
        let incoming = Incoming {
            renewal: renewal.clone(),
            reply,
        };
        let control_plane = lock(&self.0.renewals).clone();
        let Some(control_plane) = control_plane else {
            return Err(SourceError::unavailable(
                RENEWING,
                "no control plane listens yet",
            ));
        };
        control_plane.send(incoming).await.map_err(|_| {
            SourceError::unavailable(RENEWING, "the control plane stopped listening")
        })?;
        answer
            .await
            .map_err(|_| SourceError::unavailable(RENEWING, "the control plane did not answer"))
    }
}

/// A panic elsewhere leaves whole entries behind: every change is checked before the
/// first write.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
