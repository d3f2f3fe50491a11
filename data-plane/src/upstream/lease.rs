//! A connection on loan to one request: a whole one of HTTP/1.1, or a place on one of
//! HTTP/2.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::{http1, http2};

use super::Origin;
use super::link::Link;
use super::multiplexed::{Place, refusal, translate};
use crate::pipeline::body::{Progress, RequestBody};

/// A connection, out on loan. Dropped, it is closed, or its place is free.
#[derive(Debug)]
pub struct Lease {
    pub(super) way: Way,
    pub(super) origin: Origin,
    /// Whether it served a request before.
    pub is_reused: bool,
}

/// What the connection speaks.
#[derive(Debug)]
pub(super) enum Way {
    Http1 {
        sender: http1::SendRequest<RequestBody>,
        link: Rc<Link>,
    },
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        place: Place,
    },
}

/// A request was not answered.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was sent; here is the request.
    Unsent(Box<Request<RequestBody>>),
    /// The upstream has done nothing with it, and says so.
    Refused {
        /// It takes no others on this connection either.
        went_away: bool,
    },
    /// The connection ended.
    Lost(hyper::Error),
}

// === impl Lease ===

impl Lease {
    /// The side that reads and writes, where the request has it to itself.
    pub fn link(&self) -> Option<&Rc<Link>> {
        match &self.way {
            Way::Http1 { link, .. } => Some(link),
            Way::Http2 { .. } => None,
        }
    }

    /// Whether other requests share the connection.
    pub fn is_shared(&self) -> bool {
        matches!(self.way, Way::Http2 { .. })
    }

    /// Lets no other request share the connection from now on.
    pub fn spend(&self) {
        if let Way::Http2 { place, .. } = &self.way {
            place.spend();
        }
    }

    /// The next piece of an answer.
    pub fn poll_frame(
        &self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Way::Http1 { link, .. } = &self.way else {
            return Pin::new(incoming).poll_frame(cx);
        };
        // What is there already is taken first. The connection runs in here, so nothing
        // else can bring a piece and nobody needs to be woken for it.
        let mut unheard = Context::from_waker(Waker::noop());
        let frame = link.quietly(|| Pin::new(&mut *incoming).poll_frame(&mut unheard));
        if frame.is_ready() {
            return frame;
        }
        link.drive(cx);
        link.quietly(|| Pin::new(incoming).poll_frame(&mut unheard))
    }

    /// Takes a request, which goes out while [`Self::poll_head`] is asked for the answer.
    pub fn send(
        &mut self,
        mut request: Request<RequestBody>,
        upload: Option<&Rc<Progress>>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        let sending = match &mut self.way {
            Way::Http1 { sender, link } => {
                Either::Left(link.quietly(|| sender.try_send_request(request)))
            }
            Way::Http2 { sender, place } => {
                translate(&mut request);
                place.carry(upload.cloned());
                Either::Right(sender.try_send_request(request))
            }
        };
        async move { sending.await.map_err(SendError::from) }
    }

    /// Asks for the head of the answer, as [`Self::poll_frame`] does for the rest.
    pub fn poll_head<F: Future>(
        &self,
        sending: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        match &self.way {
            Way::Http1 { link, .. } => {
                link.drive(cx);
                sending.poll(&mut Context::from_waker(Waker::noop()))
            }
            Way::Http2 { .. } => sending.poll(cx),
        }
    }
}

// === impl SendError ===

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut err: TrySendError<Request<RequestBody>>) -> Self {
        match err.take_message() {
            Some(unsent) => Self::Unsent(Box::new(unsent)),
            None => match refusal(err.error()) {
                Some(went_away) => Self::Refused { went_away },
                None => Self::Lost(err.into_error()),
            },
        }
    }
}
