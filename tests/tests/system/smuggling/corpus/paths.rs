//! Paths: what one server may read as another path than the one that was judged.

use super::super::case::{BASE, Case, Class, Setting, bad_target, got, passed, refused};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("paths");
    let get = |path: &str| at.line(format!("GET {path} HTTP/1.1"), "");
    // Behind `/t/wire` and, by URL, behind the target's base path.
    for path in [
        "/..",
        "/.",
        "/../",
        "/./",
        "/a/../b",
        "/a/./b",
        "/a/..",
        "/a/.",
        "/%2e%2e/b",
        "/%2E%2E/b",
        "/%2e./b",
        "/.%2e/b",
        "/.%2E",
        "/%2e",
        "/a/%2e%2e/%2e%2e/b",
        "/..;/b",
        "/..;x=1/b",
        "/a/..;/",
        "/a/.;/b",
        "/%2e%2e;/b",
        "/..%3b/b",
        "/..%3Bx/b",
        "/a%2f..%2fb",
        "/a%2F..%2Fb",
        "/a%2f%2e%2e%2fb",
        "/..%2fb",
        "/a/..%2f",
        "/a%2f.%2fb",
        "/a\\..\\b",
        "/..\\b",
        "/a%5c..%5cb",
        "/a%5C..%5Cb",
        "/..%5cb",
        "/a/.\\b",
        "/a//../b",
        "/a%00",
        "/%00/b",
        "/a%00b",
        "/..%00/b",
        "/a%0d%0aGET%20/hidden",
        "/a%0a",
        "/a%0d",
        "/a%09",
        "/a%1f",
        "/a%7f",
    ] {
        class.add(
            format!("by name: {path}"),
            get(&format!("/t/wire{path}")),
            bad_target(),
        );
        class.add(
            format!("by URL: {path}"),
            at.by_url(format!("{BASE}{path}")),
            bad_target(),
        );
    }
    for path in [
        "/a//b",
        "//a",
        "//",
        "/a/",
        "/...",
        "/..a",
        "/a..",
        "/.a/b",
        "/a./b",
        "/a;x=1/b",
        "/;/a",
        "/a;../b",
        "/%252e%252e/b",
        "/%25%32%65%25%32%65/b",
        "/a%2fb",
        "/a%5cb",
        "/%2e%2e%2e/b",
        "/%2e%2ea/b",
        "/a%3fb",
        "/a%23b",
        "/a%3bb",
        "/%c0%ae%c0%ae/b",
        "/%e0%80%ae/b",
        "/%u002e%u002e/b",
        "/%",
        "/%2",
        "/%zz",
        "/a+b",
        "/a:b@c",
        "/a,b",
        "/a'b(c)*!$&",
        "/a\"b",
        "/a|b",
        "/{a}",
        "/caf%C3%A9",
        "/a?../b",
        "/a?x=/../b",
        "/a?x=%2e%2e",
        "/a?x=%00",
        "/a?",
        "/a??",
        "/a?x_api_key2=1",
    ] {
        let seen = passed("GET", path, &[], "");
        class.add(
            format!("by name, verbatim: {path}"),
            get(&format!("/t/wire{path}")),
            seen.clone(),
        );
        class.add(
            format!("by URL, verbatim: {path}"),
            at.by_url(format!("{BASE}{path}")),
            seen,
        );
    }
    names(at, &mut class);
    fences(at, &mut class);
    class.done()
}

/// Tricks with the name of the target.
fn names(at: &Setting, class: &mut Class) {
    let get = |path: &str| at.line(format!("GET {path} HTTP/1.1"), "");
    for path in ["/t/wire", "/t/%77ire", "/t/%77%69%72%65/"] {
        let seen = passed("GET", "/", &[], "");
        class.add(format!("the root: {path}"), get(path), seen);
    }
    for path in [
        "/t/Wire/case",
        "/t/wire;x/case",
        "/t/wire%20/case",
        "/t/wire./case",
        "/t/wire%2fcase",
        "/t/wire:80/case",
        "/t/wire@b/case",
        "/t/%2577ire/case",
        "/t/nowhere/case",
    ] {
        class.add(
            format!("unknown: {path}"),
            get(path),
            refused(404, "unknown_target"),
        );
    }
    for path in [
        "/t//wire/case",
        "/t/",
        "/t",
        "/T/wire/case",
        "/%74/wire/case",
        "/t%2fwire/case",
        "/./t/wire/case",
        "/x/../t/wire/case",
        "/t/../t/wire/case",
        "/t/./wire/case",
        "/t;x/wire/case",
        "/t\\wire\\case",
    ] {
        class.add(format!("no name: {path}"), get(path), bad_target());
    }
    for (path, left) in [
        ("/t/wire/case?x_api_key=x", "/case"),
        ("/t/wire/case?a=b&x_api_key=x&c=d", "/case?a=b&c=d"),
        ("/t/wire/case?x%5Fapi%5fkey=x&a", "/case?a"),
        ("/t/wire/case?%78_api_key=x", "/case"),
        ("/t/wire/case?a=1;x_api_key=x", "/case?a=1;x_api_key=x"),
    ] {
        class.add(
            format!("the query's key: {path}"),
            get(path),
            passed("GET", left, &[], ""),
        );
    }
}

/// By URL: the base path is a fence, and the origin is an origin.
fn fences(at: &Setting, class: &mut Class) {
    for path in [
        "/",
        "/basement",
        "/BASE/a",
        "/bas%65/a",
        "/base%2fa",
        "/base;x/a",
        "/%62ase/a",
        "//base/a",
        "/x/base/a",
        "/base%20/a",
        "/base\\a",
    ] {
        class.add(
            format!("outside the fence: {path}"),
            at.by_url(path),
            refused(403, "target_not_allowed"),
        );
    }
    let port = at.port;
    let to = |origin: &str| {
        at.line(
            "GET /base/case HTTP/1.1",
            format!("x-throttleproxy-target: {origin}"),
        )
    };
    for (name, origin) in [
        ("a slash", format!("http://127.0.0.1:{port}/")),
        ("a path", format!("http://127.0.0.1:{port}/base")),
        ("a query", format!("http://127.0.0.1:{port}?x")),
        ("a fragment", format!("http://127.0.0.1:{port}#x")),
        ("a user", format!("http://a@127.0.0.1:{port}")),
        (
            "a user that looks like the host",
            format!("http://127.0.0.1:{port}@b"),
        ),
        ("a backslash", format!("http://127.0.0.1:{port}\\@b")),
        ("no scheme", format!("127.0.0.1:{port}")),
        ("two slashes only", format!("//127.0.0.1:{port}")),
        ("another scheme", format!("gopher://127.0.0.1:{port}")),
        ("a space", format!("http://127.0.0.1 :{port}")),
        ("two origins", format!("http://127.0.0.1:{port}, http://b")),
        ("an empty port", "http://127.0.0.1:".into()),
        ("a port that is too large", "http://127.0.0.1:65536".into()),
        ("nothing", String::new()),
        (
            "twice",
            format!("http://b\r\nx-throttleproxy-target: http://127.0.0.1:{port}"),
        ),
        (
            "twice the same",
            format!("http://127.0.0.1:{port}\r\nx-throttleproxy-target: http://127.0.0.1:{port}"),
        ),
    ] {
        class.add(format!("no origin: {name}"), to(&origin), bad_target());
    }
    for (name, origin) in [
        (
            "another spelling of the address",
            format!("http://2130706433:{port}"),
        ),
        ("a short address", format!("http://127.1:{port}")),
        ("an octal address", format!("http://0177.0.0.1:{port}")),
        ("a hexadecimal address", format!("http://0x7f.0.0.1:{port}")),
        (
            "the address inside IPv6",
            format!("http://[::ffff:127.0.0.1]:{port}"),
        ),
        ("a name for the address", format!("http://localhost:{port}")),
        (
            "a dot behind the address",
            format!("http://127.0.0.1.:{port}"),
        ),
        (
            "another scheme at the same port",
            format!("https://127.0.0.1:{port}"),
        ),
        ("no port", "http://127.0.0.1".into()),
        ("the metadata of a cloud", "http://169.254.169.254".into()),
    ] {
        class.add(
            format!("another origin: {name}"),
            to(&origin),
            refused(403, "target_not_allowed"),
        );
    }
    class.add(
        "an origin in upper case",
        to(&format!("HTTP://127.0.0.1:{port}")),
        got(&[]),
    );
    class.add(
        "a target that stands only under an underscore",
        at.line(
            "GET /base/case HTTP/1.1",
            format!("x_throttleproxy_target: http://127.0.0.1:{port}"),
        ),
        bad_target(),
    );
    class.add(
        "both ways: the header wins, and the path is outside the fence",
        at.line(
            "GET /t/wire/case HTTP/1.1",
            format!("x-throttleproxy-target: http://127.0.0.1:{port}"),
        ),
        refused(403, "target_not_allowed"),
    );
}
