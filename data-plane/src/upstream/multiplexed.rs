//! One connection of HTTP/2 to an upstream, shared by many requests.
//!
//! Unlike one of HTTP/1.1 it has a task of its own: no request can be the one that drives
//! it for all others. It takes no more requests at a time than the upstream allows, so a
//! request never waits inside it after the last look at its key; with more, another
//! connection is made.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{Request, Uri, Version};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::ConnectError;
use crate::gather::Gather;
use crate::pipeline::body::{Progress, RequestBody};

/// Requests that share one connection, where the upstream allows more.
const STREAMS_MAX: usize = 100;
/// What is read of one answer before its client takes it.
const STREAM_WINDOW_BYTES: u32 = 65_535;
/// The same for all answers of a connection: so much that those whose clients take nothing
/// never keep the others from coming.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;
/// What of one request is kept for an upstream that does not take it.
const SEND_BUFFER_BYTES_MAX: usize = 16 << 10;
/// The most bytes of an answer's head.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// A connection with requests on it that says nothing for so long is asked whether it is
/// still there, and has so long to say so.
const PING_AFTER: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(10);

type Machine = Connection<TokioIo<Gather<TlsStream<TcpStream>>>, RequestBody, LocalTasks>;

/// One connection.
pub(super) struct Multiplexed {
    sender: SendRequest<RequestBody>,
    state: Rc<State>,
}

struct State {
    /// Runs in a task; kept here as well, because it knows how many streams there may be.
    machine: RefCell<Machine>,
    streams: Cell<usize>,
    /// No more requests go over it.
    is_spent: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// The right to one stream of a connection, until it is dropped.
pub(super) struct Place {
    state: Rc<State>,
    /// The client's body on this stream.
    upload: Option<Rc<Progress>>,
}

/// Tasks on this thread.
#[derive(Clone)]
struct LocalTasks;

// === impl Multiplexed ===

impl Multiplexed {
    /// Speaks HTTP/2 on a connection that has agreed on it.
    pub(super) async fn open(stream: TlsStream<TcpStream>) -> Result<Self, ConnectError> {
        let (sender, machine) = Builder::new(LocalTasks)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PONG_WITHIN)
            .handshake(TokioIo::new(Gather(stream)))
            .await
            .map_err(|err| ConnectError::Unreachable(std::io::Error::other(err)))?;
        let state = Rc::new(State {
            machine: RefCell::new(machine),
            streams: Cell::new(0),
            is_spent: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        });
        let running = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            let outcome =
                std::future::poll_fn(|cx| Pin::new(&mut *running.machine.borrow_mut()).poll(cx))
                    .await;
            if let Err(err) = outcome {
                tracing::debug!(error = %err, "a connection to an upstream ended");
            }
        });
        Ok(Self { sender, state })
    }

    /// A place for one more request, if there is one.
    pub(super) fn enter(&self) -> Option<(SendRequest<RequestBody>, Place)> {
        if !self.is_usable() {
            return None;
        }
        // What the upstream allows is not known before it has said so; until then it may
        // refuse, and the request is sent again.
        let allowed = self.state.machine.borrow().current_max_send_streams();
        if self.state.streams.get() >= allowed.clamp(1, STREAMS_MAX) {
            return None;
        }
        self.state.streams.set(self.state.streams.get() + 1);
        let place = Place {
            state: Rc::clone(&self.state),
            upload: None,
        };
        Some((self.sender.clone(), place))
    }

    /// Whether it is worth keeping.
    pub(super) fn is_wanted(&self, now: Instant, idle_for: Duration) -> bool {
        let is_idle = self.state.streams.get() == 0
            && now.duration_since(self.state.idle_since.get()) >= idle_for;
        self.is_usable() && !is_idle
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.state.is_spent.get()
    }
}

// === impl Place ===

impl Place {
    /// This body goes over the stream, and no longer than the place is held.
    pub(super) fn carry(&mut self, upload: Option<Rc<Progress>>) {
        if let Some(upload) = &upload {
            upload.runs_apart();
        }
        self.upload = upload;
    }

    /// No more requests go over this connection.
    pub(super) fn spend(&self) {
        self.state.is_spent.set(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.give_up();
        }
        self.state.streams.set(self.state.streams.get() - 1);
        self.state.idle_since.set(Instant::now());
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("streams", &self.state.streams)
            .finish_non_exhaustive()
    }
}

// === impl LocalTasks ===

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Whether the upstream says that it has done nothing with a request: it refused its
/// stream, or went away before it came to it (RFC 9113, 8.7). Then whether it went away.
pub(super) fn refusal(err: &hyper::Error) -> Option<bool> {
    let mut cause = std::error::Error::source(err);
    while let Some(found) = cause {
        if let Some(err) = found.downcast_ref::<h2::Error>() {
            let is_refused = err.is_reset() && err.reason() == Some(h2::Reason::REFUSED_STREAM);
            let is_told = err.is_remote() && (is_refused || err.is_go_away());
            return is_told.then(|| err.is_go_away());
        }
        cause = found.source();
    }
    None
}

/// Says a request as HTTP/2 does: its host is the authority, and frames end its body.
pub(super) fn translate(request: &mut Request<RequestBody>) {
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(TRANSFER_ENCODING);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(UriScheme::HTTPS);
    parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    // Without an authority it is no URI, and the HTTP library refuses it unsent.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}
