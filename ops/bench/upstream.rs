//! The upstream of the benchmarks: it answers with as many bytes as the last segment of the
//! path says, up to 64 KiB, and with 1,000 where it says nothing; always the same ones. A body
//! is read to its end first.
//!
//! It prints the address that it listens on and serves until it is killed.

use std::io::Write as _;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

const ANSWER_BYTES: usize = 1_000;
const ANSWER_BYTES_MAX: usize = 64 << 10;

static BODY: [u8; ANSWER_BYTES_MAX] = [b'x'; ANSWER_BYTES_MAX];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) {
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    // A load that is over closes its connections; that is the end, not an error.
    connection.await.ok();
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let asked = request.uri().path().rsplit('/').next();
    let bytes = asked.and_then(|it| it.parse().ok()).unwrap_or(ANSWER_BYTES);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let answer = &BODY[..bytes.min(ANSWER_BYTES_MAX)];
    let mut response = Response::new(Full::new(Bytes::from_static(answer)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
