//! Bodies on their way, both directions: streamed, counted, and bounded in time.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::headers::{Trailing, clean_request_trailers};
use super::record::Record;
use super::relay::Relay;
use super::tunnel::Tunnel;
use crate::metrics::{Outcome, add};
use crate::rejection::Code;
use crate::server::Worker;
use crate::server::lane::Lane;

/// A body ended where it should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body was cut")]
pub struct Cut;

/// What the upstream gets.
#[derive(Debug, Default, Clone)]
pub enum RequestBody {
    /// No body.
    #[default]
    Empty,
    /// A client's body as it comes.
    Streaming {
        /// The body, of which a request that has to be sent again is one more owner.
        upload: Rc<RefCell<Upload>>,
        /// Which sending this is; only the last one may read.
        sending: u32,
    },
}

/// A client's body.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    /// Something was taken of it.
    was_read: bool,
    /// Which sending may read it.
    sending: u32,
    progress: Rc<Progress>,
    bytes_left: u64,
    passing: Trailing,
    /// The slowest that a client may be: so many bytes in so much waiting.
    pace: Pace,
    pace_bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// The least a client must send.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes within one window.
    pub bytes_min: u64,
    /// The window, of waiting for the client only.
    pub window: Duration,
}

/// How far a client's body is, told to those who wait for the answer.
#[derive(Debug)]
pub struct Progress {
    worker: Rc<Worker>,
    lane: Rc<Lane>,
    turn: u64,
    /// The whole body has gone.
    pub is_done: Cell<bool>,
    /// Why it will not.
    pub fault: Cell<Option<Code>>,
    /// The body is read by another task than the one that runs the lane.
    is_apart: Cell<bool>,
    /// Nobody wants the rest.
    is_given_up: Cell<bool>,
    /// The task that reads it apart.
    reader: RefCell<Option<Waker>>,
    idle: Duration,
    first_byte: Duration,
}

/// What the client gets.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    /// `None` when the record goes on with something else.
    record: Option<Record>,
}

/// Whose answer it is.
#[derive(Debug)]
pub enum Content {
    /// The proxy's own.
    Own(Option<Bytes>),
    /// The upstream's.
    Upstream(Box<Relay>),
    /// None: the connection becomes a tunnel.
    Tunnel(Box<Tunnel>),
}

// === impl Progress ===

impl Progress {
    /// No progress yet, in the request that the connection now serves.
    pub fn new(worker: Rc<Worker>, lane: Rc<Lane>, idle: Duration, first_byte: Duration) -> Self {
        Self {
            turn: lane.turn(),
            worker,
            lane,
            is_done: Cell::new(false),
            fault: Cell::new(None),
            is_apart: Cell::new(false),
            is_given_up: Cell::new(false),
            reader: RefCell::new(None),
            idle,
            first_byte,
        }
    }

    /// The body is read by a task of its own from now on.
    pub fn runs_apart(&self) {
        self.is_apart.set(true);
    }

    /// Nobody wants the rest of the body: what reads it apart hears of that as of an error,
    /// so that the upstream never takes the beginning for the whole.
    pub fn give_up(&self) {
        if !self.is_done.get()
            && !self.is_given_up.replace(true)
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }

    /// A piece has gone, or the whole: whoever waits may wait on.
    fn moved(&self, bytes: u64) {
        add(&self.worker.counters.request_bytes, bytes);
        // An upstream may answer before it has read everything, and then the connection
        // has gone on to other things.
        if self.lane.turn() == self.turn {
            let wait = if self.is_done.get() {
                self.first_byte
            } else {
                self.idle
            };
            if self.is_apart.get() {
                self.lane.refresh_now();
            }
            self.lane.wait_until(self.lane.now() + wait);
        }
    }

    fn fail(&self, code: Code) -> Cut {
        self.fault.set(Some(code));
        Cut
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// A client's body, with its cap and its least pace.
    pub fn streaming(
        incoming: Incoming,
        progress: Rc<Progress>,
        bytes_max: u64,
        passing: Trailing,
        pace: Pace,
    ) -> Self {
        let upload = Upload {
            incoming,
            was_read: false,
            sending: 0,
            progress,
            bytes_left: bytes_max,
            passing,
            pace,
            pace_bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            alarm: None,
        };
        Self::Streaming {
            upload: Rc::new(RefCell::new(upload)),
            sending: 0,
        }
    }

    /// The body for one more try, if it can be sent again: nothing was taken of it.
    pub fn again(self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Streaming { upload, .. } => {
                let sending = {
                    let mut upload = upload.borrow_mut();
                    upload.sending += 1;
                    upload.progress.is_given_up.set(false);
                    upload.progress.is_apart.set(false);
                    (!upload.was_read).then_some(upload.sending)?
                };
                Some(Self::Streaming { upload, sending })
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming { upload, sending } => {
                let mut upload = upload.borrow_mut();
                if upload.sending != *sending {
                    return Poll::Ready(Some(Err(Cut)));
                }
                upload.poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { upload, .. } => upload.borrow().incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { upload, .. } => upload.borrow().incoming.size_hint(),
        }
    }
}

// === impl Upload ===

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.progress.is_given_up.get() {
            return Poll::Ready(Some(Err(Cut)));
        }
        if self.progress.is_apart.get() {
            *self.progress.reader.borrow_mut() = Some(cx.waker().clone());
        }
        loop {
            let frame = Pin::new(&mut self.incoming).poll_frame(cx);
            self.was_read |= matches!(frame, Poll::Ready(Some(_)));
            match frame {
                Poll::Pending => return self.poll_pace(cx).map(|cut| Some(Err(cut))),
                Poll::Ready(None) => {
                    self.finish(0);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(self.progress.fail(Code::BadRequest))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => match self.trailers(frame) {
                            Some(trailers) => return Poll::Ready(Some(Ok(trailers))),
                            None => continue,
                        },
                    };
                    self.note_came();
                    let bytes = data.remaining() as u64;
                    let Some(left) = self.bytes_left.checked_sub(bytes) else {
                        return Poll::Ready(Some(Err(self.progress.fail(Code::RequestTooLarge))));
                    };
                    self.bytes_left = left;
                    self.pace_bytes += bytes;
                    if self.incoming.is_end_stream() {
                        self.finish(bytes);
                    } else {
                        self.progress.moved(bytes);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    /// The last frame of a body, if anything of it may pass.
    fn trailers(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let trailers = frame.into_trailers().ok()?;
        let trailers = clean_request_trailers(trailers, &self.passing)?;
        self.finish(0);
        Some(Frame::trailers(trailers))
    }

    fn finish(&mut self, bytes: u64) {
        if !self.progress.is_done.replace(true) {
            self.progress.moved(bytes);
        }
    }

    fn note_came(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Only waiting for the client counts; while the upstream takes its time, it does not.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        loop {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            let until = since + self.pace.window.saturating_sub(self.waited);
            let alarm = self
                .alarm
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
            if alarm.deadline() != until.into() {
                alarm.as_mut().reset(until.into());
            }
            ready!(alarm.as_mut().poll(cx));
            if self.pace_bytes < self.pace.bytes_min {
                return Poll::Ready(self.progress.fail(Code::RequestTimeout));
            }
            self.pace_bytes = 0;
            self.waited = Duration::ZERO;
            self.waiting_since = None;
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// An answer and the record that closes with it. When the answer makes the connection
    /// a tunnel, the record closes with that.
    pub fn new(content: Content, record: Record) -> Self {
        let content = match content {
            Content::Tunnel(tunnel) => {
                let lane = Rc::clone(&record.lane);
                lane.join(tunnel.recorded(record));
                return Self {
                    content: Content::Own(None),
                    record: None,
                };
            }
            content => content,
        };
        Self {
            content,
            record: Some(record),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { content, record } = &mut *self;
        match (content, record) {
            (Content::Own(text), _) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            (Content::Upstream(relay), Some(record)) => relay.poll_frame(cx, record),
            (Content::Upstream(_) | Content::Tunnel(_), _) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(text) => text.is_none(),
            Content::Upstream(relay) => relay.is_over(),
            Content::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Content::Upstream(relay) => relay.size_hint(),
            Content::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let (Content::Upstream(relay), Some(record)) = (&mut self.content, &self.record) {
            let outcome = relay.close(record);
            record.ends(outcome);
        }
    }
}

/// How an answer of the upstream ended.
pub(super) fn outcome(is_over: bool, was_cut: bool) -> Outcome {
    match (is_over, was_cut) {
        (true, _) => Outcome::Served,
        (false, true) => Outcome::Cut,
        (false, false) => Outcome::Left,
    }
}
