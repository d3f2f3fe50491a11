//! The answer comes back, piece by piece, as it comes: nothing is held back, so events of
//! a stream reach the client at once. Once the head has gone, a cap or deadline cuts the
//! connection: a client must never take half an answer for a whole one.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
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
    bytes_left: u64,
    idle: Duration,
    is_over: bool,
    was_cut: bool,
}

/// Begins to pass the answer on.
///
/// # Errors
/// `response_too_large`, when the answer says so itself.
pub fn relay(
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
    if incoming.size_hint().lower() > bytes_max {
        return Err(Rejection::new(
            Code::ResponseTooLarge,
            format!("The upstream's answer has more than {bytes_max} bytes."),
        ));
    }
    clean_response(&mut head.headers, policy.allow_set_cookie);
    if incoming.size_hint().exact().is_none() {
        // The body ends with its chunks or its connection; a length would contradict it.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    let now = Instant::now();
    connection.wait_until(now + exchange.patience.idle);
    connection.hold(
        admitted.known.hash,
        now + Duration::from_millis(bounds.stream_check_ms),
    );
    let relay = Relay {
        is_over: incoming.is_end_stream(),
        incoming,
        lease: Some(exchange.lease),
        upload: exchange.upload,
        bytes_left: bytes_max,
        idle: exchange.patience.idle,
        was_cut: false,
    };
    Ok(Response::from_parts(
        head,
        Content::Upstream(Box::new(relay)),
    ))
}

// === impl Relay ===

impl Relay {
    /// Whether the last piece has gone.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// How long the rest is, if that is known.
    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        record: &Record,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending if record.connection.is_late() => return self.cut("it was late"),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.is_over = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return self.cut("the upstream broke off"),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailer fields do not pass: none was announced by us.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let bytes = data.remaining();
                    let Some(left) = self.bytes_left.checked_sub(bytes as u64) else {
                        return self.cut("it is too large");
                    };
                    self.bytes_left = left;
                    self.is_over = self.incoming.is_end_stream();
                    record.passed_on(bytes);
                    record.connection.wait_until(Instant::now() + self.idle);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    /// Ends the exchange. Only a whole one leaves a connection that can be used again; any
    /// other is closed, which also tells the upstream to stop.
    pub fn close(&mut self, worker: &Worker) -> Outcome {
        let is_sent = self.upload.as_ref().is_none_or(|it| it.is_done.get());
        if let Some(lease) = self.lease.take()
            && self.is_over
            && is_sent
        {
            worker.upstreams.give_back(lease);
        }
        body::outcome(self.is_over, self.was_cut)
    }

    fn cut(&mut self, why: &'static str) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.was_cut = true;
        tracing::debug!(reason = why, "an answer was cut");
        Poll::Ready(Some(Err(Cut)))
    }
}
