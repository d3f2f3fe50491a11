//! The cases: fields that HTTP/2 frames cleanly and HTTP/1.1 would not.

use tests::wire::h2::{data, headers, headers_in_pieces, reset};

use super::super::case::{self, Outcome as Plain, Setting};
use super::{Case, Outcome};

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A request without a body, with our key.
pub fn request<'a>(at: &'a Setting, method: &'a str, path: &'a str) -> Fields<'a> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", path.as_bytes()),
        (b"x-api-key", at.key.as_bytes()),
    ]
}

/// All of them.
pub fn cases(at: &Setting) -> Vec<Case> {
    let mut table = Table {
        at,
        cases: Vec::new(),
    };
    lengths(&mut table);
    forbidden(&mut table);
    injections(&mut table);
    pseudo(&mut table);
    hosts(&mut table);
    paths(&mut table);
    trailers(&mut table);
    frames(&mut table);
    table.cases
}

struct Table<'a> {
    at: &'a Setting,
    cases: Vec<Case>,
}

impl Table<'_> {
    fn add(&mut self, name: impl Into<String>, frames: Vec<u8>, outcome: Outcome) {
        self.cases.push(Case {
            name: name.into(),
            frames,
            outcome,
            may_pass: None,
        });
    }

    /// What the last case may let pass before it fails.
    fn may_pass(&mut self, passed: Plain) {
        if let (Some(case), Plain::Passes(passed)) = (self.cases.last_mut(), passed) {
            case.may_pass = Some(passed);
        }
    }

    /// A GET with these fields more.
    fn get(&mut self, name: impl Into<String>, more: &[(&[u8], &[u8])], outcome: Outcome) {
        let fields = [request(self.at, "GET", "/t/wire/case"), more.to_vec()].concat();
        self.add(name, headers(1, &fields, true), outcome);
    }

    /// A POST with these fields more and this body.
    fn post(
        &mut self,
        name: impl Into<String>,
        more: &[(&[u8], &[u8])],
        body: &[u8],
        outcome: Outcome,
    ) {
        let fields = [request(self.at, "POST", "/t/wire/case"), more.to_vec()].concat();
        let frames = [headers(1, &fields, false), data(1, body, true)].concat();
        self.add(name, frames, outcome);
    }

    /// A GET with a field put in place of the one of this name, or none.
    fn with(
        &mut self,
        name: impl Into<String>,
        field: &[u8],
        value: Option<&[u8]>,
        outcome: Outcome,
    ) {
        let mut fields = request(self.at, "GET", "/t/wire/case");
        match value {
            Some(value) => {
                for it in fields.iter_mut().filter(|(name, _)| *name == field) {
                    it.1 = value;
                }
            }
            None => fields.retain(|(name, _)| *name != field),
        }
        self.add(name, headers(1, &fields, true), outcome);
    }
}

fn passes(outcome: Plain) -> Outcome {
    match outcome {
        Plain::Passes(passed) => Outcome::Passes(passed),
        other => unreachable!("{other:?} is not made here"),
    }
}

fn got() -> Outcome {
    passes(case::got(&[]))
}

fn bad_request() -> Outcome {
    Outcome::Refused(400, "bad_request")
}

fn bad_target() -> Outcome {
    Outcome::Refused(400, "bad_target")
}

/// A length beside the frames that already say where a body ends (RFC 9113, 8.1.1).
fn lengths(table: &mut Table<'_>) {
    let hidden = table.at.hidden();
    table.post("no length", &[], b"hello", passes(case::chunked("hello")));
    table.post(
        "the right length",
        &[(b"content-length", b"5")],
        b"hello",
        passes(case::posted("hello")),
    );
    table.post(
        "a request as the body",
        &[],
        &hidden,
        passes(case::chunked(&hidden)),
    );
    for (name, value) in [
        ("shorter than the frames", &b"2"[..]),
        ("longer than the frames", b"9"),
        ("no number", b"x"),
        ("a plus sign", b"+5"),
        ("a list", b"5, 5"),
        ("nothing", b""),
        ("2^64", b"18446744073709551616"),
        ("a space behind", b"5 "),
    ] {
        table.post(
            format!("a length that is {name}"),
            &[(b"content-length", value)],
            b"hello",
            Outcome::Reset,
        );
    }
    // It looks whole until the bytes come, and they are waited for.
    for (name, body) in [("", &b"hello"[..]), (" that hides a request", &hidden)] {
        table.post(
            format!("a length of zero{name}"),
            &[(b"content-length", b"0")],
            body,
            Outcome::Reset,
        );
    }
    table.post(
        "a length of zero, and an end that comes by itself",
        &[(b"content-length", b"0")],
        b"",
        passes(case::posted("")),
    );
    table.post(
        "two lengths that differ",
        &[(b"content-length", b"5"), (b"content-length", b"0")],
        b"hello",
        Outcome::Reset,
    );
    table.post(
        "a length with a zero in front",
        &[(b"content-length", b"05")],
        b"hello",
        bad_request(),
    );
    table.post(
        "a length under an underscore",
        &[(b"content_length", b"0")],
        b"hello",
        passes(case::chunked("hello")),
    );
    let get = request(table.at, "GET", "/t/wire/case");
    let body = [headers(1, &get, false), data(1, &hidden, true)].concat();
    table.add(
        "a GET with a request as its body",
        body,
        passes(case::passed(
            "GET",
            "/case",
            &[("transfer-encoding", "chunked")],
            &hidden,
        )),
    );
    let with_length = [get.clone(), vec![(&b"content-length"[..], &b"5"[..])]].concat();
    table.add(
        "a length and no body",
        headers(1, &with_length, true),
        Outcome::Reset,
    );
    let frames = [headers(1, &get, false), data(1, b"", true)].concat();
    table.add(
        "a GET with an empty body",
        frames,
        passes(case::passed(
            "GET",
            "/case",
            &[("transfer-encoding", "chunked")],
            "",
        )),
    );
}

/// Fields of a connection, which HTTP/2 has none of (RFC 9113, 8.2.2).
fn forbidden(table: &mut Table<'_>) {
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "transfer-encoding"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
    ] {
        table.post(
            format!("{name}: {value}"),
            &[(name.as_bytes(), value.as_bytes())],
            b"0\r\n\r\n",
            Outcome::Reset,
        );
    }
    table.get(
        "te: trailers",
        &[(b"te", b"trailers")],
        passes(case::got(&[("te", "trailers")])),
    );
    for name in [
        "transfer_encoding",
        "http2-settings",
        "cookie",
        "via",
        "x-forwarded-for",
        "x_api_key",
    ] {
        table.get(
            format!("{name} is removed"),
            &[(name.as_bytes(), b"chunked")],
            got(),
        );
    }
}

/// Bytes that would end a line or a name in HTTP/1.1 (RFC 9113, 8.2.1). The library takes
/// most of them for a broken compression, and so for a broken connection.
fn injections(table: &mut Table<'_>) {
    for value in [
        &b"b\r\ntransfer-encoding: chunked"[..],
        b"b\ntransfer-encoding: chunked",
        b"b\rtransfer-encoding: chunked",
        b"b\r\n\r\nGET /t/wire/hidden HTTP/1.1\r\nhost: a\r\n\r\n",
        b"b\0c",
        b"b\x7f",
        b"b\x0b",
    ] {
        table.get(
            format!("in a value: {}", value.escape_ascii()),
            &[(b"x-a", value)],
            Outcome::Goodbye,
        );
    }
    for name in [
        &b"x-a: b\r\ntransfer-encoding"[..],
        b"x-a\r\nx-c",
        b"x-a:",
        b"x a",
        b"x-a ",
        b" x-a",
        b"x\0a",
        b"x\xe9",
        b"X-A",
        b"Transfer-Encoding",
        b"",
        b"transfer-encoding: chunked\r\nx",
    ] {
        table.get(
            format!("in a name: {}", name.escape_ascii()),
            &[(name, b"b")],
            Outcome::Goodbye,
        );
    }
    for (field, value) in [
        (
            &b":method"[..],
            &b"GET /t/wire/hidden HTTP/1.1\r\nhost: a\r\n\r\nGET"[..],
        ),
        (b":method", b"GET /hidden HTTP/1.1"),
        (b":method", b"GE T"),
        (b":method", b""),
        (b":path", b"/t/wire/case HTTP/1.1\r\nx-a: b\r\nx-c: "),
        (b":path", b"/t/wire/case HTTP/1.1"),
        (b":path", b"/t/wire/ca\tse"),
        (b":path", b"/t/wire/ca\0se"),
        (b":path", b"/t/wire/ca\x7fse"),
        (b":path", b"/t/wire/\xff"),
        (b":authority", b"a\r\nx-a: b"),
        (b":authority", b"a b"),
        (b":authority", b"a/b"),
        (b":scheme", b"http://a/hidden?"),
        (b":scheme", b"ht tp"),
        (b":scheme", b"http\r\n"),
    ] {
        let outcome = match value {
            b"/t/wire/\xff" => Outcome::Goodbye,
            _ if field == b":method" => Outcome::Goodbye,
            _ => Outcome::Reset,
        };
        table.with(
            format!("in {}: {}", field.escape_ascii(), value.escape_ascii()),
            field,
            Some(value),
            outcome,
        );
    }
}

/// Pseudo-fields: each once, in front, and no others (RFC 9113, 8.3).
fn pseudo(table: &mut Table<'_>) {
    for field in [&b":method"[..], b":scheme", b":path"] {
        table.with(
            format!("without {}", field.escape_ascii()),
            field,
            None,
            Outcome::Reset,
        );
    }
    let plain = request(table.at, "GET", "/t/wire/case");
    for (name, value) in [
        (&b":method"[..], &b"GET"[..]),
        (b":path", b"/t/wire/hidden"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":authority", b"b"),
        (b":status", b"200"),
        (b":unknown", b"x"),
        (b":", b"x"),
        (b":protocol", b"websocket"),
    ] {
        let fields = [&[(name, value)], &plain[..]].concat();
        let outcome = || match name {
            b":" | b":unknown" => Outcome::Goodbye,
            _ => Outcome::Reset,
        };
        table.add(
            format!("{} more in front", name.escape_ascii()),
            headers(1, &fields, true),
            outcome(),
        );
        table.get(
            format!("{} behind a field", name.escape_ascii()),
            &[(name, value)],
            outcome(),
        );
    }
    for (method, outcome) in [
        ("TRACE", bad_request()),
        ("PRI", bad_request()),
        ("get", passes(case::passed("get", "/case", &[], ""))),
        ("FETCH", passes(case::passed("FETCH", "/case", &[], ""))),
    ] {
        table.with(
            format!("the method {method}"),
            b":method",
            Some(method.as_bytes()),
            outcome,
        );
    }
    let connect: Fields<'_> = vec![
        (b":method", b"CONNECT"),
        (b":authority", b"a:443"),
        (b"x-api-key", table.at.key.as_bytes()),
    ];
    table.add("CONNECT", headers(1, &connect, true), bad_request());
    let extended = [&[(&b":protocol"[..], &b"websocket"[..])], &plain[..]].concat();
    let extended: Fields<'_> = extended
        .into_iter()
        .map(|(name, value)| {
            (
                name,
                if name == b":method" {
                    b"CONNECT"
                } else {
                    value
                },
            )
        })
        .collect();
    table.add(
        "extended CONNECT",
        headers(1, &extended, true),
        Outcome::Reset,
    );
    table.with("the scheme https", b":scheme", Some(b"https"), got());
}

/// `:authority` and `Host` (RFC 9113, 8.3.1).
fn hosts(table: &mut Table<'_>) {
    table.get("the same Host beside", &[(b"host", b"a")], got());
    table.get("the same Host in another case", &[(b"host", b"A")], got());
    table.get("another Host beside", &[(b"host", b"b")], bad_request());
    table.get("an empty Host beside", &[(b"host", b"")], bad_request());
    table.get(
        "two equal Hosts beside",
        &[(b"host", b"a"), (b"host", b"a")],
        bad_request(),
    );
    table.with(
        "no authority and no Host",
        b":authority",
        None,
        bad_request(),
    );
    for (name, value) in [
        ("a user", &b"user@a"[..]),
        ("an empty user", b"@a"),
        ("a port that is none", b"a:b"),
        ("a port too large", b"a:65536"),
        ("a comma", b"a,b"),
    ] {
        table.with(
            format!("an authority with {name}"),
            b":authority",
            Some(value),
            bad_request(),
        );
    }
    for value in [&b"proxy.example"[..], b"a:8080", b"[::1]:80", b"127.0.0.1"] {
        table.with(
            format!("the authority {}", value.escape_ascii()),
            b":authority",
            Some(value),
            got(),
        );
    }
    let mut fields = request(table.at, "GET", "/t/wire/case");
    fields.retain(|(name, _)| *name != b":authority");
    fields.push((b"host", b"a"));
    table.add("a Host and no authority", headers(1, &fields, true), got());
}

fn paths(table: &mut Table<'_>) {
    for path in [
        "/t/wire/../case",
        "/t/wire/%2e%2e/case",
        "/t/wire/..;/case",
        "/t/wire/a%2f..%2fcase",
        "/t/wire/a\\..\\case",
        "/t/wire/%00",
        "/elsewhere",
        "//t/wire/case",
        "*",
        "?x",
        "#x",
    ] {
        table.with(
            format!("the path {path}"),
            b":path",
            Some(path.as_bytes()),
            bad_target(),
        );
    }
    for path in ["", "t/wire/case", "http://a/t/wire/case"] {
        table.with(
            format!("no path: {path:?}"),
            b":path",
            Some(path.as_bytes()),
            Outcome::Reset,
        );
    }
    for (path, seen) in [
        ("/t/wire/case#fragment", "/case"),
        ("/t/wire//a", "//a"),
        ("/t/wire/%2f", "/%2f"),
        ("/t/wire/case?x=../", "/case?x=../"),
        ("/t/wire/case?x_api_key=x", "/case"),
    ] {
        let outcome = passes(case::passed("GET", seen, &[], ""));
        table.with(
            format!("the path {path}"),
            b":path",
            Some(path.as_bytes()),
            outcome,
        );
    }
}

/// Fields behind a body pass without those that never may.
fn trailers(table: &mut Table<'_>) {
    let post = request(table.at, "POST", "/t/wire/case");
    let mut trailed = |name: &str, trailer: (&[u8], &[u8]), outcome| {
        let frames = [
            headers(1, &post, false),
            data(1, b"hello", false),
            headers(1, &[trailer], true),
        ];
        table.add(format!("a trailer: {name}"), frames.concat(), outcome);
    };
    for name in [
        "content-length",
        "host",
        "authorization",
        "x-api-key",
        "x_api_key",
        "cookie",
        "trailer",
        "content_length",
        "x-throttleproxy-target",
    ] {
        trailed(
            name,
            (name.as_bytes(), b"5"),
            passes(case::chunked("hello")),
        );
    }
    for (name, value, outcome) in [
        (&b"transfer-encoding"[..], &b"chunked"[..], Outcome::Reset),
        (b"connection", b"close", Outcome::Reset),
        (b"X-Sum", b"1", Outcome::Goodbye),
        (b"x-a: b\r\nx-c", b"1", Outcome::Goodbye),
        (b"x-sum", b"1\r\nx-c: d", Outcome::Goodbye),
        (b"x-sum", b"\0", Outcome::Goodbye),
        // The library leaves these out.
        (b":path", b"/t/wire/hidden", passes(case::chunked("hello"))),
        (b":status", b"200", passes(case::chunked("hello"))),
    ] {
        trailed(
            &format!("{}: {}", name.escape_ascii(), value.escape_ascii()),
            (name, value),
            outcome,
        );
    }
}

/// The same fields in other frames.
fn frames(table: &mut Table<'_>) {
    let post = request(table.at, "POST", "/t/wire/case");
    let get = request(table.at, "GET", "/t/wire/case");
    table.add(
        "a head in many frames",
        headers_in_pieces(1, &get, true, 20),
        got(),
    );
    let pieces = [
        headers(1, &post, false),
        data(1, b"he", false),
        data(1, b"", false),
        data(1, b"llo", true),
    ];
    table.add(
        "a body in pieces",
        pieces.concat(),
        passes(case::chunked("hello")),
    );
    table.add(
        "a body without an end",
        [headers(1, &post, false), data(1, b"hello", false)].concat(),
        Outcome::Waits,
    );
    table.add(
        "a body that is taken back",
        [headers(1, &post, false), data(1, b"hello", false), reset(1)].concat(),
        Outcome::Waits,
    );
    for (name, frames) in [
        ("bytes before a head", data(1, b"hello", true)),
        ("a stream of the other side", headers(2, &get, true)),
        (
            "a head inside a head",
            [
                &headers_in_pieces(1, &get, true, 20)[..29],
                &headers(5, &get, true),
            ]
            .concat(),
        ),
    ] {
        table.add(name, frames, Outcome::Goodbye);
    }
    table.add(
        "bytes behind the end",
        [headers(1, &get, true), data(1, b"hello", true)].concat(),
        Outcome::Goodbye,
    );
    table.may_pass(case::got(&[]));
    let many: Vec<_> = (0..100).map(|at| format!("x-{at}")).collect();
    let many: Fields<'_> = many.iter().map(|it| (it.as_bytes(), &b"1"[..])).collect();
    let refusal = Outcome::Refused(431, "header_too_large");
    table.get("101 headers", &many, refusal);
    let long = vec![b'x'; 15_000];
    let long: Fields<'_> = (0..5).map(|_| (&b"x-a"[..], &long[..])).collect();
    let fields = [get, long].concat();
    table.add(
        "75 KiB of fields",
        headers_in_pieces(1, &fields, true, 16_384),
        Outcome::Library(431),
    );
}
