//! What a proxy knows: one entry per secret, one per policy.
//!
//! An entry is whole (it replaces the one before) and says by `(generation, rev)`
//! which of two is newer. Rights are joined by the proxy when it builds its table, so
//! that changing a workspace is one entry and not one per key.
//!
//! A field that a reader does not know is ignored. A *restriction* that it does not
//! know must not be: whoever adds one raises `min_reader`, and a proxy that is older
//! denies that entry and reports it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, CredentialHash, KeyId, Limits, PlanLimits, Position, SecretId, ServiceAccountId,
    TargetId, TeamId, WorkspaceId,
};

mod access;
mod upstream_credential;

pub use access::{Access, AccessMode, GROUPS_MAX, TARGETS_MAX};
pub use upstream_credential::{PLACEHOLDER, SecretSource, UpstreamCredential};

/// The newest `min_reader` that this build understands: 2 since there is [`Access`].
pub const READER: u32 = 2;

/// The most bytes that one encoded entry may have: room for the longest name beside an
/// [`Access`] with all the targets and groups that it may name.
pub const ENTRY_BYTES_MAX: usize = 8192;

/// When an entry was last changed. A newer lineage beats any position of an older one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Revision {
    /// The generation of the lineage.
    pub generation: u32,
    /// The position of the last event that changed this entry.
    pub rev: Position,
}

/// What a proxy knows of one secret of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretEntry {
    /// The oldest reader that may admit requests by this entry.
    pub min_reader: u32,
    /// Orders this entry against others of the same secret.
    #[serde(flatten)]
    pub revision: Revision,
    /// The key that the secret belongs to.
    pub key_id: KeyId,
    /// The secret itself.
    pub secret_id: SecretId,
    /// Whether requests may pass.
    pub status: SecretStatus,
    /// When this secret ends, after a rotation with overlap; unix milliseconds.
    pub ends_at_ms: Option<i64>,
    /// When the key expires; unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// The workspace of the key.
    pub workspace_id: WorkspaceId,
    /// The team of the key.
    pub team_id: Option<TeamId>,
    /// Who owns the key; `None` is a key of the workspace.
    pub owner: Option<Owner>,
    /// What people call the key.
    pub name: String,
    /// The key's own limits.
    pub limits: Limits,
    /// Where the key may go, within what its team and workspace allow.
    #[serde(default, skip_serializing_if = "Access::is_inherit")]
    pub access: Access,
}

/// Whether a secret may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretStatus {
    /// Requests pass.
    Active,
    /// The key is switched off and may be switched on again.
    Inactive,
    /// The key is off for good.
    Revoked,
    /// This secret was replaced and ended at once; the key may live on.
    Ended,
    /// The key was removed before it was ever used.
    Purged,
}

impl SecretStatus {
    /// Whether this state may never be left. The fold, the region's script and the
    /// proxy each refuse to.
    pub const fn is_absorbing(self) -> bool {
        matches!(self, Self::Revoked | Self::Ended | Self::Purged)
    }
}

/// Who a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "id", rename_all = "snake_case")]
pub enum Owner {
    /// A person.
    User(AccountId),
    /// An owner that cannot log in.
    ServiceAccount(ServiceAccountId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
        }
    }
}

/// What a proxy knows of something that many keys share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyEntry {
    /// The oldest reader that may admit requests by this entry.
    pub min_reader: u32,
    /// Orders this entry against others of the same policy.
    #[serde(flatten)]
    pub revision: Revision,
    /// What it says.
    #[serde(flatten)]
    pub policy: Policy,
}

/// The kinds of policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Policy {
    /// A workspace: its state and what holds for all its keys.
    Workspace(WorkspacePolicy),
    /// A team of a workspace.
    Team(TeamPolicy),
    /// The owner of keys, a person or a service account.
    Owner(OwnerPolicy),
    /// A target of a workspace.
    Target(TargetPolicy),
    /// What holds for everybody.
    Global(GlobalPolicy),
}

impl Policy {
    /// The oldest reader that keeps what this says. An older one would pass requests
    /// without their credential, and would take a wildcard for a name.
    pub fn min_reader(&self) -> u32 {
        match self {
            Self::Team(it) => it.access.min_reader(),
            Self::Target(it) if it.credential.is_some() || it.host.starts_with("*.") => 2,
            _ => 1,
        }
    }

    /// Which policy this is.
    pub fn id(&self) -> PolicyId {
        match self {
            Self::Workspace(it) => PolicyId::Workspace(it.workspace_id),
            Self::Team(it) => PolicyId::Team(it.team_id),
            Self::Owner(it) => PolicyId::Owner(it.workspace_id, it.owner),
            Self::Target(it) => PolicyId::Target(it.target_id),
            Self::Global(_) => PolicyId::Global,
        }
    }
}

/// Names one policy; as text `<kind>:<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyId {
    /// `workspace:ws_…`
    Workspace(WorkspaceId),
    /// `team:team_…`
    Team(TeamId),
    /// `owner:ws_…/acc_…` or `owner:ws_…/sa_…`: a person is another owner in each of
    /// their workspaces.
    Owner(WorkspaceId, Owner),
    /// `target:tgt_…`
    Target(TargetId),
    /// `global:instance`
    Global,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace(id) => write!(f, "workspace:{id}"),
            Self::Team(id) => write!(f, "team:{id}"),
            Self::Owner(workspace, owner) => write!(f, "owner:{workspace}/{owner}"),
            Self::Target(id) => write!(f, "target:{id}"),
            Self::Global => f.write_str("global:instance"),
        }
    }
}

/// The text does not name a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected <kind>:<id> with a known kind")]
pub struct BadPolicyId;

impl FromStr for PolicyId {
    type Err = BadPolicyId;

    fn from_str(text: &str) -> Result<Self, BadPolicyId> {
        let (kind, id) = text.split_once(':').ok_or(BadPolicyId)?;
        match kind {
            "workspace" => id.parse().map(Self::Workspace).map_err(|_| BadPolicyId),
            "team" => id.parse().map(Self::Team).map_err(|_| BadPolicyId),
            "owner" => {
                let (workspace, owner) = id.split_once('/').ok_or(BadPolicyId)?;
                let owner = owner
                    .parse()
                    .map(Owner::User)
                    .or_else(|_| owner.parse().map(Owner::ServiceAccount))
                    .map_err(|_| BadPolicyId)?;
                workspace
                    .parse()
                    .map(|id| Self::Owner(id, owner))
                    .map_err(|_| BadPolicyId)
            }
            "target" => id.parse().map(Self::Target).map_err(|_| BadPolicyId),
            "global" if id == "instance" => Ok(Self::Global),
            _ => Err(BadPolicyId),
        }
    }
}

/// A workspace, as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspacePolicy {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// Suspended: every key of it is refused.
    pub suspended: bool,
    /// Caps over all keys of the workspace.
    pub plan_limits: PlanLimits,
    /// The shape of error bodies; `None` takes the instance's.
    pub error_profile: Option<ErrorProfile>,
    /// Whether `?x_api_key=` is read.
    pub allow_query_key: bool,
}

/// A team, as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TeamPolicy {
    /// The team.
    pub team_id: TeamId,
    /// The workspace that it belongs to.
    pub workspace_id: WorkspaceId,
    /// Blocked: every key of it is refused.
    pub blocked: bool,
    /// A pool shared by the keys of the team.
    pub limits: Limits,
    /// Where the keys of the team may go, within what the workspace allows.
    #[serde(default, skip_serializing_if = "Access::is_inherit")]
    pub access: Access,
}

/// An owner of keys, as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerPolicy {
    /// The owner.
    pub owner: Owner,
    /// The workspace in which this holds.
    pub workspace_id: WorkspaceId,
    /// Blocked: every key of this owner is refused.
    pub blocked: bool,
    /// A pool shared by the keys of the owner.
    pub limits: Limits,
}

/// A target, as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetPolicy {
    /// The target.
    pub target_id: TargetId,
    /// The workspace that approved it.
    pub workspace_id: WorkspaceId,
    /// Deleted: as if it had never been there.
    pub deleted: bool,
    /// The name in `/t/<name>/…`.
    pub name: String,
    /// `https`, or `http` where plain text was asked for.
    pub scheme: Scheme,
    /// The host name, lower case; `*.` and a name stands for every host that is one label
    /// longer than the name.
    pub host: String,
    /// The port of requests by name.
    pub port: u16,
    /// Further ports that requests by URL may name.
    pub extra_ports: Vec<u16>,
    /// What every path must begin with; empty, or `/` and no `/` at the end.
    pub base_path: String,
    /// Whether addresses that are not public may be connected to.
    pub allow_private: bool,
    /// Whether `set-cookie` of the upstream reaches the client.
    pub allow_set_cookie: bool,
    /// Deadlines; `None` takes the proxy's default.
    pub timeouts: Timeouts,
    /// Caps on bodies; `None` takes the proxy's default.
    pub bodies: Bodies,
    /// The access groups that it is in, in order and each once; at most [`GROUPS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What requests are given for the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<UpstreamCredential>,
}

/// What holds for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GlobalPolicy {
    /// Caps over all requests.
    pub limits: PlanLimits,
    /// The shape of error bodies for callers without a workspace.
    pub error_profile: ErrorProfile,
}

/// How an upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// TLS, verified against the host's name.
    #[default]
    Https,
    /// Plain text.
    Http,
}

impl Scheme {
    /// The port that a URL of this scheme means when it names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }

    /// The scheme as it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// Deadlines of a target in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect_ms: Option<u64>,
    /// From the request's end until the answer's head.
    pub first_byte_ms: Option<u64>,
    /// Between two pieces of a body.
    pub idle_ms: Option<u64>,
    /// For the whole request.
    pub total_ms: Option<u64>,
}

/// Caps of a target on bodies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bodies {
    /// What a client may send.
    pub request_bytes_max: Option<u64>,
    /// What an upstream may answer.
    pub response_bytes_max: Option<u64>,
}

/// The shape of the proxy's error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ErrorProfile {
    /// RFC 9457 problem details.
    #[default]
    Standard,
    /// Exactly `{"error": "<text>"}`.
    Compact,
}

/// One entry under its name: what travels in frames, and what Redis holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Change {
    /// The entry of one secret.
    Secret {
        /// The lookup hash of the secret.
        hash: CredentialHash,
        /// The entry.
        secret: SecretEntry,
    },
    /// The entry of one policy.
    Policy {
        /// The entry.
        policy: PolicyEntry,
    },
}

impl Change {
    /// When this entry was last changed.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Secret { secret, .. } => secret.revision,
            Self::Policy { policy } => policy.revision,
        }
    }
}

/// Why an entry may not be published or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// It is not of the format.
    #[error("the entry is not of the format: {0}")]
    Malformed(String),
    /// It has more bytes than [`ENTRY_BYTES_MAX`].
    #[error("the entry has {0} bytes, the most is {ENTRY_BYTES_MAX}")]
    TooLarge(usize),
    /// It holds a restriction that this build does not know.
    #[error("the entry needs a reader of version {0}, this is {READER}")]
    TooNew(u32),
}

/// Encodes an entry for the wire. The control plane calls this before it commits and
/// before it publishes, so that nothing is sent that [`decode`] would refuse.
///
/// # Errors
/// [`BadEntry`], as for [`decode`].
pub fn encode<E: Serialize>(entry: &E) -> Result<String, BadEntry> {
    let text = serde_json::to_string(entry).map_err(|err| BadEntry::Malformed(err.to_string()))?;
    if text.len() > ENTRY_BYTES_MAX {
        Err(BadEntry::TooLarge(text.len()))
    } else {
        Ok(text)
    }
}

/// Reads the entry of a secret and checks that this build may admit by it.
///
/// # Errors
/// [`BadEntry`] when it is malformed, too large or too new; one bad entry is set
/// aside alone, the rest goes on.
pub fn decode_secret(bytes: &[u8]) -> Result<SecretEntry, BadEntry> {
    let entry: SecretEntry = decode(bytes)?;
    check_reader(entry.min_reader).map(|()| entry)
}

/// Reads the entry of a policy and checks that this build may admit by it.
///
/// # Errors
/// [`BadEntry`] when it is malformed, too large or too new.
pub fn decode_policy(bytes: &[u8]) -> Result<PolicyEntry, BadEntry> {
    let entry: PolicyEntry = decode(bytes)?;
    check_reader(entry.min_reader).map(|()| entry)
}

fn decode<'de, E: Deserialize<'de>>(bytes: &'de [u8]) -> Result<E, BadEntry> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(BadEntry::TooLarge(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|err| BadEntry::Malformed(err.to_string()))
}

/// Checks an entry with the code that reads it.
///
/// # Errors
/// [`BadEntry`].
pub fn check(change: &Change) -> Result<(), BadEntry> {
    match change {
        Change::Secret { secret, .. } => decode_secret(encode(secret)?.as_bytes()).map(drop),
        Change::Policy { policy } => decode_policy(encode(policy)?.as_bytes()).map(drop),
    }
}

/// Whether this build may admit by an entry that asks for `min_reader`.
///
/// # Errors
/// [`BadEntry::TooNew`].
pub fn check_reader(min_reader: u32) -> Result<(), BadEntry> {
    if min_reader > READER {
        Err(BadEntry::TooNew(min_reader))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries from before there was access read as entries that inherit, and are written
    /// as they were.
    #[test]
    fn an_entry_without_access_inherits() {
        let text = include_str!("../golden/secret_entry.1.json");
        let entry = decode_secret(text.as_bytes()).unwrap();
        assert_eq!(entry.access, Access::default());
        assert!(!encode(&entry).unwrap().contains("access"));
    }

    /// A reader of version 1 does not know `access`; it may only admit by entries whose
    /// access refuses nothing.
    #[test]
    fn access_that_refuses_needs_a_reader_that_knows_it() {
        let check = |mode, shadow, expected| {
            let access = Access {
                mode,
                shadow,
                ..Access::default()
            };
            assert_eq!(access.min_reader(), expected);
        };
        check(AccessMode::Inherit, false, 1);
        check(AccessMode::Restrict, true, 1);
        check(AccessMode::Restrict, false, 2);
    }

    #[test]
    fn a_mode_that_is_not_known_is_no_entry() {
        let text = include_str!("../golden/secret_entry.2.json");
        assert!(decode_secret(text.as_bytes()).is_ok());
        let text = text.replace("\"restrict\"", "\"exclude\"");
        assert!(decode_secret(text.as_bytes()).is_err());
    }

    #[test]
    fn policy_ids_as_text_and_back() {
        let workspace = WorkspaceId::from_u128(1);
        for id in [
            PolicyId::Global,
            PolicyId::Workspace(workspace),
            PolicyId::Team(TeamId::from_u128(2)),
            PolicyId::Owner(workspace, Owner::User(AccountId::from_u128(3))),
            PolicyId::Owner(
                workspace,
                Owner::ServiceAccount(ServiceAccountId::from_u128(4)),
            ),
            PolicyId::Target(TargetId::from_u128(5)),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "",
            "team",
            "team:x",
            "owner:acc_1",
            "global:other",
            "key:key_1",
        ] {
            assert_eq!(bad.parse::<PolicyId>(), Err(BadPolicyId), "{bad}");
        }
    }
}
