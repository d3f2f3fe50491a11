//! What a region is to a proxy.
//!
//! The trait belongs to the proxy, so that the region's Redis and NATS and the region
//! inside `up` stand behind the same words. Entries come as they are stored: decoding is
//! the proxy's, because one entry that cannot be read must not take others with it.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::stream::{Frame, Heartbeat, Meta};
use schemas::{CredentialHash, Position};

/// One region, as its proxies read it.
#[async_trait]
pub trait RegionSource: Send + Sync + 'static {
    /// What the region says of itself; `None` when it is empty (new or wiped).
    async fn meta(&self) -> Result<Option<Meta>, SourceError>;

    /// All policy entries of an epoch, as stored: field `<kind>:<id>` and encoded entry.
    async fn policies(&self, epoch: u64) -> Result<Vec<(String, Vec<u8>)>, SourceError>;

    /// The secret entries of one bucket (0 to 1,023), as stored: hash in hex and encoded
    /// entry.
    async fn bucket(&self, epoch: u64, bucket: u16) -> Result<Vec<(String, Vec<u8>)>, SourceError>;

    /// Feed frames (with changes) leading to positions above `after`, oldest first, at
    /// most `limit`. A frame whose changes cannot be read comes without them.
    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Frame>, SourceError>;

    /// One exact look-up: the secret and its workspace, team, owner and global policies
    /// as stored, in one call. A region that is empty is an error here: it cannot say
    /// that a secret does not exist.
    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError>;

    /// Frames and heartbeats as they come. Notices may be lost, repeated and reordered;
    /// [`Notice::Lost`] says that some were. When the stream ends, the proxy subscribes
    /// again.
    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, SourceError>;

    /// Reports to the control plane and waits for its answer.
    async fn renew(&self, renewal: &Renewal) -> Result<RenewalAnswer, SourceError>;
}

/// What a subscription brings.
#[derive(Debug, Clone)]
pub enum Notice {
    /// Entries changed.
    Frame(Frame),
    /// How far the region is.
    Heartbeat(Heartbeat),
    /// Some notices were lost, or may have been.
    Lost,
}

/// One secret with what is needed to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactEntry {
    /// The encoded entry of the secret.
    pub secret: Vec<u8>,
    /// The encoded policies around it, those that exist.
    pub policies: Vec<Vec<u8>>,
}

/// The region gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be reached, or not now.
    #[error("the region cannot be reached while {doing}")]
    Unavailable {
        /// What was asked for.
        doing: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered something that is not of the format.
    #[error("the region's answer cannot be read while {doing}: {detail}")]
    Malformed {
        /// What was asked for.
        doing: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl SourceError {
    /// The region could not be reached while `doing`.
    pub fn unavailable(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            doing,
            source: source.into(),
        }
    }

    /// The region's answer could not be read while `doing`.
    pub fn malformed(doing: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Malformed {
            doing,
            detail: detail.to_string(),
        }
    }
}
