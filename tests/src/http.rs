//! A small HTTP/1.1 client: one connection per request, so that a restarted server or a
//! closed connection never shows as somebody else's failure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The longest that any request may take; waits of the control API end after 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    from: Option<IpAddr>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What was asked, for messages: `GET /path`.
    pub asked: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Ask {
    /// A request without a body.
    pub fn new(method: &str, path: impl Into<String>) -> Self {
        Self {
            method: method.parse().expect("the test names a method"),
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            from: None,
        }
    }

    /// `GET`
    pub fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    /// `POST` with a body of no particular type.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new("POST", path).body(body)
    }

    /// Adds a header; one that stands already stays.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Comes from this address of ours: all of 127.0.0.0/8 is.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body and its type.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    /// The header's value, for helpers that add one only where it is missing.
    pub fn has(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(it, _)| it.eq_ignore_ascii_case(name))
    }

    /// Sends it and reads the answer to its end.
    pub async fn send(&self, to: SocketAddr) -> Result<Reply> {
        let asked = format!("{} {}", self.method, self.path);
        timeout(ANSWER_WITHIN, async {
            let answer = self.open(to).await?;
            let (parts, body) = answer.into_parts();
            anyhow::Ok(Reply {
                asked: asked.clone(),
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.collect().await.context("reading the body")?.to_bytes(),
            })
        })
        .await
        .with_context(|| format!("{asked}: no answer within {ANSWER_WITHIN:?}"))?
        .with_context(|| asked)
    }

    /// Sends it and returns as soon as the head of the answer is there.
    pub async fn open(&self, to: SocketAddr) -> Result<Response<Incoming>> {
        let socket = match to {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(from) = self.from {
            socket.bind(SocketAddr::new(from, 0)).context("binding")?;
        }
        let stream = socket.connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .body(Full::new(self.body.clone()))?;
        for (name, value) in &self.headers {
            request.headers_mut().append(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value)?,
            );
        }
        if !self.has("host") {
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_str(&to.to_string())?);
        }
        sender.send_request(request).await.context("asking")
    }
}

impl Reply {
    /// The answer itself, once it is sure that it has this status.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}: {}\n{:?}",
            self.asked,
            self.text(),
            self.headers
        );
        self
    }

    /// The same as an error instead of a panic, for [`eventually`](crate::wait::eventually).
    pub fn check(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "{}: {} instead of {status}: {}",
            self.asked,
            self.status,
            self.text()
        );
        Ok(self)
    }

    /// Asserts a refusal of the control API: status, code, media type, and that the
    /// problem says of itself what the head says. Returns the problem.
    pub fn refused(self, status: u16, code: &str) -> Value {
        let reply = self.expect(status);
        let problem = reply.json();
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json"),
            "{}",
            reply.asked
        );
        assert_eq!(problem["code"], code, "{}: {problem}", reply.asked);
        assert_eq!(problem["status"], status, "{}: {problem}", reply.asked);
        assert_eq!(
            problem["type"],
            format!("https://throttleproxy.dev/problems/{code}"),
            "{}: {problem}",
            reply.asked
        );
        assert_eq!(
            problem["request_id"].as_str(),
            reply.header("x-request-id"),
            "{}: {problem}",
            reply.asked
        );
        problem
    }

    /// Asserts that exactly these fields were refused: 422 with `code`, each named.
    pub fn refused_fields(self, code: &str, fields: &[&str]) {
        let asked = self.asked.clone();
        let problem = self.refused(422, code);
        let mut named: Vec<_> = problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("{asked}: no errors in {problem}"))
            .iter()
            .map(|error| error["field"].as_str().unwrap_or_default())
            .collect();
        named.sort_unstable();
        let mut expected = fields.to_vec();
        expected.sort_unstable();
        assert_eq!(named, expected, "{asked}: {problem}");
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| {
            panic!(
                "{}: {} with a body that is not JSON ({err}): {}",
                self.asked,
                self.status,
                self.text()
            )
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok())
    }

    /// A header that must be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("{}: no {name} in {:?}", self.asked, self.headers))
    }

    /// The `x-position` of a change.
    pub fn position(&self) -> u64 {
        self.must("x-position").parse().expect("a position")
    }
}

/// Sends bytes as they are and returns whatever comes back until the other side closes,
/// or falls silent for two seconds.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> Result<RawReply> {
    let mut stream = TcpStream::connect(to).await?;
    // The other side may refuse and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_raw(&mut stream, Duration::from_secs(2)).await
}

/// Reads until the other side closes, or falls silent for as long as `silence`.
pub async fn read_raw(stream: &mut TcpStream, silence: Duration) -> Result<RawReply> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let closed = loop {
        match timeout(silence, stream.read(&mut piece)).await {
            Err(_silence) => break false,
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(read)) => text.extend_from_slice(&piece[..read]),
        }
    };
    Ok(RawReply {
        text: String::from_utf8_lossy(&text).into_owned(),
        closed,
    })
}

/// What came back over a bare connection.
#[derive(Debug, Clone)]
pub struct RawReply {
    /// Everything that was read.
    pub text: String,
    /// Whether the other side closed.
    pub closed: bool,
}

impl RawReply {
    /// The status of the first answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        let (_, rest) = self.text.split_once(' ')?;
        rest.get(..3)?.parse().ok()
    }
}
