//! One request to the API: who calls, and what they sent.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use schemas::api::Level;
use schemas::problem::Code;

use super::asked::Asked;
use super::caller::Caller;
use super::failure::Failure;
use super::fields::Fields;
use super::params::Params;
use super::permission::Permission;
use super::{App, Running, conditions};
use crate::execute::{self, Idempotency, Step};

const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const TIMEOUT_MS_MAX: u64 = 30_000;
/// How long a create waits by itself to be applied.
const CREATE_WAIT_MS: u64 = 2_000;

/// A request whose caller is known.
pub(crate) struct Call {
    pub(crate) app: App,
    pub(crate) caller: Caller,
    pub(crate) params: Params,
    request_id: String,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// The id in a path, as text: whether it is one is judged where the object is looked up.
pub(crate) struct Id(pub(crate) String);

impl FromRequestParts<App> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        path.map(|Path(id)| Self(id))
            .map_err(|_| Failure::not_found("object"))
    }
}

/// How long the caller wants to wait, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) level: Level,
    pub(crate) timeout: Duration,
    /// Whether the answer tells how far the change has travelled.
    pub(crate) is_told: bool,
}

impl FromRequest<App> for Call {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let caller = Caller::authenticate(app, &parts).await?;
        let asked = Asked::read(app, parts, body).await?;
        asked.require_json()?;
        Ok(Self {
            app: asked.app,
            caller,
            params: asked.params,
            request_id: asked.request_id,
            method: asked.method,
            path: asked.path,
            headers: asked.headers,
            body: asked.body,
        })
    }
}

// === impl Wait ===

impl Wait {
    /// `wait` and `timeout_ms` of a change; a create waits to be applied by itself.
    pub(super) fn read(params: &mut Params, is_create: bool) -> Self {
        let asked = params.text("wait");
        let level = match asked.as_deref() {
            None if is_create => Level::Applied,
            None | Some("committed") => Level::Committed,
            Some("applied") => Level::Applied,
            Some("confirmed") => {
                params.refuse_as(Code::NotAvailable, "wait", "committed or applied, for now");
                Level::Committed
            }
            Some(_) => {
                params.refuse("wait", "committed or applied");
                Level::Committed
            }
        };
        let default_ms = if is_create && asked.is_none() {
            CREATE_WAIT_MS
        } else {
            TIMEOUT_MS_DEFAULT
        };
        let expected = format!("an integer from 1 to {TIMEOUT_MS_MAX}");
        let timeout_ms = params.parsed("timeout_ms", &expected).unwrap_or(default_ms);
        if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            params.refuse("timeout_ms", expected);
        }
        Self {
            level,
            timeout: Duration::from_millis(timeout_ms),
            is_told: is_create || asked.is_some(),
        }
    }
}

// === impl Call ===

impl Call {
    pub(crate) fn permit(&self, permission: Permission) -> Result<(), Failure> {
        self.caller.permit(permission)
    }

    /// A header as text; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    /// The caller as they are now: for an answer that lasts.
    pub(crate) async fn authenticate_again(&self) -> Result<Caller, Failure> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let (parts, ()) = request.into_parts();
        Caller::authenticate(&self.app, &parts).await
    }

    /// The body, to be taken apart.
    pub(crate) fn fields(&self) -> Result<Fields, Failure> {
        Fields::parse(&self.body)
    }

    /// The body of a call that makes no sense without one.
    pub(crate) fn required_fields(&self) -> Result<Fields, Failure> {
        if self.body.is_empty() {
            return Err(Failure::new(
                Code::BadRequest,
                "the body must be a JSON object",
            ));
        }
        self.fields()
    }

    /// A body that has nothing to say.
    pub(crate) fn no_fields(&self) -> Result<(), Failure> {
        self.fields()?.finish()
    }

    /// `wait` and `timeout_ms` of a change; a create waits to be applied by itself.
    pub(crate) fn wait(&mut self, is_create: bool) -> Wait {
        Wait::read(&mut self.params, is_create)
    }

    /// Nothing unknown is left in the query.
    pub(crate) fn finish_params(&mut self) -> Result<(), Failure> {
        std::mem::take(&mut self.params).finish()
    }

    /// A request to the log in the caller's name.
    pub(crate) fn request(&self, step: Step) -> execute::Request {
        execute::Request {
            steps: vec![step],
            actor: self.caller.actor(),
            request_id: Some(self.request_id.clone()),
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        }
    }

    /// Carries out one command in the caller's workspace, honouring `If-Match` and
    /// `Idempotency-Key`.
    pub(crate) async fn execute(
        &self,
        command: events::Command,
    ) -> Result<execute::Outcome, Failure> {
        let workspace_id = match command {
            events::Command::Instance(_) => None,
            _ => Some(self.caller.workspace_id),
        };
        self.run(self.request(Step {
            command,
            workspace_id,
        }))
        .await
    }

    /// Carries out a request, honouring `If-Match` for its first step, and
    /// `Idempotency-Key`.
    pub(crate) async fn run(&self, request: execute::Request) -> Result<execute::Outcome, Failure> {
        let idempotency = self.idempotency()?;
        let _running = self.run_once(idempotency.as_ref())?;
        let request = execute::Request {
            expected_versions: self.if_match(),
            idempotency,
            ..request
        };
        Ok(self.app.execute().run(request).await?)
    }

    /// The versions in `If-Match`, of which the resource must have one; `None` where any
    /// will do.
    pub(crate) fn if_match(&self) -> Option<Vec<u64>> {
        conditions::if_match(&self.headers)
    }

    /// What an earlier request with the same idempotency key came to.
    pub(crate) async fn answered_before(&self) -> Result<Option<execute::Outcome>, Failure> {
        match self.idempotency()? {
            Some(it) => Ok(execute::answered_before(self.app.store(), &it).await?),
            None => Ok(None),
        }
    }

    /// Holds an idempotency key until the request is answered.
    pub(crate) fn run_once(
        &self,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<Running>, Failure> {
        conditions::run_once(&self.app, idempotency)
    }

    /// What makes a repetition of this request harmless, if the caller asked for that.
    pub(crate) fn idempotency(&self) -> Result<Option<Idempotency>, Failure> {
        let scope = format!("{} {} {}", self.caller.workspace_id, self.method, self.path);
        conditions::idempotency(&self.method, &self.headers, &self.body, scope)
    }
}
