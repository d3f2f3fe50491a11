//! Where a key may stand, and when there is more than one.

use super::super::case::{Case, Class, Setting, got, refused};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("credentials");
    let Setting { key, other, .. } = at;
    let get = |lines: String| {
        format!("GET /t/wire/case HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n").into_bytes()
    };
    for (name, lines) in [
        ("x-api-key", format!("x-api-key: {key}")),
        ("X-API-KEY", format!("X-API-KEY: {key}")),
        ("spaces around", format!("x-api-key:   {key}   ")),
        ("tabs around", format!("x-api-key:\t{key}\t")),
        ("Bearer", format!("authorization: Bearer {key}")),
        ("bearer", format!("authorization: bearer {key}")),
        ("BEARER", format!("authorization: BEARER {key}")),
        (
            "two spaces behind Bearer",
            format!("authorization: Bearer  {key}"),
        ),
        (
            "the same in both",
            format!("x-api-key: {key}\r\nauthorization: Bearer {key}"),
        ),
        (
            "the same twice",
            format!("x-api-key: {key}\r\nx-api-key: {key}"),
        ),
        (
            "the same authorization twice",
            format!("authorization: Bearer {key}\r\nauthorization: Bearer {key}"),
        ),
        (
            "a foreign token beside",
            format!("x-api-key: {key}\r\nauthorization: Bearer sk-x"),
        ),
        (
            "a password beside",
            format!("x-api-key: {key}\r\nauthorization: Basic dTpw"),
        ),
        (
            "a foreign key beside",
            format!("x-api-key: sk-x\r\nauthorization: Bearer {key}"),
        ),
        (
            "an empty authorization beside",
            format!("x-api-key: {key}\r\nauthorization:"),
        ),
        (
            "an empty x-api-key beside",
            format!("x-api-key:\r\nauthorization: Bearer {key}"),
        ),
        (
            "another key in a cookie",
            format!("x-api-key: {key}\r\ncookie: k={other}"),
        ),
        (
            "another key where nobody looks",
            format!("x-api-key: {key}\r\nproxy-authorization: Bearer {other}"),
        ),
        (
            "another key under an underscore",
            format!("x-api-key: {key}\r\nx_api_key: {other}"),
        ),
    ] {
        class.add(name, get(lines), got(&[]));
    }
    for (name, lines) in [
        (
            "two keys",
            format!("x-api-key: {key}\r\nauthorization: Bearer {other}"),
        ),
        (
            "two keys, the other way",
            format!("x-api-key: {other}\r\nauthorization: Bearer {key}"),
        ),
        (
            "x-api-key twice",
            format!("x-api-key: {key}\r\nx-api-key: {other}"),
        ),
        (
            "a foreign one first",
            format!("x-api-key: sk-x\r\nx-api-key: {key}"),
        ),
        (
            "a foreign one last",
            format!("x-api-key: {key}\r\nx-api-key: sk-x"),
        ),
        (
            "an empty one first",
            format!("x-api-key:\r\nx-api-key: {key}"),
        ),
        (
            "an empty one last",
            format!("x-api-key: {key}\r\nx-api-key:"),
        ),
        (
            "authorization twice",
            format!("authorization: Bearer {key}\r\nauthorization: Bearer {other}"),
        ),
        (
            "authorization with two schemes",
            format!("authorization: Bearer {key}\r\nauthorization: Basic dTpw"),
        ),
        (
            "the same in two spellings",
            format!("authorization: Bearer {key}\r\nauthorization: bearer {key}"),
        ),
        (
            "one in the query",
            format!("x-api-key: {key}\r\nx-throttleproxy-a: b"),
        ),
    ] {
        let mut sent = get(lines);
        if name == "one in the query" {
            let text = String::from_utf8(sent).expect("it is text");
            sent = text
                .replacen("/case", &format!("/case?x_api_key={other}"), 1)
                .into_bytes();
        }
        class.add(
            format!("ambiguous: {name}"),
            sent,
            refused(400, "ambiguous_credentials"),
        );
    }
    for (name, lines) in [
        ("none", "x-a: b".to_owned()),
        ("an empty one", "x-api-key:".into()),
        ("another scheme", format!("authorization: Basic {key}")),
        ("no scheme", format!("authorization: {key}")),
        (
            "no space behind Bearer",
            format!("authorization: Bearer{key}"),
        ),
        (
            "a tab behind Bearer",
            format!("authorization: Bearer\t{key}"),
        ),
        ("under an underscore", format!("x_api_key: {key}")),
        (
            "in the proxy's authorization",
            format!("proxy-authorization: Bearer {key}"),
        ),
        ("in a cookie", format!("cookie: x-api-key={key}")),
        ("under HTTP_X_API_KEY", format!("http_x_api_key: {key}")),
    ] {
        class.add(
            format!("missing: {name}"),
            get(lines),
            refused(401, "missing_key"),
        );
    }
    let short = &key[..key.len() - 1];
    let upper = key.to_uppercase();
    for (name, lines) in [
        ("one character less", format!("x-api-key: {short}")),
        ("one character more", format!("x-api-key: {key}x")),
        ("quotes", format!("x-api-key: \"{key}\"")),
        ("a list", format!("x-api-key: {key}, {key}")),
        ("two words", format!("x-api-key: {key} {key}")),
        ("a scheme", format!("x-api-key: Bearer {key}")),
        ("upper case", format!("x-api-key: {upper}")),
        ("a parameter", format!("authorization: Bearer {key};a=b")),
        (
            "a list of schemes",
            format!("authorization: Bearer {key}, Basic dTpw"),
        ),
        ("a byte above 127", format!("x-api-key: {key}\u{e9}")),
    ] {
        class.add(
            format!("no key of ours: {name}"),
            get(lines),
            refused(401, "invalid_key"),
        );
    }
    class.done()
}
