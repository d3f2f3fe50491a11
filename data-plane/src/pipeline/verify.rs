//! May this request pass? Asked by another proxy that holds a request and forwards it, or
//! not, by our answer: nginx, Caddy and Traefik at `/.throttleproxy/verify`, Envoy over
//! gRPC ([`crate::authz`]).
//!
//! What is judged is the *original* request, as the other proxy describes it:
//!
//! | of the original | stands in |
//! |---|---|
//! | key | `x-api-key`, `authorization` |
//! | method | `x-forwarded-method`; left out: the method of the question |
//! | path and query | `x-forwarded-uri`; left out: `/` |
//! | destination | `x-throttleproxy-target`; left out: `x-forwarded-proto` (`https` where it is left out) and `x-forwarded-host`; without either, the path is one by name: `/t/<target>/…` |
//!
//! It is judged by the stages that every request walks, from *authenticate* to *limit*, so
//! there is one table, one set of rules and one count. What is not ours to bound, because
//! it does not pass through here, is left out: bodies, concurrency, tokens, money.
//!
//! These headers are believed from anyone: the answer is about the caller's own key, and
//! whoever can ask could as well send the request through us. **The other proxy must set
//! every one of them that it lets through**, or its client chooses what is judged; the
//! configurations in `ops/deploy/` do.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use schemas::{KeyId, WorkspaceId};

use super::authenticate::{self, is_query_key};
use super::authorize::destination;
use super::body::Content;
use super::forward::last_look;
use super::headers::{TARGET, show_limits};
use super::identify::Arrival;
use super::{REQUEST_ID, Trail, admit, authorize, limit, own};
use crate::metrics::Outcome;
use crate::rejection::{self, Code, Rejection};
use crate::server::Shared;

/// Of what may pass: the id of its key.
pub const KEY_ID: HeaderName = HeaderName::from_static("x-throttleproxy-key-id");
/// Of what may pass: the id of the key's workspace.
pub const WORKSPACE_ID: HeaderName = HeaderName::from_static("x-throttleproxy-workspace-id");
/// The status that a refusal would have had, had it not been asked for as 403.
pub const STATUS: HeaderName = HeaderName::from_static("x-throttleproxy-status");

const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A request that another proxy holds.
#[derive(Debug)]
pub struct Original {
    head: Parts,
    /// Whether the other proxy takes a key out of the query when we tell it to.
    strips_query: bool,
}

/// What may pass.
#[derive(Debug)]
struct Cleared {
    key_id: KeyId,
    workspace_id: WorkspaceId,
}

/// Whether a request asks for a verdict.
pub fn is_asked(path: &str) -> bool {
    path == "/.throttleproxy/verify"
}

/// Whether every refusal is to be a 403. nginx's `auth_request` passes 401 and 403 on and
/// takes everything else for a failure.
pub fn denies_as_403(uri: &Uri) -> bool {
    is_asked(uri.path())
        && uri
            .query()
            .is_some_and(|query| query.split('&').any(|pair| pair == "deny=403"))
}

/// Turns a refusal into a 403 that names the real status.
pub fn deny_as_403(response: &mut Response<Bytes>) {
    let status = HeaderValue::from(response.status().as_u16());
    response.headers_mut().insert(STATUS, status);
    *response.status_mut() = StatusCode::FORBIDDEN;
}

/// Answers the question of a proxy that asks over HTTP. The question's body is not read.
///
/// # Errors
/// What the stages refuse, and `bad_request` or `bad_target` for an original that cannot
/// be read.
pub(super) async fn answer(
    shared: &Shared,
    arrival: &Arrival,
    head: Parts,
    trail: &mut Trail,
) -> Result<Response<Content>, Rejection> {
    let original = Original::asked_about(head)?;
    let cleared = judge(shared, arrival, &original, trail).await?;
    let mut response = own(Bytes::new());
    cleared.show(response.headers_mut());
    Ok(response)
}

/// The verdict on an original as a whole answer: 200 without a body, or the refusal that
/// its client would have got from us.
pub async fn verdict(
    shared: &Shared,
    arrival: &Arrival,
    original: Result<Original, Rejection>,
) -> (Response<Bytes>, Outcome) {
    let mut trail = Trail::default();
    let verdict = match original {
        Ok(original) => judge(shared, arrival, &original, &mut trail).await,
        Err(rejection) => Err(rejection),
    };
    let (mut response, outcome) = match verdict {
        Ok(cleared) => {
            let mut response = Response::new(Bytes::new());
            cleared.show(response.headers_mut());
            (response, Outcome::Served)
        }
        Err(rejection) => {
            let request_id = arrival.request_id.as_str();
            let response = rejection::answer(&rejection, trail.profile, request_id);
            (response, Outcome::Refused(rejection.code))
        }
    };
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, arrival.request_id.to_header());
    show_limits(headers, &trail.standings);
    (response, outcome)
}

/// The stages of an original, in order.
async fn judge(
    shared: &Shared,
    arrival: &Arrival,
    original: &Original,
    trail: &mut Trail,
) -> Result<Cleared, Rejection> {
    trail.profile = shared.table.policies().global.error_profile;
    let head = &original.head;
    let known = authenticate::authenticate(shared, arrival, head).await?;
    trail.profile = known.profile();
    let admitted = admit::admit(known, arrival.now)?;
    original.check_query()?;
    let route = authorize::authorize(shared, &admitted, head)?;
    let permit = match limit::limit(shared, &admitted, arrival.now) {
        Ok(permit) => permit,
        Err(refusal) => {
            trail.standings = refusal.standings;
            return Err(Rejection::limit(&refusal.refused));
        }
    };
    trail.standings = permit.standings();
    // The verdict is the first byte upstream: the use is marked, the key is judged once
    // more, and there is no wait after that. The other proxy's own way to its upstream is
    // not covered by any promise of ours.
    let now = shared.clock.now();
    shared.cells.mark_used(&permit.cell, now.unix_ms);
    if let Err(rejection) = last_look(shared, &admitted, &route.target, now.unix_ms) {
        permit.give_back();
        return Err(rejection);
    }
    Ok(Cleared {
        key_id: admitted.known.found.key_id,
        workspace_id: admitted.known.workspace.id,
    })
}

// === impl Original ===

impl Original {
    /// A request as another proxy tells it. `uri` is the path and query as they came.
    ///
    /// # Errors
    /// `bad_request` for a method that is none or is not passed on, `bad_target` for a path
    /// that cannot be read.
    pub fn told(method: &[u8], uri: &[u8], mut headers: HeaderMap) -> Result<Self, Rejection> {
        let method = Method::from_bytes(method)
            .ok()
            .filter(|it| *it != Method::CONNECT && *it != Method::TRACE)
            .ok_or_else(|| {
                Rejection::new(
                    Code::BadRequest,
                    "The original's method is none, or is one of CONNECT and TRACE, which \
                     are not passed on.",
                )
            })?;
        // A fragment is not part of a request, and the URI type would cut it off: the
        // upstream would get more than was judged.
        let path = Some(uri)
            .filter(|uri| uri.first() == Some(&b'/') && !uri.contains(&b'#'))
            .and_then(|uri| PathAndQuery::try_from(uri).ok())
            .ok_or_else(|| bad("The original's path must begin with `/` and be valid."))?;
        // It tells of a body that is somewhere else.
        headers.remove(CONTENT_LENGTH);
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = method;
        head.uri = Uri::from(path);
        head.headers = headers;
        Ok(Self {
            head,
            strips_query: false,
        })
    }

    /// Says that the other proxy takes a key out of the query when we tell it to.
    #[must_use]
    pub fn with_stripped_query(self) -> Self {
        Self {
            strips_query: true,
            ..self
        }
    }

    /// Sets the destination, by URL, to a scheme and a host that may have a port.
    ///
    /// # Errors
    /// `bad_target` when they make no origin.
    pub fn at_origin(self, scheme: &[u8], host: &[u8]) -> Result<Self, Rejection> {
        // What Traefik calls a WebSocket is an HTTP request like any other.
        let scheme: &[u8] = match scheme.to_ascii_lowercase().as_slice() {
            b"ws" | b"http" => b"http",
            b"wss" | b"https" => b"https",
            _ => return Err(bad("The original's scheme must be http or https.")),
        };
        let origin = [scheme, b"://", host].concat();
        if destination(&origin).is_err() {
            return Err(bad(
                "The original's host must be a name or an address, and perhaps a port.",
            ));
        }
        self.at_target(&origin)
    }

    /// Sets the destination as `x-throttleproxy-target` does.
    ///
    /// # Errors
    /// `bad_target` when a header cannot hold it.
    pub fn at_target(mut self, target: &[u8]) -> Result<Self, Rejection> {
        let target = HeaderValue::from_bytes(target)
            .map_err(|_| bad("The original's destination must be an origin."))?;
        self.head.headers.insert(TARGET, target);
        Ok(self)
    }

    /// The original of a question over HTTP.
    fn asked_about(question: Parts) -> Result<Self, Rejection> {
        let headers = &question.headers;
        let method = single(headers, &FORWARDED_METHOD)?;
        let uri = single(headers, &FORWARDED_URI)?;
        let host = single(headers, &FORWARDED_HOST)?;
        let scheme = single(headers, &FORWARDED_PROTO)?;
        if uri.is_none() && host.is_some() && !headers.contains_key(TARGET) {
            return Err(bad(
                "x-forwarded-host came without x-forwarded-uri: the path is not known.",
            ));
        }
        let original = Self::told(
            method.map_or(question.method.as_str().as_bytes(), HeaderValue::as_bytes),
            uri.map_or(b"/", HeaderValue::as_bytes),
            headers.clone(),
        )?;
        match host {
            Some(host) if !headers.contains_key(TARGET) => original.at_origin(
                scheme.map_or(b"https", HeaderValue::as_bytes),
                host.as_bytes(),
            ),
            _ => Ok(original),
        }
    }

    /// A key never goes upstream in the query; where nobody would take it out, the request
    /// does not pass.
    fn check_query(&self) -> Result<(), Rejection> {
        let query = self.head.uri.query().unwrap_or_default();
        let holds_key = query
            .split('&')
            .any(|pair| is_query_key(pair.split_once('=').map_or(pair, |(name, _)| name)));
        if holds_key && !self.strips_query {
            return Err(Rejection::new(
                Code::BadRequest,
                "x_api_key in the query would reach the upstream: the proxy that asks does \
                 not take it out. Send the key in a header.",
            ));
        }
        Ok(())
    }
}

// === impl Cleared ===

impl Cleared {
    fn show(&self, headers: &mut HeaderMap) {
        let value = |id: String| {
            HeaderValue::try_from(id).expect("an id is letters, digits and an underscore")
        };
        headers.insert(KEY_ID, value(self.key_id.to_string()));
        headers.insert(WORKSPACE_ID, value(self.workspace_id.to_string()));
    }
}

/// A header that may stand once: were there two, the other proxy's own would stand beside
/// one that its client made up.
fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Rejection> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(bad(format!("{name} was sent more than once."))),
    }
}

fn bad(detail: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::new(Code::BadTarget, detail)
}

#[cfg(test)]
mod tests;
