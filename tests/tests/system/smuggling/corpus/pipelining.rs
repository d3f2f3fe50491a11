//! Several requests in one go: each ends where its framing says, and one that is refused
//! does not take the next one with it, nor let it hide.

use super::super::case::{
    Case, Class, Setting, Then, bad_request, bad_target, chunked, got, library, passed, posted,
    refused,
};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("pipelining");
    let hidden = at.hidden();
    let seen = || passed("GET", "/hidden", &[], "");
    let after = |first: Vec<u8>| [&first[..], &hidden].concat();
    class.all(
        "two",
        after(at.get("")),
        vec![got(&[]), seen()],
        Then::GoesOn,
    );
    class.all(
        "three",
        [at.get(""), hidden.clone(), hidden.clone()].concat(),
        vec![got(&[]), seen(), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind a body",
        after(at.post("content-length: 5", "hello")),
        vec![posted("hello"), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind chunks",
        after(at.post("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")),
        vec![chunked("hello"), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind chunks with a trailer",
        after(at.post(
            "transfer-encoding: chunked",
            "5\r\nhello\r\n0\r\nx-a: b\r\n\r\n",
        )),
        vec![chunked("hello"), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind a refusal",
        after(at.line("GET /elsewhere HTTP/1.1", "")),
        vec![bad_target(), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind a missing key",
        after(b"GET /t/wire/case HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        vec![refused(401, "missing_key"), seen()],
        Then::GoesOn,
    );
    class.all(
        "without a key, behind one with a key",
        [
            &at.get("")[..],
            b"GET /t/wire/hidden HTTP/1.1\r\nhost: a\r\n\r\n",
        ]
        .concat(),
        vec![got(&[]), refused(401, "missing_key")],
        Then::GoesOn,
    );
    class.all(
        "behind a HEAD",
        after(at.line("HEAD /t/wire/case HTTP/1.1", "")),
        vec![passed("HEAD", "/case", &[], ""), seen()],
        Then::GoesOn,
    );
    class.all(
        "behind empty lines",
        [&at.get("")[..], b"\r\n\r\n", &hidden].concat(),
        vec![got(&[]), seen()],
        Then::GoesOn,
    );
    for (name, first, outcome) in [
        ("close", at.get("connection: close"), got(&[])),
        (
            "HTTP/1.0",
            at.line("GET /t/wire/case HTTP/1.0", ""),
            got(&[]),
        ),
        (
            "TRACE",
            at.line("TRACE /t/wire/case HTTP/1.1", ""),
            bad_request(),
        ),
        ("two Hosts", at.get("host: b"), bad_request()),
        (
            "a length beside chunks",
            at.post(
                "content-length: 5\r\ntransfer-encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
            chunked("hello"),
        ),
        ("a folded line", at.get("x-a: b\r\n c"), library(400)),
        (
            "chunks that are wrong",
            at.post("transfer-encoding: chunked", "x\r\nhello\r\n0\r\n\r\n"),
            bad_request(),
        ),
        (
            "a preface of HTTP/2 for HTTP/1",
            b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n".to_vec(),
            library(400),
        ),
    ] {
        class.closes(
            format!("nothing is served behind {name}"),
            after(first),
            outcome,
        );
    }
    for (name, garbage) in [
        ("letters", &b"garbage\r\n\r\n"[..]),
        ("NUL", b"\0\0\0\0\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"),
        ("a chunk", b"5\r\nhello\r\n0\r\n\r\n"),
        ("an answer", b"HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        class.all(
            format!("{name} behind a request"),
            [&at.get("")[..], garbage].concat(),
            vec![got(&[]), library(400)],
            Then::Closes,
        );
    }
    let inner = [b"\r\n\r\n", &hidden[..]].concat();
    let length = format!("content-length: {}", inner.len());
    class.add(
        "a body that looks like the end of a head",
        at.post(&length, &inner),
        posted(&inner),
    );
    class.all(
        "a refused request whose body is a request",
        [
            at.line(
                "POST /elsewhere HTTP/1.1",
                format!("content-length: {}", hidden.len()),
            ),
            hidden.clone(),
        ]
        .concat(),
        vec![bad_target()],
        Then::GoesOn,
    );
    class.waits("half a head", at.head("GET /t/wire/case HTTP/1.1", ""));
    class.waits("half a request line", b"GET /t/wi".to_vec());
    class.done()
}
