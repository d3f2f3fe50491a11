//! `Content-Length`: one number of digits, or none.

use super::super::case::{Case, Class, Setting, Then, got, library, passed, posted, refused};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("lengths");
    let hidden = at.hidden();

    for (name, value) in [
        ("a plus sign", "+5"),
        ("a minus sign", "-5"),
        ("minus zero", "-0"),
        ("hexadecimal", "0x5"),
        ("a hexadecimal digit", "a"),
        ("a suffix", "5h"),
        ("a fraction", "5.0"),
        ("an exponent", "5e0"),
        ("a separator", "1_0"),
        ("a thousands separator", "1,000"),
        ("nothing", ""),
        ("a space only", " "),
        ("a word", "five"),
        ("two numbers", "5 5"),
        ("digits apart", "0 5"),
        ("a list of two that differ", "5,6"),
        ("a list of two that are equal", "5, 5"),
        ("a list without spaces", "5,5"),
        ("a comma in front", ",5"),
        ("a comma behind", "5,"),
        ("a semicolon", "5;"),
        ("a parameter", "5;q=1"),
        ("quotes", "\"5\""),
        ("brackets", "(5)"),
        ("a comment", "5 (five)"),
        ("digits of another script", "\u{ff15}"),
        ("a no-break space", "\u{a0}5"),
        ("2^64", "18446744073709551616"),
        ("2^64 + 5", "18446744073709551621"),
        ("2^128 + 5", "340282366920938463463374607431768211461"),
    ] {
        let sent = at.post(format!("content-length: {value}"), "hello");
        class.add(format!("the value is {name}"), sent, library(400));
    }
    for (name, value) in [
        ("NUL behind", &b"5\0"[..]),
        ("a vertical tab in front", b"\x0b5"),
        ("a form feed behind", b"5\x0c"),
        ("DEL behind", b"5\x7f"),
    ] {
        let lines = [b"content-length: ", value].concat();
        let sent = at.post(lines, "hello");
        class.add(format!("{name} the number"), sent, library(400));
    }
    for (name, line) in [
        ("spaces in front", "content-length:   5"),
        ("spaces behind", "content-length: 5   "),
        ("tabs around", "content-length:\t5\t"),
        ("no space", "content-length:5"),
        ("upper case", "CONTENT-LENGTH: 5"),
        ("mixed case", "cOnTeNt-LeNgTh: 5"),
    ] {
        class.add(name, at.post(line, "hello"), posted("hello"));
    }
    for (name, value) in [
        ("one", "05"),
        ("an octal number", "010"),
        ("many", "0000000000000000000000005"),
        ("only", "00"),
    ] {
        let sent = at.post(format!("content-length: {value}"), "hello678");
        class.closes(
            format!("leading zeros: {name}"),
            sent,
            refused(400, "bad_request"),
        );
    }
    for (name, lines) in [
        ("they differ", "content-length: 5\r\ncontent-length: 6"),
        ("the smaller last", "content-length: 6\r\ncontent-length: 5"),
        ("one is zero", "content-length: 0\r\ncontent-length: 44"),
        ("zero last", "content-length: 44\r\ncontent-length: 0"),
        (
            "three, the last differs",
            "content-length: 5\r\ncontent-length: 5\r\ncontent-length: 6",
        ),
        (
            "they differ in case and number",
            "Content-Length: 5\r\nCONTENT-LENGTH: 6",
        ),
        (
            "the second is none",
            "content-length: 5\r\ncontent-length: x",
        ),
        (
            "the first is none",
            "content-length: x\r\ncontent-length: 5",
        ),
        (
            "far apart",
            "content-length: 5\r\nx-a: b\r\ncontent-length: 6",
        ),
    ] {
        class.add(
            format!("two: {name}"),
            at.post(lines, "hello!"),
            library(400),
        );
    }
    // The library keeps one of them: that is all the upstream hears of it.
    for (name, lines) in [
        ("equal", "content-length: 5\r\ncontent-length: 5"),
        (
            "equal, in another case",
            "content-length: 5\r\nCONTENT-LENGTH: 5",
        ),
        (
            "three equal",
            "content-length: 5\r\ncontent-length: 5\r\ncontent-length: 5",
        ),
        (
            "equal but for a zero in the second",
            "content-length: 5\r\ncontent-length: 05",
        ),
    ] {
        class.add(
            format!("two: {name}"),
            at.post(lines, "hello"),
            posted("hello"),
        );
    }

    class.all(
        "zero, and a request behind it, which is one",
        [at.post("content-length: 0", ""), hidden.clone()].concat(),
        vec![posted(""), passed("GET", "/hidden", &[], "")],
        Then::GoesOn,
    );
    let length = format!("content-length: {}", hidden.len());
    class.add(
        "a whole request as the body",
        at.post(&length, &hidden),
        posted(&hidden),
    );
    class.all(
        "no length, and bytes that are no request",
        at.post("", "hello\r\n\r\n"),
        vec![passed("POST", "/case", &[], ""), library(400)],
        Then::Closes,
    );
    class.all(
        "shorter than the bytes, which then begin no request",
        at.post("content-length: 3", "hello\r\n\r\n"),
        vec![posted("hel"), library(400)],
        Then::Closes,
    );
    class.waits(
        "longer than the bytes",
        at.post("content-length: 500", "hello"),
    );
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH", "FETCH"] {
        let line = format!("{method} /t/wire/case HTTP/1.1");
        let sent = [at.line(line, &length), hidden.clone()].concat();
        let headers = [("content-length", &*hidden.len().to_string())];
        class.add(
            format!("{method} with a request as its body"),
            sent,
            passed(method, "/case", &headers, &hidden),
        );
    }
    class.add(
        "HEAD with a request as its body",
        [
            at.line("HEAD /t/wire/case HTTP/1.1", &length),
            hidden.clone(),
        ]
        .concat(),
        passed(
            "HEAD",
            "/case",
            &[("content-length", &hidden.len().to_string())],
            &hidden,
        ),
    );
    class.closes(
        "in HTTP/1.0",
        at.line(
            "POST /t/wire/case HTTP/1.0",
            "content-length: 5\r\n\r\nhello",
        ),
        posted("hello"),
    );
    class.closes(
        "more than the cap",
        at.post("content-length: 10485761", ""),
        refused(413, "request_too_large"),
    );
    class.closes(
        "2^63",
        at.post("content-length: 9223372036854775808", ""),
        refused(413, "request_too_large"),
    );
    class.add(
        "2^64 - 1",
        at.post("content-length: 18446744073709551615", ""),
        library(431),
    );
    class.add(
        "zero for a GET",
        at.get("content-length: 0"),
        got(&[("content-length", "0")]),
    );
    class.add(
        "a length that waits to be asked for its body",
        at.post("content-length: 5\r\nexpect: 100-continue", "hello"),
        passed(
            "POST",
            "/case",
            &[("content-length", "5"), ("expect", "100-continue")],
            "hello",
        ),
    );
    class.done()
}
