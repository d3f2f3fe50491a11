//! The answer comes back, piece by piece, as it comes: nothing is held back, so events of
//! a stream reach the client at once. Once the head has gone, a cap or deadline cuts the
//! connection: a client must never take half an answer for a whole one.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::admit::Admitted;
use super::authorize::Route;
use super::body::{self, Content, Cut, Progress};
use super::forward::{Client, Exchange};
use super::headers::{Hop, Trailing, announce_trailers, clean_response, clean_response_trailers};
use super::record::Record;
use super::tunnel::Tunnel;
use crate::metrics::Outcome;
use crate::rejection::{Code, Rejection};
use crate::server::Worker;
use crate::server::lane::Lane;
use crate::upstream::Lease;

/// An answer on its way.
#[derive(Debug)]
pub struct Relay {
    incoming: Incoming,
    /// The connection it comes over; it goes back to the pool when all is done.
    lease: Option<Lease>,
    upload: Option<Rc<Progress>>,
    /// A piece that was there together with the head.
    first: Option<Frame<Bytes>>,
    bytes_left: u64,
    passing: Trailing,
    allow_set_cookie: bool,
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
    lane: &Lane,
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
    let Exchange {
        response,
        lease,
        upload,
        patience,
        client,
        upgraded_to,
    } = exchange;
    let (mut head, incoming) = response.into_parts();
    let is_over = incoming.is_end_stream();
    let length = incoming.size_hint();
    // The answer to a HEAD may tell the length of a body that it does not have.
    if !is_over && length.lower() > bytes_max {
        return Err(refusal(Broken::TooLarge, bytes_max));
    }
    let hop = clean_response(&mut head.headers, policy.allow_set_cookie);
    head.extensions.clear();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let is_sent = upload.is_none_or(|it| it.is_done.get());
        switch(&mut head, upgraded_to, is_sent)?;
        lane.unbound_total();
        lane.hold(
            admitted.known.hash,
            lane.now() + Duration::from_millis(bounds.stream_check_ms),
        );
        let tunnel = Tunnel::new(lease, patience.idle);
        return Ok(Response::from_parts(
            head,
            Content::Tunnel(Box::new(tunnel)),
        ));
    }
    let has_trailers = !is_over
        && match head.version {
            Version::HTTP_2 => client == Client::Http2 || !hop.trailers.is_empty(),
            _ => length.exact().is_none(),
        };
    let passing = match has_trailers {
        true => trailing(hop, &head, client),
        false => Trailing::Nothing,
    };
    if let Trailing::Announced(names) = &passing {
        announce_trailers(&mut head.headers, names);
    }
    if !is_over && (length.exact().is_none() || passing.is_announced()) {
        // The body ends with its chunks or its connection; a length would contradict it.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = Version::HTTP_11;
    let now = lane.now();
    lane.wait_until(now + patience.idle);
    if let (Some(upload), Some(link)) = (&upload, lease.link())
        && !upload.is_done.get()
    {
        // A client that reads nothing must not keep its own body from being sent.
        lane.drive_also(link);
    }
    lane.hold(
        admitted.known.hash,
        now + Duration::from_millis(bounds.stream_check_ms),
    );
    let mut relay = Relay {
        is_finished: is_over,
        incoming,
        lease: Some(lease),
        upload,
        first: None,
        bytes_left: bytes_max,
        passing,
        allow_set_cookie: policy.allow_set_cookie,
        idle: patience.idle,
        broken: None,
        was_cut: false,
    };
    if !relay.is_finished {
        // A look without waiting: what is wrong already can still be said.
        let first = poll_fn(|cx| Poll::Ready(relay.poll_piece(cx))).await;
        match first {
            Poll::Pending => {}
            Poll::Ready(None) => relay.is_finished = true,
            Poll::Ready(Some(Ok(first))) => relay.first = Some(first),
            Poll::Ready(Some(Err(broken))) => return Err(refusal(broken, bytes_max)),
        }
    }
    Ok(Response::from_parts(
        head,
        Content::Upstream(Box::new(relay)),
    ))
}

/// Which trailer fields the client gets: it must understand them, and HTTP/1.1 must have
/// announced them on both sides.
fn trailing(hop: Hop, head: &Parts, client: Client) -> Trailing {
    match (client, head.version) {
        (Client::Http2, Version::HTTP_2) => Trailing::Any,
        (
            Client::Http1 {
                takes_trailers: false,
            },
            _,
        ) => Trailing::Nothing,
        _ => Trailing::Announced(hop.trailers),
    }
}

/// The head that tells the client that the connection is a tunnel from here on.
fn switch(
    head: &mut Parts,
    upgraded_to: Option<HeaderValue>,
    is_sent: bool,
) -> Result<(), Rejection> {
    let refuse = |detail| Err(Rejection::new(Code::UpstreamUnreachable, detail));
    let Some(protocol) = upgraded_to else {
        return refuse("The upstream switched protocols unasked.");
    };
    if !is_sent {
        return refuse("The upstream switched protocols before it had the request.");
    }
    head.headers.insert(UPGRADE, protocol);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.remove(CONTENT_LENGTH);
    Ok(())
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
        if self.passing.is_announced() {
            // Chunks, so that something can come after them.
            return SizeHint::default();
        }
        let mut hint = self.incoming.size_hint();
        if let Some(first) = self.first.as_ref().and_then(Frame::data_ref) {
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
        let frame = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None if self.is_finished => None,
            None => match self.broken.map_or_else(
                || self.poll_piece(cx),
                |broken| Poll::Ready(Some(Err(broken))),
            ) {
                Poll::Ready(frame) => frame,
                Poll::Pending if record.lane.is_late() => Some(Err(Broken::Late)),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match frame {
            None => {
                self.is_finished = true;
                None
            }
            Some(Ok(frame)) => {
                record.passed_on(frame.data_ref().map_or(0, Bytes::len));
                record.lane.wait_until(record.lane.now() + self.idle);
                Some(Ok(frame))
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
            let now = record.lane.now();
            record.worker().upstreams.give_back(lease, now);
        }
        body::outcome(self.is_over(), self.was_cut)
    }

    /// The next piece that may pass.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(lease) = &self.lease else {
            return Poll::Ready(None);
        };
        loop {
            let frame = match ready!(lease.poll_frame(&mut self.incoming, cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken::Off))),
                None => return Poll::Ready(None),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => match self.trailers(frame) {
                    Some(trailers) => {
                        self.is_finished = true;
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                    None => continue,
                },
            };
            let Some(left) = self.bytes_left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Some(Err(Broken::TooLarge)));
            };
            self.bytes_left = left;
            self.is_finished = self.incoming.is_end_stream();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn trailers(&self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let trailers = frame.into_trailers().ok()?;
        clean_response_trailers(trailers, &self.passing, self.allow_set_cookie).map(Frame::trailers)
    }
}
