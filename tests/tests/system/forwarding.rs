//! What passes through a proxy, both ways, whatever the client and the upstream do.

mod drain;
mod messages;
mod secure;
mod slow;
mod websocket;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

type Http2 = SendRequest<Full<Bytes>>;

/// A client's connection of HTTP/2.
async fn http2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Http2 {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}
