//! What can be asked. A command is an order; time, ids and secrets come in with it, so
//! that deciding needs no clock and no dice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use schemas::api::{SignUp, Source};
use schemas::entry::{Access, Bodies, ErrorProfile, Owner, Scheme, Timeouts, UpstreamCredential};
use schemas::{
    AccountId, Environment, InvitationId, KeyId, Limits, MemberStatus, PlanLimits, Role, SecretId,
    ServiceAccountId, TargetId, TeamId, TeamRole, Timestamp, WorkspaceId,
};
use serde_json::Value;

use crate::access::AccessPatch;
use crate::catalog::CatalogCommand;
use crate::event::{AccessDenied, InvitedTo, SecretMade, Stream};

/// An order to one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To a key.
    Key(KeyId, KeyCommand),
    /// To a workspace.
    Workspace(WorkspaceId, WorkspaceCommand),
    /// To a target.
    Target(TargetId, TargetCommand),
    /// To the record of what was denied in a workspace.
    Access(WorkspaceId, RecordDenied),
    /// To a team.
    Team(TeamId, TeamCommand),
    /// To a service account.
    ServiceAccount(ServiceAccountId, ServiceAccountCommand),
    /// To the installation.
    Instance(InstanceCommand),
}

impl Command {
    /// The stream that the command speaks to.
    pub fn stream(&self) -> Stream {
        match self {
            Self::Key(id, _) => Stream::Key(*id),
            Self::Workspace(id, _) => Stream::Workspace(*id),
            Self::Target(id, _) => Stream::Target(*id),
            Self::Access(id, _) => Stream::Access(*id),
            Self::Team(id, _) => Stream::Team(*id),
            Self::ServiceAccount(id, _) => Stream::ServiceAccount(*id),
            Self::Instance(_) => Stream::Instance,
        }
    }
}

/// An order to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    /// Make it.
    Create(Box<CreateKey>),
    /// Change fields.
    Patch(Box<PatchKey>),
    /// Switch it off; may be repeated.
    Deactivate,
    /// Switch it on again; may be repeated.
    Reactivate,
    /// Switch it off for good; may be repeated.
    Revoke,
    /// Give it a new secret.
    Rotate(RotateKey),
    /// Give it another owner.
    Transfer {
        /// Whose it will be; `None` makes it a key of its team or workspace.
        owner: Option<Owner>,
        /// The team it will be in.
        team_id: Option<TeamId>,
    },
    /// Remove it; whoever asks has proven that no proxy ever admitted it.
    Purge,
    /// A proxy reported a use.
    RecordFirstUse {
        /// The secret that was presented.
        secret_id: SecretId,
        /// When, by the proxy's clock.
        used_at: Timestamp,
    },
}

/// The fields of a new key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each is the field of `schemas::api::Key` of the same name
pub struct CreateKey {
    pub name: String,
    pub category: Option<String>,
    pub environment: Environment,
    pub team_id: Option<TeamId>,
    pub owner: Option<Owner>,
    pub expires_at: Option<Timestamp>,
    pub limits: Limits,
    pub access: Access,
    pub metadata: BTreeMap<String, String>,
    pub replaces: Option<KeyId>,
    pub rotation_due_at: Option<Timestamp>,
    pub source: Source,
    pub secret: SecretMade,
}

/// Fields to change: the outer `None` leaves a field as it is, the inner one clears it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each is the field of `schemas::api::Key` of the same name
pub struct PatchKey {
    pub name: Option<String>,
    pub category: Option<Option<String>>,
    pub expires_at: Option<Option<Timestamp>>,
    pub limits: Option<LimitsPatch>,
    pub access: Option<AccessPatch>,
    pub metadata: Option<MetadataPatch>,
    pub rotation_due_at: Option<Option<Timestamp>>,
}

/// How limits change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitsPatch {
    /// All are cleared.
    Clear,
    /// The named ones are set, or cleared by `None`.
    Merge(BTreeMap<String, Option<u64>>),
}

/// How metadata changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataPatch {
    /// All pairs are removed.
    Clear,
    /// The named pairs are set, or removed by `None`.
    Merge(BTreeMap<String, Option<String>>),
}

/// A new secret for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateKey {
    /// How long the secrets before stay good, in seconds; required unless the reason is
    /// `leaked`.
    pub overlap_seconds: Option<u64>,
    /// The longest overlap that the workspace allows, in seconds.
    pub overlap_max_seconds: u64,
    /// Why. `leaked` ends all other secrets at once.
    pub reason: Option<String>,
    /// A developer does it under the policy of the key's team.
    pub self_service: bool,
    /// The new secret.
    pub secret: SecretMade,
}

/// An order to a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceCommand {
    /// Make it.
    Create {
        /// What people call it.
        name: String,
        /// Its first owner.
        owner: AccountId,
    },
    /// Change settings.
    Patch(PatchWorkspace),
    /// Change its access groups and upstream credentials.
    Catalog(CatalogCommand),
    /// Let nobody in and refuse every key, until reinstated; may be repeated.
    Suspend,
    /// Undo a suspension; may be repeated.
    Reinstate,
    /// Change who belongs to it.
    Member(MemberCommand),
    /// Ask somebody in.
    Invitation(InvitationCommand),
}

/// An order about the members of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberCommand {
    /// Change what a member is.
    Update {
        /// Whose role decides whether this may be.
        by: AccountId,
        /// The member.
        account_id: AccountId,
        /// The new role; `None` leaves it.
        role: Option<Role>,
        /// Let in or not; `None` leaves it.
        status: Option<MemberStatus>,
    },
    /// End a membership.
    Remove {
        /// Whose role decides whether this may be; `None` where the account itself goes,
        /// which asks nobody.
        by: Option<AccountId>,
        /// The member.
        account_id: AccountId,
    },
}

/// An order about an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvitationCommand {
    /// Make it.
    Create {
        /// Whose role decides whether this may be.
        by: AccountId,
        /// Its id.
        id: InvitationId,
        /// What the guest becomes.
        role: Role,
        /// The team that the guest joins, and as what.
        team: Option<InvitedTo>,
    },
    /// Give it a new link and a new term; the old link is dead.
    Reissue {
        /// Whose role decides whether this may be.
        by: AccountId,
        /// The invitation.
        id: InvitationId,
    },
    /// Take it back.
    Delete {
        /// Whose role decides whether this may be.
        by: AccountId,
        /// The invitation.
        id: InvitationId,
    },
    /// Come in. Whoever asks has proven that the link is theirs.
    Accept {
        /// The invitation.
        id: InvitationId,
        /// Who comes.
        account_id: AccountId,
    },
}

/// Settings to change; `None` leaves a setting as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each is the field of `schemas::api::Workspace` of the same name
pub struct PatchWorkspace {
    pub name: Option<String>,
    pub plan_limits: Option<LimitsPatch>,
    pub error_profile: Option<Option<ErrorProfile>>,
    pub rotation_overlap_max_seconds: Option<Option<u64>>,
    pub allow_query_key: Option<bool>,
    pub require_totp: Option<bool>,
}

/// An order to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetCommand {
    /// Approve it.
    Create(Box<CreateTarget>),
    /// Change fields.
    Patch(Box<PatchTarget>),
    /// Approve it no longer.
    Delete,
    /// Move the demo's own target to where its upstream listens now. No caller of the API
    /// can give this order.
    MoveDemo {
        /// The loopback port.
        port: u16,
    },
}

/// The fields of a new target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each is the field of `schemas::api::Target` of the same name
pub struct CreateTarget {
    pub workspace_id: WorkspaceId,
    pub name: String,
    pub host: String,
    pub scheme: Scheme,
    pub port: Option<u64>,
    pub extra_ports: Vec<u64>,
    pub base_path: String,
    pub timeouts: Timeouts,
    pub bodies: Bodies,
    pub allow_set_cookie: bool,
    pub allow_private: bool,
    pub groups: Vec<String>,
    /// The workspace's credential, whole.
    pub credential: Option<UpstreamCredential>,
    /// What the installation lets targets be.
    pub rules: TargetRules,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each is the field of `schemas::api::Target` of the same name
pub struct PatchTarget {
    pub name: Option<String>,
    pub host: Option<String>,
    pub scheme: Option<Scheme>,
    pub port: Option<Option<u64>>,
    pub extra_ports: Option<Vec<u64>>,
    pub base_path: Option<String>,
    pub timeouts: Option<BTreeMap<String, Option<u64>>>,
    pub bodies: Option<BTreeMap<String, Option<u64>>>,
    pub allow_set_cookie: Option<bool>,
    pub allow_private: Option<bool>,
    pub groups: Option<Vec<String>>,
    /// The workspace's credential, whole; the inner `None` takes it away.
    pub credential: Option<Option<UpstreamCredential>>,
    /// What the installation lets targets be.
    pub rules: TargetRules,
}

/// What the installation lets targets be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetRules {
    /// `[security] allow_private_upstreams`.
    pub allow_private_upstreams: bool,
    /// Where the installation itself is reached: a target there would be a loop.
    pub own: Arc<OwnPlaces>,
    /// The demo's own target: a loopback address and plain text, which the proxy lets
    /// through for exactly the address that the demo's upstream listens on.
    pub is_demo: bool,
}

/// A caller tried what they may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordDenied {
    /// Who; the same as the actor of the event.
    pub caller: String,
    /// What they tried, and how they were answered.
    pub denied: AccessDenied,
}

/// Where the installation itself is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnPlaces {
    /// Host names, lower case.
    pub hosts: Vec<String>,
    /// What its listeners were told to listen on.
    pub listeners: Vec<SocketAddr>,
}

/// An order to a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeamCommand {
    /// Make it; what the patch does not name is as by default.
    Create(Box<PatchTeam>),
    /// Change fields.
    Patch(Box<PatchTeam>),
    /// Be no more; whoever asks has seen to it that it has no keys.
    Delete,
    /// Give somebody a role; may be repeated.
    SetMember {
        /// Who.
        account_id: AccountId,
        /// The role.
        role: TeamRole,
    },
    /// Take the role from somebody.
    RemoveMember {
        /// Who.
        account_id: AccountId,
    },
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each is the field of `schemas::api::Team` of the same name
pub struct PatchTeam {
    pub name: Option<String>,
    pub limits: Option<LimitsPatch>,
    /// Members to set, by name; the inner `None` sets all of them back.
    pub self_service: Option<Option<BTreeMap<String, Value>>>,
    pub access: Option<AccessPatch>,
    pub blocked: Option<bool>,
}

/// An order to a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAccountCommand {
    /// Make it.
    Create {
        /// What people call it.
        name: String,
        /// The team.
        team_id: TeamId,
    },
    /// Change what is named.
    Patch {
        /// What people call it.
        name: Option<String>,
        /// Switch it on or off; may be repeated.
        active: Option<bool>,
    },
}

/// An order to the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceCommand {
    /// Make somebody the first operator; refused where there is one.
    AddFirstOperator {
        /// The account.
        account_id: AccountId,
    },
    /// Make somebody an operator; may be repeated.
    AddOperator {
        /// The account.
        account_id: AccountId,
    },
    /// Somebody is an operator no longer.
    RemoveOperator {
        /// The account.
        account_id: AccountId,
    },
    /// Change settings.
    Patch {
        /// Caps over all requests.
        global_limits: Option<LimitsPatch>,
        /// The shape of error bodies for callers without a workspace; the inner `None`
        /// is the default.
        error_profile: Option<Option<ErrorProfile>>,
        /// Who may sign up; the inner `None` is as the installation is configured.
        sign_up: Option<Option<SignUp>>,
    },
}

/// Merges named rates into plan limits, or says which names are not rates.
pub(crate) fn merge_plan_limits(
    field: &str,
    before: PlanLimits,
    patch: Option<&LimitsPatch>,
    refusals: &mut Vec<crate::refusal::FieldRefusal>,
) -> PlanLimits {
    let mut after = before;
    match patch {
        None => {}
        Some(LimitsPatch::Clear) => after = PlanLimits::default(),
        Some(LimitsPatch::Merge(members)) => {
            for (name, value) in members {
                if value.is_some_and(|value| value > crate::key::INTEGER_MAX) {
                    refusals.push(crate::refusal::FieldRefusal::invalid(
                        format!("{field}.{name}"),
                        format!("null or 0 to {}", crate::key::INTEGER_MAX),
                    ));
                }
                match name.as_str() {
                    "rps" => after.rps = *value,
                    "rpm" => after.rpm = *value,
                    _ => refusals.push(crate::refusal::FieldRefusal::invalid(
                        format!("{field}.{name}"),
                        "not a rate; rps and rpm are",
                    )),
                }
            }
        }
    }
    after
}
