//! One client's connection: hyper speaks HTTP on it, and this drives hyper.
//!
//! **Deadlines.** A timer per wait would cost more than the rest of a request. So what
//! waits only writes *until when* into the connection, and the driver, which is woken for
//! everything that happens on this connection anyway, keeps one timer for the earliest
//! deadline that it has seen. The timer is moved only when a deadline is nearer than it;
//! one that fires early is set again. When a deadline has passed, the driver lets
//! everything run once more, so that whoever waits can answer; if nobody does (a client
//! that does not read, a head that does not end), the connection is cut.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use schemas::CredentialHash;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Worker;
use crate::gather::Gather;
use crate::pipeline;
use crate::pipeline::admit::judge;
use crate::upstream::Link;

/// What one connection is doing, and until when.
#[derive(Debug)]
pub struct Connection {
    /// The other end of the socket.
    pub peer: IpAddr,
    phase: Cell<Phase>,
    /// Rises with each request.
    turn: Cell<u64>,
    wait_until: Cell<Option<Instant>>,
    total_until: Cell<Option<Instant>>,
    /// The key whose answer is being passed on.
    held: RefCell<Option<Held>>,
    /// An upstream's connection that must go on whether or not its answer is read.
    also: RefCell<Option<Rc<Link>>>,
    waker: RefCell<Option<Waker>>,
    /// When the driver last began to look around.
    now: Cell<Instant>,
    head_for: Duration,
    idle_for: Duration,
}

/// The key of a running answer, looked at now and then.
#[derive(Debug)]
struct Held {
    hash: CredentialHash,
    check_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No request.
    Idle,
    /// A head is coming in.
    Head,
    /// A request is being served.
    Busy,
}

// === impl Connection ===

impl Connection {
    /// A connection that just stands.
    pub fn new(peer: IpAddr, head_for: Duration, idle_for: Duration) -> Self {
        let now = Instant::now();
        Self {
            peer,
            phase: Cell::new(Phase::Idle),
            turn: Cell::new(0),
            // A client that connects and says nothing is a slow head, not an idle one.
            wait_until: Cell::new(Some(now + head_for)),
            total_until: Cell::new(None),
            held: RefCell::new(None),
            also: RefCell::new(None),
            waker: RefCell::new(None),
            now: Cell::new(now),
            head_for,
            idle_for,
        }
    }

    /// The time, read once whenever something happens on this connection. That is good
    /// enough for deadlines, which are looked at just as often.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// A request has come; it may take until `total_until`.
    pub fn begin(&self, total_until: Instant) {
        self.phase.set(Phase::Busy);
        self.turn.set(self.turn.get() + 1);
        self.wait_until.set(None);
        self.total_until.set(Some(total_until));
    }

    /// The request is over.
    pub fn end(&self) {
        self.phase.set(Phase::Idle);
        self.wait_until.set(Some(self.now() + self.idle_for));
        self.total_until.set(None);
        *self.held.borrow_mut() = None;
        *self.also.borrow_mut() = None;
    }

    /// Which request is being served.
    pub fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// The request may take until then; never longer than it may already.
    pub fn bound_total(&self, until: Instant) {
        let bound = self.total_until.get().map_or(until, |it| it.min(until));
        self.total_until.set(Some(bound));
    }

    /// Until when the whole request may take.
    pub fn total_until(&self) -> Option<Instant> {
        self.total_until.get()
    }

    /// What is waited for must come until then.
    pub fn wait_until(&self, until: Instant) {
        self.wait_until.set(Some(until));
    }

    /// Whether a deadline has passed.
    pub fn is_late(&self) -> bool {
        self.deadline().is_some_and(|it| it <= self.now())
    }

    /// Drives an upstream's connection beside its answer, until the request is over.
    pub fn drive_also(&self, link: &Rc<Link>) {
        *self.also.borrow_mut() = Some(Rc::clone(link));
    }

    /// An answer is passed on for the key with this hash: when the key is switched off,
    /// the answer ends.
    pub fn hold(&self, hash: CredentialHash, check_at: Instant) {
        *self.held.borrow_mut() = Some(Held { hash, check_at });
    }

    /// Lets the driver look around.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.wait_until.get(), self.total_until.get()) {
            (Some(wait), Some(total)) => Some(wait.min(total)),
            (one, other) => one.or(other),
        }
    }

    fn check_at(&self) -> Option<Instant> {
        self.held.borrow().as_ref().map(|held| held.check_at)
    }

    /// Whether the key of a running answer may still be served.
    fn key_is_good(&self, worker: &Worker) -> bool {
        let mut held = self.held.borrow_mut();
        let Some(held) = &mut *held else {
            return true;
        };
        let shared = &worker.shared;
        held.check_at = self.now() + Duration::from_millis(shared.config.bounds.stream_check_ms);
        let Some(found) = shared.table.get(&held.hash) else {
            // It was looked up for this request alone.
            return true;
        };
        let policies = shared.table.policies();
        policies
            .workspace(found.workspace)
            .is_some_and(|workspace| judge(&found, workspace, shared.clock.now().unix_ms).is_ok())
    }

    fn bytes_came(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.wait_until.set(Some(self.now() + self.head_for));
        }
    }

    fn note_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

/// Serves one connection until it ends.
pub async fn drive(worker: Rc<Worker>, connection: Rc<Connection>, stream: TcpStream) {
    let bounds = &worker.shared.config.bounds;
    let mut builder = http1::Builder::new();
    builder
        .half_close(false)
        .pipeline_flush(false)
        .max_header_size(bounds.head_bytes_max)
        .max_buf_size(bounds.head_bytes_max.max(8 << 10))
        // The driver's own deadline covers the head.
        .header_read_timeout(None);
    if bounds.headers_max != 100 {
        // hyper's own bound is 100, and cheaper when it is not named.
        builder.max_headers(bounds.headers_max);
    }
    let io = TokioIo::new(Watched {
        stream: Gather(stream),
        connection: Rc::clone(&connection),
    });
    let service = service_fn({
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        move |request| pipeline::handle(Rc::clone(&worker), Rc::clone(&connection), request)
    });
    let mut http = pin!(builder.serve_connection(io, service));
    let first_deadline = connection.deadline().unwrap_or_else(Instant::now);
    let mut timer = pin!(tokio::time::sleep_until(first_deadline.into()));
    let mut is_leaving = false;
    let mut is_armed = false;

    poll_fn(|cx| {
        connection.note_waker(cx);
        connection.now.set(Instant::now());
        if worker.is_draining() && !is_leaving {
            is_leaving = true;
            http.as_mut().graceful_shutdown();
        }
        let mut had_its_chance = false;
        loop {
            if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
                if let Err(err) = outcome {
                    tracing::trace!(error = %err, "a client's connection ended");
                }
                return Poll::Ready(());
            }
            let also = connection.also.borrow().clone();
            if let Some(link) = also {
                link.drive(cx);
            }
            let now = connection.now();
            if connection.check_at().is_some_and(|at| at <= now) && !connection.key_is_good(&worker)
            {
                tracing::debug!("a running answer was cut: its key is no longer good");
                return Poll::Ready(());
            }
            let deadline = connection.deadline();
            if deadline.is_some_and(|at| at <= now) {
                if had_its_chance {
                    return Poll::Ready(());
                }
                had_its_chance = true;
                continue;
            }
            let next = [deadline, connection.check_at()]
                .into_iter()
                .flatten()
                .min();
            if let Some(next) = next
                && (timer.is_elapsed() || next < timer.deadline().into_std())
            {
                timer.as_mut().reset(next.into());
                is_armed = false;
            }
            if is_armed || timer.is_elapsed() {
                return Poll::Pending;
            }
            if timer.as_mut().poll(cx).is_pending() {
                is_armed = true;
                return Poll::Pending;
            }
            connection.now.set(Instant::now());
        }
    })
    .await;
}

/// A socket that tells when bytes of a head come in.
struct Watched {
    stream: Gather<TcpStream>,
    connection: Rc<Connection>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.connection.bytes_came();
        }
        outcome
    }
}

impl AsyncWrite for Watched {
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
