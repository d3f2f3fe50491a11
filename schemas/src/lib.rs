#![doc = include_str!("../README.md")]

pub mod api;
pub mod credential;
pub mod digest;
pub mod entry;
pub mod fleet;
pub mod id;
pub mod json;
pub mod limits;
pub mod name;
pub mod problem;
pub mod seal;
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
