//! A region, as the projector writes to it: one Redis and one NATS, or the region inside
//! the process of `up`.

pub mod redis_nats;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::digest::Digest;
use schemas::entry::{self, BadEntry, Change, PolicyId, Revision};
use schemas::name::{BUCKETS, bucket_of};
use schemas::seal::{Seal, Signed};
use schemas::stream::{Frame, Meta, MetaFields, Part};
use schemas::{CredentialHash, Position};
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

/// The entries that change over an interval, and the region's record of itself after it,
/// sealed: what stores it need not know how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What the region says of itself afterwards.
    pub meta: Meta,
    /// The same as it is stored, signed.
    pub signed_meta: MetaFields,
    /// Where the region must be.
    pub from: Position,
    /// The frame as it stands in the feed, with its entries however many there are.
    pub frame: Signed,
    /// The entries; each at most once.
    pub entries: Vec<Entry>,
    /// The nodes of the digest that change: a bucket's, or, after the last of them, that of
    /// the policies.
    pub digests: Vec<(u16, Digest)>,
}

/// An entry on its way into a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes.
    pub place: Place,
    /// Orders it against what is there.
    pub revision: Revision,
    /// Whether its secret is off for good.
    pub absorbing: bool,
    /// The text that is stored, with its MAC.
    pub text: String,
}

/// Where an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In its bucket.
    Secret(CredentialHash),
    /// Among the policies.
    Policy(PolicyId),
}

/// What a region should hold and does not, because somebody else wrote to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// The term of the projector.
    pub fence: u64,
    /// The build of the table.
    pub epoch: u64,
    /// The entries as they should be.
    pub entries: Vec<Entry>,
    /// Fields that should not be there: of a bucket, or of the policies.
    pub strangers: Vec<(Option<u16>, String)>,
    /// All digests as they should be, if they are not.
    pub digests: Option<Vec<u8>>,
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

/// A region, and what its control planes prove themselves with there.
#[derive(Clone)]
pub struct Led {
    /// The region.
    pub region: Arc<dyn Region>,
    /// The proof.
    pub seal: Arc<Seal>,
}

/// Where the projector writes and the fleet reports. It stores and carries bytes; who may
/// believe them is decided by those who read them.
#[async_trait]
pub trait Region: Send + Sync + 'static {
    /// The region's name.
    fn name(&self) -> &str;

    /// What the region says of itself; `None` when it is empty: new, or wiped.
    async fn meta(&self) -> Result<Option<MetaFields>, Error>;

    /// Some buckets of an epoch, and its policies if asked for, in one step with meta and
    /// the digests.
    async fn read(&self, epoch: u64, buckets: Range<u16>, policies: bool) -> Result<Part, Error>;

    /// Writes a batch in one step: checks first, then entries, digests, feed and meta.
    async fn apply(&self, batch: &Batch) -> Result<Verdict, Error>;

    /// Puts back what somebody else changed; `false` where another projector has written.
    async fn repair(&self, repair: &Repair) -> Result<bool, Error>;

    /// Puts meta and the digests in place of a meta that was not ours, if it is still the
    /// one that was seen; `false` where it is not.
    async fn replace_meta(
        &self,
        seen: &MetaFields,
        meta: &MetaFields,
        digests: &[u8],
    ) -> Result<bool, Error>;

    /// Publishes a frame. Nobody waits for it: one that is lost is a gap, which heals.
    async fn publish_frame(&self, frame: &Signed) -> Result<(), Error>;

    /// Publishes a heartbeat.
    async fn publish_heartbeat(&self, heartbeat: &Signed) -> Result<(), Error>;

    /// What comes from the region as it comes in.
    async fn listen(&self) -> Result<BoxStream<'static, Heard>, Error>;

    /// Whether the heartbeats of whoever leads come the same way as renewals: then renewals
    /// are heard as long as those are. Otherwise they are always heard.
    fn carries_heartbeats(&self) -> bool;

    /// The exact entry of a secret in an epoch, as stored.
    async fn entry(&self, epoch: u64, hash: &CredentialHash) -> Result<Option<String>, Error>;
}

/// What comes from a region.
#[derive(Debug)]
pub enum Heard {
    /// A proxy reports.
    Renewal(Incoming),
    /// Whoever leads the region is heard.
    Heartbeat(Signed),
}

/// A renewal, and the way back to the proxy that sent it.
#[derive(Debug)]
pub struct Incoming {
    /// What the proxy reports.
    pub renewal: Signed,
    /// Where the answer goes; a control plane that does not lead the region drops it.
    pub reply: oneshot::Sender<Signed>,
}

// === impl Batch ===

impl Batch {
    /// Seals the changes that lead from `from` to where `meta` is.
    ///
    /// # Errors
    /// When an entry cannot be encoded.
    pub fn seal(
        seal: &Seal,
        meta: Meta,
        from: Position,
        changes: Vec<Change>,
        digests: Vec<(u16, Digest)>,
    ) -> Result<Self, BadEntry> {
        let entries = changes
            .iter()
            .map(|change| Entry::seal(seal, change))
            .collect::<Result<_, _>>()?;
        let frame = Frame {
            lineage: meta.lineage,
            generation: meta.generation,
            epoch: meta.epoch,
            from,
            to: meta.position,
            changes: Some(changes),
            as_of_ms: meta.as_of_ms,
        };
        Ok(Self {
            signed_meta: seal.meta(&meta),
            frame: seal.frame(&frame),
            meta,
            from,
            entries,
            digests,
        })
    }
}

// === impl Entry ===

impl Entry {
    /// The entry of a change as it is stored.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn seal(seal: &Seal, change: &Change) -> Result<Self, BadEntry> {
        let place = Place::of(change);
        let (text, absorbing) = match change {
            Change::Secret { secret, .. } => (entry::encode(secret)?, secret.status.is_absorbing()),
            Change::Policy { policy } => (entry::encode(policy)?, false),
        };
        Ok(Self {
            place,
            revision: change.revision(),
            absorbing,
            text: seal.entry(&place.field(), &text),
        })
    }
}

// === impl Place ===

impl Place {
    /// Where the entry of a change goes.
    pub fn of(change: &Change) -> Self {
        match change {
            Change::Secret { hash, .. } => Self::Secret(*hash),
            Change::Policy { policy } => Self::Policy(policy.policy.id()),
        }
    }

    /// The bucket; `None` is the policies.
    pub fn bucket(&self) -> Option<u16> {
        match self {
            Self::Secret(hash) => Some(bucket_of(hash)),
            Self::Policy(_) => None,
        }
    }

    /// The name within it.
    pub fn field(&self) -> String {
        match self {
            Self::Secret(hash) => hash.to_string(),
            Self::Policy(id) => id.to_string(),
        }
    }
}

/// The place of the policies' digest after those of the buckets.
pub const POLICIES_DIGEST: u16 = BUCKETS;
