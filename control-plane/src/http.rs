//! The control REST API.
//!
//! A handler reads one [`Call`](call::Call), asks the only write path or a view, and gives
//! back an answer or a [`Failure`](failure::Failure); status codes live in one table.
//! Reading order, the same everywhere: who calls, what is asked for (404), may they (403),
//! then the body.

mod access;
mod access_groups;
mod accounts;
mod answer;
mod asked;
mod call;
mod caller;
mod conditions;
mod credentials;
mod effective_access;
mod failure;
mod fields;
mod history;
mod identity;
mod instance;
mod invitations;
mod json;
mod keys;
mod me;
mod members;
mod oidc;
mod operators;
mod own;
mod params;
mod permission;
mod positions;
mod rights;
mod routes;
mod serve;
mod service_accounts;
mod sessions;
mod targets;
mod teams;
mod tokens;
mod workspace;
mod workspaces;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use events::event::AccessDenied;
use schemas::Position;
use schemas::problem::Code;
use tokio::sync::watch;

use crate::account::Accounts;
use crate::denied::{Attempt, Denials};
use crate::execute::Execute;
use crate::fleet::Fleet;
use crate::fresh;
use crate::oidc::Providers;
use crate::store::{Store, log};

use failure::Failure;
use identity::Known;
use routes::{Routes, delete, get, patch, post, put};

pub use routes::Route;
pub(crate) use serve::serve;

/// What every handler works with; clones share it.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    parts: Parts,
    denials: Denials,
    /// Idempotency keys whose first request has not been answered yet.
    running: Mutex<HashSet<(String, String)>>,
}

/// What an [`App`] is made of.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) execute: Execute,
    pub(crate) fleet: Fleet,
    pub(crate) accounts: Accounts,
    pub(crate) providers: Providers,
    /// Where people reach the control plane, without a slash at the end.
    pub(crate) public_url: String,
    /// The head of the log, as far as it is known here.
    pub(crate) head: watch::Receiver<Position>,
    /// What the installation lets targets be.
    pub(crate) target_rules: events::command::TargetRules,
}

/// The id of a request, made here and never taken from the caller.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

// === impl App ===

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        let attempts = parts.accounts.attempts.clone();
        Self(Arc::new(Shared {
            denials: Denials::start(parts.execute.clone(), attempts),
            parts,
            running: Mutex::new(HashSet::new()),
        }))
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// The only write path.
    pub fn execute(&self) -> &Execute {
        &self.0.parts.execute
    }

    /// What the proxies report.
    pub fn fleet(&self) -> &Fleet {
        &self.0.parts.fleet
    }

    /// People, and how they prove who they are.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.0.parts.accounts
    }

    /// Where people may sign in.
    pub(crate) fn providers(&self) -> &Providers {
        &self.0.parts.providers
    }

    /// Where people reach the control plane, without a slash at the end.
    pub(crate) fn public_url(&self) -> &str {
        &self.0.parts.public_url
    }

    /// The same without a path: what a browser calls the origin of our pages.
    pub(crate) fn public_origin(&self) -> &str {
        let url = self.public_url();
        let host_at = url.find("://").map_or(0, |at| at + 3);
        let end = url[host_at..]
            .find('/')
            .map_or(url.len(), |at| host_at + at);
        &url[..end]
    }

    /// Whether people reach it over TLS only, so that cookies can ask for that.
    pub(crate) fn is_behind_tls(&self) -> bool {
        self.public_url().starts_with("https://")
    }

    /// The head of the log, as far as it is known here.
    pub(crate) fn head(&self) -> watch::Receiver<Position> {
        self.0.parts.head.clone()
    }

    /// Records that a caller who is known may not do what they tried.
    fn record_denied(
        &self,
        known: &Known,
        method: &Method,
        route: &str,
        request_id: &str,
        failure: &Failure,
    ) {
        let Some((actor, workspace_id)) = known.get() else {
            return;
        };
        if failure.code().status() != 403 {
            return;
        }
        self.0.denials.record(Attempt {
            actor: actor.clone(),
            workspace_id: *workspace_id,
            request_id: request_id.to_owned(),
            denied: AccessDenied {
                method: method.to_string(),
                route: route.to_owned(),
                code: failure.code().as_str().to_owned(),
            },
        });
    }

    /// What the installation lets targets be.
    pub(crate) fn target_rules(&self) -> events::command::TargetRules {
        self.0.parts.target_rules.clone()
    }

    /// Marks an idempotency key as running until the guard is dropped; `None` where it
    /// already is.
    pub(crate) fn run_once(&self, scope: &str, key: &str) -> Option<Running> {
        let name = (scope.to_owned(), key.to_owned());
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.insert(name.clone()).then(|| Running {
            app: self.clone(),
            name,
        })
    }
}

/// An idempotency key in use.
pub(crate) struct Running {
    app: App,
    name: (String, String),
}

impl Drop for Running {
    fn drop(&mut self) {
        self.app
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

/// The routes.
pub(crate) fn router(app: App) -> Router {
    let v1 = v1()
        .into_router()
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found);
    outside_v1()
        .into_router()
        .nest("/v1", v1)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(app.clone(), finish))
        .with_state(app)
}

/// Every endpoint that there is.
pub fn routes() -> Vec<Route> {
    let mut routes: Vec<Route> = v1().listed().to_vec();
    routes.extend(outside_v1().listed());
    routes
}

/// What is not part of the API: pages, and whether it is there.
fn outside_v1() -> Routes {
    Routes::new()
        .route("/login", post(sessions::log_in_page))
        .route("/logout", post(sessions::log_out_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// The API, below `/v1`.
fn v1() -> Routes {
    Routes::new()
        .route("/accounts", post(accounts::create))
        .route("/accounts/me", delete(accounts::erase))
        .route("/accounts/verify", post(accounts::verify))
        .route("/accounts/verify/resend", post(accounts::resend))
        .route("/accounts/password/forgot", post(accounts::forgot))
        .route("/accounts/password/reset", post(accounts::reset))
        .route("/sessions", get(sessions::list).post(sessions::create))
        .route("/sessions/{id}", delete(sessions::delete))
        .route("/sessions/current/workspace", put(sessions::enter))
        .route("/sessions/oidc/{provider}/start", get(oidc::start))
        .route("/sessions/oidc/{provider}/callback", get(oidc::callback))
        .route("/me", get(me::show))
        .route("/me/totp", post(me::set_totp).delete(me::remove_totp))
        .route("/workspace", get(workspace::show).patch(workspace::patch))
        .route("/instance", get(instance::show).patch(instance::patch))
        .route("/workspaces", post(workspaces::create))
        .route("/workspaces/{id}/suspend", post(workspaces::suspend))
        .route("/workspaces/{id}/reinstate", post(workspaces::reinstate))
        .route("/operators", get(operators::list).post(operators::create))
        .route("/operators/{id}", delete(operators::delete))
        .route("/members", get(members::list))
        .route(
            "/members/{id}",
            patch(members::patch).delete(members::delete),
        )
        .route(
            "/invitations",
            get(invitations::list).post(invitations::create),
        )
        .route("/invitations/{id}", delete(invitations::delete))
        .route("/invitations/{id}/reissue", post(invitations::reissue))
        .route("/invitations/accept", post(invitations::accept))
        .route("/events", get(history::list))
        .route("/control-tokens", get(tokens::list).post(tokens::create))
        .route("/control-tokens/{id}", delete(tokens::delete))
        .route("/targets", get(targets::list).post(targets::create))
        .route(
            "/targets/{id}",
            get(targets::show)
                .patch(targets::patch)
                .delete(targets::delete),
        )
        .route("/teams", get(teams::list).post(teams::create))
        .route(
            "/teams/{id}",
            get(teams::show).patch(teams::patch).delete(teams::delete),
        )
        .route("/teams/{id}/members", get(teams::list_members))
        .route(
            "/teams/{id}/members/{account_id}",
            get(teams::show_member)
                .put(teams::set_member)
                .delete(teams::remove_member),
        )
        .route(
            "/service-accounts",
            get(service_accounts::list).post(service_accounts::create),
        )
        .route("/service-accounts/{id}", patch(service_accounts::patch))
        .route(
            "/access-groups",
            get(access_groups::list).post(access_groups::create),
        )
        .route("/access-groups/{name}", delete(access_groups::delete))
        .route(
            "/credentials",
            get(credentials::list).post(credentials::create),
        )
        .route("/credentials/{name}", delete(credentials::delete))
        .route("/api-keys", get(keys::list).post(keys::create))
        .route(
            "/api-keys/{id}",
            get(keys::show).patch(keys::patch).delete(keys::revoke),
        )
        .route("/api-keys/{id}/deactivate", post(keys::deactivate))
        .route("/api-keys/{id}/reactivate", post(keys::reactivate))
        .route("/api-keys/{id}/rotate", post(keys::rotate))
        .route("/api-keys/{id}/rotation", get(keys::rotation))
        .route("/api-keys/{id}/transfer", post(keys::transfer))
        .route("/api-keys/{id}/purge", post(keys::purge))
        .route("/api-keys/{id}/history", get(keys::history))
        .route(
            "/api-keys/{id}/effective-access",
            get(effective_access::show),
        )
        .route("/positions/{position}", get(positions::show))
}

/// Around every request: gives it an id, turns failures into problems, logs one line.
async fn finish(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let known = Known::default();
    request.extensions_mut().insert(known.clone());
    let request_id = format!("req_{}", fresh::id(schemas::EventId::from_parts));
    request
        .extensions_mut()
        .insert(RequestId(request_id.clone()));
    let method = request.method().clone();
    // The route and never the path: people paste secrets where ids belong.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);

    let mut response = next.run(request).await;
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        app.record_denied(&known, &method, route, &request_id, &failure);
        let allow = response.headers_mut().remove("allow");
        response = failure.to_response(&request_id);
        if let Some(allow) = allow {
            response.headers_mut().insert("allow", allow);
        }
    }
    if let Ok(value) = request_id.parse() {
        response.headers_mut().insert("x-request-id", value);
    }
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%method, route, status, duration_ms, request_id, "answered");
    response
}

async fn not_found() -> Failure {
    Failure::new(Code::NotFound, "there is no such path")
}

async fn method_not_allowed(method: Method) -> Failure {
    Failure::new(
        Code::MethodNotAllowed,
        format!("{method} is not allowed here"),
    )
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(app): State<App>) -> Response {
    match log::head(app.store()).await {
        Ok(_) => "ready\n".into_response(),
        Err(_) => Failure::new(Code::Unavailable, "the database is away").into_response(),
    }
}
