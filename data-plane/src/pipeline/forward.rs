//! A connection, a last look at the table, and the request goes.
//!
//! Connecting may wait, and while it waits the key may be switched off. So right before
//! the first byte goes upstream the table is asked again, and whatever it refuses then is
//! answered as in *admit* and not charged. *Admitted* means this last look: what a proxy
//! acknowledges as applied, no later request gets around.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;

use super::admit::{Admitted, judge};
use super::authorize::{self, Route};
use super::body::{Pace, Progress, RequestBody};
use super::headers::clean_request;
use super::identify::Arrival;
use super::limit::Permit;
use crate::rejection::{Code, Rejection};
use crate::server::connection::Connection;
use crate::server::{Shared, Worker};
use crate::table::Target;
use crate::upstream::{ConnectError, Lease, Origin};

/// The upstream has begun to answer.
#[derive(Debug)]
pub struct Exchange {
    /// The head of the answer, and its body to come.
    pub response: Response<Incoming>,
    /// The connection it comes over.
    pub lease: Lease,
    /// The client's body, when there is one.
    pub upload: Option<Rc<Progress>>,
    /// Deadlines of this request.
    pub patience: Patience,
}

/// How long each part of a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    connect: Duration,
    first_byte: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    total: Duration,
}

/// Sends a request upstream and waits for the head of the answer.
///
/// # Errors
/// What a last look at the table refuses; `unsafe_target`, `upstream_unreachable`,
/// `upstream_timeout`, `request_too_large`, `request_timeout`.
#[allow(
    clippy::too_many_arguments,
    reason = "each is the evidence of another stage"
)]
pub async fn forward(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    arrival: &Arrival,
    admitted: &Admitted,
    route: &Route,
    permit: Permit,
    head: Parts,
    incoming: Incoming,
) -> Result<Exchange, Rejection> {
    let shared = &worker.shared;
    let patience = Patience::of(shared, &route.target);
    connection.bound_total(arrival.instant + patience.total);

    let origin = Origin {
        scheme: route.target.policy.scheme,
        host: std::sync::Arc::clone(&route.target.host),
        port: route.port,
        allowance: route.allowance,
    };
    let upload = (!incoming.is_end_stream()).then(|| {
        Rc::new(Progress::new(
            Rc::clone(worker),
            Rc::clone(connection),
            patience.idle,
            patience.first_byte,
        ))
    });
    let body = match &upload {
        None => RequestBody::Empty,
        Some(progress) => {
            let bounds = &shared.config.bounds;
            let pace = Pace {
                bytes_min: bounds.body_bytes_per_s_min * bounds.body_rate_window_ms / 1_000,
                window: Duration::from_millis(bounds.body_rate_window_ms),
            };
            let bytes_max = authorize::request_bytes_max(shared, &route.target);
            RequestBody::streaming(incoming, Rc::clone(progress), bytes_max, pace)
        }
    };
    let request = rewrite(head, route, body);
    let sending = Sending {
        worker,
        connection,
        admitted,
        route,
        patience,
        origin,
        upload,
    };
    match sending.send(request, &permit).await {
        Ok(exchange) => Ok(exchange),
        Err(Failure::NotSent(rejection)) => {
            permit.give_back();
            Err(rejection)
        }
        Err(Failure::Sent(rejection)) => Err(rejection),
    }
}

/// A request on its way.
struct Sending<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a Rc<Connection>,
    admitted: &'a Admitted,
    route: &'a Route,
    patience: Patience,
    origin: Origin,
    upload: Option<Rc<Progress>>,
}

/// Whether the upstream may have seen something of the request.
enum Failure {
    NotSent(Rejection),
    Sent(Rejection),
}

/// No head came.
enum NoHead {
    /// Nothing was sent; here is the request.
    Unsent(Box<Request<RequestBody>>),
    /// The connection ended.
    Lost,
    /// A deadline passed.
    Late,
}

// === impl Sending ===

impl Sending<'_> {
    async fn send(
        self,
        mut request: Request<RequestBody>,
        permit: &Permit,
    ) -> Result<Exchange, Failure> {
        let shared = &self.worker.shared;
        let mut is_marked = false;
        loop {
            let mut lease = match self.worker.upstreams.reuse(&self.origin) {
                Some(lease) => lease,
                None => self.connect().await.map_err(Failure::NotSent)?,
            };
            if !is_marked {
                // Before the last look: see `limit::cell`.
                let now = shared.clock.at(self.connection.now());
                shared.cells.mark_used(&permit.cell, now.unix_ms);
                is_marked = true;
            }
            self.last_look().map_err(Failure::NotSent)?;

            let wait = match &self.upload {
                Some(_) => self.patience.idle,
                None => self.patience.first_byte,
            };
            self.connection.wait_until(self.connection.now() + wait);
            match wait_for_head(self.connection, &mut lease, request).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Failure::Sent(unreachable(
                        "The upstream switched protocols unasked.",
                    )));
                }
                Ok(response) => {
                    return Ok(Exchange {
                        response,
                        lease,
                        upload: self.upload,
                        patience: self.patience,
                    });
                }
                // The upstream closed an idle connection before anything was sent on it.
                Err(NoHead::Unsent(unsent)) if lease.is_reused => request = *unsent,
                Err(NoHead::Unsent(_) | NoHead::Lost) => return Err(Failure::Sent(self.lost())),
                Err(NoHead::Late) => {
                    return Err(Failure::Sent(Rejection::new(
                        Code::UpstreamTimeout,
                        "The upstream did not answer in time.",
                    )));
                }
            }
        }
    }

    async fn connect(&self) -> Result<Lease, Rejection> {
        let left = self
            .connection
            .total_until()
            .map_or(self.patience.connect, |until| {
                until.saturating_duration_since(Instant::now())
            });
        let within = self.patience.connect.min(left);
        self.worker
            .upstreams
            .connect(&self.origin, self.route.target.address, within)
            .await
            .map_err(|err| {
                tracing::debug!(error = %err, cause = ?std::error::Error::source(&err), "no connection to an upstream");
                match err {
                    ConnectError::Unsafe => authorize::unsafe_target(),
                    ConnectError::Unreachable(_) => {
                        unreachable("No connection to the upstream could be made.")
                    }
                    ConnectError::Tls(_) => {
                        unreachable("The upstream's TLS could not be verified.")
                    }
                    ConnectError::Timeout => Rejection::new(
                        Code::UpstreamTimeout,
                        "Connecting to the upstream took too long.",
                    ),
                }
            })
    }

    fn last_look(&self) -> Result<(), Rejection> {
        let shared = &self.worker.shared;
        let unix_ms = shared.clock.at(self.connection.now()).unix_ms;
        last_look(shared, self.admitted, &self.route.target, unix_ms)
    }

    /// The connection ended without a head: whose fault was it?
    fn lost(&self) -> Rejection {
        match self.upload.as_ref().and_then(|it| it.fault.get()) {
            Some(Code::RequestTooLarge) => authorize::too_large(authorize::request_bytes_max(
                &self.worker.shared,
                &self.route.target,
            ))
            .and_close(),
            Some(Code::RequestTimeout) => {
                Rejection::new(Code::RequestTimeout, "The body came too slowly.").and_close()
            }
            Some(code) => Rejection::new(code, "The body stopped before its end.").and_close(),
            None => unreachable("The upstream closed the connection or did not answer in HTTP."),
        }
    }
}

// === impl Patience ===

impl Patience {
    fn of(shared: &Shared, target: &Target) -> Self {
        let (bounds, own) = (&shared.config.bounds, &target.policy.timeouts);
        let ms = |own: Option<u64>, default: u64| Duration::from_millis(own.unwrap_or(default));
        Self {
            connect: ms(own.connect_ms, bounds.connect_ms),
            first_byte: ms(own.first_byte_ms, bounds.first_byte_ms),
            idle: ms(own.idle_ms, bounds.idle_ms),
            total: ms(own.total_ms, bounds.total_ms),
        }
    }
}

/// Whether what was admitted and authorized still is.
///
/// # Errors
/// As *admit*; `stale` when the target is no longer the same.
pub(super) fn last_look(
    shared: &Shared,
    admitted: &Admitted,
    target: &Target,
    unix_ms: i64,
) -> Result<(), Rejection> {
    let known = &admitted.known;
    if shared.table.version() == known.version {
        // Nothing changed but the time.
        return judge(&known.found, &known.workspace, unix_ms);
    }
    let Some(found) = shared.table.get(&known.hash) else {
        // It was looked up for this request alone, and that look-up stands; one that
        // the table has dropped since is no longer known.
        return if known.is_exact {
            judge(&known.found, &known.workspace, unix_ms)
        } else {
            Err(Rejection::stale(
                "The key changed while the request waited.",
            ))
        };
    };
    let policies = shared.table.policies();
    let workspace = policies
        .workspace(found.workspace)
        .ok_or_else(|| Rejection::stale("The key's workspace is not known."))?;
    judge(&found, workspace, unix_ms)?;
    let is_same = workspace
        .target_by_name(&target.policy.name)
        .is_some_and(|now| now.id() == target.id() && now.routes_like(target));
    if is_same {
        Ok(())
    } else {
        Err(Rejection::stale(
            "The target changed while the request waited.",
        ))
    }
}

/// The request as the upstream gets it.
fn rewrite(mut head: Parts, route: &Route, body: RequestBody) -> Request<RequestBody> {
    clean_request(&mut head.headers, route.target.host_header(route.port));
    head.uri = Uri::from(route.path.clone());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Request::from_parts(head, body)
}

/// Waits until the head of the answer has come, the connection has ended or a deadline
/// has passed; the connection's driver wakes for the last. The upstream's connection runs
/// in here, so nothing else can bring the head and the wait itself needs no waker.
async fn wait_for_head(
    connection: &Connection,
    lease: &mut Lease,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, NoHead> {
    let mut sending = pin!(lease.send(request));
    poll_fn(|cx| {
        lease.drive(cx);
        match sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut err)) => Poll::Ready(Err(match err.take_message() {
                Some(unsent) => NoHead::Unsent(Box::new(unsent)),
                None => {
                    tracing::debug!(error = %err.error(), "an upstream gave no answer");
                    NoHead::Lost
                }
            })),
            Poll::Pending if connection.is_late() => Poll::Ready(Err(NoHead::Late)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn unreachable(detail: &'static str) -> Rejection {
    Rejection::new(Code::UpstreamUnreachable, detail)
}
