//! A connection on loan to one request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use super::Origin;
use super::link::Link;
use crate::pipeline::body::RequestBody;

/// A connection, out on loan. Dropped, it is closed.
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) link: Rc<Link>,
    pub(super) origin: Origin,
    /// Whether it served a request before.
    pub is_reused: bool,
}

// === impl Lease ===

impl Lease {
    /// The side that reads and writes.
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The next piece of an answer.
    pub fn poll_frame(
        &self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // What is there already is taken first. The connection runs in here, so nothing
        // else can bring a piece and nobody needs to be woken for it.
        let mut unheard = Context::from_waker(Waker::noop());
        let frame = self
            .link
            .quietly(|| Pin::new(&mut *incoming).poll_frame(&mut unheard));
        if frame.is_ready() {
            return frame;
        }
        self.link.drive(cx);
        self.link
            .quietly(|| Pin::new(incoming).poll_frame(&mut unheard))
    }

    /// Takes a request, which goes out while [`Self::poll_head`] is asked for the answer.
    /// When nothing of it was sent, the error holds it.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        let Self { sender, link, .. } = self;
        link.quietly(|| sender.try_send_request(request))
    }

    /// Asks for the head of the answer, as [`Self::poll_frame`] does for the rest.
    pub fn poll_head<F: Future>(
        &self,
        sending: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        self.link.drive(cx);
        sending.poll(&mut Context::from_waker(Waker::noop()))
    }
}
