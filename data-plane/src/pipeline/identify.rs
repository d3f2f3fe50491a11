//! Which request is this, and from whom? Never refuses a caller, only a request that
//! nobody could pass on without doubt.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use ipnet::IpNet;
use rand::RngExt as _;
use schemas::EventId;

use crate::clock::Now;
use crate::rejection::{Code, Rejection};
use crate::server::lane::Lane;
use crate::server::{Shared, Worker};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID_LEN: usize = 26;

/// A request that has come.
#[derive(Debug)]
pub struct Arrival {
    /// What to quote to the operator: a ULID.
    pub request_id: RequestId,
    /// Who sent it, through proxies that are trusted.
    pub client: IpAddr,
    /// When, on both clocks.
    pub now: Now,
    /// When, for deadlines.
    pub instant: Instant,
}

/// The name of one request, 26 characters.
#[derive(Debug, Clone, Copy)]
pub struct RequestId([u8; REQUEST_ID_LEN]);

/// Gives the request its name, time and origin.
pub fn identify(worker: &Worker, lane: &Lane, headers: &HeaderMap) -> Arrival {
    let instant = lane.now();
    let now = worker.shared.clock.at(instant);
    Arrival {
        request_id: RequestId::make(worker, now),
        client: client_address(lane.peer, headers, &worker.shared.config.trusted_proxies),
        now,
        instant,
    }
}

/// Gives a name, time and origin to a request that the proxy at `peer` holds and asks about
/// over a connection of its own. `told` is the client that it names; it is believed, like
/// `x-forwarded-for`, from trusted proxies only.
pub fn identify_told(shared: &Shared, peer: IpAddr, told: Option<IpAddr>) -> Arrival {
    let instant = Instant::now();
    let now = shared.clock.at(instant);
    let is_trusted = shared
        .config
        .trusted_proxies
        .iter()
        .any(|net| net.contains(&peer));
    Arrival {
        request_id: RequestId::new(now.unix_ms, rand::random()),
        client: told.filter(|_| is_trusted).unwrap_or(peer),
        now,
        instant,
    }
}

/// Refuses what has no one reading: the connection is closed, because what follows on it
/// cannot be trusted either.
///
/// # Errors
/// `bad_request`.
pub fn check_form(head: &Parts) -> Result<(), Rejection> {
    let refuse = |detail: &'static str| Err(Rejection::new(Code::BadRequest, detail).and_close());
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return refuse("The methods CONNECT and TRACE are not passed on.");
    }
    // It opens HTTP/2 and is reserved for that (RFC 9113, 11.6); a server that looks for
    // the opening must not find something like it in a request.
    if head.method.as_str() == "PRI" {
        return refuse("PRI is not a method of requests.");
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let authority = head.uri.authority().map(|it| it.as_str().as_bytes());
    let host = match (hosts.next(), hosts.next(), authority) {
        (Some(host), None, None) => host.as_bytes(),
        (Some(host), None, Some(authority)) if authority.eq_ignore_ascii_case(host.as_bytes()) => {
            authority
        }
        (Some(_), None, Some(_)) => {
            return refuse("The request's target names another host than the Host header.");
        }
        // HTTP/2 says `:authority` instead (RFC 9113, 8.3.1).
        (None, _, Some(authority)) if head.version == Version::HTTP_2 => authority,
        _ => return refuse("A request has exactly one Host header."),
    };
    if !is_host(host) {
        return refuse("The host is a name or an address, and perhaps a port.");
    }
    // Ten or eight? Digits behind a zero are octal to some (`strtol` with base 0).
    if let Some(length) = head.headers.get(CONTENT_LENGTH)
        && matches!(length.as_bytes(), [b'0', _, ..])
    {
        return refuse("A Content-Length has no leading zeros.");
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        // The HTTP library undoes `chunked` and nothing else: any other coding would lose
        // its name on the way, and the upstream would read another body than was sent.
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if head.headers.contains_key(CONTENT_LENGTH) {
                return refuse("A body has a length or is chunked, not both.");
            }
        }
        _ => return refuse("The only Transfer-Encoding is `chunked`, once."),
    }
    Ok(())
}

/// Refuses more headers than there may be. In HTTP/1.1 the HTTP library does that while it
/// reads them.
///
/// # Errors
/// `header_too_large`.
pub fn check_size(head: &Parts, headers_max: usize) -> Result<(), Rejection> {
    if head.version == Version::HTTP_2 && head.headers.len() > headers_max {
        let detail = format!("A request has at most {headers_max} headers.");
        return Err(Rejection::new(Code::HeaderTooLarge, detail));
    }
    Ok(())
}

/// Whether this can be a `Host`: RFC 9110, 7.2, and RFC 3986, 3.2.2 and 3.2.3. An empty one
/// names nobody, and is refused like one that names two.
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let (is_name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((literal, port)) => (literal.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_reg_name(name.as_bytes()), port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            digits.bytes().all(|it| it.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    is_name && is_port
}

/// A registered name or an IPv4 address: unreserved characters, sub-delimiters but the
/// comma, which is what two joined `Host` lines look like, and whole escapes.
fn is_reg_name(mut name: &[u8]) -> bool {
    if name.is_empty() {
        return false;
    }
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [a, b, rest @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte) => {
                rest
            }
            _ => return false,
        };
    }
    true
}

/// The client behind trusted proxies: the last address of `x-forwarded-for` that is not
/// one of them. Each proxy appends whom it heard from, so only the tail can be believed.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if trusted.is_empty() || !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    let lines: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(address) = entry.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

// === impl RequestId ===

impl RequestId {
    /// A name that no other request has.
    pub fn make(worker: &Worker, now: Now) -> Self {
        Self::new(now.unix_ms, worker.random.borrow_mut().random())
    }

    fn new(unix_ms: i64, entropy: u128) -> Self {
        let id = EventId::from_parts(u64::try_from(unix_ms).unwrap_or(0), entropy);
        let mut text = Fixed {
            bytes: [b'0'; REQUEST_ID_LEN],
            len: 0,
        };
        write!(text, "{id}").expect("a ULID has 26 characters");
        Self(text.bytes)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a ULID is ASCII")
    }

    /// The name as a header's value.
    pub fn to_header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("a ULID is letters and digits")
    }
}

/// Text written in place, without an allocation.
struct Fixed {
    bytes: [u8; REQUEST_ID_LEN],
    len: usize,
}

impl Write for Fixed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_ulid_of_its_time() {
        let id = RequestId::new(1_700_000_000_000, 42);
        let read: EventId = id.as_str().parse().unwrap();
        assert_eq!(read, EventId::from_parts(1_700_000_000_000, 42));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in [
            "a",
            "A.Example",
            "a_b",
            "a.",
            "a:80",
            "a:",
            "127.0.0.1:9",
            "[::1]",
            "[::1]:80",
            "a%20b",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a,b",
            "a/b",
            "user@a",
            "a?b",
            "a#b",
            "a\\b",
            "a:b",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:1:2",
            ":80",
            "::1",
            "[",
            "[]",
            "[::1",
            "[::1]a",
            "[a]",
            "a%2",
            "a%2g",
            "caf\u{e9}",
            "\"a\"",
            "http://a",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn forwarding_headers_are_believed_from_trusted_proxies_only() {
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let client = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(client.to_string(), expected, "{peer} {lines:?}");
        };
        check("192.0.2.1", &["203.0.113.9"], "192.0.2.1");
        check("10.0.0.1", &["203.0.113.9"], "203.0.113.9");
        check(
            "10.0.0.1",
            &["198.51.100.1, 203.0.113.9, 10.0.0.7"],
            "203.0.113.9",
        );
        check("10.0.0.1", &["203.0.113.9", "10.0.0.7"], "203.0.113.9");
        check("10.0.0.1", &["203.0.113.9, nonsense"], "10.0.0.1");
        check("10.0.0.1", &[], "10.0.0.1");
    }
}
