//! A region, as the projector writes to it: one Redis and one NATS, or the region inside
//! the process of `up`.

pub mod redis_nats;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::entry::Change;
use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::stream::{Frame, Heartbeat, Meta};
use schemas::{CredentialHash, LineageId, Position};
use tokio::sync::oneshot;

/// Why a region could not be asked. It may be back a moment later.
#[derive(Debug, thiserror::Error)]
#[error("region: {operation} failed")]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// Names the operation that an error belongs to.
    pub fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self {
            operation,
            source: source.into(),
        }
    }
}

/// The entries that change over an interval, and the region's record of itself after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The history that the positions belong to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// The term of the projector.
    pub fence: u64,
    /// Where the region must be.
    pub from: Position,
    /// Where it is afterwards.
    pub to: Position,
    /// The chain hash of the log at `to`, 64 hex digits.
    pub chain_hash: String,
    /// When the batch was made; unix milliseconds.
    pub as_of_ms: i64,
    /// The entries, whole; each at most once.
    pub changes: Vec<Change>,
}

impl Batch {
    /// The frame that carries this batch, with its entries however many there are.
    pub fn frame(&self) -> Frame {
        Frame {
            lineage: self.lineage,
            generation: self.generation,
            epoch: self.epoch,
            from: self.from,
            to: self.to,
            changes: Some(self.changes.clone()),
            as_of_ms: self.as_of_ms,
        }
    }

    /// What the region says of itself after this batch.
    pub fn meta(&self) -> Meta {
        Meta {
            lineage: self.lineage,
            generation: self.generation,
            epoch: self.epoch,
            fence: self.fence,
            position: self.to,
            chain_hash: self.chain_hash.clone(),
            as_of_ms: self.as_of_ms,
        }
    }
}

/// What a region made of a batch: all of it, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Entries, feed and meta are written.
    Applied,
    /// A projector of a higher term has written: this one must stop.
    Fenced,
    /// The region is not where the batch begins; it is read anew.
    Elsewhere,
    /// The batch would go back in time or bring something back that is off for good.
    Refused {
        /// What was refused.
        reason: String,
    },
}

/// Where the projector writes and the fleet reports.
#[async_trait]
pub trait Region: Send + Sync + 'static {
    /// The region's name.
    fn name(&self) -> &str;

    /// What the region says of itself; `None` when it is empty: new, or wiped.
    async fn meta(&self) -> Result<Option<Meta>, Error>;

    /// Writes a batch in one step: checks first, then entries, feed and meta.
    async fn apply(&self, batch: &Batch) -> Result<Verdict, Error>;

    /// Publishes a frame. Nobody waits for it: one that is lost is a gap, which heals.
    async fn publish_frame(&self, frame: &Frame) -> Result<(), Error>;

    /// Publishes a heartbeat.
    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), Error>;

    /// The renewals of the region's proxies as they come in.
    async fn renewals(&self) -> Result<BoxStream<'static, Incoming>, Error>;

    /// Whether renewals are heard at this moment, as far as can be told.
    fn is_heard(&self) -> bool;

    /// The exact entry of a secret in an epoch, as stored.
    async fn entry(&self, epoch: u64, hash: &CredentialHash) -> Result<Option<String>, Error>;
}

/// A renewal, and the way back to the proxy that sent it.
#[derive(Debug)]
pub struct Incoming {
    /// What the proxy reports.
    pub renewal: Renewal,
    /// Where the answer goes; a control plane that does not lead the region drops it.
    pub reply: oneshot::Sender<RenewalAnswer>,
}
