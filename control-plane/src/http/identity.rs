//! Whose request it is, before any workspace is looked at: a session token or a control
//! token in `Authorization: Bearer`, or the cookie of a page.

use std::sync::{Arc, OnceLock};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use schemas::api::{Actor, ActorKind};
use schemas::problem::Code;
use schemas::{AccountId, ServiceAccountId, Timestamp, WorkspaceId};

use super::App;
use super::failure::Failure;
use crate::session::{self, Session};
use crate::token::{self, Token};
use crate::{account, view};

/// The cookie of a page's session.
pub(super) const COOKIE: &str = "throttleproxy_session";

/// An account that has shown who it is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) account_id: AccountId,
    pub(crate) is_verified: bool,
    pub(crate) proof: Proof,
}

/// What the account has shown.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A session, and the csrf token of one that lives in a cookie.
    Session {
        session: Session,
        csrf_token: Option<String>,
    },
    /// A control token.
    Token(Token),
}

/// Who turned out to ask, for whoever stands around the request: set once the caller is
/// known.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<OnceLock<(Actor, WorkspaceId)>>);

// === impl Known ===

impl Known {
    /// The caller and where they work, if both are known.
    pub(super) fn get(&self) -> Option<&(Actor, WorkspaceId)> {
        self.0.get()
    }

    fn tell(&self, identity: &Identity) {
        let workspace_id = match &identity.proof {
            Proof::Session { session, .. } => session.workspace_id,
            Proof::Token(token) => Some(token.workspace_id),
        };
        if let Some(workspace_id) = workspace_id {
            self.0.get_or_init(|| (identity.actor(), workspace_id));
        }
    }
}

// === impl Identity ===

impl Identity {
    /// Finds out who asks. A bearer token wins over a cookie: a browser adds cookies to
    /// whatever it sends, a token is there on purpose.
    pub(crate) async fn authenticate(app: &App, parts: &Parts) -> Result<Self, Failure> {
        let mut presented = parts.headers.get_all("authorization").iter();
        let identity = match (presented.next(), presented.next()) {
            (Some(value), None) => {
                let text = value.to_str().ok().and_then(bearer).ok_or_else(refused)?;
                Self::of_bearer(app, text).await?
            }
            (None, None) => Self::of_cookie(app, parts).await?,
            _ => return Err(refused()),
        };
        if let Some(known) = parts.extensions.get::<Known>() {
            known.tell(&identity);
        }
        Ok(identity)
    }

    /// The same for calls that are open to nobody in particular: what opens nothing is
    /// taken for nothing, and a cookie needs no csrf token, since it only narrows.
    pub(crate) async fn look(app: &App, headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let Some(value) = headers.get("authorization") else {
            let Some(text) = cookie(headers, COOKIE) else {
                return Ok(None);
            };
            let session = session::find(app.store(), text).await?;
            let session = session.filter(|it| it.is_cookie);
            return Ok(session.map(|it| Self::of_session(it, None)));
        };
        let Some(text) = value.to_str().ok().and_then(bearer) else {
            return Ok(None);
        };
        match Self::of_bearer(app, text).await {
            Err(failure) if failure.code() == Code::Unauthenticated => Ok(None),
            found => found.map(Some),
        }
    }

    /// Refused unless somebody has logged in: a token that a program holds must not take
    /// over the account that it was made with.
    pub(crate) fn session(&self) -> Result<&Session, Failure> {
        match &self.proof {
            Proof::Session { session, .. } => Ok(session),
            Proof::Token(_) => Err(Failure::new(
                Code::Forbidden,
                "this needs a session: a control token cannot change the account itself",
            )),
        }
    }

    /// Refused for a token with scopes and for one of a service account: both are for their
    /// workspace only.
    pub(crate) fn permit_own(&self) -> Result<(), Failure> {
        match &self.proof {
            Proof::Token(token) if token.is_bound() => Err(Failure::new(
                Code::Forbidden,
                "a control token with scopes, or of a service account, is for its workspace only",
            )),
            _ => Ok(()),
        }
    }

    /// Who does what is asked for.
    pub(crate) fn actor(&self) -> Actor {
        match self.service_account_id() {
            Some(id) => Actor {
                kind: ActorKind::ServiceAccount,
                id: id.to_string(),
            },
            None => Actor {
                kind: ActorKind::User,
                id: self.account_id.to_string(),
            },
        }
    }

    /// Who a token acts as, where that is not the person who made it.
    pub(crate) fn service_account_id(&self) -> Option<ServiceAccountId> {
        match &self.proof {
            Proof::Session { .. } => None,
            Proof::Token(token) => token.service_account_id,
        }
    }

    /// Whether the account stands above workspaces, and what was shown may be used so.
    pub(crate) async fn is_operator(&self, app: &App) -> Result<bool, Failure> {
        if !self.is_verified || self.permit_own().is_err() {
            return Ok(false);
        }
        let instance = view::workspace::instance(app.store()).await?;
        Ok(instance.operators.contains(&self.account_id))
    }

    /// When what was shown ends; what is made with it ends no later. A session's end does
    /// not end what was made in it: whoever is logged in may make lasting things.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        match &self.proof {
            Proof::Session { .. } => None,
            Proof::Token(token) => token.expires_at,
        }
    }

    async fn of_bearer(app: &App, text: &str) -> Result<Self, Failure> {
        if text.starts_with(session::PREFIX) {
            let session = session::find(app.store(), text).await?;
            return Ok(Self::of_session(session.ok_or_else(refused)?, None));
        }
        if !text.starts_with(token::PREFIX) {
            return Err(refused());
        }
        let token = token::find(app.store(), text).await?.ok_or_else(refused)?;
        let account = account::get(app.store(), token.account_id).await?;
        let account = account.filter(|it| !it.is_suspended).ok_or_else(refused)?;
        Ok(Self {
            account_id: account.id,
            is_verified: account.is_verified,
            proof: Proof::Token(token),
        })
    }

    async fn of_cookie(app: &App, parts: &Parts) -> Result<Self, Failure> {
        let text = cookie(&parts.headers, COOKIE).ok_or_else(refused)?;
        let session = session::find(app.store(), text).await?;
        let session = session.filter(|it| it.is_cookie).ok_or_else(refused)?;
        if !is_safe(&parts.method) {
            let presented = parts.headers.get("x-csrf-token");
            let presented = presented
                .and_then(|it| it.to_str().ok())
                .unwrap_or_default();
            if !session::is_csrf_token(text, presented) {
                return Err(Failure::new(
                    Code::Csrf,
                    "a change with a cookie needs the header x-csrf-token; GET /v1/me tells it",
                ));
            }
        }
        Ok(Self::of_session(session, Some(session::csrf_token(text))))
    }

    fn of_session(session: Session, csrf_token: Option<String>) -> Self {
        Self {
            account_id: session.account_id,
            is_verified: session.is_verified,
            proof: Proof::Session {
                session,
                csrf_token,
            },
        }
    }

    /// The workspace that the account works in with what it has shown. A session that was
    /// opened before its account had one enters the first that lets it in.
    pub(super) async fn active_workspace(&self, app: &App) -> Result<Option<WorkspaceId>, Failure> {
        let session = match &self.proof {
            Proof::Token(token) => return Ok(Some(token.workspace_id)),
            Proof::Session { session, .. } => session,
        };
        if session.workspace_id.is_some() {
            return Ok(session.workspace_id);
        }
        let memberships = view::workspace::memberships(app.store(), self.account_id).await?;
        let first = memberships.iter().find(|it| it.is_active());
        let first = first.map(|it| it.workspace_id);
        if let Some(workspace_id) = first {
            session::enter(app.store(), session.id, workspace_id).await?;
        }
        Ok(first)
    }
}

/// The value of a cookie.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all("cookie")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn refused() -> Failure {
    Failure::new(
        Code::Unauthenticated,
        "Authorization: Bearer with a session token (tps_…) or a control token (tpc_…) is \
         needed, one that works",
    )
}

/// The scheme is case-insensitive (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, text) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(text.trim())
}
