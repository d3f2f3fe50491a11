//! `Connection` removes what it names, and nothing that frames a request or says whose it
//! is; nothing of it passes.

use super::super::case::{Case, Class, Setting, chunked, got, passed, posted};

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("connection");
    let key = &at.key;
    for (name, lines) in [
        ("a header", "connection: x-hop\r\nx-hop: 1"),
        ("a header in another case", "connection: X-HOP\r\nx-hop: 1"),
        ("a header before it", "x-hop: 1\r\nconnection: x-hop"),
        (
            "a header with spaces around",
            "connection:  keep-alive ,  x-hop \r\nx-hop: 1",
        ),
        (
            "a header in a second line",
            "connection: keep-alive\r\nconnection: x-hop\r\nx-hop: 1",
        ),
        (
            "two headers",
            "connection: x-hop, x-hop2\r\nx-hop: 1\r\nx-hop2: 1",
        ),
        (
            "a header that came twice",
            "connection: x-hop\r\nx-hop: 1\r\nx-hop: 2",
        ),
        (
            "a header with an underscore",
            "connection: x-hop\r\nx_hop: 1",
        ),
        ("empty elements", "connection: ,,x-hop,,\r\nx-hop: 1"),
        (
            "a header with a tab around",
            "connection:\tx-hop\t\r\nx-hop: 1",
        ),
        ("what is not there", "connection: x-hop"),
        ("the key", "connection: x-api-key"),
        ("the authorization", "connection: authorization"),
        ("the target", "connection: x-throttleproxy-target"),
        ("a cookie", "connection: cookie\r\ncookie: a=b"),
        ("the Host", "connection: host"),
        ("the Host in upper case", "connection: HOST"),
        ("itself", "connection: connection"),
        (
            "keep-alive",
            "connection: keep-alive\r\nkeep-alive: timeout=5",
        ),
        ("TE", "connection: te\r\nte: gzip"),
        ("a request line", "connection: GET /t/wire/hidden HTTP/1.1"),
        (
            "an upgrade to h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
        ),
        ("nothing", "connection:"),
        ("a quoted name", "connection: \"x-hop\""),
        ("a wildcard", "connection: *"),
        ("a name of the other header's look", "connection: x_api_key"),
    ] {
        class.add(format!("names {name}"), at.get(lines), got(&[]));
    }
    class.add(
        "names authorization, and the key stands there",
        format!(
            "GET /t/wire/case HTTP/1.1\r\nhost: a\r\nconnection: authorization\r\n\
             authorization: Bearer {key}\r\n\r\n"
        )
        .into_bytes(),
        got(&[]),
    );
    class.add(
        "names the length",
        at.post("connection: content-length\r\ncontent-length: 5", "hello"),
        posted("hello"),
    );
    class.add(
        "names the length in upper case",
        at.post("connection: CONTENT-LENGTH\r\ncontent-length: 5", "hello"),
        posted("hello"),
    );
    class.add(
        "names the coding",
        at.post(
            "connection: transfer-encoding\r\ntransfer-encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunked("hello"),
    );
    class.add(
        "names length and coding",
        at.post(
            "connection: content-length, transfer-encoding, host\r\ncontent-length: 5",
            "hello",
        ),
        posted("hello"),
    );
    class.add(
        "names the type of the body",
        at.post(
            "connection: content-type\r\ncontent-type: text/plain\r\ncontent-length: 5",
            "hello",
        ),
        posted("hello"),
    );
    for (name, lines) in [
        ("close", "connection: close"),
        ("close in upper case", "connection: CLOSE"),
        ("close in a list", "connection: x-hop, close\r\nx-hop: 1"),
        ("close, then keep-alive", "connection: close, keep-alive"),
        (
            "close and keep-alive in two lines",
            "connection: close\r\nconnection: keep-alive",
        ),
        (
            "keep-alive and close in two lines",
            "connection: keep-alive\r\nconnection: close",
        ),
    ] {
        class.closes(name, at.get(lines), got(&[]));
    }
    for (name, lines) in [
        ("close of another header", "proxy-connection: close"),
        ("a word that holds close", "connection: closed"),
        ("close with a parameter", "connection: close;q=1"),
    ] {
        class.add(name, at.get(lines), got(&[]));
    }
    upgrades(at, &mut class);
    for (value, passes) in [
        ("trailers", true),
        ("TRAILERS", true),
        ("trailers, gzip", true),
        ("gzip, trailers", true),
        ("gzip", false),
        ("chunked", false),
        ("xtrailers", false),
        ("", false),
    ] {
        let headers: &[_] = if passes { &[("te", "trailers")] } else { &[] };
        class.add(
            format!("te: {value}"),
            at.get(format!("te: {value}")),
            got(headers),
        );
    }
    class.add(
        "expects twice",
        at.get("expect: 100-continue\r\nexpect: 100-continue"),
        got(&[("expect", "100-continue"), ("expect", "100-continue")]),
    );
    class.add(
        "expects something else",
        at.post("expect: 200-ok\r\ncontent-length: 5", "hello"),
        passed(
            "POST",
            "/case",
            &[("content-length", "5"), ("expect", "200-ok")],
            "hello",
        ),
    );
    class.done()
}

/// A protocol that the upstream does not take: the answer is an ordinary one, and what
/// stands behind is a request.
fn upgrades(at: &Setting, class: &mut Class) {
    let both = |protocols| [("connection", "upgrade"), ("upgrade", protocols)];
    for (name, lines, passes) in [
        (
            "websocket",
            "connection: upgrade\r\nupgrade: websocket",
            Some("websocket"),
        ),
        (
            "in another case",
            "Connection: UPGRADE\r\nUpgrade: WebSocket",
            Some("WebSocket"),
        ),
        (
            "among others",
            "connection: keep-alive, upgrade\r\nupgrade: x",
            Some("x"),
        ),
        (
            "h2c beside another",
            "connection: upgrade\r\nupgrade: h2c, x",
            Some("x"),
        ),
        ("h2c", "connection: upgrade\r\nupgrade: h2c", None),
        ("H2C", "connection: upgrade\r\nupgrade: H2C", None),
        ("h2", "connection: upgrade\r\nupgrade: h2", None),
        ("not named by Connection", "upgrade: websocket", None),
        ("of nothing", "connection: upgrade", None),
        (
            "under an underscore",
            "connection: upgrade\r\nup_grade: x",
            None,
        ),
    ] {
        let outcome = match passes {
            Some(protocols) => got(&both(protocols)),
            None if name == "under an underscore" => got(&[("up_grade", "x")]),
            None => got(&[]),
        };
        class.add(format!("upgrade, {name}"), at.get(lines), outcome);
    }
    class.closes(
        "upgrade, in HTTP/1.0, which has none",
        at.line(
            "GET /t/wire/case HTTP/1.0",
            "connection: upgrade\r\nupgrade: websocket",
        ),
        got(&[]),
    );
    class.add(
        "upgrade, with a body",
        at.post(
            "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5",
            "hello",
        ),
        passed(
            "POST",
            "/case",
            &[
                ("connection", "upgrade"),
                ("content-length", "5"),
                ("upgrade", "websocket"),
            ],
            "hello",
        ),
    );
}
