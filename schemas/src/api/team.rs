//! Teams, their people, and their service accounts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Propagation;
use crate::entry::Access;
use crate::{AccountId, Limits, ServiceAccountId, TeamId, TeamRole, Timestamp};

/// A team, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Team {
    /// The team's id.
    pub id: TeamId,
    /// What people call it.
    pub name: String,
    /// A pool shared by its keys, and the most that a key of it may ask for.
    pub limits: Limits,
    /// Totals; not available yet.
    pub quotas: Option<Value>,
    /// Money; not available yet.
    pub budget: Option<Value>,
    /// What its developers may make for themselves.
    pub self_service: SelfService,
    /// Where its keys may go, within what the workspace allows.
    pub access: Access,
    /// Every key of it is refused.
    pub blocked: bool,
    /// Its people; `null` for callers who may not know them.
    pub members: Option<Vec<TeamMember>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the `ETag`.
    pub version: u64,
    /// How far the change has travelled, where the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// What the developers of a team may make for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelfService {
    /// Whether they may make keys at all.
    pub enabled: bool,
    /// The most live keys of one developer in the team.
    pub max_keys_per_user: Option<u64>,
    /// The most money that a key may be given; not available yet.
    pub budget_ceiling: Option<u64>,
    /// Whether a key has to end by itself.
    pub require_expiry: bool,
    /// The farthest end of a key from when it is made, in days; implies an end.
    pub max_expiry_days: Option<u64>,
}

/// Somebody's role in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TeamMember {
    /// Who.
    pub account_id: AccountId,
    /// The role.
    pub role: TeamRole,
}

/// A service account, as every answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccount {
    /// The service account's id.
    pub id: ServiceAccountId,
    /// What people call it.
    pub name: String,
    /// The team it belongs to, for good.
    pub team_id: TeamId,
    /// Switched off, its keys are refused and its tokens open nothing.
    pub active: bool,
    /// Limits over all its keys; not available yet.
    pub limits: Limits,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the `ETag`.
    pub version: u64,
    /// How far the change has travelled, where the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// A rule of a team's self-service. On the wire it is the code of the refusal.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum SelfServiceRule {
    /// The team has it switched off.
    #[serde(rename = "self_service_disabled")]
    Disabled,
    /// The developer has as many live keys in the team as allowed.
    #[serde(rename = "self_service_max_keys")]
    MaxKeys,
    /// The key has to end by itself, or to end sooner.
    #[serde(rename = "self_service_expiry")]
    Expiry,
    /// An own limit is above the team's.
    #[serde(rename = "self_service_limit")]
    Limit,
}

// === impl SelfServiceRule ===

impl SelfServiceRule {
    /// The rule as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "self_service_disabled",
            Self::MaxKeys => "self_service_max_keys",
            Self::Expiry => "self_service_expiry",
            Self::Limit => "self_service_limit",
        }
    }
}
