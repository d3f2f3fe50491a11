//! `If-Match` and `Idempotency-Key`: what a request depends on, and what makes a repetition
//! of it harmless.

use axum::http::{HeaderMap, Method};
use schemas::problem::Code;
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::{App, Running};
use crate::execute::Idempotency;

const KEY_CHARS_MAX: usize = 255;

/// The versions in `If-Match`, of which the resource must have one (RFC 9110, 13.1.1);
/// `None` where any will do.
pub(super) fn if_match(headers: &HeaderMap) -> Option<Vec<u64>> {
    let mut values = headers.get_all("if-match").iter().peekable();
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

/// Reads the `Idempotency-Key` of a POST; `None` where there is none. `scope` tells callers and paths
/// apart.
pub(super) fn idempotency(
    method: &Method,
    headers: &HeaderMap,
    body: &[u8],
    scope: String,
) -> Result<Option<Idempotency>, Failure> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != value) {
        return Err(Failure::new(
            Code::BadRequest,
            "Idempotency-Key: given once",
        ));
    }
    if *method != Method::POST {
        return Ok(None);
    }
    let key = value.to_str().unwrap_or_default().trim();
    let key = key
        .strip_prefix('"')
        .and_then(|it| it.strip_suffix('"'))
        .unwrap_or(key);
    if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
        return Err(Failure::new(
            Code::BadRequest,
            format!("Idempotency-Key: expected 1 to {KEY_CHARS_MAX} characters"),
        ));
    }
    Ok(Some(Idempotency {
        scope,
        // Hashed like everything that could be a secret in the wrong place.
        key: hex::encode(Sha256::digest(key)),
        fingerprint: hex::encode(Sha256::digest(body)),
    }))
}

/// Holds an idempotency key until the request is answered.
pub(super) fn run_once(
    app: &App,
    idempotency: Option<&Idempotency>,
) -> Result<Option<Running>, Failure> {
    let Some(it) = idempotency else {
        return Ok(None);
    };
    app.run_once(&it.scope, &it.key).map(Some).ok_or_else(|| {
        Failure::new(
            Code::IdempotencyRunning,
            "the first request with this Idempotency-Key has not been answered yet",
        )
    })
}
