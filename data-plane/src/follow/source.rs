//! What a region is to a proxy.
//!
//! The trait belongs to the proxy, so that the region's Redis and NATS and the region
//! inside `up` stand behind the same words. Everything comes as it is stored or sent, with
//! what proves it: believing and decoding are the proxy's, one code for every region, and
//! one entry that cannot be read must not take others with it.

use std::ops::Range;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::seal::Signed;
use schemas::stream::{MetaFields, Part};
use schemas::{CredentialHash, Position};

/// One region, as its proxies read it.
#[async_trait]
pub trait RegionSource: Send + Sync + 'static {
    /// What the region says of itself; `None` when it is empty (new or wiped).
    async fn meta(&self) -> Result<Option<MetaFields>, SourceError>;

    /// Some buckets (0 to 1,023) of an epoch, and its policies if asked for, in one step with
    /// meta and the digests, so that one proves the other.
    async fn read(
        &self,
        epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, SourceError>;

    /// Feed frames (with changes) leading to positions above `after`, oldest first, at
    /// most `limit`.
    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Signed>, SourceError>;

    /// One exact look-up: the secret and its workspace, team, owner and global policies
    /// as stored, in one call. A region that is empty is an error here: it cannot say
    /// that a secret does not exist.
    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError>;

    /// Frames and heartbeats as they come. Messages may be lost, repeated and reordered;
    /// [`Message::Lost`] says that some were. When the stream ends, the proxy subscribes
    /// again.
    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, SourceError>;

    /// Reports to the control plane and waits for its answer.
    async fn renew(&self, renewal: &Signed) -> Result<Signed, SourceError>;
}

/// What a subscription brings.
#[derive(Debug, Clone)]
pub enum Message {
    /// Entries changed.
    Frame(Signed),
    /// How far the region is.
    Heartbeat(Signed),
    /// Some messages were lost, or may have been.
    Lost,
}

/// One secret with what is needed to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactEntry {
    /// The stored entry of the secret.
    pub secret: Vec<u8>,
    /// The stored policies around it under their names, those that exist.
    pub policies: Vec<(String, Vec<u8>)>,
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
