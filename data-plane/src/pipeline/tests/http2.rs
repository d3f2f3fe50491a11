//! Clients of HTTP/2: the same answers, records and rules, one stream at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::{change, policy, proxy_to, secret, target};
use crate::config::{Bounds, CertificateFiles};
use crate::testing::{
    Http2, Proxy, Upstream, credential, eventually, http2_over, raw_upstream, whole, with_key,
};
use schemas::entry::{Policy, SecretStatus};

/// A request as HTTP/2 writes it: with an authority, without `Host`.
fn ask(method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let uri = format!("http://proxy.example{path}");
    with_key(1, Request::builder().method(method).uri(uri), body)
}

async fn proxy_and_client(
    upstream: SocketAddr,
    adjust: impl FnOnce(&mut Bounds),
) -> (Proxy, Http2<Full<Bytes>>) {
    let proxy = proxy_to(upstream, adjust).await;
    let client = proxy.http2().await;
    (proxy, client)
}

#[tokio::test]
async fn requests_share_a_connection_and_pass_like_any_other() {
    let upstream = Upstream::answering(|seen| {
        Response::builder()
            .header("x-saw", &seen.path)
            .body(Full::new(seen.body.clone()))
            .unwrap()
    })
    .await;
    let (proxy, client) = proxy_and_client(upstream.addr, |_| {}).await;
    let asking = (0..20).map(|n| {
        let mut client = client.clone();
        async move {
            let request = ask("POST", &format!("/t/echo/{n}?x_api_key=no"), "ping");
            whole(client.send_request(request).await.unwrap()).await
        }
    });
    for (n, reply) in futures_util::future::join_all(asking)
        .await
        .iter()
        .enumerate()
    {
        assert_eq!((reply.status, reply.text().as_str()), (200, "ping"));
        assert_eq!(reply.headers["x-saw"], format!("/{n}"));
        assert_eq!(reply.headers["x-request-id"].len(), 26);
        assert!(!reply.headers.contains_key("connection"));
    }
    for seen in upstream.seen() {
        assert_eq!(seen.headers["host"], upstream.addr.to_string());
        assert!(!seen.headers.contains_key("x-api-key"));
    }
    let (_, metrics) = proxy.admin("/metrics").await;
    assert!(metrics.contains("throttleproxy_requests_total{outcome=\"served\"} 20"));
    assert!(metrics.contains("throttleproxy_connections_total 1\n"));
}

#[tokio::test]
async fn refusals_are_the_same_and_one_stream_says_nothing_of_the_others() {
    let upstream = Upstream::start().await;
    let (_proxy, client) = proxy_and_client(upstream.addr, |_| {}).await;
    let check = async |method: &str, uri: &str, host: Option<&str>, expected: (u16, &str)| {
        let mut request = with_key(1, Request::builder().method(method).uri(uri), "");
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let reply = whole(client.clone().send_request(request).await.unwrap()).await;
        assert_eq!((reply.status, reply.code()), expected, "{method} {uri}");
        assert!(reply.headers.contains_key("x-request-id"));
        reply
    };
    let p = "http://proxy.example";
    check(
        "GET",
        &format!("{p}/t/nobody/"),
        None,
        (404, "unknown_target"),
    )
    .await;
    check("TRACE", &format!("{p}/t/echo/"), None, (400, "bad_request")).await;
    check(
        "GET",
        &format!("{p}/t/echo/"),
        Some("other"),
        (400, "bad_request"),
    )
    .await;
    check(
        "GET",
        "http://me@proxy.example/t/echo/",
        None,
        (400, "bad_request"),
    )
    .await;
    check(
        "GET",
        &format!("{p}/t/echo/a/../b"),
        None,
        (400, "bad_target"),
    )
    .await;
    check(
        "GET",
        &format!("{p}/t/echo/"),
        Some("proxy.example"),
        (200, ""),
    )
    .await;
    let head = check(
        "HEAD",
        &format!("{p}/t/nobody/"),
        None,
        (404, "unknown_target"),
    )
    .await;
    assert!(
        head.headers["content-length"]
            .to_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 0
    );
    assert_eq!(head.text(), "");
    let head = check("HEAD", &format!("{p}/t/echo/"), None, (200, "")).await;
    assert_eq!(head.headers["content-length"], "5");
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_connect_is_refused() {
    let (_proxy, mut client) = proxy_and_client("127.0.0.1:9".parse().unwrap(), |_| {}).await;
    let request = with_key(
        1,
        Request::builder().method("CONNECT").uri("a.example:443"),
        "",
    );
    let reply = client.send_request(request).await.unwrap();
    assert_eq!(reply.status(), 400);
}

#[tokio::test]
async fn a_stream_that_is_reset_cancels_its_request_and_no_other() {
    let left = Arc::new(Notify::new());
    let tells = Arc::clone(&left);
    let addr = raw_upstream(move |mut stream| {
        let tells = Arc::clone(&tells);
        async move {
            let _ = stream.read_u8().await;
            tells.notify_one();
        }
    })
    .await;
    let (proxy, client) = proxy_and_client(addr, |_| {}).await;
    let (mut one, mut two) = (client.clone(), client);
    let goes = tokio::spawn(async move { one.send_request(ask("GET", "/t/echo/1", "")).await });
    let stays = tokio::spawn(async move { two.send_request(ask("GET", "/t/echo/2", "")).await });
    eventually("both requests have come", || {
        let uses = proxy.region.renewals();
        uses.iter().any(|it| !it.uses.is_empty())
    })
    .await;
    goes.abort();
    let waits = left.notified();
    tokio::time::timeout(Duration::from_secs(5), waits)
        .await
        .expect("the upstream should have been left");
    let again = left.notified();
    let still = tokio::time::timeout(Duration::from_millis(200), again).await;
    assert!(
        still.is_err() && !stays.is_finished(),
        "the other was left, too"
    );
}

#[tokio::test]
async fn a_deadline_or_a_cap_after_the_head_resets_the_stream() {
    let check = async |answer: &'static [u8]| {
        let addr = raw_upstream(move |mut stream| async move {
            stream.write_all(answer).await.unwrap();
            let _ = stream.read_u8().await;
        })
        .await;
        let (_proxy, mut client) = proxy_and_client(addr, |bounds| {
            bounds.idle_ms = 300;
            bounds.response_bytes_max = 10;
        })
        .await;
        let reply = whole(
            client
                .send_request(ask("GET", "/t/echo/", ""))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(reply.status, 200);
        assert!(reply.body.is_err(), "{reply:?}");
        // The connection goes on.
        let again = client
            .send_request(ask("GET", "/t/nobody/", ""))
            .await
            .unwrap();
        assert_eq!(again.status(), 404);
    };
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
}

#[tokio::test]
async fn a_stream_waits_no_longer_than_its_target_may_take() {
    let addr = raw_upstream(|mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let (_proxy, mut client) = proxy_and_client(addr, |bounds| bounds.first_byte_ms = 100).await;
    let reply = whole(
        client
            .send_request(ask("GET", "/t/echo/", ""))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!((reply.status, reply.code()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_left_after_its_deadline() {
    let addr = raw_upstream(|mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n";
        let _ = stream.write_all(head).await;
        let _ = stream.write_all(&vec![b'a'; 20_000_000]).await;
        let _ = stream.read_u8().await;
    })
    .await;
    let (proxy, mut client) = proxy_and_client(addr, |bounds| bounds.idle_ms = 300).await;
    let response = client
        .send_request(ask("GET", "/t/echo/", ""))
        .await
        .unwrap();
    for _ in 0..500 {
        let (_, metrics) = proxy.admin("/metrics").await;
        if metrics.contains("throttleproxy_requests_total{outcome=\"left\"} 1") {
            let reply = whole(response).await;
            assert!(reply.body.is_err(), "half an answer looks whole");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the stream of a client that takes nothing stays open");
}

/// A connection below the library: its preface, then these frames; what came back.
async fn raw_frames(proxy: &Proxy, frames: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    // In two pieces, as no client does it and any network may.
    stream.write_all(b"PRI * HTT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let rest = [b"P/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..], frames].concat();
    stream.write_all(&rest).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    let quiet = Duration::from_millis(300);
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut piece)).await {
        answer.extend_from_slice(&piece[..read]);
    }
    (stream, answer)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream, payload].concat()
}

/// Headers as literals that no table remembers (RFC 7541, 6.2.2).
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(
                text.len() < 127,
                "a longer one needs more bytes for its length"
            );
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Whether the stream was reset (RST_STREAM) or the connection given up (GOAWAY).
fn is_refused(answer: &[u8]) -> bool {
    let mut rest = answer;
    while let [a, b, c, kind, _, _, _, _, _, tail @ ..] = rest {
        if matches!(kind, 3 | 7) {
            return true;
        }
        let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        rest = tail.get(len..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn a_malformed_message_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let key = credential(1);
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "proxy.example"),
        (":path", "/t/echo/"),
        ("x-api-key", key.reveal()),
    ];
    let check = async |odd: &[(&str, &str)], body: Option<&[u8]>, expected: bool| {
        let block = literals(&[&usual[..], odd].concat());
        let mut frames = frame(1, if body.is_some() { 4 } else { 5 }, 1, &block);
        if let Some(body) = body {
            frames.extend(frame(0, 1, 1, body));
        }
        let (_stream, answer) = raw_frames(&proxy, &frames).await;
        assert_eq!(is_refused(&answer), expected, "{odd:?} {body:?}");
    };
    check(&[], None, false).await;
    check(&[("content-length", "3")], Some(b"abc"), false).await;
    check(&[("te", "trailers")], None, false).await;
    let passed = upstream.seen().len();
    assert_eq!(passed, 3);

    check(&[("content-length", "4")], Some(b"abc"), true).await;
    check(&[("content-length", "2")], Some(b"abc"), true).await;
    check(&[("content-length", "3")], None, true).await;
    check(&[("X-Upper", "1")], None, true).await;
    check(&[("connection", "close")], None, true).await;
    check(&[("transfer-encoding", "chunked")], None, true).await;
    check(&[("upgrade", "websocket")], None, true).await;
    check(&[("te", "gzip")], None, true).await;
    check(&[(":path", "/t/echo/2")], None, true).await;
    check(&[(":unknown", "x")], None, true).await;
    check(&[("x-lf", "a\nb")], None, true).await;
    let whole: Vec<_> = upstream
        .seen()
        .into_iter()
        .skip(passed)
        .map(|it| it.body)
        .collect();
    assert!(whole.iter().all(Bytes::is_empty), "{whole:?}");
    assert_eq!(proxy.get(1, "/t/echo/").await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let proxy = proxy_to("127.0.0.1:9".parse().unwrap(), |bounds| {
        bounds.head_ms = 200
    })
    .await;
    let begun = frame(1, 0, 1, &literals(&[(":method", "GET")]));
    let (mut stream, _) = raw_frames(&proxy, &begun).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        // Whatever comes, it ends.
        while stream.read_u8().await.is_ok() {}
    });
    closed
        .await
        .expect("the connection should have been closed");
}

#[tokio::test]
async fn unfinished_heads_are_given_up_when_there_are_too_many() {
    let proxy = proxy_to("127.0.0.1:9".parse().unwrap(), |bounds| {
        bounds.unfinished_heads_bytes_max = 2 * 30_000;
    })
    .await;
    let long = literals(&[("x-long", "a".repeat(100).as_str()); 90]);
    let begun = frame(1, 0, 1, &long);
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(raw_frames(&proxy, &begun).await.0);
    }
    let mut closed = 0;
    for stream in &mut streams {
        let reading = tokio::time::timeout(Duration::from_millis(100), async {
            while stream.read_u8().await.is_ok() {}
        });
        closed += usize::from(reading.await.is_ok());
    }
    assert!((5..12).contains(&closed), "{closed} of 12 were closed");
}

#[tokio::test]
async fn streams_that_are_only_opened_to_be_reset_close_the_connection() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let key = credential(1);
    let block = literals(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "p"),
        (":path", "/t/echo/"),
        ("x-api-key", key.reveal()),
    ]);
    let flood: Vec<u8> = (0..200)
        .flat_map(|n| {
            let id = 2 * n + 1;
            [
                frame(1, 5, id, &block),
                frame(3, 0, id, &8_u32.to_be_bytes()),
            ]
            .concat()
        })
        .collect();
    let (_stream, answer) = raw_frames(&proxy, &flood).await;
    assert!(is_refused(&answer), "{answer:?}");
    assert!(upstream.seen().len() < 100, "{}", upstream.seen().len());
}

struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn tls_agrees_on_the_protocol_and_takes_a_new_certificate_without_a_restart() {
    let upstream = Upstream::start().await;
    let dir = Dir(std::env::temp_dir().join(format!("tp-tls-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0).unwrap();
    let files = CertificateFiles {
        cert: dir.0.join("cert.pem"),
        key: dir.0.join("key.pem"),
    };
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = renew();
    let changes = vec![
        change(1, secret(1, SecretStatus::Active)),
        policy(Policy::Target(target("echo", upstream.addr))),
    ];
    let proxy = Proxy::start_with(changes, |config| {
        config.certificate = Some(files.clone());
        config.bounds.certificate_check_ms = 20;
    })
    .await;
    let connect = async |trusted: &rustls::pki_types::CertificateDer<'static>, alpn: &[&str]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("proxy.example").unwrap();
        let stream = TcpStream::connect(proxy.addr()).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };

    let stream = connect(&first, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = http2_over(stream).await;
    let reply = whole(
        client
            .send_request(ask("GET", "/t/echo/", ""))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(reply.text(), "hello");

    for alpn in [&["http/1.1"][..], &[]] {
        let mut stream = connect(&first, alpn).await.unwrap();
        let key = credential(1);
        let head = format!(
            "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nConnection: close\r\nx-api-key: {}\r\n\r\n",
            key.reveal()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }

    let second = renew();
    for _ in 0..500 {
        if connect(&second, &[]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connect(&second, &[])
        .await
        .expect("the new certificate should be in use");
    assert!(connect(&first, &[]).await.is_err());
    // A pair that does not fit changes nothing; nor does a file that is missing.
    std::fs::write(&files.key, "rubbish").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    connect(&second, &[])
        .await
        .expect("the old certificate should stay");
    std::fs::remove_file(&files.cert).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    connect(&second, &[])
        .await
        .expect("the old certificate should stay");
    let third = renew();
    for _ in 0..500 {
        if connect(&third, &[]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connect(&third, &[])
        .await
        .expect("the newest certificate should be in use");
    // What was agreed on before goes on.
    let reply = whole(
        client
            .send_request(ask("GET", "/t/echo/", ""))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(reply.text(), "hello");
}
