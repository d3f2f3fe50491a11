//! A key looks at itself: `GET /.throttleproxy/me`. It costs nothing, and answers any
//! key that is active, also one whose limits are used up.

use http::request::Parts;
use http::{HeaderValue, Method, Response};
use schemas::{Environment, KeyId, Timestamp};
use serde::Serialize;

use super::admit::Admitted;
use super::body::Content;
use super::identify::Arrival;
use super::{limit, own};
use crate::follow::lookup::Answer;
use crate::rejection::{Code, Rejection};
use crate::server::Shared;

const OURS: &str = "/.throttleproxy";

#[derive(Debug, Serialize)]
struct Me<'a> {
    key_id: KeyId,
    /// `null` while the region cannot be asked: names are not in the table.
    name: Option<&'a str>,
    prefix: &'a str,
    status: &'static str,
    environment: Environment,
    expires_at: Option<Timestamp>,
    limits: Vec<LimitView>,
    /// Budgets come with the meters.
    budget: Option<()>,
}

#[derive(Debug, Serialize)]
struct LimitView {
    name: &'static str,
    scope: &'static str,
    limit: u64,
    remaining: u64,
    reset_seconds: u64,
    /// False: this proxy counts its own requests only.
    exact: bool,
}

/// Whether a path is the proxy's own.
pub fn is_for_us(path: &str) -> bool {
    path.strip_prefix(OURS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for the proxy itself.
///
/// # Errors
/// `bad_target` for a path or method that is not there.
pub async fn answer(
    shared: &Shared,
    admitted: &Admitted,
    arrival: &Arrival,
    head: &Parts,
) -> Result<Response<Content>, Rejection> {
    if head.uri.path() != "/.throttleproxy/me" || head.method != Method::GET {
        return Err(Rejection::new(
            Code::BadTarget,
            "The proxy itself answers `GET /.throttleproxy/me` and `/.throttleproxy/verify` only.",
        ));
    }
    let known = &admitted.known;
    // The one request that needs the name pays for it, not every entry of the table.
    let entry = match Box::pin(shared.lookups.ask(known.hash)).await {
        Answer::Found(exact) => Some(exact),
        Answer::Unknown | Answer::Unavailable => None,
    };
    let standings = limit::look(shared, admitted, arrival.now);
    let me = Me {
        key_id: known.found.key_id,
        name: entry.as_ref().map(|it| it.secret.name.as_str()),
        prefix: std::str::from_utf8(&known.prefix).unwrap_or_default(),
        status: "active",
        environment: known.environment,
        expires_at: known.found.expires_at_ms.map(Timestamp::from_unix_ms),
        limits: standings
            .iter()
            .map(|it| LimitView {
                name: it.span.as_str(),
                scope: it.scope.as_str(),
                limit: it.limit,
                remaining: it.remaining,
                reset_seconds: it.reset_seconds(),
                exact: false,
            })
            .collect(),
        budget: None,
    };
    let text = serde_json::to_string(&me)
        .expect("what a key may see of itself is strings and numbers, which are always JSON");
    let mut response = own(text);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
