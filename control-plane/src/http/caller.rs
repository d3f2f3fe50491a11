//! Who calls, in which workspace, and what they may do there.

use axum::http::request::Parts;
use schemas::api::Actor;
use schemas::problem::Code;
use schemas::{AccountId, ServiceAccountId, Timestamp, WorkspaceId};

use super::App;
use super::failure::Failure;
use super::identity::{Identity, Proof};
use super::permission::Permission;
use super::rights::{Rights, Standing};
use crate::totp;

/// An authenticated caller in its active workspace.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account_id: AccountId,
    pub(crate) workspace_id: WorkspaceId,
    /// Who a token acts as, where that is not the person who made it.
    pub(crate) service_account_id: Option<ServiceAccountId>,
    actor: Actor,
    pub(crate) is_operator: bool,
    /// Whether the token has scopes: what it makes must have some, too.
    pub(crate) is_narrowed: bool,
    /// When the token ends; what it makes ends no later.
    pub(crate) expires_at: Option<Timestamp>,
    /// What they may do in it, now.
    pub(crate) rights: Rights,
}

// === impl Caller ===

impl Caller {
    /// Finds out who asks, and judges whether they may work in their workspace at all.
    ///
    /// The workspace comes from the session or token and never from the request. Both carry
    /// what their account may do *now*, a token narrowed to its scopes.
    pub(crate) async fn authenticate(app: &App, parts: &Parts) -> Result<Self, Failure> {
        let identity = Identity::authenticate(app, parts).await?;
        if !identity.is_verified {
            return Err(Failure::new(
                Code::EmailNotVerified,
                "verify the e-mail address first: POST /v1/accounts/verify/resend sends the \
                 link again",
            ));
        }
        let workspace_id = identity.active_workspace(app).await?.ok_or_else(|| {
            Failure::new(
                Code::Forbidden,
                "no workspace is active: make one, or accept an invitation",
            )
        })?;
        let scopes = match &identity.proof {
            Proof::Session { .. } => None,
            Proof::Token(token) => token.scopes.as_deref(),
        };
        let account_id = identity.account_id;
        let standing = Standing::load(app.store(), account_id, workspace_id, scopes).await?;
        let rights = match standing {
            Standing::Member(rights) => rights,
            Standing::Suspended | Standing::WorkspaceSuspended | Standing::Stranger => {
                return Err(Failure::new(
                    Code::Forbidden,
                    "only active members of an active workspace may do this",
                ));
            }
        };
        if rights.require_totp && !totp::is_enabled(app.store(), account_id).await? {
            return Err(Failure::new(
                Code::Forbidden,
                "this workspace asks for a second factor: POST /v1/me/totp sets one up",
            ));
        }
        Ok(Self {
            account_id,
            workspace_id,
            service_account_id: identity.service_account_id(),
            actor: identity.actor(),
            is_operator: identity.is_operator(app).await?,
            is_narrowed: scopes.is_some(),
            expires_at: identity.expires_at(),
            rights,
        })
    }

    /// Whether the caller may; asked after the object was looked up, so that a foreign id
    /// is 404 and a known one without the permission 403.
    pub(crate) fn permit(&self, permission: Permission) -> Result<(), Failure> {
        self.rights.permit(permission)
    }

    /// Who does what the caller asks for.
    pub(crate) fn actor(&self) -> Actor {
        self.actor.clone()
    }
}
