//! Writing head and body at once.
//!
//! hyper hands over an answer as several pieces. Short ones are copied together, because a
//! plain write of a little more costs the system less than gathering; long ones are
//! gathered, because copying them would cost more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are copied together.
const COPIED_MAX: usize = 2 << 10;

/// A socket that is written to in as few and as plain calls as possible.
#[derive(Debug)]
pub struct Gather<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return Pin::new(&mut self.0).poll_write(cx, only);
        }
        let len: usize = bufs.iter().map(|it| it.len()).sum();
        let mut copied = [0; COPIED_MAX];
        let Some(copied) = copied.get_mut(..len) else {
            return Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        };
        let mut at = 0;
        for buf in bufs {
            copied[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        Pin::new(&mut self.0).poll_write(cx, copied)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
