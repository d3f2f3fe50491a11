//! Bodies that the control API answers with.
//!
//! What it reads is not here: a request body is taken apart field by field, so that one
//! answer can name every field that is wrong.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::entry::{
    Access, AccessMode, Bodies, ErrorProfile, Owner, Scheme, SecretSource, Timeouts,
};
use crate::{
    AccountId, Environment, KeyId, Limits, MemberStatus, PlanLimits, Position, Role, SecretId,
    TargetId, TeamId, Timestamp, WorkspaceId,
};

mod team;

pub use team::{SelfService, SelfServiceRule, ServiceAccount, Team, TeamMember};

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// What to pass as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// What a key can be. The first that holds of `revoked, inactive, expired, active`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// Admits requests.
    Active,
    /// Switched off; can be switched on again.
    Inactive,
    /// Off for good.
    Revoked,
    /// Past its `expires_at`; a later one ends this.
    Expired,
}

/// Where a key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Over the control API.
    Api,
    /// On the console's pages.
    Console,
    /// By a developer under a team's policy.
    SelfService,
    /// By `up --demo`.
    Demo,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignUp {
    /// Anybody.
    #[default]
    Open,
    /// Whose address was invited.
    Invite,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// What kind of actor.
    #[serde(rename = "type")]
    pub kind: ActorKind,
    /// Its opaque id.
    pub id: String,
}

/// The kinds of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person.
    User,
    /// An owner that cannot log in.
    ServiceAccount,
    /// The product itself, such as a first use that a proxy reported.
    System,
}

/// A key, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// The key's id; it outlives its secrets.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What it can be used for now.
    pub status: KeyStatus,
    /// Its secrets that have not ended, oldest first.
    pub secrets: Vec<Secret>,
    /// A label with no effect on behaviour.
    pub category: Option<String>,
    /// The marker in its secrets.
    pub environment: Environment,
    /// The team that it belongs to.
    pub team_id: Option<TeamId>,
    /// Who owns it; `null` is a key of the workspace.
    pub owner: Option<Owner>,
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
    /// Rates.
    pub limits: Limits,
    /// Totals; not available yet.
    pub quotas: Option<Value>,
    /// Money; not available yet.
    pub budget: Option<Value>,
    /// Requests at the same time; not available yet.
    pub concurrency: Option<u64>,
    /// Waiting instead of refusing; not available yet.
    pub queue: Option<Value>,
    /// Where it may go, within what its team and workspace allow.
    #[serde(default)]
    pub access: Access,
    /// What happens when a proxy is cut off; not available yet.
    pub staleness: Option<Value>,
    /// Labels for programs.
    pub metadata: BTreeMap<String, String>,
    /// The key that this one takes the place of.
    pub replaces: Option<KeyId>,
    /// When its secret should be replaced; a reminder.
    pub rotation_due_at: Option<Timestamp>,
    /// Who made it.
    pub created_by: Option<Actor>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a proxy last admitted a request with it.
    pub last_used_at: Option<Timestamp>,
    /// Where it was made.
    pub source: Source,
    /// Rules of its team's self-service that would not let it be made today; absent where
    /// there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_policy: Vec<SelfServiceRule>,
    /// Rises with every change; the `ETag`.
    pub version: u64,
    /// The key string itself, in the answer to the call that made it and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// How far the change has travelled, where the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// A secret of a key, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// The first 16 characters of the key string.
    pub prefix: String,
    /// The last 4 characters of the key string.
    pub last4: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, once it was rotated with overlap.
    pub expires_at: Option<Timestamp>,
    /// When a proxy last admitted a request with it.
    pub last_used_at: Option<Timestamp>,
}

/// What `GET …/rotation` says of each secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationSecret {
    /// The secret's id.
    pub id: SecretId,
    /// The first 16 characters of the key string.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends or ended.
    pub ends_at: Option<Timestamp>,
    /// When a proxy last admitted a request with it.
    pub last_used_at: Option<Timestamp>,
    /// Requests with it in the last hour.
    pub requests_last_hour: u64,
    /// It is not the newest secret and was not used in the last hour, while the newest
    /// was.
    pub safe_to_retire: bool,
}

/// The answer to `GET …/rotation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rotation {
    /// The key.
    pub key_id: KeyId,
    /// When its secret should be replaced; a reminder.
    pub rotation_due_at: Option<Timestamp>,
    /// Its secrets, ended ones too, oldest first.
    pub secrets: Vec<RotationSecret>,
}

/// A target, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// The target's id.
    pub id: TargetId,
    /// The name in `/t/<name>/…`.
    pub name: String,
    /// The host, lower case; `*.` and a name stands for every host that is one label
    /// longer than the name.
    pub host: String,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// The port of requests by name.
    pub port: u16,
    /// Further ports that requests by URL may name.
    pub extra_ports: Vec<u16>,
    /// What every path must begin with; empty, or `/` and no `/` at the end.
    pub base_path: String,
    /// The access groups that it is in.
    pub groups: Vec<String>,
    /// The name of the credential that requests are given for the upstream.
    pub credential: Option<String>,
    /// How use is counted; not available yet.
    pub meter: Option<Value>,
    /// Limits of the target; not available yet.
    pub limits: Limits,
    /// Deadlines; `null` is the proxy's default.
    pub timeouts: Timeouts,
    /// Caps on bodies; `null` is the proxy's default.
    pub bodies: Bodies,
    /// Waiting instead of refusing; not available yet.
    pub queue: Option<Value>,
    /// Requests at the same time; not available yet.
    pub concurrency: Option<u64>,
    /// Whether `set-cookie` of the upstream reaches the client.
    pub allow_set_cookie: bool,
    /// Whether addresses that are not public may be connected to.
    pub allow_private: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the `ETag`.
    pub version: u64,
    /// How far the change has travelled, where the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// An access group, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessGroup {
    /// Its name.
    pub name: String,
    /// How many targets are in it now.
    pub targets: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The `ETag`; a group is never changed.
    pub version: u64,
}

/// A reference to what a proxy presents to upstreams, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamCredential {
    /// Its name.
    pub name: String,
    /// The header, lower case.
    pub header: String,
    /// The header's value, with `{secret}` where the secret belongs.
    pub format: String,
    /// Where a proxy finds the secret.
    pub source: SecretSource,
    /// Which variable or file.
    #[serde(rename = "ref")]
    pub reference: String,
    /// How many targets use it now.
    pub targets: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The `ETag`; a credential is never changed.
    pub version: u64,
}

/// What a key may call and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveAccess {
    /// The key.
    pub key_id: KeyId,
    /// What the key can be used for now; only an active one calls anything.
    pub status: KeyStatus,
    /// What each level says, the widest first. A request passes when all of them let it.
    pub levels: Vec<AccessOfLevel>,
    /// The targets of the workspace, in the order they were made.
    pub targets: Vec<EffectiveTarget>,
    /// What to pass as `cursor` for further targets; `null` on the last page.
    pub next_cursor: Option<String>,
}

/// What one level says about access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessOfLevel {
    /// Which level.
    pub level: AccessLevel,
    /// The id of the workspace, the team or the key.
    pub id: String,
    /// What it says; the workspace lets all its targets through.
    pub access: Access,
}

/// The levels of access, the widest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AccessLevel {
    /// The targets of the workspace.
    Workspace,
    /// The team of the key.
    Team,
    /// The key itself.
    Key,
}

/// Whether a key may call one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveTarget {
    /// The target.
    pub id: TargetId,
    /// Its name.
    pub name: String,
    /// Whether every level that is in force lets it through.
    pub allowed: bool,
    /// Whether it is allowed only because a level that would refuse it is in shadow.
    pub shadow_denied: bool,
    /// What each level makes of it, in the order of `levels`.
    pub reasons: Vec<AccessReason>,
}

/// What one level makes of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessReason {
    /// Which level.
    pub level: AccessLevel,
    /// Whether it inherits or restricts.
    pub mode: AccessMode,
    /// Whether it only watches.
    pub shadow: bool,
    /// Whether it lets the target through.
    pub allowed: bool,
    /// What lets it through; `null` where nothing does.
    pub by: Option<AccessBy>,
    /// The group, where one lets it through.
    pub name: Option<String>,
}

/// What lets a target through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessBy {
    /// The level restricts nothing.
    Inherit,
    /// The level names the target.
    Target,
    /// The level names a group that the target is in.
    Group,
}

/// The active workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workspace {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// `active` or `suspended`.
    pub status: String,
    /// Caps over all keys of the workspace.
    pub plan_limits: PlanLimits,
    /// The shape of error bodies; `null` takes the instance's.
    pub error_profile: Option<ErrorProfile>,
    /// The longest overlap of a rotation, in seconds.
    pub rotation_overlap_max_seconds: u64,
    /// Whether the proxy reads `?x_api_key=`.
    pub allow_query_key: bool,
    /// Whether members need a second factor.
    pub require_totp: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the `ETag`.
    pub version: u64,
    /// How far the change has travelled, where the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// A member of a workspace, as the log knows one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// The account.
    pub account_id: AccountId,
    /// What they are.
    pub role: Role,
    /// Whether they are let in.
    pub status: MemberStatus,
    /// A pool shared by the member's keys; not available yet.
    pub limits: Option<Value>,
}

/// How far a change has travelled.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is in the log.
    Committed,
    /// The region's Redis and every proxy that renewed in the last 2 s hold it.
    Applied,
}

/// How far a change has travelled, region by region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Propagation {
    /// The position of the change.
    pub position: Position,
    /// The lowest level of the regions.
    pub level: Level,
    /// Each region.
    pub regions: Vec<RegionPropagation>,
}

/// How far a change has travelled in one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegionPropagation {
    /// The region.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Proxies that count.
    pub proxies: u64,
    /// Those of them that hold the change.
    pub applied: u64,
    /// Those that hold the asked level back.
    pub missing: Vec<String>,
    /// When it was confirmed; not available yet.
    pub confirmed_at: Option<Timestamp>,
}
