//! What serves one request at a time, and until when: a connection of HTTP/1.1, or one
//! stream of a connection of HTTP/2.
//!
//! **Deadlines.** A timer per wait would cost more than the rest of a request. So what
//! waits only writes *until when* into the lane, and [`Lane::run`], which is woken for
//! everything that happens on the lane anyway, keeps one timer for the earliest deadline
//! that it has seen. The timer is moved only when a deadline is nearer than it; one that
//! fires early is set again. When a deadline has passed, everything runs once more, so
//! that whoever waits can answer; if nobody does (a client that does not read, a head that
//! does not end), the lane is cut.
//!
//! A connection of HTTP/2 is a lane, too: it has a deadline for heads that do not end and
//! one for being idle, while each of its streams has those of its request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use schemas::CredentialHash;

use super::Worker;
use super::heads::{Heads, Share};
use crate::pipeline::admit::judge;
use crate::pipeline::tunnel::Tunnel;
use crate::upstream::Link;

/// What one lane is doing, and until when.
#[derive(Debug)]
pub struct Lane {
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
    /// What the connection becomes when HTTP has ended on it.
    tunnel: RefCell<Option<Box<Tunnel>>>,
    waker: RefCell<Option<Waker>>,
    /// When [`Lane::run`] last began to look around.
    now: Cell<Instant>,
    /// What has come of a head that is not whole.
    head: Share,
    /// Streams that run on this connection.
    streams: Cell<usize>,
    head_for: Duration,
    idle_for: Duration,
}

/// The key of a running answer, looked at now and then.
#[derive(Debug)]
struct Held {
    hash: CredentialHash,
    check_at: Instant,
}

/// What a lane is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No request.
    Idle,
    /// A head is coming in.
    Head,
    /// A request is being served.
    Busy,
}

// === impl Lane ===

impl Lane {
    /// A connection that just stands.
    pub fn new(peer: IpAddr, heads: &Rc<Heads>, head_for: Duration, idle_for: Duration) -> Self {
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
            tunnel: RefCell::new(None),
            waker: RefCell::new(None),
            now: Cell::new(now),
            head: Share::of(heads),
            streams: Cell::new(0),
            head_for,
            idle_for,
        }
    }

    /// A stream that was opened on this connection.
    pub fn open_stream(&self) -> Self {
        let stream = Self::new(self.peer, self.head.heads(), self.head_for, self.idle_for);
        stream.now.set(self.now());
        stream
    }

    /// The time, read once whenever something happens on this lane. That is good enough
    /// for deadlines, which are looked at just as often.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Reads the time for a task that runs beside [`Lane::run`].
    pub fn refresh_now(&self) {
        self.now.set(Instant::now());
    }

    /// A request has come; it may take until `total_until`.
    pub fn begin(&self, total_until: Instant) {
        self.phase.set(Phase::Busy);
        self.turn.set(self.turn.get() + 1);
        self.head.clear();
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

    /// What it waits for.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The request may take until then; never longer than it may already.
    pub fn bound_total(&self, until: Instant) {
        let bound = self.total_until.get().map_or(until, |it| it.min(until));
        self.total_until.set(Some(bound));
    }

    /// The request may take as long as it likes: only its waits are bounded.
    pub fn unbound_total(&self) {
        self.total_until.set(None);
    }

    /// Until when the whole request may take.
    pub fn total_until(&self) -> Option<Instant> {
        self.total_until.get()
    }

    /// What is waited for must come until then.
    pub fn wait_until(&self, until: Instant) {
        self.wait_until.set(Some(until));
    }

    /// If no request is being served, one must begin soon.
    pub fn hasten(&self, within: Duration) {
        let soon = self.now() + within;
        if self.phase.get() == Phase::Idle && self.wait_until.get().is_none_or(|at| soon < at) {
            self.wait_until.set(Some(soon));
        }
    }

    /// Whether a deadline has passed.
    pub fn is_late(&self) -> bool {
        self.deadline().is_some_and(|it| it <= self.now())
    }

    /// Drives an upstream's connection beside its answer, until the request is over.
    pub fn drive_also(&self, link: &Rc<Link>) {
        *self.also.borrow_mut() = Some(Rc::clone(link));
    }

    /// The connection becomes a tunnel after the answer that says so.
    pub fn join(&self, tunnel: Box<Tunnel>) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// What the connection is to become.
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.borrow_mut().take()
    }

    /// An answer is passed on for the key with this hash: when the key is switched off,
    /// the answer ends.
    pub fn hold(&self, hash: CredentialHash, check_at: Instant) {
        *self.held.borrow_mut() = Some(Held { hash, check_at });
    }

    /// Lets [`Lane::run`] look around.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Bytes came that belong to a head, unless a request is being served.
    pub fn head_grew(self: &Rc<Self>, bytes: usize) {
        match self.phase.get() {
            Phase::Busy => return,
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.wait_until.set(Some(self.now() + self.head_for));
            }
            Phase::Head => {}
        }
        self.head.grow(bytes, self);
    }

    /// Ends a head that takes more room than there is: the next look finds it late.
    pub fn shed(&self) {
        self.head.mark_shed();
        self.wait_until.set(Some(self.now()));
        self.wake();
    }

    /// Whether [`Lane::shed`] ended it.
    pub fn was_shed(&self) -> bool {
        self.head.was_shed()
    }

    /// The connection speaks HTTP/2 and is ready for streams.
    pub fn await_streams(&self) {
        self.phase.set(Phase::Idle);
        self.wait_until.set(Some(self.now() + self.idle_for));
    }

    /// A head of HTTP/2 has come on, and this is how much of it.
    pub fn frames_head_grew(self: &Rc<Self>, bytes: usize) {
        if self.total_until.get().is_none() {
            self.total_until.set(Some(self.now() + self.head_for));
        }
        self.head.grow(bytes, self);
    }

    /// A head of HTTP/2 is whole.
    pub fn frames_head_ended(&self) {
        self.head.clear();
        self.total_until.set(None);
    }

    /// A stream begins on this connection, which waits for no other.
    pub fn stream_begins(&self) {
        self.streams.set(self.streams.get() + 1);
        self.phase.set(Phase::Busy);
        self.wait_until.set(None);
    }

    /// A stream of this connection is over.
    pub fn stream_ends(&self) {
        let left = self.streams.get() - 1;
        self.streams.set(left);
        if left == 0 {
            self.refresh_now();
            self.await_streams();
            self.wake();
        }
    }

    /// Polls `work` until it is done; `None` when a deadline has passed without it, or when
    /// the key of a running answer is no longer good.
    pub async fn run<T>(
        &self,
        worker: &Worker,
        mut work: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let first_deadline = self.deadline().unwrap_or_else(Instant::now);
        let mut timer = pin!(tokio::time::sleep_until(first_deadline.into()));
        let mut is_armed = false;
        poll_fn(|cx| {
            self.note_waker(cx);
            self.now.set(Instant::now());
            let mut had_its_chance = false;
            loop {
                if let Poll::Ready(done) = work(cx) {
                    return Poll::Ready(Some(done));
                }
                let also = self.also.borrow().clone();
                if let Some(link) = also {
                    link.drive(cx);
                }
                let now = self.now();
                if self.check_at().is_some_and(|at| at <= now) && !self.key_is_good(worker) {
                    tracing::debug!("a running answer was cut: its key is no longer good");
                    return Poll::Ready(None);
                }
                let deadline = self.deadline();
                if deadline.is_some_and(|at| at <= now) {
                    if had_its_chance {
                        return Poll::Ready(None);
                    }
                    had_its_chance = true;
                    continue;
                }
                let next = [deadline, self.check_at()].into_iter().flatten().min();
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
                self.now.set(Instant::now());
            }
        })
        .await
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

    fn note_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
