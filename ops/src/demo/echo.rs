//! An upstream on loopback that answers with what it received.
//!
//! It shows what a proxy passed on and, above all, what it did not: the key is not
//! among the headers.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The running upstream; dropping it stops it.
#[derive(Debug)]
pub struct Echo {
    addr: SocketAddr,
    _serving: JoinSet<()>,
}

/// The most bytes of a body that are read; more are answered with 413.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long the listener rests after an accept that failed, such as for want of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

// === impl Echo ===

impl Echo {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener));
        Ok(Self {
            addr,
            _serving: serving,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer::<Incoming>));
    // A client that went away is no news for an echo.
    connection.await.ok();
}

async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let (status, received) = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes()),
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()),
    };
    let text = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": headers(&head.headers),
        "body": String::from_utf8_lossy(&received),
        "body_bytes": received.len(),
    });
    let mut response = Response::new(Full::from(format!("{text:#}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Each name once; a name that came several times has its values with commas between.
fn headers(received: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in received.keys() {
        let values: Vec<_> = received
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        shown.insert(name.to_string(), values.join(", ").into());
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn it_says_what_it_received() {
        let echo = Echo::start().await.unwrap();
        let mut stream = TcpStream::connect(echo.addr()).await.unwrap();
        let request = "POST /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\n\
                       content-length: 2\r\nconnection: close\r\n\r\nhi";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();

        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["method"], "POST");
        assert_eq!(body["path"], "/a");
        assert_eq!(body["query"], "b=c");
        assert_eq!(body["headers"]["x-a"], "1, 2");
        assert_eq!(body["body"], "hi");
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_refused() {
        let body = Full::from(vec![0_u8; BODY_BYTES_MAX + 1]);
        let response = answer(Request::new(body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
