//! Everything that can happen. An event is a fact in the past tense; it is written once
//! and read for ever, so it holds no secret, no e-mail address and no person's name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemas::api::{Actor, SignUp, Source};
use schemas::entry::{Access, Bodies, ErrorProfile, Owner, Scheme, Timeouts, UpstreamCredential};
use schemas::{
    AccountId, CredentialHash, Environment, EventId, InvitationId, KeyId, Limits, LineageId,
    MemberStatus, PlanLimits, Position, Role, SecretId, ServiceAccountId, TargetId, TeamId,
    TeamRole, Timestamp, WorkspaceId,
};
use serde::{Deserialize, Serialize};

/// An event with its place in the log: the members that are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the whole log, dense from 1.
    pub position: Position,
    /// The history it belongs to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// What it happened to.
    pub stream: Stream,
    /// Its number within the stream, from 1.
    pub stream_version: u64,
    /// Its own id.
    pub id: EventId,
    /// When it was decided.
    pub at: Timestamp,
    /// The workspace it belongs to; `None` for the instance and its regions.
    pub workspace_id: Option<WorkspaceId>,
    /// Who did it.
    pub actor: Actor,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// The event that this one follows from.
    pub causation_id: Option<EventId>,
    /// What happened.
    pub event: Event,
}

impl Recorded {
    /// The id of what the event happened to: of the member or the invitation for those of
    /// a workspace's people, otherwise of the aggregate.
    pub fn object_id(&self) -> String {
        match &self.event {
            Event::MemberAdded { account_id, .. }
            | Event::MemberUpdated { account_id, .. }
            | Event::MemberRemoved { account_id }
            | Event::OperatorAdded { account_id }
            | Event::OperatorRemoved { account_id } => account_id.to_string(),
            Event::InvitationCreated { invitation_id, .. }
            | Event::InvitationReissued { invitation_id, .. }
            | Event::InvitationDeleted { invitation_id }
            | Event::InvitationAccepted { invitation_id, .. } => invitation_id.to_string(),
            _ => self.stream.object_id(),
        }
    }
}

/// What an event happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// One key.
    Key(KeyId),
    /// One workspace: its settings and its people.
    Workspace(WorkspaceId),
    /// One target.
    Target(TargetId),
    /// What was denied in one workspace. It folds into nothing that anybody reads, so that
    /// attempts do not move the version of the workspace.
    Access(WorkspaceId),
    /// One team: its fields and its people.
    Team(TeamId),
    /// One service account.
    ServiceAccount(ServiceAccountId),
    /// The whole installation.
    Instance,
}

impl Stream {
    /// The id of its aggregate.
    pub fn object_id(&self) -> String {
        let name = self.to_string();
        name.rsplit_once('/')
            .map(|(_, id)| id.to_owned())
            .unwrap_or(name)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key/{id}"),
            Self::Workspace(id) => write!(f, "workspace/{id}"),
            Self::Target(id) => write!(f, "target/{id}"),
            Self::Access(id) => write!(f, "access/{id}"),
            Self::Team(id) => write!(f, "team/{id}"),
            Self::ServiceAccount(id) => write!(f, "service_account/{id}"),
            Self::Instance => f.write_str("instance"),
        }
    }
}

/// The text does not name a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a stream: {0}")]
pub struct BadStream(pub String);

impl FromStr for Stream {
    type Err = BadStream;

    fn from_str(text: &str) -> Result<Self, BadStream> {
        let bad = || BadStream(text.to_owned());
        if text == "instance" {
            return Ok(Self::Instance);
        }
        let (kind, id) = text.split_once('/').ok_or_else(bad)?;
        match kind {
            "key" => id.parse().map(Self::Key).map_err(|_| bad()),
            "workspace" => id.parse().map(Self::Workspace).map_err(|_| bad()),
            "target" => id.parse().map(Self::Target).map_err(|_| bad()),
            "access" => id.parse().map(Self::Access).map_err(|_| bad()),
            "team" => id.parse().map(Self::Team).map_err(|_| bad()),
            "service_account" => id.parse().map(Self::ServiceAccount).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// A key was made, with its first secret.
    #[serde(rename = "key.created")]
    KeyCreated(Box<KeyCreated>),
    /// Fields of a key were changed; each says from what to what.
    #[serde(rename = "key.updated")]
    KeyUpdated {
        /// The fields.
        changes: Box<KeyChanges>,
    },
    /// A key was switched off and may be switched on again.
    #[serde(rename = "key.deactivated")]
    KeyDeactivated {},
    /// A key was switched on again.
    #[serde(rename = "key.reactivated")]
    KeyReactivated {},
    /// A key was switched off for good. Nothing follows that brings it back.
    #[serde(rename = "key.revoked")]
    KeyRevoked {},
    /// A key got a new secret; others end now or later.
    #[serde(rename = "key.rotated")]
    KeyRotated(KeyRotated),
    /// A key got another owner, and with it perhaps a team.
    #[serde(rename = "key.transferred")]
    KeyTransferred {
        /// Whose it was and is.
        changes: KeyTransfer,
    },
    /// A proxy admitted a request with this key for the first time. From here on it has
    /// a history and cannot be purged.
    #[serde(rename = "key.first_used")]
    KeyFirstUsed {
        /// The secret that was presented.
        secret_id: SecretId,
        /// When, by the proxy's clock.
        used_at: Timestamp,
    },
    /// A key that was proven never used was removed.
    #[serde(rename = "key.purged")]
    KeyPurged {},
    /// A workspace was made.
    #[serde(rename = "workspace.created")]
    WorkspaceCreated {
        /// What people call it.
        name: String,
        /// Its first owner.
        owner: AccountId,
    },
    /// Settings of a workspace were changed.
    #[serde(rename = "workspace.updated")]
    WorkspaceUpdated {
        /// The settings.
        changes: WorkspaceChanges,
    },
    /// A workspace got an access group: a label for targets, which nothing carries yet.
    #[serde(rename = "workspace.access_group_created")]
    AccessGroupCreated {
        /// Its name.
        name: String,
    },
    /// An access group that nothing named was removed.
    #[serde(rename = "workspace.access_group_deleted")]
    AccessGroupDeleted {
        /// Its name.
        name: String,
    },
    /// A workspace got a reference to a secret that its targets can be given. The secret
    /// itself is on the hosts of the proxies and nowhere in the log.
    #[serde(rename = "workspace.credential_created")]
    CredentialCreated(Box<UpstreamCredential>),
    /// A credential that no target named was removed.
    #[serde(rename = "workspace.credential_deleted")]
    CredentialDeleted {
        /// Its name.
        name: String,
    },
    /// An operator suspended a workspace: nobody of it is let in, no key of it is admitted.
    #[serde(rename = "workspace.suspended")]
    WorkspaceSuspended {},
    /// An operator ended the suspension of a workspace.
    #[serde(rename = "workspace.reinstated")]
    WorkspaceReinstated {},
    /// Somebody became a member.
    #[serde(rename = "workspace.member_added")]
    MemberAdded {
        /// Who.
        account_id: AccountId,
        /// What they are.
        role: Role,
    },
    /// The role or the status of a member was changed; each says from what to what.
    #[serde(rename = "workspace.member_updated")]
    MemberUpdated {
        /// The member.
        account_id: AccountId,
        /// The fields.
        changes: MemberChanges,
    },
    /// A membership ended.
    #[serde(rename = "workspace.member_removed")]
    MemberRemoved {
        /// Whose.
        account_id: AccountId,
    },
    /// Somebody was asked into a workspace. Who that is, is not in the log.
    #[serde(rename = "workspace.invitation_created")]
    InvitationCreated {
        /// The invitation.
        invitation_id: InvitationId,
        /// What the guest becomes.
        role: Role,
        /// The team that the guest joins, and as what.
        team: Option<InvitedTo>,
        /// Whose role it rests on: when theirs does not reach so far any more, it is dead.
        by: AccountId,
        /// When the link is dead.
        expires_at: Timestamp,
    },
    /// An invitation got a new link; the one before is dead.
    #[serde(rename = "workspace.invitation_reissued")]
    InvitationReissued {
        /// The invitation.
        invitation_id: InvitationId,
        /// Whose role it rests on from now on.
        by: AccountId,
        /// When the new link is dead.
        expires_at: Timestamp,
    },
    /// An invitation was taken back.
    #[serde(rename = "workspace.invitation_deleted")]
    InvitationDeleted {
        /// The invitation.
        invitation_id: InvitationId,
    },
    /// An invitation was accepted. What its guest became is in the events that follow.
    #[serde(rename = "workspace.invitation_accepted")]
    InvitationAccepted {
        /// The invitation.
        invitation_id: InvitationId,
        /// The guest.
        account_id: AccountId,
    },
    /// A target was approved.
    #[serde(rename = "target.created")]
    TargetCreated(Box<TargetFields>),
    /// Fields of a target were changed.
    #[serde(rename = "target.updated")]
    TargetUpdated {
        /// The fields.
        changes: Box<TargetChanges>,
    },
    /// A target is approved no longer.
    #[serde(rename = "target.deleted")]
    TargetDeleted {},
    /// A caller who is known tried what they may not.
    #[serde(rename = "access.denied")]
    AccessDenied(AccessDenied),
    /// A team was made.
    #[serde(rename = "team.created")]
    TeamCreated(Box<crate::team::TeamFields>),
    /// Fields of a team were changed.
    #[serde(rename = "team.updated")]
    TeamUpdated {
        /// The fields.
        changes: Box<TeamChanges>,
    },
    /// A team is no more. Its people have no role in it any longer.
    #[serde(rename = "team.deleted")]
    TeamDeleted {},
    /// Somebody got a role in a team, or another one.
    #[serde(rename = "team.member_set")]
    TeamMemberSet {
        /// Who.
        account_id: AccountId,
        /// The role before; `None` for somebody who was not in the team.
        from: Option<TeamRole>,
        /// The role now.
        role: TeamRole,
    },
    /// Somebody left a team.
    #[serde(rename = "team.member_removed")]
    TeamMemberRemoved {
        /// Who.
        account_id: AccountId,
        /// The role that they had.
        role: TeamRole,
    },
    /// A service account was made, in a team where it stays.
    #[serde(rename = "service_account.created")]
    ServiceAccountCreated {
        /// What people call it.
        name: String,
        /// The team.
        team_id: TeamId,
    },
    /// Fields of a service account were changed.
    #[serde(rename = "service_account.updated")]
    ServiceAccountUpdated {
        /// The fields.
        changes: ServiceAccountChanges,
    },
    /// A service account was switched off: its keys are refused.
    #[serde(rename = "service_account.deactivated")]
    ServiceAccountDeactivated {},
    /// A service account was switched on again: those of its keys that nothing else stops
    /// are admitted.
    #[serde(rename = "service_account.reactivated")]
    ServiceAccountReactivated {},
    /// Somebody became an operator of the installation.
    #[serde(rename = "instance.operator_added")]
    OperatorAdded {
        /// The account.
        account_id: AccountId,
    },
    /// Somebody is an operator of the installation no longer.
    #[serde(rename = "instance.operator_removed")]
    OperatorRemoved {
        /// The account.
        account_id: AccountId,
    },
    /// Settings of the installation were changed.
    #[serde(rename = "instance.updated")]
    InstanceUpdated {
        /// The settings.
        changes: InstanceChanges,
    },
}

/// The data of `key.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCreated {
    /// What people call it.
    pub name: String,
    /// A label with no effect on behaviour.
    pub category: Option<String>,
    /// The marker in its secrets.
    pub environment: Environment,
    /// The team that it belongs to.
    pub team_id: Option<TeamId>,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
    /// Rates.
    pub limits: Limits,
    /// Where it may go.
    pub access: Access,
    /// Labels for programs.
    pub metadata: BTreeMap<String, String>,
    /// The key that this one takes the place of.
    pub replaces: Option<KeyId>,
    /// When its secret should be replaced; a reminder.
    pub rotation_due_at: Option<Timestamp>,
    /// Where it was made.
    pub source: Source,
    /// Its first secret.
    pub secret: SecretMade,
}

/// A secret, as the log knows it: its hash and what may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretMade {
    /// The secret's id.
    pub id: SecretId,
    /// What proxies look up.
    pub hash: CredentialHash,
    /// The first 16 characters of the key string.
    pub prefix: String,
    /// The last 4 characters of the key string.
    pub last4: String,
}

/// The data of `key.rotated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// The new secret.
    pub secret: SecretMade,
    /// Secrets that end with this event, by state and for good.
    pub ended: Vec<SecretId>,
    /// Secrets that end later, by time.
    pub ending: Vec<SecretEnding>,
    /// Why, in the words of whoever asked.
    pub reason: Option<String>,
}

/// A secret that ends by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnding {
    /// The secret.
    pub id: SecretId,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// The fields of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFields {
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
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Caps on bodies.
    pub bodies: Bodies,
    /// Whether `set-cookie` of the upstream reaches the client.
    pub allow_set_cookie: bool,
    /// Whether addresses that are not public may be connected to.
    pub allow_private: bool,
    /// The access groups that it is in, in order.
    pub groups: Vec<String>,
    /// What requests are given for the upstream: the workspace's credential of this name,
    /// whole, as it was when the target was given it. It cannot have changed since.
    pub credential: Option<UpstreamCredential>,
}

/// The data of `access.denied`. The route and never the path: people paste secrets where
/// ids belong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessDenied {
    /// The method of the request.
    pub method: String,
    /// The pattern that its path matched, such as `/v1/api-keys/{id}`.
    pub route: String,
    /// The code that it was answered with.
    pub code: String,
}

/// The team that a guest joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InvitedTo {
    /// The team.
    pub team_id: TeamId,
    /// What the guest becomes in it.
    pub role: TeamRole,
}

/// From what to what a field was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// Before.
    pub from: T,
    /// After.
    pub to: T,
}

impl<T: PartialEq + Clone> Change<T> {
    /// The change from one value to another, or `None` where they are equal.
    pub fn between(from: &T, to: &T) -> Option<Self> {
        (from != to).then(|| Self {
            from: from.clone(),
            to: to.clone(),
        })
    }
}

/// Declares the changeable fields of a struct once: what an update event holds, how it
/// is found, and how it is applied.
macro_rules! changes {
    ($(#[$doc:meta])* $name:ident of $of:ty { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[allow(missing_docs)] // each is the field of the same name
        pub struct $name {
            $(#[serde(default, skip_serializing_if = "Option::is_none")]
            pub $field: Option<Change<$type>>,)*
        }

        impl $name {
            /// What has to change for `before` to become `after`.
            pub fn between(before: &$of, after: &$of) -> Self {
                Self { $($field: Change::between(&before.$field, &after.$field),)* }
            }

            /// Whether nothing changes.
            pub fn is_empty(&self) -> bool {
                $(self.$field.is_none())&&*
            }

            /// Makes the changes.
            pub fn apply(&self, to: &mut $of) {
                $(if let Some(change) = &self.$field {
                    to.$field = change.to.clone();
                })*
            }
        }
    };
}

changes! {
    /// Fields of a key that were changed.
    KeyChanges of crate::key::Key {
        name: String,
        category: Option<String>,
        expires_at: Option<Timestamp>,
        limits: Limits,
        access: Access,
        metadata: BTreeMap<String, String>,
        rotation_due_at: Option<Timestamp>,
    }
}

changes! {
    /// Whose a key was and is.
    KeyTransfer of crate::key::Key {
        owner: Option<Owner>,
        team_id: Option<TeamId>,
    }
}

changes! {
    /// Fields of a team that were changed.
    TeamChanges of crate::team::TeamFields {
        name: String,
        limits: Limits,
        self_service: crate::self_service::SelfService,
        access: schemas::entry::Access,
        blocked: bool,
    }
}

changes! {
    /// Fields of a service account that were changed.
    ServiceAccountChanges of crate::service_account::ServiceAccount {
        name: String,
    }
}

changes! {
    /// Settings of a workspace that were changed.
    WorkspaceChanges of crate::workspace::Settings {
        name: String,
        plan_limits: PlanLimits,
        error_profile: Option<ErrorProfile>,
        rotation_overlap_max_seconds: u64,
        allow_query_key: bool,
        require_totp: bool,
    }
}

changes! {
    /// What was changed about a member.
    MemberChanges of crate::workspace::Member {
        role: Role,
        status: MemberStatus,
    }
}

changes! {
    /// Fields of a target that were changed.
    TargetChanges of TargetFields {
        name: String,
        host: String,
        scheme: Scheme,
        port: u16,
        extra_ports: Vec<u16>,
        base_path: String,
        timeouts: Timeouts,
        bodies: Bodies,
        allow_set_cookie: bool,
        allow_private: bool,
        groups: Vec<String>,
        credential: Option<UpstreamCredential>,
    }
}

changes! {
    /// Settings of the installation that were changed.
    InstanceChanges of crate::instance::Settings {
        global_limits: PlanLimits,
        error_profile: ErrorProfile,
        sign_up: Option<SignUp>,
    }
}
