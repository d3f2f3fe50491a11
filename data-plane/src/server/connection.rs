//! One client's connection: what it speaks is decided once, then hyper speaks it, and this
//! drives hyper.
//!
//! | listener | HTTP/2 | HTTP/1.1 |
//! |---|---|---|
//! | TLS | the client offers `h2` (ALPN) | any other |
//! | plain | the first bytes are its preface ("prior knowledge", RFC 9113, 3.3) | any other |
//!
//! The preface is looked for in the first 24 bytes, which are then handed on, so a
//! connection of HTTP/1.1 pays one short read for it and a request nothing.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::HeadWatch;
use super::lane::{Lane, Phase};
use super::{Worker, farewell, http2};
use crate::gather::Gather;
use crate::pipeline;

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read at once of a client in a crowd.
const CROWD_BYTES_MAX: usize = 8 << 10;

/// Serves one connection until it ends.
pub async fn serve(worker: Rc<Worker>, lane: Rc<Lane>, stream: TcpStream) {
    // What few connections need is kept apart, so that the many do not carry its room.
    if worker.shared.certificate.is_some() {
        Box::pin(serve_tls(worker, lane, stream)).await;
    } else {
        serve_plain(worker, lane, stream).await;
    }
}

async fn serve_tls(worker: Rc<Worker>, lane: Rc<Lane>, stream: TcpStream) {
    let Some(certificate) = &worker.shared.certificate else {
        return;
    };
    let mut accepting = pin!(certificate.acceptor().accept(stream));
    let Some(accepted) = run(&worker, &lane, |cx| accepting.as_mut().poll(cx)).await else {
        return;
    };
    match accepted {
        Ok(stream) => {
            let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            speak(worker, lane, stream, Bytes::new(), speaks_http2).await;
        }
        Err(err) => tracing::trace!(error = %err, "a client's TLS could not be agreed on"),
    }
}

async fn serve_plain(worker: Rc<Worker>, lane: Rc<Lane>, mut stream: TcpStream) {
    let mut first = [0; PREFACE.len()];
    let come = {
        let mut looking = pin!(look_for_preface(&mut stream, &mut first));
        run(&worker, &lane, |cx| looking.as_mut().poll(cx)).await
    };
    let Some(Ok(come)) = come else { return };
    let first = &first[..come];
    speak(
        worker,
        lane,
        stream,
        Bytes::copy_from_slice(first),
        first == PREFACE,
    )
    .await;
}

/// Reads until it is clear whether this is the preface; how many bytes that took.
async fn look_for_preface(
    stream: &mut TcpStream,
    first: &mut [u8; PREFACE.len()],
) -> io::Result<usize> {
    let mut come = 0;
    loop {
        match stream.read(&mut first[come..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => come += more,
        }
        if come == PREFACE.len() || !PREFACE.starts_with(&first[..come]) {
            return Ok(come);
        }
    }
}

/// Polls what a connection does, and lets it wait no longer than a drain allows. A client
/// may have sent a request that has not come yet, and would not hear of its end before it
/// is too late; so a connection that waits for one goes on doing so for a moment.
async fn run<T>(
    worker: &Worker,
    lane: &Lane,
    mut work: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let linger = Duration::from_millis(worker.shared.config.bounds.drain_idle_ms);
    lane.run(worker, |cx| {
        let outcome = work(cx);
        if worker.is_draining() {
            lane.hasten(linger);
        }
        outcome
    })
    .await
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: Rc<Worker>,
    lane: Rc<Lane>,
    stream: S,
    first: Bytes,
    speaks_http2: bool,
) {
    let mut io = Watched {
        stream: Gather(stream),
        first,
        frames: None,
        has_read: false,
        worker: Rc::clone(&worker),
        lane: Rc::clone(&lane),
    };
    if speaks_http2 {
        io.frames = Some(HeadWatch::default());
        Box::pin(http2::serve(worker, lane, io)).await;
    } else {
        serve_http1(worker, lane, io).await;
    }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: Rc<Worker>,
    lane: Rc<Lane>,
    io: Watched<S>,
) {
    let bounds = &worker.shared.config.bounds;
    let mut builder = http1::Builder::new();
    builder
        .half_close(false)
        .pipeline_flush(false)
        .max_header_size(bounds.head_bytes_max)
        .max_buf_size(bounds.head_bytes_max.max(8 << 10))
        // The lane's own deadline covers the head.
        .header_read_timeout(None);
    if bounds.headers_max != 100 {
        // hyper's own bound is 100, and cheaper when it is not named.
        builder.max_headers(bounds.headers_max);
    }
    let service = service_fn({
        let (worker, lane) = (Rc::clone(&worker), Rc::clone(&lane));
        move |request| pipeline::handle(Rc::clone(&worker), Rc::clone(&lane), request)
    });
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let ended = run(&worker, &lane, |cx| Pin::new(&mut http).poll(cx)).await;
    let tunnel = lane.take_tunnel();
    match ended {
        Some(Ok(())) => {
            if let Some(tunnel) = tunnel {
                let parts = http.into_parts();
                let client = parts.io.into_inner();
                Box::pin(tunnel.run(&worker, &lane, client, parts.read_buf)).await;
            }
        }
        Some(Err(err)) => tracing::trace!(error = %err, "a client's connection ended"),
        None if lane.phase() == Phase::Head || lane.was_shed() => {
            let mut client = http.into_parts().io.into_inner();
            Box::pin(farewell::say(&worker, &lane, &mut client)).await;
        }
        None => {}
    }
}

/// A socket that tells its lane when bytes of a head come in.
pub struct Watched<S> {
    stream: Gather<S>,
    /// What was read before it was clear what the client speaks.
    first: Bytes,
    /// Where heads begin and end in HTTP/2.
    frames: Option<HeadWatch>,
    /// Something came since others had a turn.
    has_read: bool,
    worker: Rc<Worker>,
    lane: Rc<Lane>,
}

// === impl Watched ===

impl<S> Watched<S> {
    /// Reads as much as there is room for; of a crowd, each only a little at a time. The
    /// HTTP library keeps as much memory for a connection as once came in one piece, so
    /// that bodies which stop half way would keep theirs.
    fn poll_read_more(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if buf.remaining() <= CROWD_BYTES_MAX && self.frames.is_none() || !self.worker.is_crowded()
        {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        // HTTP/2 reads on as long as there is something, before anybody takes what came.
        if self.frames.is_some() && std::mem::take(&mut self.has_read) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let stream = Pin::new(&mut self.stream);
        let mut little =
            ReadBuf::new(buf.initialize_unfilled_to(CROWD_BYTES_MAX.min(buf.remaining())));
        ready!(stream.poll_read(cx, &mut little))?;
        let come = little.filled().len();
        self.has_read = true;
        buf.advance(come);
        Poll::Ready(Ok(()))
    }

    fn came(&mut self, bytes: &[u8]) {
        match &mut self.frames {
            None => self.lane.head_grew(bytes.len()),
            Some(frames) => frames.read(bytes, &self.lane),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.first.is_empty() {
            let bytes = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..bytes]);
            self.first.advance(bytes);
        }
        match self.poll_read_more(cx, buf) {
            // What follows may not be there yet, or never come: that shows the next time.
            Poll::Pending | Poll::Ready(Err(_)) if buf.filled().len() > before => {}
            outcome => ready!(outcome)?,
        }
        if buf.filled().len() > before {
            self.came(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
