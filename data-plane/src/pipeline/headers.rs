//! Which headers pass and which do not, in both directions.

use std::fmt::Write;

use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::Standings;

/// Where a client may put its key.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The query parameter for a key, where a workspace allows it.
pub const QUERY_KEY: &str = "x_api_key";
/// Names the destination of a request by URL.
pub const TARGET: HeaderName = HeaderName::from_static("x-throttleproxy-target");

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const WARNING: HeaderName = HeaderName::from_static("x-ratelimit-warning");

/// A client's headers as the upstream may see them: no credential, no cookie, nothing of
/// ours, nothing about this hop. `host` is the upstream's.
pub fn clean_request(headers: &mut HeaderMap, host: HeaderValue) {
    let named = Named::by_connection(headers);
    remove_all(headers, |name| {
        is_private(name)
            || named.holds(name)
            || name.contains('_') && {
                let read = name.replace('_', "-");
                is_private(&read) || is_framing(&read) || named.holds(&read)
            }
    });
    headers.insert(HOST, host);
}

/// An upstream's headers as the client may see them.
pub fn clean_response(headers: &mut HeaderMap, allow_set_cookie: bool) {
    // Both is a contradiction that the HTTP library has settled for the chunks; the
    // length must not come back to life on the other side.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named = Named::by_connection(headers);
    remove_all(headers, |name| {
        is_hop_by_hop(name)
            || named.holds(name)
            || name == ALT_SVC.as_str()
            || name.starts_with("x-throttleproxy-")
            || !allow_set_cookie && name == SET_COOKIE.as_str()
    });
}

/// Tells a limited key how its limits stand (draft-ietf-httpapi-ratelimit-headers-10, and
/// the older `x-ratelimit-*` for the tightest).
pub fn show_limits(headers: &mut HeaderMap, standings: &Standings) {
    let Some(tightest) = standings.tightest() else {
        return;
    };
    let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
    for it in standings.iter() {
        let separator = if policy.is_empty() { "" } else { ", " };
        let (prefix, name) = (it.scope.prefix(), it.span.as_str());
        let written = write!(
            policy,
            "{separator}\"{prefix}{name}\";q={};w={}",
            it.limit,
            it.span.seconds(),
        )
        .and_then(|()| {
            write!(
                state,
                "{separator}\"{prefix}{name}\";r={};t={}",
                it.remaining,
                it.reset_seconds(),
            )
        });
        written.expect("writing into memory cannot fail");
    }
    let value = |text: String| {
        HeaderValue::try_from(text).expect("names and numbers are visible ASCII characters")
    };
    headers.insert(RATELIMIT_POLICY, value(policy));
    headers.insert(RATELIMIT, value(state));
    headers.insert(LIMIT, HeaderValue::from(tightest.limit));
    headers.insert(REMAINING, HeaderValue::from(tightest.remaining));
    headers.insert(RESET, HeaderValue::from(tightest.reset_seconds()));
    let used = u128::from(tightest.limit - tightest.remaining.min(tightest.limit)) * 100;
    let limit = u128::from(tightest.limit);
    let warning = if used >= limit * 95 {
        Some("near_limit")
    } else if used >= limit * 80 {
        Some("approaching_limit")
    } else {
        None
    };
    if let Some(warning) = warning {
        headers.insert(WARNING, HeaderValue::from_static(warning));
    }
}

/// The headers that `Connection` names, lower case. `Host` and framing cannot be removed
/// by naming them.
struct Named {
    names: Vec<String>,
}

impl Named {
    fn by_connection(headers: &HeaderMap) -> Self {
        let names = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
            // What most clients say names nothing; it is spared the look-ups.
            .filter(|name| !matches!(name.as_str(), "" | "keep-alive" | "close"))
            .filter(|name| !is_framing(name))
            .collect();
        Self { names }
    }

    fn holds(&self, name: &str) -> bool {
        self.names.iter().any(|it| it == name)
    }
}

/// What no upstream may see.
fn is_private(name: &str) -> bool {
    match name {
        "authorization" | "x-api-key" | "cookie" | "forwarded" | "via" | "x-real-ip" => true,
        _ => {
            is_hop_by_hop(name)
                || name.starts_with("x-throttleproxy-")
                || name.starts_with("x-forwarded-")
        }
    }
}

/// What concerns one connection only (RFC 9110, 7.6.1, and those of RFC 2616).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What says where a message ends or whom it is for.
fn is_framing(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "transfer-encoding")
}

fn remove_all(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_removed(name.as_str()))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
