//! Heads: what stands in pseudo-fields, names and values.

use tests::wire::h2::headers;

use super::super::super::case;
use super::super::Outcome;
use super::{Fields, Table, bad_request, bad_target, got, passes, request};

pub(super) fn cases(table: &mut Table<'_>) {
    injections(table);
    pseudo(table);
    hosts(table);
    paths(table);
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
