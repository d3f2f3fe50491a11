//! The control REST API.
//!
//! A handler reads one [`Call`](call::Call), asks the only write path or a view, and gives
//! back an answer or a [`Failure`](failure::Failure); status codes live in one table.
//! Reading order, the same everywhere: who calls, what is asked for (404), may they (403),
//! then the body.

mod access;
mod access_groups;
mod answer;
mod call;
mod caller;
mod credentials;
mod effective_access;
mod failure;
mod fields;
mod instance;
mod json;
mod keys;
mod me;
mod params;
mod permission;
mod positions;
mod rights;
mod serve;
mod targets;
mod tokens;
mod workspace;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use schemas::problem::Code;

use crate::execute::Execute;
use crate::fleet::Fleet;
use crate::fresh;
use crate::plane::Config;
use crate::store::{Store, log};

use failure::Failure;

pub(crate) use serve::serve;

/// What every handler works with; clones share it.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    store: Store,
    execute: Execute,
    fleet: Fleet,
    target_rules: events::command::TargetRules,
    /// Idempotency keys whose first request has not been answered yet.
    running: Mutex<HashSet<(String, String)>>,
}

/// The id of a request, made here and never taken from the caller.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

// === impl App ===

impl App {
    pub(crate) fn new(config: &Config, store: Store, execute: Execute, fleet: Fleet) -> Self {
        Self(Arc::new(Shared {
            store,
            execute,
            fleet,
            target_rules: events::command::TargetRules {
                allow_private_upstreams: config.allow_private_upstreams,
                own: Arc::new(config.own_places.clone()),
                is_demo: false,
            },
            running: Mutex::new(HashSet::new()),
        }))
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The only write path.
    pub fn execute(&self) -> &Execute {
        &self.0.execute
    }

    /// What the proxies report.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// What the installation lets targets be.
    pub(crate) fn target_rules(&self) -> events::command::TargetRules {
        self.0.target_rules.clone()
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
    let v1 = Router::new()
        .route("/me", get(me::show))
        .route("/workspace", get(workspace::show).patch(workspace::patch))
        .route("/instance", get(instance::show).patch(instance::patch))
        .route("/control-tokens", get(tokens::list).post(tokens::create))
        .route("/control-tokens/{id}", delete(tokens::delete))
        .route("/targets", get(targets::list).post(targets::create))
        .route(
            "/targets/{id}",
            get(targets::show)
                .patch(targets::patch)
                .delete(targets::delete),
        )
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
        .route("/api-keys/{id}/purge", post(keys::purge))
        .route("/api-keys/{id}/history", get(keys::history))
        .route(
            "/api-keys/{id}/effective-access",
            get(effective_access::show),
        )
        .route("/positions/{position}", get(positions::show))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found);
    Router::new()
        .nest("/v1", v1)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(finish))
        .with_state(app)
}

/// Around every request: gives it an id, turns failures into problems, logs one line.
async fn finish(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
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
