//! The request line: a method, one space, a path, one space, the version.

use super::super::case::{Case, Class, Setting, bad_request, bad_target, got, library, passed};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("request line");
    for (name, line) in [
        ("two spaces before the path", "GET  /t/wire/case HTTP/1.1"),
        (
            "two spaces before the version",
            "GET /t/wire/case  HTTP/1.1",
        ),
        ("a space behind the version", "GET /t/wire/case HTTP/1.1 "),
        ("a tab before the path", "GET\t/t/wire/case HTTP/1.1"),
        ("a tab before the version", "GET /t/wire/case\tHTTP/1.1"),
        ("a vertical tab", "GET\x0b/t/wire/case HTTP/1.1"),
        ("a space in the path", "GET /t/wire/ca se HTTP/1.1"),
        ("a word behind the version", "GET /t/wire/case HTTP/1.1 x"),
        ("a second version", "GET /t/wire/case HTTP/1.1 HTTP/1.1"),
        ("no path", "GET HTTP/1.1"),
        ("an empty path", "GET  HTTP/1.1"),
        ("no version", "GET /t/wire/case"),
        ("no version, but a space", "GET /t/wire/case "),
        ("HTTP/0.9", "GET /t/wire/case HTTP/0.9"),
        ("HTTP/1.2", "GET /t/wire/case HTTP/1.2"),
        ("HTTP/1.10", "GET /t/wire/case HTTP/1.10"),
        ("HTTP/1", "GET /t/wire/case HTTP/1"),
        ("HTTP/1.", "GET /t/wire/case HTTP/1."),
        ("HTTP/2.0", "GET /t/wire/case HTTP/2.0"),
        ("HTTP/3", "GET /t/wire/case HTTP/3"),
        ("HTTP/01.1", "GET /t/wire/case HTTP/01.1"),
        ("a comma for a point", "GET /t/wire/case HTTP/1,1"),
        ("lower case", "GET /t/wire/case http/1.1"),
        ("mixed case", "GET /t/wire/case Http/1.1"),
        ("a space in the version", "GET /t/wire/case HTTP/ 1.1"),
        ("another protocol", "GET /t/wire/case RTSP/1.0"),
        ("a backslash in the version", "GET /t/wire/case HTTP\\1.1"),
        ("no method", " /t/wire/case HTTP/1.1"),
        ("a bracket in the method", "GET( /t/wire/case HTTP/1.1"),
        ("a colon in the method", "GET: /t/wire/case HTTP/1.1"),
        ("a slash in the method", "GE/T /t/wire/case HTTP/1.1"),
        ("quotes around the method", "\"GET\" /t/wire/case HTTP/1.1"),
        ("a comma in the method", "GET,POST /t/wire/case HTTP/1.1"),
        ("NUL in the method", "GE\0T /t/wire/case HTTP/1.1"),
        (
            "a byte above 127 in the method",
            "G\u{c9}T /t/wire/case HTTP/1.1",
        ),
        ("a bare CR in the path", "GET /t/wire/ca\rse HTTP/1.1"),
        ("NUL in the path", "GET /t/wire/ca\0se HTTP/1.1"),
        ("a tab in the path", "GET /t/wire/ca\tse HTTP/1.1"),
        ("DEL in the path", "GET /t/wire/ca\x7fse HTTP/1.1"),
        ("an escape in the path", "GET /t/wire/ca\x1bse HTTP/1.1"),
        (
            "a control byte in the query",
            "GET /t/wire/case?x=\x01 HTTP/1.1",
        ),
    ] {
        class.add(name, at.line(line, ""), library(400));
    }
    class.add(
        "a path that is no UTF-8",
        at.line(b"GET /t/wire/\xff HTTP/1.1", ""),
        library(400),
    );
    for (line, method) in [
        ("get /t/wire/case HTTP/1.1", "get"),
        ("FETCH /t/wire/case HTTP/1.1", "FETCH"),
        ("M-SEARCH /t/wire/case HTTP/1.1", "M-SEARCH"),
        ("!#$%&'*+-.^_`|~ /t/wire/case HTTP/1.1", "!#$%&'*+-.^_`|~"),
        ("PRIX /t/wire/case HTTP/1.1", "PRIX"),
        ("TRACK /t/wire/case HTTP/1.1", "TRACK"),
    ] {
        class.add(
            format!("the method {method} passes"),
            at.line(line, ""),
            passed(method, "/case", &[], ""),
        );
    }
    for (name, line) in [
        ("CONNECT", "CONNECT a:443 HTTP/1.1"),
        ("CONNECT with a path", "CONNECT /t/wire/case HTTP/1.1"),
        ("TRACE", "TRACE /t/wire/case HTTP/1.1"),
        ("PRI", "PRI /t/wire/case HTTP/1.1"),
        ("PRI with an asterisk", "PRI * HTTP/1.1"),
    ] {
        class.add(name, at.line(line, ""), bad_request());
    }
    class.closes(
        "HTTP/1.0",
        at.line("GET /t/wire/case HTTP/1.0", ""),
        got(&[]),
    );
    class.add(
        "HTTP/1.0 that wants to go on",
        at.line("GET /t/wire/case HTTP/1.0", "connection: keep-alive"),
        got(&[]),
    );
    targets(at, &mut class);
    class.done()
}

/// What stands where the path should.
fn targets(at: &Setting, class: &mut Class) {
    for (name, target) in [
        ("absolute", "http://a/t/wire/case"),
        ("absolute, in upper case", "HTTP://A/t/wire/case"),
        ("absolute, https", "https://a/t/wire/case"),
        ("absolute, another scheme", "ftp://a/t/wire/case"),
        ("absolute, an empty scheme", "://a/t/wire/case"),
        ("a fragment", "/t/wire/case#fragment"),
        ("an empty fragment", "/t/wire/case#"),
        (
            "a fragment that looks like a path",
            "/t/wire/case#/../hidden",
        ),
    ] {
        class.add(
            name,
            at.line(format!("GET {target} HTTP/1.1"), ""),
            got(&[]),
        );
    }
    for (name, target) in [
        ("another host", "http://b/t/wire/case"),
        ("the host with a port", "http://a:80/t/wire/case"),
        ("the host with an empty port", "http://a:/t/wire/case"),
        ("the host with a dot", "http://a./t/wire/case"),
        ("a user", "http://user@a/t/wire/case"),
        ("the host as a user", "http://a@b/t/wire/case"),
        ("an empty user", "http://@a/t/wire/case"),
        ("a longer host", "http://aa/t/wire/case"),
        ("an IPv6 literal", "http://[::1]/t/wire/case"),
        ("two users", "http://x@y@a/t/wire/case"),
        ("a port that is none", "http://a:b/t/wire/case"),
        ("authority form of another host", "b:80"),
        ("authority form", "a:80"),
    ] {
        let sent = at.line(format!("GET {target} HTTP/1.1"), "");
        class.add(format!("another authority: {name}"), sent, bad_request());
    }
    for (name, target) in [
        ("no host", "http:///t/wire/case"),
        ("no slashes", "http:/t/wire/case"),
        ("an unclosed bracket", "http://[::1/t/wire/case"),
        ("a relative path", "t/wire/case"),
        ("dots", "../t/wire/case"),
        ("a query only", "?x"),
        ("a fragment only", "#x"),
        ("a backslash", "\\t\\wire\\case"),
    ] {
        let sent = at.line(format!("GET {target} HTTP/1.1"), "");
        class.add(format!("no target: {name}"), sent, library(400));
    }
    for (name, line) in [
        ("asterisk", "OPTIONS * HTTP/1.1"),
        ("asterisk for a GET", "GET * HTTP/1.1"),
        ("absolute without a path", "GET http://a HTTP/1.1"),
        ("absolute with a query only", "GET http://a?x HTTP/1.1"),
        ("two slashes and a host", "GET //a/t/wire/case HTTP/1.1"),
        ("two slashes", "GET //t/wire/case HTTP/1.1"),
        ("the root", "GET / HTTP/1.1"),
        ("authority form of the Host itself", "GET a HTTP/1.1"),
    ] {
        class.add(name, at.line(line, ""), bad_target());
    }
    let long = "x".repeat(65_600);
    class.add(
        "a path of 64 KiB",
        at.line(format!("GET /t/wire/{long} HTTP/1.1"), ""),
        library(431),
    );
    let long = "x".repeat(8_000);
    class.add(
        "a path of 8,000 bytes",
        at.line(format!("GET /t/wire/{long} HTTP/1.1"), ""),
        passed("GET", &format!("/{long}"), &[], ""),
    );
}
