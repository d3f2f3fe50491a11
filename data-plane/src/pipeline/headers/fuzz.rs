//! Whatever headers come: what must not pass does not, and all else passes as it is.

use super::*;

/// Reads `bytes` as header lines and rewrites them as a request's and as an answer's.
///
/// # Panics
/// When a header passes that must not, or one is gone or changed that should pass.
pub fn check(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let at = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(at.unwrap_or(line.len()));
        if let Ok(name) = HeaderName::from_bytes(name)
            && let Ok(value) = HeaderValue::from_bytes(value.get(1..).unwrap_or_default())
        {
            headers.append(name, value);
        }
    }
    check_request(&headers);
    for allow_set_cookie in [false, true] {
        check_response(&headers, allow_set_cookie);
    }
    check_trailers(&headers);
}

fn check_request(came: &HeaderMap) {
    let host = HeaderValue::from_static("upstream.example");
    let mut passed = came.clone();
    clean_request(&mut passed, host.clone());
    let named = named(came);
    for name in passed.keys() {
        let read = name.as_str().replace('_', "-");
        assert!(!must_not_pass(&read), "{name} passed");
        assert!(
            !named.contains(&read) || FRAMING.contains(&&*read),
            "{name} was named"
        );
        assert!(
            *read == *name.as_str() || !FRAMING.contains(&&*read),
            "{name} frames"
        );
    }
    let hosts: Vec<_> = passed.get_all(HOST).iter().collect();
    assert_eq!(hosts, [&host]);
    for name in came.keys() {
        let read = name.as_str().replace('_', "-");
        let is_framing = FRAMING.contains(&&*read);
        let passes = match is_framing {
            true => name == CONTENT_LENGTH,
            false => {
                !must_not_pass(&read) && !named.contains(&read) && !named.contains(name.as_str())
            }
        };
        if passes {
            let before: Vec<_> = came.get_all(name).iter().collect();
            let after: Vec<_> = passed.get_all(name).iter().collect();
            assert_eq!(before, after, "{name} changed");
        }
    }
    let mut again = passed.clone();
    clean_request(&mut again, host);
    assert_eq!(again, passed, "a second time changes something");
}

fn check_response(came: &HeaderMap, allow_set_cookie: bool) {
    let mut passed = came.clone();
    clean_response(&mut passed, allow_set_cookie);
    let named = named(came);
    for name in passed.keys() {
        let name = name.as_str();
        assert!(!HOP_BY_HOP.contains(&name), "{name} passed");
        assert!(
            name != "alt-svc" && !name.starts_with("x-throttleproxy-"),
            "{name} passed"
        );
        assert!(allow_set_cookie || name != "set-cookie", "{name} passed");
        assert!(
            !named.contains(name) || FRAMING.contains(&name),
            "{name} was named"
        );
    }
    let is_contradiction =
        came.contains_key(TRANSFER_ENCODING) && passed.contains_key(CONTENT_LENGTH);
    assert!(!is_contradiction, "a length beside a coding");
}

/// The same lines behind a body: what may not stand in a head may not stand there, nor
/// what was not announced.
fn check_trailers(came: &HeaderMap) {
    let announced = clean_request(&mut came.clone(), HeaderValue::from_static("a")).trailers;
    let is_bad = |name: &HeaderName| {
        let read = name.as_str().replace('_', "-");
        must_not_pass(&read) || FRAMING.contains(&&*read)
    };
    assert!(
        !announced.iter().any(is_bad),
        "{announced:?} may be announced"
    );
    let asked = clean_response(&mut came.clone(), true).trailers;
    let is_bad_answer =
        |name: &HeaderName| HOP_BY_HOP.contains(&name.as_str()) || FRAMING.contains(&name.as_str());
    assert!(
        !asked.iter().any(is_bad_answer),
        "{asked:?} may be announced"
    );
    for passing in [
        Trailing::Nothing,
        Trailing::Announced(announced.clone()),
        Trailing::Any,
    ] {
        let passed = clean_request_trailers(came.clone(), &passing).unwrap_or_default();
        assert!(!passed.keys().any(is_bad), "{passed:?} passed");
        let answered = clean_response_trailers(came.clone(), &passing, false).unwrap_or_default();
        assert!(!answered.keys().any(is_bad_answer), "{answered:?} passed");
        assert!(!answered.contains_key(SET_COOKIE));
        for name in passed.keys().chain(answered.keys()) {
            let is_told = match &passing {
                Trailing::Nothing => false,
                Trailing::Announced(names) => names.contains(name),
                Trailing::Any => true,
            };
            assert!(is_told, "{name} passed unannounced");
        }
    }
}

const FRAMING: [&str; 3] = ["host", "content-length", "transfer-encoding"];

const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

fn must_not_pass(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
        || [
            "authorization",
            "x-api-key",
            "cookie",
            "forwarded",
            "via",
            "x-real-ip",
        ]
        .contains(&name)
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-throttleproxy-")
}

/// What `Connection` names, in lower case.
fn named(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect()
}

trait Contains {
    fn contains(&self, name: &str) -> bool;
}

impl Contains for Vec<String> {
    fn contains(&self, name: &str) -> bool {
        self.iter().any(|it| it == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_headers_bring_along_what_must_not_pass() {
        let pieces: [&[u8]; 47] = [
            b"\n",
            b"\n",
            b"\n",
            b":",
            b": ",
            b",",
            b", ",
            b"_",
            b"-",
            b"\nconnection: ",
            b"\nConnection: close, ",
            b"\nhost: a",
            b"\ncontent-length: 5",
            b"content-length",
            b"\ncontent_length: 5",
            b"\ntransfer-encoding: chunked",
            b"transfer-encoding",
            b"\ntransfer_encoding: chunked",
            b"authorization",
            b"\nauthorization: x",
            b"x-api-key",
            b"\nx_api_key: x",
            b"X-Api-Key",
            b"proxy-authorization",
            b"proxy_authorization",
            b"cookie",
            b"\ncookie: a=b",
            b"set-cookie: a=b",
            b"\nx-forwarded-for: 1",
            b"\nx_forwarded_for: 1",
            b"x-forwarded-",
            b"x-throttleproxy-target",
            b"\nx_throttleproxy_target: x",
            b"te",
            b"\nte: trailers",
            b"trailer",
            b"\ntrailer: ",
            b"x-sum",
            b"\nx-sum: 1",
            b"upgrade",
            b"\nupgrade: h2c",
            b"http2-settings",
            b"http2_settings",
            b"alt-svc",
            b"x-hop",
            b"\nx-hop: 1",
            b"\nx_hop: 1",
        ];
        crate::fuzz::run(&pieces, check);
    }
}
