//! The domain's "no". It knows nothing of HTTP; the edge turns it into an answer.

use schemas::api::SelfServiceRule;

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fields of the command break rules; all of them are named.
    #[error("fields are not right: {}", .0.iter().map(|it| it.field.as_str()).collect::<Vec<_>>().join(", "))]
    Fields(Vec<FieldRefusal>),
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It exists already.
    #[error("this {0} exists already")]
    Exists(&'static str),
    /// Another one of the workspace has this name or address.
    #[error("the {0} is taken")]
    NameTaken(&'static str),
    /// Something else still needs it.
    #[error("the {0}")]
    InUse(&'static str),
    /// A revoked key stays revoked.
    #[error("the key is revoked for good")]
    KeyRevoked,
    /// A key that was used keeps its history.
    #[error("the key was used")]
    KeyHasHistory,
    /// A key that is switched on cannot be proven unused.
    #[error("the key is switched on")]
    KeyActive,
    /// Two secrets are live already.
    #[error("two secrets are live already")]
    RotationInProgress,
    /// A rule of the team's self-service says no, whatever the fields are.
    #[error("the team's self-service does not allow this: {}", .0.as_str())]
    SelfService(SelfServiceRule),
    /// A team with keys cannot be deleted.
    #[error("the team has keys")]
    TeamHasKeys,
    /// The role of whoever asks does not reach this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A workspace has at least one owner who is let in.
    #[error("this is the last active owner of the workspace; make somebody else one first")]
    LastOwner,
    /// The member owns keys, and what becomes of them was not said.
    #[error(
        "the member owns {count} keys; say ?keys=revoke or ?keys=transfer&to=<service account>"
    )]
    MemberOwnsKeys {
        /// How many.
        count: u64,
    },
    /// More keys than follow a member in one transaction.
    #[error("the member owns {count} keys, too many to go at once")]
    TooManyKeys {
        /// How many.
        count: u64,
    },
    /// An installation has at least one operator.
    #[error("this is the last operator; make somebody else one first")]
    LastOperator,
    /// The resource is at another version than the command was made for.
    #[error("the resource is at version {actual}")]
    VersionMismatch {
        /// The version that it is at.
        actual: u64,
    },
}

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRefusal {
    /// The field, dotted: `limits.rpm`.
    pub field: String,
    /// The kind of rule.
    pub code: FieldCode,
    /// What would be right.
    pub detail: String,
}

impl FieldRefusal {
    /// A field that is simply not right.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            code: FieldCode::Invalid,
            detail: detail.into(),
        }
    }
}

/// The kinds of rule that a field can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldCode {
    /// Out of range, of the wrong form, missing.
    Invalid,
    /// It looks like a credential or an address.
    LooksLikeSecret,
    /// The host may not be a target.
    HostNotAllowed,
    /// What it promises is not enforced yet.
    NotAvailable,
    /// A rule of the team's self-service says no.
    SelfService(SelfServiceRule),
}

/// `Ok` when nothing was refused.
pub(crate) fn none(refusals: Vec<FieldRefusal>) -> Result<(), Refusal> {
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Fields(refusals))
    }
}
