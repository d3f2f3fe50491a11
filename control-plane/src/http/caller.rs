//! Who calls, and what they may do. Everything that decides about people comes through
//! here: sessions, roles and teams get their place beside the control token.

use axum::http::HeaderMap;
use schemas::api::{Actor, ActorKind};
use schemas::problem::Code;
use schemas::{AccountId, Timestamp, WorkspaceId};

use super::App;
use super::failure::Failure;
use super::permission::Permission;
use super::rights::{Rights, Standing};
use crate::{token, view};

/// An authenticated caller in its active workspace.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account_id: AccountId,
    pub(crate) workspace_id: WorkspaceId,
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
    /// Reads `Authorization: Bearer` and finds out who that is.
    ///
    /// The workspace comes from the token and never from the request. A token carries what
    /// its account may do *now*, narrowed to its scopes.
    pub(crate) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Self, Failure> {
        let refused = || {
            Failure::new(
                Code::Unauthenticated,
                "Authorization: Bearer tpc_… is needed",
            )
        };
        let mut presented = headers.get_all("authorization").iter();
        let (Some(value), None) = (presented.next(), presented.next()) else {
            return Err(refused());
        };
        let text = value.to_str().ok().and_then(bearer).ok_or_else(refused)?;
        if !text.starts_with(token::PREFIX) {
            return Err(refused());
        }
        let token = token::find(app.store(), text).await?.ok_or_else(refused)?;
        let instance = view::workspace::instance(app.store()).await?;
        let scopes = token.scopes.as_deref();
        let standing =
            Standing::load(app.store(), token.account_id, token.workspace_id, scopes).await?;
        let rights = match standing {
            Standing::Member(rights) => rights,
            Standing::Suspended | Standing::WorkspaceSuspended | Standing::Stranger => {
                return Err(Failure::new(
                    Code::Forbidden,
                    "only active members of an active workspace may do this",
                ));
            }
        };
        Ok(Self {
            account_id: token.account_id,
            workspace_id: token.workspace_id,
            is_operator: token.scopes.is_none() && instance.operators.contains(&token.account_id),
            is_narrowed: token.scopes.is_some(),
            expires_at: token.expires_at,
            rights,
        })
    }

    /// Whether the caller may; asked after the object was looked up, so that a foreign id
    /// is 404 and a known one without the permission 403.
    pub(crate) fn permit(&self, permission: Permission) -> Result<(), Failure> {
        self.rights.permit(permission)
    }

    /// Whether the caller stands above workspaces.
    pub(crate) fn permit_operator(&self) -> Result<(), Failure> {
        if self.is_operator {
            Ok(())
        } else {
            Err(Failure::new(Code::Forbidden, "only operators may do this"))
        }
    }

    pub(crate) fn actor(&self) -> Actor {
        Actor {
            kind: ActorKind::User,
            id: self.account_id.to_string(),
        }
    }
}

/// The scheme is case-insensitive (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, text) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(text.trim())
}
