//! Which headers pass and which do not, in both directions.

use bytes::Bytes;
use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::{Standing, Standings};

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

/// What a message said about its hop, of which some may be said anew on the next.
#[derive(Debug, Default)]
pub struct Hop {
    /// `TE` holds `trailers`: trailer fields are understood.
    pub takes_trailers: bool,
    /// The names in `Trailer` that may pass.
    pub trailers: Vec<HeaderName>,
    /// The protocols in `Upgrade`, where `Connection` names it: all but HTTP/2, which is
    /// spoken from the first byte or not at all (RFC 9113, 3.1).
    pub upgrade: Option<HeaderValue>,
}

/// Which trailer fields may pass.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Trailing {
    /// None.
    #[default]
    Nothing,
    /// Those that were announced: HTTP/1.1 knows no others.
    Announced(Vec<HeaderName>),
    /// All but those that are always removed.
    Any,
}

impl Trailing {
    /// Whether some were announced.
    pub fn is_announced(&self) -> bool {
        matches!(self, Self::Announced(names) if !names.is_empty())
    }
}

/// A client's headers as the upstream may see them: no credential, no cookie, nothing of
/// ours, nothing about this hop. `host` is the upstream's.
pub fn clean_request(headers: &mut HeaderMap, host: HeaderValue) -> Hop {
    let named = Named::by_connection(headers);
    let mut hop = remove_all(headers, |name| is_removed_from_request(name, &named));
    hop.trailers.retain(|name| {
        !is_framing(name.as_str()) && !is_removed_from_request(name.as_str(), &named)
    });
    if !named.holds(UPGRADE.as_str()) {
        hop.upgrade = None;
    }
    headers.insert(HOST, host);
    hop
}

/// A client's trailer fields as the upstream may see them; `None` when none are left.
pub fn clean_request_trailers(mut trailers: HeaderMap, passing: &Trailing) -> Option<HeaderMap> {
    let none = Named::default();
    keep_trailers(&mut trailers, passing, |name| {
        is_removed_from_request(name, &none)
    });
    (!trailers.is_empty()).then_some(trailers)
}

/// An upstream's headers as the client may see them.
pub fn clean_response(headers: &mut HeaderMap, allow_set_cookie: bool) -> Hop {
    // Both is a contradiction that the HTTP library has settled for the chunks; the
    // length must not come back to life on the other side.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named = Named::by_connection(headers);
    let is_removed = |name: &str| is_removed_from_response(name, &named, allow_set_cookie);
    let mut hop = remove_all(headers, is_removed);
    hop.trailers
        .retain(|name| !is_framing(name.as_str()) && !is_removed(name.as_str()));
    hop
}

/// An upstream's trailer fields as the client may see them; `None` when none are left.
pub fn clean_response_trailers(
    mut trailers: HeaderMap,
    passing: &Trailing,
    allow_set_cookie: bool,
) -> Option<HeaderMap> {
    let none = Named::default();
    keep_trailers(&mut trailers, passing, |name| {
        is_removed_from_response(name, &none, allow_set_cookie)
    });
    (!trailers.is_empty()).then_some(trailers)
}

/// Announces trailer fields.
pub fn announce_trailers(headers: &mut HeaderMap, names: &[HeaderName]) {
    if names.is_empty() {
        return;
    }
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    let value = HeaderValue::try_from(names.join(", "))
        .expect("names of headers and commas are visible ASCII characters");
    headers.insert(TRAILER, value);
}

/// Whether one of the protocols in `asked` is the only one in `given`.
pub fn is_upgrade_to(asked: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut given = items(headers, &UPGRADE);
    let (Some(given), None) = (given.next(), given.next()) else {
        return false;
    };
    list(asked).any(|it| it.eq_ignore_ascii_case(given))
}

/// Tells a limited key how its limits stand (draft-ietf-httpapi-ratelimit-headers-10, and
/// the older `x-ratelimit-*` for the tightest).
pub fn show_limits(headers: &mut HeaderMap, standings: &Standings) {
    let Some(tightest) = standings.tightest() else {
        return;
    };
    // All values in one piece of memory that they share: this happens in every answer.
    let mut text = Vec::with_capacity(160);
    let mut ends = [0; 5];
    for it in standings.iter() {
        push_standing(&mut text, 0, it);
        push_pair(&mut text, b";q=", it.limit, b";w=", it.span.seconds());
    }
    ends[0] = text.len();
    for it in standings.iter() {
        push_standing(&mut text, ends[0], it);
        push_pair(&mut text, b";r=", it.remaining, b";t=", it.reset_seconds());
    }
    ends[1] = text.len();
    let numbers = [tightest.limit, tightest.remaining, tightest.reset_seconds()];
    for (end, number) in ends[2..].iter_mut().zip(numbers) {
        push_number(&mut text, number);
        *end = text.len();
    }
    let text = Bytes::from(text);
    let mut start = 0;
    for (name, end) in [RATELIMIT_POLICY, RATELIMIT, LIMIT, REMAINING, RESET]
        .into_iter()
        .zip(ends)
    {
        let value = HeaderValue::from_maybe_shared(text.slice(start..end))
            .expect("names and numbers are visible ASCII characters");
        headers.insert(name, value);
        start = end;
    }
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

/// A limit's quoted name as an item of the list that begins at `start`.
fn push_standing(text: &mut Vec<u8>, start: usize, it: &Standing) {
    if text.len() > start {
        text.extend_from_slice(b", ");
    }
    text.push(b'"');
    text.extend_from_slice(it.scope.prefix().as_bytes());
    text.extend_from_slice(it.span.as_str().as_bytes());
    text.push(b'"');
}

fn push_pair(text: &mut Vec<u8>, first: &[u8], a: u64, second: &[u8], b: u64) {
    text.extend_from_slice(first);
    push_number(text, a);
    text.extend_from_slice(second);
    push_number(text, b);
}

fn push_number(text: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
}

/// The headers that `Connection` names, lower case. `Host` and framing cannot be removed
/// by naming them.
#[derive(Default)]
struct Named {
    names: Vec<String>,
}

impl Named {
    fn by_connection(headers: &HeaderMap) -> Self {
        let names = items(headers, &CONNECTION)
            // What most clients say names nothing; it is spared the look-ups.
            .filter(|name| {
                !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close")
            })
            .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
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

fn is_removed_from_request(name: &str, named: &Named) -> bool {
    is_private(name)
        || named.holds(name)
        || name.contains('_') && {
            let read = name.replace('_', "-");
            is_private(&read) || is_framing(&read) || named.holds(&read)
        }
}

fn is_removed_from_response(name: &str, named: &Named, allow_set_cookie: bool) -> bool {
    is_hop_by_hop(name)
        || named.holds(name)
        || name == ALT_SVC.as_str()
        || name.starts_with("x-throttleproxy-")
        || !allow_set_cookie && name == SET_COOKIE.as_str()
}

/// Removes headers, and notes what those that concern the hop said.
fn remove_all(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) -> Hop {
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_removed(name.as_str()))
        .cloned()
        .collect();
    let mut hop = Hop::default();
    for name in removed {
        if name == TE {
            hop.takes_trailers = items(headers, &TE).any(|it| it.eq_ignore_ascii_case(b"trailers"));
        } else if name == TRAILER {
            hop.trailers = items(headers, &TRAILER)
                .filter_map(|it| HeaderName::from_bytes(it).ok())
                .collect();
        } else if name == UPGRADE {
            hop.upgrade = protocols(headers);
        }
        headers.remove(name);
    }
    hop
}

/// Removes what trailer fields may never say: what the head may not either, and what
/// belongs there (RFC 9110, 6.5.1).
fn keep_trailers(trailers: &mut HeaderMap, passing: &Trailing, is_removed: impl Fn(&str) -> bool) {
    remove_all(trailers, |name| {
        is_framing(name)
            || is_removed(name)
            || match passing {
                Trailing::Nothing => true,
                Trailing::Announced(names) => !names.iter().any(|it| it == name),
                Trailing::Any => false,
            }
    });
}

/// The protocols of `Upgrade` without HTTP/2.
fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let kept: Vec<_> = items(headers, &UPGRADE)
        .filter(|it| !it.eq_ignore_ascii_case(b"h2c") && !it.eq_ignore_ascii_case(b"h2"))
        .collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok()
}

/// The items of a header that is a list, over all its lines.
fn items<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().flat_map(list)
}

fn list(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|it| !it.is_empty())
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;
