//! `Transfer-Encoding`: `chunked` once, or none; never with a length in what goes upstream.

use super::super::case::{Case, Class, Setting, bad_request, chunked, got, library, passed};

const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("codings");
    for (name, line) in [
        ("as it should be", "transfer-encoding: chunked"),
        ("upper case", "TRANSFER-ENCODING: CHUNKED"),
        ("mixed case", "tRaNsFeR-eNcOdInG: cHuNkEd"),
        ("no space", "transfer-encoding:chunked"),
        ("spaces around", "transfer-encoding:    chunked   "),
        ("tabs around", "transfer-encoding:\tchunked\t"),
    ] {
        class.add(name, at.post(line, BODY), chunked("hello"));
    }
    // The last coding is not `chunked`: the library says that nobody could tell the end.
    for (name, value) in [
        ("nothing", ""),
        ("a letter in front", "xchunked"),
        ("a letter behind", "chunkedx"),
        ("a part of the word", "chunk"),
        ("another word", "cow"),
        ("identity", "identity"),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("compress", "compress"),
        ("br", "br"),
        ("chunked, then identity", "chunked, identity"),
        ("chunked, then gzip", "chunked, gzip"),
        ("a comma behind", "chunked,"),
        ("a comma and a space behind", "chunked, "),
        ("two commas behind", "chunked,,"),
        ("a parameter", "chunked;q=1"),
        ("a semicolon", "chunked;"),
        ("quotes", "\"chunked\""),
        ("single quotes", "'chunked'"),
        ("a value", "chunked=1"),
        ("two words", "gzip chunked"),
        ("a tab between two words", "chunked\tgzip"),
        ("a space in the word", "chun ked"),
        ("a hyphen", "-chunked"),
        ("a colon", ":chunked"),
        ("brackets", "[chunked]"),
        ("a no-break space in front", "\u{a0}chunked"),
        ("a no-break space behind", "chunked\u{a0}"),
        ("a letter that only looks so", "chun\u{212a}ed"),
        ("an accent", "ch\u{fa}nked"),
        ("a percent sign", "%63hunked"),
        ("a backslash", "\\chunked"),
    ] {
        let sent = at.post(format!("transfer-encoding: {value}"), BODY);
        class.add(format!("the value is {name}"), sent, library(400));
    }
    for (name, value) in [
        ("a vertical tab in front", &b"\x0bchunked"[..]),
        ("a vertical tab behind", b"chunked\x0b"),
        ("a form feed in front", b"\x0cchunked"),
        ("NUL behind", b"chunked\0"),
        ("NUL inside", b"chun\0ked"),
        ("a backspace behind", b"chunkedx\x08"),
        ("a bare CR in front", b"\rchunked"),
        ("a bare CR behind", b"chunked\r"),
    ] {
        let sent = at.post([b"transfer-encoding: ", value].concat(), BODY);
        class.add(name, sent, library(400));
    }
    // The last coding is `chunked`, and something stands in front of it.
    for (name, lines) in [
        ("gzip in front", "transfer-encoding: gzip, chunked"),
        (
            "gzip in front, without a space",
            "transfer-encoding: gzip,chunked",
        ),
        ("identity in front", "transfer-encoding: identity, chunked"),
        ("an unknown one in front", "transfer-encoding: cow, chunked"),
        ("a comma in front", "transfer-encoding: , chunked"),
        ("twice in a list", "transfer-encoding: chunked, chunked"),
        (
            "two lines",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ),
        (
            "two lines, identity first",
            "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        ),
        (
            "two lines, gzip first",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
        ),
        (
            "two lines, an empty one first",
            "transfer-encoding:\r\ntransfer-encoding: chunked",
        ),
        (
            "two lines, nonsense first",
            "transfer-encoding: x\r\nTransfer-Encoding: chunked",
        ),
    ] {
        class.add(name, at.post(lines, BODY), bad_request());
    }
    for (name, lines) in [
        (
            "two lines, identity last",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        ),
        (
            "two lines, an empty one last",
            "transfer-encoding: chunked\r\ntransfer-encoding:",
        ),
        (
            "two lines, nonsense last",
            "transfer-encoding: chunked\r\ntransfer-encoding: x",
        ),
    ] {
        class.add(name, at.post(lines, BODY), library(400));
    }
    beside_lengths(at, &mut class);
    misspelt(at, &mut class);

    class.add(
        "in HTTP/1.0",
        at.line(
            "POST /t/wire/case HTTP/1.0",
            format!("transfer-encoding: chunked\r\n\r\n{BODY}"),
        ),
        library(400),
    );
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "FETCH"] {
        let line = format!("{method} /t/wire/case HTTP/1.1");
        let sent = [
            &at.line(line, "transfer-encoding: chunked")[..],
            BODY.as_bytes(),
        ]
        .concat();
        let headers = [("transfer-encoding", "chunked")];
        class.add(
            format!("with {method}"),
            sent,
            passed(method, "/case", &headers, "hello"),
        );
    }
    class.done()
}

/// The library drops the length and says what it read; then the connection closes, since
/// whoever sent both may have meant the length (RFC 9112, 6.1).
fn beside_lengths(at: &Setting, class: &mut Class) {
    for (name, lines) in [
        (
            "a length first",
            "content-length: 5\r\ntransfer-encoding: chunked",
        ),
        (
            "a length last",
            "transfer-encoding: chunked\r\ncontent-length: 5",
        ),
        (
            "a length of zero first",
            "content-length: 0\r\ntransfer-encoding: chunked",
        ),
        (
            "a length of zero last",
            "transfer-encoding: chunked\r\ncontent-length: 0",
        ),
        (
            "equal lengths around",
            "content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
        ),
        (
            "lengths that differ around",
            "content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: 6",
        ),
        (
            "lengths that differ behind",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6",
        ),
        (
            "no number behind",
            "transfer-encoding: chunked\r\ncontent-length: x",
        ),
    ] {
        let sent = at.post(lines, BODY);
        class.closes(format!("beside {name}"), sent, chunked("hello"));
    }
    class.add(
        "beside no number in front",
        at.post("content-length: x\r\ntransfer-encoding: chunked", BODY),
        library(400),
    );
    class.add(
        "beside lengths that differ in front",
        at.post(
            "content-length: 5\r\ncontent-length: 6\r\ntransfer-encoding: chunked",
            BODY,
        ),
        library(400),
    );
    let hidden = at.hidden();
    class.closes(
        "a length that covers a hidden request",
        at.post(
            format!(
                "content-length: {}\r\ntransfer-encoding: chunked",
                hidden.len() + 5
            ),
            [b"0\r\n\r\n", &hidden[..]].concat(),
        ),
        chunked(""),
    );
    class.closes(
        "chunks that cover a hidden request",
        at.post(
            "content-length: 3\r\ntransfer-encoding: chunked",
            [
                format!("{:x}\r\n", hidden.len()).as_bytes(),
                &hidden[..],
                b"\r\n0\r\n\r\n",
            ]
            .concat(),
        ),
        chunked(&hidden),
    );
    class.add(
        "a length beside a coding that is none",
        at.post("content-length: 5\r\ntransfer-encoding: xchunked", "hello"),
        library(400),
    );
}

/// Not the name, so not a coding: refused, or a header like any other, and the body has
/// another end or none.
fn misspelt(at: &Setting, class: &mut Class) {
    for (name, line) in [
        ("a space before the colon", "transfer-encoding : chunked"),
        ("a tab before the colon", "transfer-encoding\t: chunked"),
        ("a space in the name", "transfer encoding: chunked"),
        ("a line end in the name", "transfer-encoding\r\n: chunked"),
        (
            "a line end before the value",
            "transfer-encoding:\r\n chunked",
        ),
        ("a bare CR in front", "x-a: b\rtransfer-encoding: chunked"),
        (
            "behind a folded line",
            "x-a: b\r\n transfer-encoding: chunked",
        ),
        (
            "a letter of another script",
            "transfer\u{2010}encoding: chunked",
        ),
        ("no colon", "transfer-encoding chunked"),
    ] {
        let lines = format!("{line}\r\ncontent-length: 5");
        class.add(name, at.post(lines, "hello"), library(400));
    }
    for line in [
        "transfer_encoding: chunked",
        "Transfer_Encoding: chunked",
        "TE: chunked",
        "content_length: 100\r\ntransfer_encoding: chunked",
    ] {
        let lines = format!("{line}\r\ncontent-length: 5");
        let headers = [("content-length", "5")];
        class.add(
            format!("removed: {line}"),
            at.post(lines, "hello"),
            passed("POST", "/case", &headers, "hello"),
        );
    }
    // These are names of nothing, on any server that reads names as they are.
    for (line, header) in [
        (
            "x-transfer-encoding: chunked",
            ("x-transfer-encoding", "chunked"),
        ),
        ("transferencoding: chunked", ("transferencoding", "chunked")),
        (
            "transfer-encodings: chunked",
            ("transfer-encodings", "chunked"),
        ),
        ("content-encoding: chunked", ("content-encoding", "chunked")),
        (
            "transfer.encoding: chunked",
            ("transfer.encoding", "chunked"),
        ),
    ] {
        class.add(format!("passes: {line}"), at.get(line), got(&[header]));
    }
    class.add(
        "a lone LF in front ends a line",
        at.post("x-a: b\ntransfer-encoding: chunked", BODY),
        passed(
            "POST",
            "/case",
            &[("transfer-encoding", "chunked"), ("x-a", "b")],
            "hello",
        ),
    );
}
