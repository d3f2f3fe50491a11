//! Every wire format and word that both planes speak.
//!
//! The control plane writes these bytes and the data plane reads them; nothing
//! else couples the two. The crate therefore depends on nothing of ours and has
//! no IO, no clock and no randomness: time and entropy come in as arguments.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`id`] | typed ids: a prefix and a ULID |
//! | [`time`] | instants as milliseconds and as RFC 3339 text |
//! | [`credential`] | the key string: layout, checksum, hash |
//! | [`limits`] | rates and their windows |
//! | [`entry`] | what a proxy knows of one secret, and the policies around it |
//! | [`stream`] | frames, heartbeats and the meta record of a region |
//! | [`fleet`] | what a proxy reports, and the answer |
//! | [`name`] | NATS subjects and Redis keys |
//! | [`problem`] | error codes and bodies of both planes |
//! | [`api`] | bodies that the control API answers with |
//! | [`json`] | the JSON Schemas of the above, as files in `schemas/json/` |
//!
//! Bytes once written stay readable: `schemas/golden/` holds one sample for each
//! format and version, which is added to and never edited.

pub mod api;
pub mod credential;
pub mod entry;
pub mod fleet;
pub mod id;
pub mod json;
pub mod limits;
pub mod name;
pub mod problem;
pub mod stream;
pub mod time;

pub use credential::{Credential, CredentialHash, Environment};
pub use id::{
    AccountId, BootId, ControlTokenId, EventId, KeyId, LineageId, SecretId, ServiceAccountId,
    TargetId, TeamId, WorkspaceId,
};
pub use limits::{Limits, PlanLimits};
pub use time::Timestamp;

/// A place in the whole log, dense from 1; 0 is the place before the first event.
pub type Position = u64;
