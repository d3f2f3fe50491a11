//! `Host`: one, and what it can be (RFC 9112, 3.2). The upstream gets its own.

use super::super::case::{Case, Class, Setting, bad_request, got, library};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("hosts");
    let with = |line: &str, lines: &str| {
        let key = &at.key;
        format!("{line}\r\nx-api-key: {key}\r\n{lines}\r\n").into_bytes()
    };
    let get = |lines: &str| with("GET /t/wire/case HTTP/1.1", lines);
    for (name, lines) in [
        ("missing", ""),
        ("two that differ", "host: a\r\nhost: b\r\n"),
        ("two that are equal", "host: a\r\nhost: a\r\n"),
        ("two, one empty", "host: a\r\nhost:\r\n"),
        ("two in different case", "host: a\r\nHOST: a\r\n"),
        ("two far apart", "host: a\r\nx-a: b\r\nhost: b\r\n"),
        ("only one with an underscore's look", "ho_st: a\r\n"),
        ("only in another field", "x-host: a\r\n"),
        ("empty", "host:\r\n"),
        ("a space", "host: a b\r\n"),
        ("a list", "host: a, b\r\n"),
        ("a comma", "host: a,b\r\n"),
        ("a tab", "host: a\tb\r\n"),
        ("a user", "host: user@a\r\n"),
        ("a user and a password", "host: user:pass@a\r\n"),
        ("a path", "host: a/b\r\n"),
        ("a whole URL", "host: http://a\r\n"),
        ("a query", "host: a?b\r\n"),
        ("a fragment", "host: a#b\r\n"),
        ("a backslash", "host: a\\b\r\n"),
        ("a port that is none", "host: a:b\r\n"),
        ("a negative port", "host: a:-1\r\n"),
        ("a port that is too large", "host: a:65536\r\n"),
        ("two ports", "host: a:80:80\r\n"),
        ("a port only", "host: :80\r\n"),
        ("an unclosed bracket", "host: [::1\r\n"),
        ("an IPv6 literal without brackets", "host: ::1\r\n"),
        ("brackets around nothing", "host: []\r\n"),
        ("letters behind brackets", "host: [::1]a\r\n"),
        ("bytes above 127", "host: caf\u{e9}\r\n"),
        ("a quote", "host: \"a\"\r\n"),
        ("angle brackets", "host: <a>\r\n"),
        ("half an escape", "host: a%2\r\n"),
    ] {
        class.add(name, get(lines), bad_request());
    }
    for (name, lines) in [
        ("a colon before the name", ":host: a\r\n"),
        ("a space before the colon", "host : a\r\n"),
        ("NUL", "host: a\0b\r\n"),
    ] {
        class.add(name, get(lines), library(400));
    }
    class.add(
        "missing in HTTP/1.0",
        with("GET /t/wire/case HTTP/1.0", ""),
        bad_request(),
    );
    for (name, lines) in [
        ("a name", "host: proxy.example\r\n"),
        ("upper case", "HOST: PROXY.EXAMPLE\r\n"),
        ("a port", "host: a:8080\r\n"),
        ("an empty port", "host: a:\r\n"),
        ("an IPv4 address", "host: 127.0.0.1\r\n"),
        ("an IPv6 literal", "host: [::1]\r\n"),
        ("an IPv6 literal with a port", "host: [::1]:80\r\n"),
        ("an underscore", "host: a_b\r\n"),
        ("a dot at the end", "host: a.example.\r\n"),
        ("spaces around", "host:   a   \r\n"),
        ("the upstream's", "host: 127.0.0.1:9\r\n"),
        ("an escape", "host: a%20b\r\n"),
    ] {
        class.add(format!("passes: {name}"), get(lines), got(&[]));
    }
    class.done()
}
