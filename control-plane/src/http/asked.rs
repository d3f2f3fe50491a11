//! What was asked, whoever asks: for calls that need no workspace, or nobody at all.
//!
//! ```text
//! Asked      anybody: sign up, log in, use a link
//! Own        an account, whatever its standing: its own sessions, factor, erasure
//! Call       a member of the active workspace: everything else
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemas::problem::Code;
use tokio::time::timeout;

use super::failure::Failure;
use super::fields::Fields;
use super::identity::Identity;
use super::params::Params;
use super::{App, RequestId};
use crate::session;

const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a client may take over a body.
const BODY_WAIT: Duration = Duration::from_secs(30);

/// A request that has been read.
pub(crate) struct Asked {
    pub(crate) app: App,
    pub(crate) params: Params,
    pub(super) request_id: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The other end of the connection; never what a header says.
    pub(super) peer: IpAddr,
}

/// A request of an account about itself: no workspace is asked for its leave.
pub(crate) struct Own {
    pub(crate) asked: Asked,
    pub(crate) identity: Identity,
}

/// The other end of a connection, put into each of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl FromRequest<App> for Asked {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let asked = Self::read(app, parts, body).await?;
        asked.require_json()?;
        Ok(asked)
    }
}

impl FromRequest<App> for Own {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let identity = Identity::authenticate(app, &parts).await?;
        let asked = Asked::read(app, parts, body).await?;
        asked.require_json()?;
        Ok(Self { asked, identity })
    }
}

// === impl Asked ===

impl Asked {
    /// Reads a request to its end.
    pub(super) async fn read(app: &App, parts: Parts, body: Body) -> Result<Self, Failure> {
        let body = timeout(BODY_WAIT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(Failure::new(
                    Code::BodyTooLarge,
                    format!("a body has at most {BODY_BYTES_MAX} bytes"),
                ));
            }
            Ok(Err(_)) => {
                return Err(Failure::new(
                    Code::BadRequest,
                    "the body did not arrive whole",
                ));
            }
            Err(_) => {
                return Err(Failure::new(
                    Code::BadRequest,
                    "the body did not come in time",
                ));
            }
        };
        let request_id = parts.extensions.get::<RequestId>();
        let peer = parts.extensions.get::<Peer>();
        Ok(Self {
            app: app.clone(),
            params: Params::parse(parts.uri.query().unwrap_or_default())?,
            request_id: request_id.map(|it| it.0.clone()).unwrap_or_default(),
            peer: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |it| it.0.ip()),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body,
        })
    }

    /// A body is JSON or there is none.
    pub(super) fn require_json(&self) -> Result<(), Failure> {
        if self.body.is_empty() || is_json(&self.headers) {
            return Ok(());
        }
        Err(Failure::new(
            Code::UnsupportedMediaType,
            "content-type: expected application/json",
        ))
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

    /// Nothing unknown is left in the query.
    pub(crate) fn finish_params(&mut self) -> Result<(), Failure> {
        std::mem::take(&mut self.params).finish()
    }

    /// A header as text; empty where there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    /// The family of the browser or program that asks.
    pub(super) fn agent(&self) -> &'static str {
        session::agent(self.header("user-agent"))
    }
}

/// JSON is UTF-8 (RFC 8259, 8.1), whatever a parameter may say.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get("content-type")
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|it| it.eq_ignore_ascii_case("application/json"));
    is_json
        && parts
            .filter_map(|it| it.split_once('='))
            .all(|(name, value)| {
                !name.eq_ignore_ascii_case("charset")
                    || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
}
