//! Header names: which are removed, which look like them, and which are none.

use super::super::case::{Case, Class, Setting, got, library};

/// What no upstream may see (`data-plane/README.md`), in the spelling of HTTP.
const REMOVED: [&str; 24] = [
    "authorization",
    "cookie",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "via",
    "x-api-key",
    "x-forwarded-by",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-real-ip",
    "x-throttleproxy-error",
    "x-throttleproxy-key",
    "x-throttleproxy-stale",
    "x-throttleproxy-",
    "connection",
];

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("names");
    for name in REMOVED {
        if name != "x-api-key" {
            let sent = at.get(format!("{name}: x\r\nx-kept: 1"));
            class.add(format!("{name} is removed"), sent, got(&[("x-kept", "1")]));
        }
        let looks_like = name.replace('-', "_");
        if looks_like != name {
            let sent = at.get(format!("{looks_like}: x\r\nx-kept: 1"));
            class.add(
                format!("{looks_like} is removed"),
                sent,
                got(&[("x-kept", "1")]),
            );
        }
    }
    for name in [
        "content_length",
        "transfer_encoding",
        "Content_Length",
        "TRANSFER_ENCODING",
        "X_Forwarded_For",
        "x_forwarded-for",
        "x-forwarded_for",
        "x_throttleproxy-target",
        "X_API_KEY",
        "proxy_authorization",
    ] {
        let sent = at.get(format!("{name}: 44\r\nx-kept: 1"));
        class.add(
            format!("{name}, too, is removed"),
            sent,
            got(&[("x-kept", "1")]),
        );
    }
    for (name, line) in [
        ("a space behind it", "x-a : b"),
        ("a tab behind it", "x-a\t: b"),
        ("a space inside", "x a: b"),
        ("no characters", ": b"),
        ("a colon first", ":path: /hidden"),
        ("the name of HTTP/2's authority", ":authority: b"),
        ("the name of HTTP/2's method", ":method: GET"),
        ("a bracket", "x(a): b"),
        ("a square bracket", "x[a]: b"),
        ("a brace", "x{a}: b"),
        ("a slash", "x/a: b"),
        ("a backslash", "x\\a: b"),
        ("an at sign", "x@a: b"),
        ("a comma", "x,a: b"),
        ("a semicolon", "x;a: b"),
        ("an equals sign", "x=a: b"),
        ("a question mark", "x?a: b"),
        ("quotes", "\"x\": b"),
        ("angle brackets", "<x>: b"),
        ("bytes above 127", "x-\u{e9}: b"),
        ("a control byte", "x-\x01: b"),
        ("no colon behind it", "x-a"),
        ("a key without a colon", "x-api-key"),
    ] {
        class.add(format!("refused: {name}"), at.get(line), library(400));
    }
    for (line, header) in [
        ("x_custom: 1", ("x_custom", "1")),
        ("x-a!#$%&'*+.^_`|~: b", ("x-a!#$%&'*+.^_`|~", "b")),
        ("x.api.key: 1", ("x.api.key", "1")),
        ("x-api-key2: 1", ("x-api-key2", "1")),
        ("my-authorization: 1", ("my-authorization", "1")),
        ("x-a: b: c", ("x-a", "b: c")),
        ("x-a:: b", ("x-a", ": b")),
        ("1: 2", ("1", "2")),
        (
            "x-http-method-override: DELETE",
            ("x-http-method-override", "DELETE"),
        ),
        ("x-original-url: /hidden", ("x-original-url", "/hidden")),
        ("x-rewrite-url: /hidden", ("x-rewrite-url", "/hidden")),
    ] {
        class.add(format!("passes: {line}"), at.get(line), got(&[header]));
    }
    class.add(
        "the same name twice passes twice",
        at.get("x-a: b\r\nX-A: c"),
        got(&[("x-a", "b"), ("x-a", "c")]),
    );
    let lines = |count: usize| -> String {
        let lines: Vec<_> = (0..count).map(|at| format!("x-{at}: 1")).collect();
        lines.join("\r\n")
    };
    // Two more stand in every request of the corpus.
    class.add("101 of them", at.get(lines(99)), library(431));
    let many: Vec<_> = (0..98).map(|at| format!("x-{at}")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, "1")).collect();
    class.add("100 of them", at.get(lines(98)), got(&many));
    class.add(
        "a value of 70 KiB",
        at.get(format!("x-a: {}", "x".repeat(70 << 10))),
        library(431),
    );
    class.done()
}
