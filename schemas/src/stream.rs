//! The stream of a region: what its Redis says of itself, and what NATS carries.
//!
//! Redis is the truth of the region and NATS its doorbell: a frame that is lost,
//! repeated or out of order looks like a gap, and a gap is filled from the feed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entry::Change;
use crate::{LineageId, Position};

/// The most bytes of an encoded frame. A larger one travels without its entries, and
/// the proxy reads them from the feed.
pub const FRAME_BYTES_MAX: usize = 65_536;

/// How often a projector says how far its region is, in milliseconds.
pub const HEARTBEAT_EVERY_MS: u64 = 500;

/// The record that a region keeps about itself, next to the entries that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    /// The history that the entries were folded from.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table; a rebuild makes a new one beside the live one.
    pub epoch: u64,
    /// The term of the projector that wrote last; a lower one may not write.
    pub fence: u64,
    /// Every event up to here is in the entries.
    pub position: Position,
    /// The chain hash of the log at `position`, 64 hex digits.
    pub chain_hash: String,
    /// When the projector last wrote; unix milliseconds.
    pub as_of_ms: i64,
}

/// The entries that changed over the log positions `(from, to]`.
///
/// A frame covers its interval also when nothing in it concerns the region, so that
/// positions stay contiguous.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// The history that the positions belong to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// The position that a table must have reached (it may be further).
    pub from: Position,
    /// The position of a table after this frame.
    pub to: Position,
    /// The entries, whole. `None`: too large for one message, read the feed.
    pub changes: Option<Vec<Change>>,
    /// When the frame was made; unix milliseconds.
    pub as_of_ms: i64,
}

/// Says how far a region is, so that losing the last frame is noticed too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// The history that the position belongs to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// The region's position.
    pub to: Position,
    /// When the heartbeat was made; unix milliseconds.
    pub as_of_ms: i64,
}
