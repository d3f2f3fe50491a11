//! May it go there? By name (`/t/<name>/…`) or by URL (`x-throttleproxy-target`), and
//! only to what the workspace approved.

use std::sync::Arc;

use http::HeaderValue;
use http::request::Parts;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;
use schemas::entry::Scheme;

use super::access::Verdict;
use super::admit::Admitted;
use super::authenticate::is_query_key;
use super::headers::TARGET;
use crate::address::Allowance;
use crate::rejection::{Code, Rejection};
use crate::server::Shared;
use crate::table::{Target, Workspace};

/// Where a request goes.
#[derive(Debug)]
pub struct Route {
    /// The target.
    pub target: Arc<Target>,
    /// The host to connect to, which a request by URL may choose where the target's is a
    /// wildcard.
    pub host: Arc<str>,
    /// How the upstream is told it.
    pub host_header: HeaderValue,
    /// The port, which a request by URL may choose among the target's.
    pub port: u16,
    /// The upstream's path and query.
    pub path: PathAndQuery,
    /// Which addresses beside public ones may be connected to.
    pub allowance: Allowance,
}

/// An origin as `x-throttleproxy-target` names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    scheme: Scheme,
    host: String,
    port: u16,
}

/// Finds the target of a request.
///
/// # Errors
/// `bad_target`, `unknown_target`, `target_not_allowed`, `unsafe_target`,
/// `request_too_large`.
pub fn authorize(shared: &Shared, admitted: &Admitted, head: &Parts) -> Result<Route, Rejection> {
    let workspace = &admitted.known.workspace;
    let path = head.uri.path();
    check_path(path)?;
    let mut by_url = head.headers.get_all(TARGET).iter();
    let (target, wildcard_host, port, upstream_path) = match (by_url.next(), by_url.next()) {
        (Some(_), Some(_)) => {
            return Err(bad("x-throttleproxy-target was sent more than once."));
        }
        (Some(value), None) => {
            let wanted = destination(value.as_bytes())?;
            let target = match_url(shared, workspace, &wanted, path)?;
            let wildcard_host = target.is_wildcard().then_some(wanted.host);
            (target, wildcard_host, wanted.port, path.to_owned())
        }
        (None, _) => {
            let (target, rest) = match_name(workspace, path)?;
            let port = target.policy.port;
            let base = &target.policy.base_path;
            let query_len = head.uri.query().map_or(0, |query| query.len() + 1);
            let mut path = String::with_capacity(base.len() + rest.len() + query_len);
            path.push_str(base);
            path.push_str(rest);
            (target, None, port, path)
        }
    };
    check_access(shared, admitted, &target)?;
    let allowance = Allowance {
        private: shared.config.allow_private_upstreams && target.policy.allow_private,
        exempt: shared.config.exempt_upstream,
    };
    if let Some(address) = target.address
        && !shared.reach.may_connect((address, port).into(), allowance)
    {
        return Err(unsafe_target());
    }
    let length_max = request_bytes_max(shared, &target);
    if content_length(head).is_some_and(|length| length > length_max) {
        return Err(too_large(length_max));
    }
    let path = with_query(upstream_path, head.uri.query())?;
    let (host, host_header) = match wildcard_host {
        None => (Arc::clone(&target.host), target.host_header(port)),
        Some(host) => {
            let host_header = target.host_header_of(&host, port);
            (host.into(), host_header)
        }
    };
    Ok(Route {
        host,
        host_header,
        target,
        port,
        path,
        allowance,
    })
}

/// Whether the key's access includes the target; what a restriction in shadow would
/// refuse is noted.
fn check_access(shared: &Shared, admitted: &Admitted, target: &Target) -> Result<(), Rejection> {
    let known = &admitted.known;
    let verdict = Verdict::of(&known.found, &known.workspace, target);
    if let Some(level) = verdict.shadow {
        shared
            .shadow
            .note(level, &known.found, target, shared.clock.now());
    }
    verdict.allowed()
}

/// The refusal of an address that is not public. It names the setting that allows it.
pub fn unsafe_target() -> Rejection {
    Rejection::new(
        Code::UnsafeTarget,
        "The target's address is not public. `[security] allow_private_upstreams` and the \
         target's `allow_private` together allow it.",
    )
}

/// The refusal of a body that is too large.
pub fn too_large(bytes_max: u64) -> Rejection {
    Rejection::new(
        Code::RequestTooLarge,
        format!("The body may have {bytes_max} bytes."),
    )
}

/// What a client may send to this target.
pub fn request_bytes_max(shared: &Shared, target: &Target) -> u64 {
    target
        .policy
        .bodies
        .request_bytes_max
        .unwrap_or(shared.config.bounds.request_bytes_max)
}

fn bad(detail: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::new(Code::BadTarget, detail)
}

fn content_length(head: &Parts) -> Option<u64> {
    head.headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Refuses paths that an upstream might read as another path than the one that was
/// matched: dot segments and control bytes, judged after decoding once.
fn check_path(path: &str) -> Result<(), Rejection> {
    if !path.starts_with('/') {
        return Err(bad("The path must begin with `/`."));
    }
    // Nothing to decode and nothing to mistake: the common case.
    if !path
        .bytes()
        .any(|byte| matches!(byte, b'.' | b'%' | b'\\') || byte.is_ascii_control())
    {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
    if decoded.iter().any(u8::is_ascii_control) {
        return Err(bad("The path holds a control byte."));
    }
    let has_dots = decoded
        .split(|&byte| byte == b'/' || byte == b'\\')
        .map(|segment| {
            segment
                .split(|&byte| byte == b';')
                .next()
                .unwrap_or(segment)
        })
        .any(|segment| segment == b"." || segment == b"..");
    if has_dots {
        return Err(bad("The path holds a dot segment."));
    }
    Ok(())
}

/// The target of `/t/<name>` or `/t/<name>/<rest>`, and `/<rest>`.
fn match_name<'p>(
    workspace: &Workspace,
    path: &'p str,
) -> Result<(Arc<Target>, &'p str), Rejection> {
    let Some(named) = path.strip_prefix("/t/") else {
        return Err(bad(
            "Name the destination: `/t/<target>/…` or the header x-throttleproxy-target.",
        ));
    };
    let (name, rest) = match named.find('/') {
        Some(at) => named.split_at(at),
        None => (named, "/"),
    };
    if name.is_empty() {
        return Err(bad("The path names no target."));
    }
    let target = match workspace.target_by_name(name) {
        Some(target) => Some(target),
        None => percent_decode(name.as_bytes())
            .decode_utf8()
            .ok()
            .and_then(|name| workspace.target_by_name(&name)),
    };
    match target {
        Some(target) if target.is_wildcard() => Err(bad(
            "This target is a wildcard: name the host in x-throttleproxy-target.",
        )),
        Some(target) => Ok((Arc::clone(target), rest)),
        None => Err(Rejection::new(
            Code::UnknownTarget,
            "The key's workspace has no target of this name.",
        )),
    }
}

fn match_url(
    shared: &Shared,
    workspace: &Workspace,
    wanted: &Destination,
    path: &str,
) -> Result<Arc<Target>, Rejection> {
    // The targets come longest base path first, then by id. Several may answer at one
    // port; the one whose own port it is goes before those that have it as an extra.
    let exact = workspace.targets_by_host(&wanted.host);
    let covering = match exact {
        [] if may_be_covered(shared, &wanted.host) => workspace.targets_by_wildcard(&wanted.host),
        _ => exact,
    };
    covering
        .iter()
        .filter(|target| {
            target.answers_at(wanted.scheme, wanted.port)
                && is_below(path, &target.policy.base_path)
        })
        .reduce(|first, other| {
            let is_as_long = first.policy.base_path.len() == other.policy.base_path.len();
            let owns = |target: &Target| target.policy.port == wanted.port;
            if is_as_long && owns(other) && !owns(first) {
                other
            } else {
                first
            }
        })
        .map(Arc::clone)
        .ok_or_else(|| {
            Rejection::new(
                Code::TargetNotAllowed,
                "No target of the key's workspace covers this scheme, host, port and path.",
            )
        })
}

/// Whether a wildcard may cover this host: it belongs to whoever owns the names below, so
/// public suffixes (`s3.amazonaws.com` under `*.amazonaws.com`) and the installation's own
/// hosts stay out.
fn may_be_covered(shared: &Shared, host: &str) -> bool {
    let is_suffix = psl::suffix(host.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == host.as_bytes());
    !is_suffix
        && !shared
            .config
            .upstreams
            .own_hosts
            .iter()
            .any(|it| it == host)
}

/// Whether `path` is `base` or begins with `base` and `/`.
fn is_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads an origin: scheme, host, perhaps a port, and nothing more.
pub(super) fn destination(value: &[u8]) -> Result<Destination, Rejection> {
    const SHAPE: &str = "x-throttleproxy-target must be an origin such as https://api.example.com or \
         https://api.example.com:8443.";
    let text = std::str::from_utf8(value).map_err(|_| bad(SHAPE))?;
    let (scheme, authority) = text.split_once("://").ok_or_else(|| bad(SHAPE))?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(bad(SHAPE)),
    };
    let (host, port) = match authority.rfind(':') {
        // A colon inside an IPv6 literal is not the port's.
        Some(at) if !authority[at..].contains(']') => {
            let digits = &authority[at + 1..];
            let is_number = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
            let port = digits.parse().ok().filter(|&port| is_number && port > 0);
            (&authority[..at], port.ok_or_else(|| bad(SHAPE))?)
        }
        _ => (authority, scheme.default_port()),
    };
    let is_literal = host
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_'));
    if !is_literal && !is_name {
        return Err(bad(SHAPE));
    }
    Ok(Destination {
        scheme,
        host: host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        port,
    })
}

/// Path and query as they go upstream: a key never stays in the query.
fn with_query(mut path: String, query: Option<&str>) -> Result<PathAndQuery, Rejection> {
    if let Some(query) = query {
        let mut separator = '?';
        let mut push = |pair: &str| {
            path.push(separator);
            path.push_str(pair);
            separator = '&';
        };
        if query.split('&').any(|pair| is_query_key(name_of(pair))) {
            query
                .split('&')
                .filter(|pair| !is_query_key(name_of(pair)))
                .for_each(&mut push);
        } else {
            push(query);
        }
    }
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(path))
        .map_err(|_| bad("The path cannot be passed on."))
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_may_be_read_in_two_ways_are_refused() {
        let check = |path: &str, allowed: bool| {
            assert_eq!(check_path(path).is_ok(), allowed, "{path}");
        };
        for good in [
            "/",
            "/a/b",
            "/t/echo//x",
            "/a.b/c..d",
            "/...",
            "/a/%2e%2e%2e",
            "/%252e%252e/",
            "/a;x=..",
            "/caf%C3%A9",
        ] {
            check(good, true);
        }
        for bad in [
            "*",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/a/.%2E/b",
            "/a%2f..%2fb",
            "/a/..%2fb",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/..;/b",
            "/a/..;x=1/b",
            "/a/%2e%2e%3bx/b",
            "/a%00b",
            "/a%0d%0ab",
            "/a%7f",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn a_destination_is_an_origin_and_nothing_more() {
        let check = |text: &str, expected: Option<(Scheme, &str, u16)>| {
            let read = destination(text.as_bytes()).ok();
            let read = read
                .as_ref()
                .map(|it| (it.scheme, it.host.as_str(), it.port));
            assert_eq!(read, expected, "{text}");
        };
        check(
            "https://api.example.com",
            Some((Scheme::Https, "api.example.com", 443)),
        );
        check(
            "HTTPS://API.Example.COM",
            Some((Scheme::Https, "api.example.com", 443)),
        );
        check(
            "http://api.example.com",
            Some((Scheme::Http, "api.example.com", 80)),
        );
        check(
            "https://api.example.com:8443",
            Some((Scheme::Https, "api.example.com", 8443)),
        );
        check(
            "http://127.0.0.1:9000",
            Some((Scheme::Http, "127.0.0.1", 9000)),
        );
        check("http://[::1]:9000", Some((Scheme::Http, "[::1]", 9000)));
        check("http://[::1]", Some((Scheme::Http, "[::1]", 80)));
        for bad in [
            "",
            "api.example.com",
            "https://",
            "https://api.example.com/",
            "https://api.example.com/v1",
            "https://api.example.com?x",
            "https://api.example.com#x",
            "https://user@api.example.com",
            "https://api.example.com:",
            "https://api.example.com:0",
            "https://api.example.com:65536",
            "https://api.example.com:+80",
            "https://api.example.com, https://b.example.com",
            "ftp://api.example.com",
            "https://[::1",
            "https://[zz]",
            "https://a b",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn the_base_path_is_matched_by_whole_segments() {
        for (path, base, expected) in [
            ("/v1/x", "/v1", true),
            ("/v1", "/v1", true),
            ("/v1x", "/v1", false),
            ("/v2/x", "/v1", false),
            ("/x", "", true),
        ] {
            assert_eq!(is_below(path, base), expected, "{path} below {base}");
        }
    }

    #[test]
    fn a_key_never_stays_in_the_query() {
        let check = |query: &str, expected: &str| {
            let path = with_query("/p".into(), Some(query)).unwrap();
            assert_eq!(path.as_str(), expected);
        };
        check("a=1&b=2", "/p?a=1&b=2");
        check("x_api_key=k", "/p");
        check("a=1&x_api_key=k&b=2", "/p?a=1&b=2");
        check("x%5fapi_key=k&b=%20", "/p?b=%20");
        check("x_api_key&x_api_key=", "/p");
        check("X_API_KEY=k", "/p?X_API_KEY=k");
        check("", "/p?");
    }
}
