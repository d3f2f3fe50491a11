//! Line ends: CR LF. A lone LF is read as one and written anew; a lone CR is refused.

use super::super::case::{Case, Class, Setting, got, library, passed, posted};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("line ends");
    let key = &at.key;
    let lone_lf = |text: &str| text.replace("\r\n", "\n").into_bytes();
    let get = String::from_utf8(at.get("x-a: b")).expect("it is text");
    class.add("lone LF everywhere", lone_lf(&get), got(&[("x-a", "b")]));
    class.add(
        "lone LF behind the request line",
        get.replacen("\r\n", "\n", 1).into_bytes(),
        got(&[("x-a", "b")]),
    );
    class.add(
        "lone LF behind the last field",
        get.replace("b\r\n", "b\n").into_bytes(),
        got(&[("x-a", "b")]),
    );
    class.add(
        "lone LF as the empty line",
        get.replace("b\r\n\r\n", "b\r\n\n").into_bytes(),
        got(&[("x-a", "b")]),
    );
    class.add(
        "LF CR LF at the end",
        get.replace("b\r\n\r\n", "b\n\r\n").into_bytes(),
        got(&[("x-a", "b")]),
    );
    class.add(
        "lone LF between a field and a length",
        at.post("x-a: b\ncontent-length: 5", "hello"),
        passed(
            "POST",
            "/case",
            &[("content-length", "5"), ("x-a", "b")],
            "hello",
        ),
    );
    class.add(
        "lone LF between a field and a key",
        at.get(format!("x-a: b\nx-api-key: {key}")),
        got(&[("x-a", "b")]),
    );

    for (name, lines) in [
        ("a bare CR in a value", &b"x-a: b\rc"[..]),
        ("a bare CR before a field", b"x-a: b\rx-c: d"),
        ("a bare CR in a name", b"x-\ra: b"),
        ("a bare CR behind the colon", b"x-a:\rb"),
        ("a bare CR before the colon", b"x-a\r: b"),
        ("CR CR LF", b"x-a: b\r\r\nx-c: d"),
        ("a line of a bare CR", b"x-a: b\r\n\rx-c: d"),
        ("LF CR instead of CR LF", b"x-a: b\n\rx-c: d"),
        ("NUL in a value", b"x-a: b\0c"),
        ("NUL in a name", b"x-\0a: b"),
        ("NUL before a line end", b"x-a: b\0"),
        ("a vertical tab in a value", b"x-a: b\x0bc"),
        ("a form feed in a value", b"x-a: b\x0cc"),
        ("an escape in a value", b"x-a: \x1b[0m"),
        ("DEL in a value", b"x-a: b\x7fc"),
        ("DEL in a name", b"x-\x7fa: b"),
        ("a file separator in a value", b"x-a: b\x1cc"),
        ("a bare CR before a length", b"x-a: b\rcontent-length: 5"),
        ("a bare CR in a length", b"content-length: 0\r5"),
    ] {
        class.add(name, at.get(lines), library(400));
    }
    class.add(
        "a bare CR behind the request line",
        get.replacen("\r\n", "\r", 1).into_bytes(),
        library(400),
    );
    class.add(
        "CR CR LF behind the request line",
        get.replacen("\r\n", "\r\r\n", 1).into_bytes(),
        library(400),
    );
    class.add(
        "CR CR LF at the end",
        get.replace("b\r\n\r\n", "b\r\n\r\r\n").into_bytes(),
        library(400),
    );
    class.add(
        "only bare CRs",
        get.replace("\r\n", "\r").into_bytes(),
        library(400),
    );

    class.add(
        "a tab in a value",
        at.get("x-a: b\tc"),
        got(&[("x-a", "b\tc")]),
    );
    class.add(
        "bytes above 127 in a value",
        at.get("x-a: caf\u{e9}"),
        got(&[("x-a", "caf\u{e9}")]),
    );
    for (name, front) in [
        ("an empty line in front", "\r\n"),
        ("four empty lines in front", "\r\n\r\n\r\n\r\n"),
        ("a lone LF in front", "\n"),
    ] {
        let sent = [front.as_bytes(), &at.get("")].concat();
        class.add(name, sent, got(&[]));
    }
    for (name, front) in [
        ("a bare CR in front", "\r"),
        ("a space in front", " "),
        ("a tab in front", "\t"),
        ("NUL in front", "\0"),
        ("a byte order mark in front", "\u{feff}"),
        ("a line of spaces in front", "  \r\n"),
    ] {
        let sent = [front.as_bytes(), &at.get("")].concat();
        class.add(name, sent, library(400));
    }
    class.add(
        "an empty line behind the body, as old clients send it",
        at.post("content-length: 5", "hello\r\n"),
        posted("hello"),
    );
    class.done()
}
