//! HTTP/2 in: each stream is a lane of its own, driven by a task of its own.
//!
//! What one client may make us keep is bounded by what we tell it (RFC 9113, 6.5.2) and by
//! what the library refuses to play along with: so many streams, so much of each body
//! before it is read, so much of each answer before it is taken, so long a head, and so
//! many streams that are opened only to be reset.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Worker;
use super::connection::Watched;
use super::lane::Lane;
use crate::pipeline;

/// Streams that a client may have open at one time.
const STREAMS_MAX: u32 = 100;
/// What a client may send of one body before it is read; the least that HTTP/2 knows
/// without asking.
const STREAM_WINDOW_BYTES: u32 = 65_535;
/// The same for one that joins a crowd.
const CROWD_STREAM_WINDOW_BYTES: u32 = 16 << 10;
/// The same for all bodies of a connection. It cannot be less than this before the client
/// has heard of it.
const CONNECTION_WINDOW_BYTES: u32 = 65_535;
/// What of an answer is kept for a client that does not take it.
const SEND_BUFFER_BYTES_MAX: usize = 16 << 10;
/// Streams that were reset before they were looked at (CVE-2023-44487), and those that
/// were reset by us, after which the connection is closed.
const RESET_STREAMS_MAX: usize = 20;
const OWN_RESET_STREAMS_MAX: usize = 256;

/// Serves one connection until it ends.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: Rc<Worker>,
    connection: Rc<Lane>,
    io: Watched<S>,
) {
    let bounds = &worker.shared.config.bounds;
    let opened = Rc::<RefCell<Option<Rc<Lane>>>>::default();
    let mut builder = http2::Builder::new(Streams {
        worker: Rc::clone(&worker),
        connection: Rc::clone(&connection),
        opened: Rc::clone(&opened),
    });
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(match worker.is_crowded() {
            true => CROWD_STREAM_WINDOW_BYTES,
            false => STREAM_WINDOW_BYTES,
        })
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(u32::try_from(bounds.head_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(OWN_RESET_STREAMS_MAX);
    let service = service_fn({
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        move |request| {
            let lane = Rc::new(connection.open_stream());
            opened.replace(Some(Rc::clone(&lane)));
            pipeline::handle(Rc::clone(&worker), lane, request)
        }
    });
    let mut http = pin!(builder.serve_connection(TokioIo::new(io), service));
    let linger = Duration::from_millis(bounds.drain_idle_ms);
    let mut is_leaving = false;
    let ended = connection
        .run(&worker, |cx| {
            // One that was idle for too long gets its goodbye as well, for what that is
            // worth: the deadline has passed, and the next look is the last.
            if (worker.is_draining() || connection.is_late()) && !is_leaving {
                is_leaving = true;
                http.as_mut().graceful_shutdown();
            }
            let outcome = http.as_mut().poll(cx);
            if is_leaving {
                connection.hasten(linger);
            }
            outcome
        })
        .await;
    if let Some(Err(err)) = ended {
        tracing::trace!(error = %err, "a client's connection ended");
    }
}

/// Runs the streams of a connection. The library calls the service and then, in the same
/// breath, the executor; so the lane that the service opened is the stream's.
#[derive(Clone)]
struct Streams {
    worker: Rc<Worker>,
    connection: Rc<Lane>,
    opened: Rc<RefCell<Option<Rc<Lane>>>>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(lane) = self.opened.take() else {
            // Nothing of ours asks for any other task.
            return;
        };
        let open = Open::new(Rc::clone(&self.connection));
        let worker = Rc::clone(&self.worker);
        // In a box of its own, because a task keeps room for what it was given and for what
        // it makes of that.
        let mut stream = Box::pin(stream);
        tokio::task::spawn_local(async move {
            let _open = open;
            // Dropped unfinished, it is reset.
            lane.run(&worker, |cx| stream.as_mut().poll(cx)).await;
        });
    }
}

/// A stream that counts on its connection.
struct Open {
    connection: Rc<Lane>,
}

impl Open {
    fn new(connection: Rc<Lane>) -> Self {
        connection.stream_begins();
        Self { connection }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.stream_ends();
    }
}
