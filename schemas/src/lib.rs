#![doc = include_str!("../README.md")]

pub mod api;
pub mod credential;
pub mod digest;
pub mod entry;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod id;
pub mod json;
pub mod limits;
pub mod name;
pub mod problem;
pub mod role;
pub mod seal;
pub mod stream;
pub mod time;

pub use credential::{Credential, CredentialHash, Environment};
pub use id::{
    AccountId, BootId, ControlTokenId, EventId, InvitationId, KeyId, LineageId, MailId, SecretId,
    ServiceAccountId, SessionId, TargetId, TeamId, WorkspaceId,
};
pub use limits::{Limits, PlanLimits};
pub use role::{MemberStatus, Role, TeamRole};
pub use time::Timestamp;

/// A place in the whole log, dense from 1; 0 is the place before the first event.
pub type Position = u64;
