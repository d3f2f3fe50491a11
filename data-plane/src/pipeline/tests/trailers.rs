//! Trailer fields pass both ways, without what no head may say either.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy_to;
use crate::testing::{Proxy, Upstream, credential, http2_over, raw_upstream};

/// Sends raw bytes with key 1 in place of `$K`, and reads to the end.
async fn talk(proxy: &Proxy, text: &str) -> String {
    let key = credential(1);
    let (_, answer) = proxy.raw(text.replace("$K", key.reveal()).as_bytes()).await;
    answer
}

#[tokio::test]
async fn announced_fields_of_a_request_pass() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let answer = talk(
        &proxy,
        "POST /t/echo/ HTTP/1.1\r\nHost: p\r\nConnection: close, x-hop\r\nx-api-key: $K\r\n\
         Trailer: x-sum, Cookie\r\nTrailer: x-hop, x-other, content-length\r\n\
         Transfer-Encoding: chunked\r\n\r\n4\r\nping\r\n0\r\n\
         x-sum: 1\r\nCookie: a=b\r\nx-unannounced: 1\r\nx-hop: 1\r\nx-other: 2\r\n\
         x-other: 3\r\ncontent-length: 9\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = &upstream.seen()[0];
    assert_eq!(&seen.body[..], b"ping");
    assert_eq!(seen.headers["trailer"], "x-sum, x-other");
    assert!(!seen.headers.contains_key("te"));
    let trailers = seen.trailers.clone().unwrap();
    let mut fields: Vec<_> = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, [("x-other", "2"), ("x-other", "3"), ("x-sum", "1")]);
}

#[tokio::test]
async fn a_body_whose_trailers_are_all_removed_still_ends() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let answer = talk(
        &proxy,
        "POST /t/echo/ HTTP/1.1\r\nHost: p\r\nConnection: close\r\nx-api-key: $K\r\n\
         Trailer: authorization\r\nTransfer-Encoding: chunked\r\n\r\n\
         4\r\nping\r\n0\r\nauthorization: x\r\nx-b: 1\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = &upstream.seen()[0];
    assert_eq!(&seen.body[..], b"ping");
    assert!(!seen.headers.contains_key("trailer"));
    assert!(seen.trailers.is_none());
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
    trailer: x-sum, Set-Cookie, x-throttleproxy-error, te\r\n\r\n4\r\npong\r\n0\r\n\
    x-sum: 1\r\nset-cookie: a=b\r\nx-throttleproxy-error: fake\r\nx-unannounced: 1\r\n\r\n";

async fn proxy_to_answer() -> Proxy {
    let addr = raw_upstream(|mut stream| async move {
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.read_u8().await;
    })
    .await;
    proxy_to(addr, |_| {}).await
}

#[tokio::test]
async fn announced_fields_of_an_answer_pass_to_a_client_that_takes_them() {
    let ask = |te: &str| {
        format!(
            "GET /t/echo/ HTTP/1.1\r\nHost: p\r\nConnection: close\r\nx-api-key: $K\r\n{te}\r\n"
        )
    };
    let proxy = proxy_to_answer().await;
    let answer = talk(&proxy, &ask("TE: trailers\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
    assert_eq!(body, "4\r\npong\r\n0\r\nx-sum: 1\r\n\r\n");

    for te in ["", "TE: gzip\r\n"] {
        let proxy = proxy_to_answer().await;
        let answer = talk(&proxy, &ask(te)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("trailer:"), "{answer}");
        assert_eq!(body, "4\r\npong\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn fields_pass_between_the_versions() {
    let upstream = Upstream::start().await;
    let proxy = proxy_to(upstream.addr, |_| {}).await;
    let mut fields = HeaderMap::new();
    fields.insert("x-sum", "1".parse().unwrap());
    fields.insert("x-unannounced", "1".parse().unwrap());
    let body = Full::new(Bytes::from("ping"))
        .map_err(|never| match never {})
        .with_trailers(std::future::ready(Some(Ok::<_, std::io::Error>(fields))));
    let request = Request::post("http://proxy.example/t/echo/")
        .header("x-api-key", credential(1).reveal())
        .header("trailer", "x-sum")
        .body(Box::pin(body))
        .unwrap();
    let mut client = http2_over(TcpStream::connect(proxy.addr()).await.unwrap()).await;
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    let seen = &upstream.seen()[0];
    assert_eq!(
        (&seen.body[..], seen.headers["trailer"].as_bytes()),
        (&b"ping"[..], &b"x-sum"[..])
    );
    let trailers = seen.trailers.as_ref().unwrap();
    assert_eq!(
        (trailers.len(), &trailers["x-sum"]),
        (1, &"1".parse().unwrap())
    );

    let proxy = proxy_to_answer().await;
    let request = Request::get("http://proxy.example/t/echo/")
        .header("x-api-key", credential(1).reveal())
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = proxy.http2().await.send_request(request).await.unwrap();
    let whole = response.into_body().collect().await.unwrap();
    let trailers = whole.trailers().unwrap();
    assert_eq!(
        (trailers.len(), &trailers["x-sum"]),
        (1, &"1".parse().unwrap())
    );
}
