//! What reads and writes on one connection of HTTP/1.1.
//!
//! **No task of its own.** hyper gives a connection as two halves: one that takes requests
//! and one, the machine, that reads and writes. The machine runs inside the request that
//! has borrowed the connection, because waking another task and being woken by it again
//! costs more than all stages together. While it is in the pool nobody runs it; a
//! [`Bell`] notes that something happened, and who takes it next looks first.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pipeline::body::RequestBody;

/// One connection.
pub struct Link {
    /// `None` when the connection has ended.
    machine: RefCell<Option<Box<dyn Machine>>>,
    /// HTTP may end on this connection and leave it open for something else.
    may_upgrade: Cell<bool>,
    /// What it left.
    bare: RefCell<Option<Bare>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

/// A connection from which HTTP has gone, and what was read of what came after.
pub struct Bare {
    /// The connection.
    pub io: Box<dyn Socket>,
    /// What was read already.
    pub read: Bytes,
}

/// Bytes both ways.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// hyper's half that reads and writes.
trait Machine {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;

    /// Takes the connection back when HTTP has ended on it.
    fn into_bare(self: Box<Self>) -> Bare;
}

/// What wakes a connection: it passes the call on to whichever task has it now.
#[derive(Debug, Default)]
struct Bell {
    task: AtomicWaker,
    /// It rang since the machine ran.
    rang: AtomicBool,
    /// Whoever rings now is the one that will run the machine anyway.
    is_muted: AtomicBool,
}

// === impl Link ===

impl Link {
    pub(super) fn new<S: Socket + 'static>(
        connection: Connection<TokioIo<S>, RequestBody>,
    ) -> Self {
        let bell = Arc::new(Bell::default());
        Self {
            machine: RefCell::new(Some(Box::new(connection))),
            may_upgrade: Cell::new(false),
            bare: RefCell::new(None),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }

    /// Reads and writes as far as that goes without waiting; `cx` is woken when there is
    /// more.
    pub fn drive(&self, cx: &Context<'_>) {
        self.bell.task.register(cx.waker());
        self.turn();
    }

    /// Keeps the connection when HTTP ends on it in good order, for [`Self::take_bare`].
    pub fn expect_upgrade(&self) {
        self.may_upgrade.set(true);
    }

    /// The connection without HTTP; `None` while HTTP goes on, or when it ended badly.
    pub fn take_bare(&self) -> Option<Bare> {
        self.bare.borrow_mut().take()
    }

    /// Whether something happened since anybody looked.
    pub(super) fn rang(&self) -> bool {
        self.bell.rang.load(Ordering::Relaxed)
    }

    /// Nobody drives it from now on.
    pub(super) fn let_go(&self) {
        self.bell.task.take();
    }

    pub(super) fn turn(&self) {
        self.bell.rang.store(false, Ordering::Relaxed);
        let mut machine = self.machine.borrow_mut();
        let Some(running) = machine.as_mut() else {
            return;
        };
        let mut cx = Context::from_waker(&self.waker);
        if let Poll::Ready(outcome) = running.poll(&mut cx) {
            let ended = machine.take();
            match outcome {
                Ok(()) if self.may_upgrade.get() => {
                    *self.bare.borrow_mut() = ended.map(Machine::into_bare);
                }
                Ok(()) => {}
                Err(err) => tracing::debug!(error = %err, "a connection to an upstream ended"),
            }
        }
    }

    /// Does something that would ring the bell, for who runs the machine next anyway.
    pub(super) fn quietly<T>(&self, act: impl FnOnce() -> T) -> T {
        self.bell.is_muted.store(true, Ordering::Relaxed);
        let done = act();
        self.bell.is_muted.store(false, Ordering::Relaxed);
        done
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("bell", &self.bell)
            .finish_non_exhaustive()
    }
}

// === impl Machine ===

impl<S: Socket + 'static> Machine for Connection<TokioIo<S>, RequestBody> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Pin::new(self).poll(cx)
    }

    fn into_bare(self: Box<Self>) -> Bare {
        let parts = (*self).into_parts();
        Bare {
            io: Box::new(parts.io.into_inner()),
            read: parts.read_buf,
        }
    }
}

// === impl Bell ===

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_muted.load(Ordering::Relaxed) {
            self.rang.store(true, Ordering::Relaxed);
            self.task.wake();
        }
    }
}
