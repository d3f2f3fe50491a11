//! Folded lines are refused, wherever they stand.

use super::super::case::{Case, Class, Setting, got, library};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("folding");
    let key = &at.key;
    for (name, lines) in [
        ("with a space", "x-a: b\r\n c".to_owned()),
        ("with a tab", "x-a: b\r\n\tc".into()),
        ("with many spaces", "x-a: b\r\n     c".into()),
        ("twice", "x-a: b\r\n c\r\n d".into()),
        ("behind a lone LF", "x-a: b\n c".into()),
        ("of nothing", "x-a: b\r\n ".into()),
        ("of a tab only", "x-a: b\r\n\t".into()),
        ("an empty value", "x-a:\r\n b".into()),
        ("a line that looks like a field", "x-a: b\r\n x-c: d".into()),
        ("a length", "content-length:\r\n 5".into()),
        ("a length's second digit", "content-length: 1\r\n 0".into()),
        (
            "a field into a length",
            "x-a: b\r\n content-length: 5".into(),
        ),
        ("a coding", "transfer-encoding:\r\n chunked".into()),
        (
            "a coding's list",
            "transfer-encoding: gzip,\r\n chunked".into(),
        ),
        (
            "a field into a coding",
            "x-a: b\r\n transfer-encoding: chunked".into(),
        ),
        ("a key", format!("authorization: Bearer\r\n {key}")),
        ("a nomination", "connection: close,\r\n x-a".into()),
        ("a target", "x-throttleproxy-target:\r\n http://b".into()),
    ] {
        class.add(name, at.get(lines), library(400));
    }
    class.add(
        "the first field",
        format!("GET /t/wire/case HTTP/1.1\r\n host: a\r\nx-api-key: {key}\r\n\r\n").into_bytes(),
        library(400),
    );
    class.add(
        "the Host",
        format!("GET /t/wire/case HTTP/1.1\r\nhost:\r\n a\r\nx-api-key: {key}\r\n\r\n")
            .into_bytes(),
        library(400),
    );
    class.add(
        "an empty value without folding",
        at.get("x-a:"),
        got(&[("x-a", "")]),
    );
    class.done()
}
