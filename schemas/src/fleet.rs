//! What a proxy reports, each second and at once after a swap, and the answer to it.
//!
//! One message carries the renewal, the acknowledgement and the uses: when the control
//! plane has taken it in, it knows both how far the proxy is and every use up to there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BootId, KeyId, LineageId, Position, SecretId};

/// How often a proxy reports, in milliseconds.
pub const RENEW_EVERY_MS: u64 = 1_000;

/// A proxy that reported within this many milliseconds is live.
pub const LIVE_MS: i64 = 2_000;

/// The most uses in one renewal; the rest goes with the next.
pub const USES_MAX: usize = 500;

/// A proxy's report to its region's control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// The region that the proxy serves.
    pub region: String,
    /// The proxy, stable over restarts.
    pub proxy_id: String,
    /// This start of it.
    pub boot_id: BootId,
    /// Rises with every report of this boot.
    pub counter: u64,
    /// The version of the program.
    pub version: String,
    /// The newest entry format that the proxy reads.
    pub reader: u32,
    /// The history that the table was folded from; `None` before the first table.
    pub lineage: Option<LineageId>,
    /// The generation of that history.
    pub generation: u32,
    /// Every event up to here is in the table that requests now see.
    pub position: Position,
    /// The follower's state.
    pub state: FollowerState,
    /// How old the newest word from the region is, in milliseconds.
    pub freshness_ms: u64,
    /// Uses of secrets since they were last acknowledged, at least once each.
    pub uses: Vec<Use>,
    /// Whether `uses` holds all there were up to `position`; only then may a purge
    /// conclude from their absence.
    pub uses_complete: bool,
    /// The proxy is going away and has drained.
    pub goodbye: bool,
}

/// The first and last use of a secret in the time that one report covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Use {
    /// The key.
    pub key_id: KeyId,
    /// The secret that was presented.
    pub secret_id: SecretId,
    /// Unix milliseconds.
    pub first_at_ms: i64,
    /// Unix milliseconds.
    pub last_at_ms: i64,
    /// Requests admitted.
    pub requests: u64,
}

/// The control plane took a renewal in: uses are stored, the position is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RenewalAnswer {
    /// The boot that is answered.
    pub boot_id: BootId,
    /// The renewal that is answered.
    pub counter: u64,
    /// The history of the log.
    pub lineage: LineageId,
    /// Its generation.
    pub generation: u32,
    /// The position of the log's head: a proxy must once reach it to become ready.
    pub head: Position,
    /// The time of the control plane; unix milliseconds.
    pub now_ms: i64,
}

/// Where a proxy stands in following its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FollowerState {
    /// Nothing known yet.
    Boot,
    /// Reading the whole table.
    Snapshot,
    /// Current.
    Follow,
    /// A message is missing; the feed is read.
    Gap,
    /// The feed does not reach back far enough, or the table's build changed.
    Resync,
    /// No word from the region.
    Stale,
}
