//! After an upgrade: bytes both ways, whatever they mean.
//!
//! HTTP has ended on both connections, and each side may close its half while the other
//! goes on: nowhere else does a half-closed connection mean anything but that its client
//! has left. What still holds is the deadline for being idle, the key (a tunnel of a key
//! that is switched off is cut), and the drain, which waits for it as for any request.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::record::Record;
use crate::metrics::Outcome;
use crate::server::Worker;
use crate::server::lane::Lane;
use crate::upstream::Lease;
use crate::upstream::link::Bare;

/// What is kept of one direction between reading and writing.
const BUFFER_BYTES: usize = 8 << 10;

/// An upgrade that the upstream agreed to.
#[derive(Debug)]
pub struct Tunnel {
    lease: Lease,
    idle: Duration,
    record: Option<Record>,
}

// === impl Tunnel ===

impl Tunnel {
    /// A tunnel to where this connection leads.
    pub fn new(lease: Lease, idle: Duration) -> Self {
        Self {
            lease,
            idle,
            record: None,
        }
    }

    /// Closes this record when it ends.
    pub fn recorded(mut self: Box<Self>, record: Record) -> Box<Self> {
        record.ends(Outcome::Cut);
        self.record = Some(record);
        self
    }

    /// Passes bytes between the client, of whom `read` was read already, and the upstream
    /// until both have closed, a deadline passes, or the key is switched off.
    pub async fn run(
        self: Box<Self>,
        worker: &Worker,
        lane: &Rc<Lane>,
        client: impl AsyncRead + AsyncWrite + Unpin,
        read: Bytes,
    ) {
        let Self {
            lease,
            idle,
            record,
        } = *self;
        lane.refresh_now();
        lane.wait_until(lane.now() + idle);
        let joined = lane
            .run(worker, |cx| Poll::Ready(take_bare(&lease, cx)))
            .await
            .flatten();
        let Some(Bare { io, read: answered }) = joined else {
            return;
        };
        let mut client = Side::new(client, read, lane, idle);
        let mut upstream = Side::new(io, answered, lane, idle);
        let copying =
            copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER_BYTES, BUFFER_BYTES);
        let mut copying = pin!(copying);
        let outcome = lane.run(worker, |cx| copying.as_mut().poll(cx)).await;
        if let (Some(Ok(_)), Some(record)) = (outcome, &record) {
            record.ends(Outcome::Served);
        }
    }
}

/// The upstream's side, from which HTTP goes as soon as somebody looks.
fn take_bare(lease: &Lease, cx: &Context<'_>) -> Option<Bare> {
    let link = lease.link()?;
    link.drive(cx);
    link.take_bare()
}

/// One end of a tunnel: what it says keeps the tunnel alive.
struct Side<'a, S> {
    io: S,
    /// What was read while HTTP was still spoken.
    read: Bytes,
    lane: &'a Lane,
    idle: Duration,
}

impl<'a, S> Side<'a, S> {
    fn new(io: S, read: Bytes, lane: &'a Lane, idle: Duration) -> Self {
        Self {
            io,
            read,
            lane,
            idle,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Side<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let bytes = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..bytes]);
            self.read.advance(bytes);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.lane.wait_until(self.lane.now() + self.idle);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Side<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
