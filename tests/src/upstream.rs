//! A real upstream on the loopback: it notes every request it received, and answers by
//! path, oddly where the path says so.
//!
//! | path | answer |
//! |---|---|
//! | `/status/<n>` | that status |
//! | `/redirect` | 302 to another host |
//! | `/slow/<ms>` | 200 after that time |
//! | `/big/<bytes>` | a body of that length |
//! | `/endless` | a body that does not end |
//! | `/chunked` | three pieces without a length |
//! | `/trailers` | a body, then the trailer fields `x-sum` and `set-cookie` |
//! | `/range` | 206 with a `content-range` |
//! | `/events` | one server-sent event at once, the second after [`Upstream::release`] |
//! | `/loud` | every header that a proxy must not pass on, and one that it must |
//! | anything else | 200 and `{"upstream": <name>, "path": <path and query>}` |
//!
//! What HTTP servers do not do on purpose comes from a [`Rude`] one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::secure::Identity;

/// A request as the upstream received it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path and query, verbatim.
    pub path: String,
    /// The version of HTTP.
    pub version: Version,
    /// The host: `Host`, or in HTTP/2 the authority.
    pub host: Option<String>,
    /// The trailer fields.
    pub trailers: Option<HeaderMap>,
    /// The headers, names in lower case.
    pub headers: HeaderMap,
    /// The body; `None` when it did not arrive whole.
    pub body: Option<Bytes>,
}

/// An upstream that speaks HTTP.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    released: Notify,
}

impl Upstream {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// Starts one that speaks TLS, and what a client chooses of these protocols.
    pub async fn start_secure(identity: &Identity, protocols: &[&str]) -> Self {
        Self::start_as(Some(identity.acceptor(protocols))).await
    }

    async fn start_as(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::<Shared>::default();
        let server = {
            let shared = shared.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("connections arrive");
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, acceptor.clone(), shared.clone()));
                }
            })
        };
        Self {
            address,
            shared,
            server: server.abort_handle(),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// `http://127.0.0.1:<port>`
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no holder panics").clone()
    }

    /// The newest request whose path begins with `path`.
    pub fn last(&self, path: &str) -> Seen {
        self.seen()
            .into_iter()
            .rfind(|seen| seen.path.starts_with(path))
            .unwrap_or_else(|| panic!("the upstream saw no {path}"))
    }

    /// Lets the second event of `/events` go.
    pub fn release(&self) {
        self.shared.released.notify_one();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let answers = service_fn(move |request| answer(request, shared.clone()));
    // How a connection ends is the other side's business.
    let Some(acceptor) = acceptor else {
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answers)
            .await;
        return;
    };
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answers)
            .await;
    } else {
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answers)
            .await;
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    let body = body.collect().await.ok();
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.to_string()),
        None => parts
            .headers
            .get("host")
            .map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()),
    };
    shared.seen.lock().expect("no holder panics").push(Seen {
        method: parts.method.to_string(),
        path: path.clone(),
        version: parts.version,
        host,
        trailers: body.as_ref().and_then(|it| it.trailers().cloned()),
        headers: parts.headers,
        body: body.map(|it| it.to_bytes()),
    });
    let is_head = parts.method == Method::HEAD;
    let mut response = say(&path, &shared).await;
    if is_head && let Some(length) = response.body().size_hint().exact() {
        // The HTTP library leaves a body out for HTTP/1.1 only.
        *response.body_mut() = Full::default().boxed_unsync();
        response
            .headers_mut()
            .insert("content-length", length.into());
    }
    Ok(response)
}

async fn say(path: &str, shared: &Arc<Shared>) -> Response<Body> {
    let words: Vec<_> = path
        .trim_start_matches('/')
        .split(['/', '?'])
        .take(2)
        .collect();
    let number = || words.get(1).and_then(|it| it.parse::<u64>().ok());
    let mut response = match words[0] {
        "status" => with_status(number().unwrap_or(200)),
        "redirect" => {
            let mut response = with_status(302);
            put(&mut response, "location", "https://elsewhere.example/");
            response
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number().unwrap_or(0))).await;
            whole(json!({ "path": path }).to_string())
        }
        "big" => {
            let length = number().and_then(|it| usize::try_from(it).ok());
            whole("x".repeat(length.unwrap_or(0)))
        }
        "trailers" => {
            let mut fields = HeaderMap::new();
            fields.insert("x-sum", HeaderValue::from_static("1"));
            fields.insert("set-cookie", HeaderValue::from_static("a=b"));
            let frames = [
                Frame::data(Bytes::from_static(b"told")),
                Frame::trailers(fields),
            ];
            let frames = stream::iter(frames.map(Ok::<_, Infallible>));
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
            put(&mut response, "trailer", "x-sum, set-cookie");
            response
        }
        "range" => {
            let mut response = whole("bcd".to_owned());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            put(&mut response, "content-range", "bytes 1-3/26");
            response
        }
        "endless" => {
            let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 << 10])));
            let pieces = stream::repeat_with(piece);
            Response::new(StreamBody::new(pieces).boxed_unsync())
        }
        "chunked" => pieces(["one,", "two,", "three"].map(|it| (it, None))),
        "events" => {
            let mut response = pieces([
                ("data: one\n\n", None),
                ("data: two\n\n", Some(shared.clone())),
            ]);
            put(&mut response, "content-type", "text/event-stream");
            response
        }
        _ => whole(json!({ "upstream": "recorder", "path": path }).to_string()),
    };
    if words[0] == "loud" {
        for (name, value) in LOUD {
            put(&mut response, name, value);
        }
    }
    response
}

/// What `/loud` answers with.
const LOUD: [(&str, &str); 9] = [
    ("set-cookie", "session=upstream"),
    ("alt-svc", "h3=\":443\""),
    ("x-throttleproxy-error", "made-up"),
    ("x-throttleproxy-anything", "made-up"),
    ("connection", "x-named-by-connection"),
    ("x-named-by-connection", "yes"),
    ("keep-alive", "timeout=5"),
    ("proxy-authenticate", "Basic"),
    ("x-kept", "yes"),
];

fn put(response: &mut Response<Body>, name: &'static str, value: &'static str) {
    response
        .headers_mut()
        .append(name, HeaderValue::from_static(value));
}

fn with_status(status: u64) -> Response<Body> {
    let mut response = whole(String::new());
    *response.status_mut() = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .expect("the test names a status");
    response
}

fn whole(body: String) -> Response<Body> {
    Response::new(Full::new(Bytes::from(body)).boxed_unsync())
}

/// A body in pieces; one that brings the shared state waits to be released.
fn pieces<const N: usize>(pieces: [(&'static str, Option<Arc<Shared>>); N]) -> Response<Body> {
    let frames = stream::unfold(pieces.into_iter(), |mut rest| async move {
        let (text, gate) = rest.next()?;
        if let Some(shared) = gate {
            shared.released.notified().await;
        }
        let frame = Frame::data(Bytes::from_static(text.as_bytes()));
        Some((Ok::<_, Infallible>(frame), rest))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// What an ill-mannered upstream does with a request.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Closes as soon as it has read something.
    Closes,
    /// Reads, and never says a word.
    Hangs,
    /// Reads the first bytes and then never again, and says nothing.
    Deaf,
    /// Says these bytes and closes.
    Says(&'static [u8]),
    /// Says these bytes and then nothing more, without closing.
    SaysThenHangs(&'static [u8]),
}

/// An upstream that does not keep to HTTP.
#[derive(Debug)]
pub struct Rude {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl Rude {
    /// Starts one.
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let open = Arc::<AtomicUsize>::default();
        let counted = open.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("connections arrive");
                let open = Open::new(&counted);
                tokio::spawn(async move {
                    let _open = open;
                    let mut piece = [0; 4096];
                    if !matches!(stream.read(&mut piece).await, Ok(1..)) {
                        return;
                    }
                    if let Manner::Says(bytes) | Manner::SaysThenHangs(bytes) = manner {
                        let _ = stream.write_all(bytes).await;
                    }
                    if let Manner::Deaf = manner {
                        std::future::pending::<()>().await;
                    }
                    if let Manner::Hangs | Manner::SaysThenHangs(_) = manner {
                        // Until the other side has had enough.
                        while matches!(stream.read(&mut piece).await, Ok(1..)) {}
                    }
                });
            }
        });
        Self {
            address,
            open,
            server: server.abort_handle(),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A connection that counts while it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.server.abort();
    }
}
