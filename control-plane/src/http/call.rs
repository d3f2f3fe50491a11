//! One request to the API: who calls, and what they sent.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use schemas::api::Level;
use schemas::problem::Code;
use sha2::{Digest, Sha256};

use super::asked::Asked;
use super::caller::Caller;
use super::failure::Failure;
use super::fields::Fields;
use super::params::Params;
use super::permission::Permission;
use super::{App, Running};
use crate::execute::{self, Idempotency, Step};

const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
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

// === impl Call ===

impl Call {
    pub(crate) fn permit(&self, permission: Permission) -> Result<(), Failure> {
        self.caller.permit(permission)
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
        let asked = self.params.text("wait");
        let level = match asked.as_deref() {
            None if is_create => Level::Applied,
            None | Some("committed") => Level::Committed,
            Some("applied") => Level::Applied,
            Some("confirmed") => {
                self.params
                    .refuse_as(Code::NotAvailable, "wait", "committed or applied, for now");
                Level::Committed
            }
            Some(_) => {
                self.params.refuse("wait", "committed or applied");
                Level::Committed
            }
        };
        let default_ms = if is_create && asked.is_none() {
            CREATE_WAIT_MS
        } else {
            TIMEOUT_MS_DEFAULT
        };
        Wait {
            level,
            timeout: self.timeout(default_ms),
            is_told: is_create || asked.is_some(),
        }
    }

    /// `timeout_ms` alone.
    pub(crate) fn timeout(&mut self, default_ms: u64) -> Duration {
        let expected = format!("an integer from 1 to {TIMEOUT_MS_MAX}");
        let timeout_ms = self
            .params
            .parsed("timeout_ms", &expected)
            .unwrap_or(default_ms);
        if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            self.params.refuse("timeout_ms", expected);
        }
        Duration::from_millis(timeout_ms)
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
            departure: None,
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
        let idempotency = self.idempotency()?;
        let _running = self.run_once(idempotency.as_ref())?;
        let request = execute::Request {
            expected_versions: self.if_match(),
            idempotency,
            ..self.request(Step {
                command,
                workspace_id,
            })
        };
        Ok(self.app.execute().run(request).await?)
    }

    /// The versions in `If-Match`, of which the resource must have one (RFC 9110, 13.1.1);
    /// `None` where any will do.
    pub(crate) fn if_match(&self) -> Option<Vec<u64>> {
        let mut values = self.headers.get_all("if-match").iter().peekable();
        values.peek()?;
        let tags: Vec<&str> = values
            .flat_map(|it| it.to_str().unwrap_or_default().split(','))
            .map(str::trim)
            .collect();
        if tags.contains(&"*") {
            return None;
        }
        // A tag that is not one of ours matches nothing.
        Some(
            tags.iter()
                .filter_map(|tag| tag.trim_matches('"').parse().ok())
                .collect(),
        )
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
        let Some(it) = idempotency else {
            return Ok(None);
        };
        self.app
            .run_once(&it.scope, &it.key)
            .map(Some)
            .ok_or_else(|| {
                Failure::new(
                    Code::IdempotencyRunning,
                    "the first request with this Idempotency-Key has not been answered yet",
                )
            })
    }

    /// What makes a repetition of this request harmless, if the caller asked for that.
    pub(crate) fn idempotency(&self) -> Result<Option<Idempotency>, Failure> {
        let mut values = self.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.any(|other| other != value) {
            return Err(Failure::new(
                Code::BadRequest,
                "Idempotency-Key: given once",
            ));
        }
        if self.method != Method::POST {
            return Ok(None);
        }
        let key = value.to_str().unwrap_or_default().trim();
        let key = key
            .strip_prefix('"')
            .and_then(|it| it.strip_suffix('"'))
            .unwrap_or(key);
        if key.is_empty() || key.chars().count() > IDEMPOTENCY_KEY_CHARS_MAX {
            return Err(Failure::new(
                Code::BadRequest,
                format!("Idempotency-Key: expected 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters"),
            ));
        }
        Ok(Some(Idempotency {
            scope: format!("{} {} {}", self.caller.workspace_id, self.method, self.path),
            // Hashed like everything that could be a secret in the wrong place.
            key: hex::encode(Sha256::digest(key)),
            fingerprint: hex::encode(Sha256::digest(&self.body)),
        }))
    }
}
