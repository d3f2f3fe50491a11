//! The answer comes back, piece by piece, as it comes: nothing is held back, so events of
//! a stream reach the client at once. Once the head has gone, a cap or deadline cuts the
//! connection: a client must never take half an answer for a whole one.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::admit::Admitted;
use super::authorize::Route;
use super::body::{self, Content, Cut, Progress};
use super::forward::Exchange;
use super::headers::clean_response;
use super::record::Record;
use crate::metrics::Outcome;
use crate::rejection::{Code, Rejection};
use crate::server::Worker;
use crate::server::connection::Connection;
use crate::upstream::Lease;

/// An answer on its way.
#[derive(Debug)]
pub struct Relay {
    incoming: Incoming,
    /// The connection it comes over; it goes back to the pool when all is done.
    lease: Option<Lease>,
    upload: Option<Rc<Progress>>,
    /// A piece that was there together with the head.
    first: Option<Bytes>,
    bytes_left: u64,
    idle: Duration,
    is_finished: bool,
    /// Found, and told when what came before has had its chance to go out.
    broken: Option<Broken>,
    was_cut: bool,
}

/// Why an answer does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    TooLarge,
    Off,
    Late,
}

/// Begins to pass the answer on.
///
/// # Errors
/// `response_too_large` or `upstream_unreachable`, when that shows before the head has
/// gone.
pub async fn relay(
    worker: &Worker,
    connection: &Connection,
    admitted: &Admitted,
    route: &Route,
    exchange: Exchange,
) -> Result<Response<Content>, Rejection> {
    let bounds = &worker.shared.config.bounds;
    let policy = &route.target.policy;
    let bytes_max = policy
        .bodies
        .response_bytes_max
        .unwrap_or(bounds.response_bytes_max);
    let (mut head, incoming) = exchange.response.into_parts();
    let length = incoming.size_hint();
    if length.lower() > bytes_max {
        return Err(refusal(Broken::TooLarge, bytes_max));
    }
    clean_response(&mut head.headers, policy.allow_set_cookie);
    if length.exact().is_none() {
        // The body ends with its chunks or its connection; a length would contradict it.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    let now = connection.now();
    connection.wait_until(now + exchange.patience.idle);
    if let Some(upload) = &exchange.upload
        && !upload.is_done.get()
    {
        // A client that reads nothing must not keep its own body from being sent.
        connection.drive_also(exchange.lease.link());
    }
    connection.hold(
        admitted.known.hash,
        now + Duration::from_millis(bounds.stream_check_ms),
    );
    let mut relay = Relay {
        is_finished: incoming.is_end_stream(),
        incoming,
        lease: Some(exchange.lease),
        upload: exchange.upload,
        first: None,
        bytes_left: bytes_max,
        idle: exchange.patience.idle,
        broken: None,
        was_cut: false,
    };
    if !relay.is_finished {
        // A look without waiting: what is wrong already can still be said.
        let first = poll_fn(|cx| Poll::Ready(relay.poll_data(cx))).await;
        match first {
            Poll::Pending => {}
            Poll::Ready(None) => relay.is_finished = true,
            Poll::Ready(Some(Ok(data))) => relay.first = Some(data),
            Poll::Ready(Some(Err(broken))) => return Err(refusal(broken, bytes_max)),
        }
    }
    Ok(Response::from_parts(
        head,
        Content::Upstream(Box::new(relay)),
    ))
}

fn refusal(broken: Broken, bytes_max: u64) -> Rejection {
    match broken {
        Broken::TooLarge => Rejection::new(
            Code::ResponseTooLarge,
            format!("The upstream's answer has more than {bytes_max} bytes."),
        ),
        Broken::Off => Rejection::new(
            Code::UpstreamUnreachable,
            "The upstream broke its answer off.",
        ),
        Broken::Late => Rejection::new(
            Code::UpstreamTimeout,
            "The upstream did not answer in time.",
        ),
    }
}

// === impl Relay ===

impl Relay {
    /// Whether the last piece has gone.
    pub fn is_over(&self) -> bool {
        self.is_finished && self.first.is_none()
    }

    /// How long the rest is, if that is known.
    pub fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.size_hint();
        if let Some(first) = &self.first {
            let more = first.len() as u64;
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(more));
            }
            hint.set_lower(hint.lower().saturating_add(more));
        }
        hint
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        record: &Record,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let data = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None if self.is_finished => None,
            None => match self.broken.map_or_else(
                || self.poll_data(cx),
                |broken| Poll::Ready(Some(Err(broken))),
            ) {
                Poll::Ready(data) => data,
                Poll::Pending if record.connection.is_late() => Some(Err(Broken::Late)),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match data {
            None => {
                self.is_finished = true;
                None
            }
            Some(Ok(data)) => {
                record.passed_on(data.len());
                record
                    .connection
                    .wait_until(record.connection.now() + self.idle);
                Some(Ok(Frame::data(data)))
            }
            // An error makes the HTTP library drop what it has not written, and a client
            // should at least see the head and the pieces that did come.
            Some(Err(broken)) if self.broken.is_none() => {
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Err(broken)) => {
                self.was_cut = true;
                tracing::debug!(reason = ?broken, "an answer was cut");
                Some(Err(Cut))
            }
        })
    }

    /// Ends the exchange. Only a whole one leaves a connection that can be used again; any
    /// other is closed, which also tells the upstream to stop.
    pub fn close(&mut self, record: &Record) -> Outcome {
        let is_sent = self.upload.as_ref().is_none_or(|it| it.is_done.get());
        let is_over = self.is_over();
        if let Some(lease) = self.lease.take()
            && is_over
            && is_sent
        {
            let now = record.connection.now();
            record.worker().upstreams.give_back(lease, now);
        }
        body::outcome(self.is_over(), self.was_cut)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some(lease) = &self.lease else {
            return Poll::Ready(None);
        };
        let mut was_driven = false;
        loop {
            let frame = match lease.poll_frame(&mut self.incoming) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(Broken::Off))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if was_driven => return Poll::Pending,
                Poll::Pending => {
                    lease.drive(cx);
                    was_driven = true;
                    continue;
                }
            };
            // Trailer fields do not pass: none was announced by us.
            let Ok(data) = frame.into_data() else {
                was_driven = false;
                continue;
            };
            let Some(left) = self.bytes_left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Some(Err(Broken::TooLarge)));
            };
            self.bytes_left = left;
            self.is_finished = self.incoming.is_end_stream();
            return Poll::Ready(Some(Ok(data)));
        }
    }
}
