//! A connection, a last look at the table, and the request goes.
//!
//! Connecting may wait, and while it waits the key may be switched off. So right before
//! the first byte goes upstream the table is asked again, and whatever it refuses then is
//! answered as in *admit* and not charged. *Admitted* means this last look: what a proxy
//! acknowledges as applied, no later request gets around.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;

use super::access::Verdict;
use super::admit::{Admitted, judge};
use super::authorize::{self, Route};
use super::body::{Pace, Progress, RequestBody};
use super::headers::{Hop, Trailing, announce_trailers, clean_request, is_upgrade_to};
use super::identify::Arrival;
use super::limit::Permit;
use crate::credentials::Injection;
use crate::rejection::{Code, Rejection};
use crate::server::lane::Lane;
use crate::server::{Shared, Worker};
use crate::table::Target;
use crate::table::policy::Given;
use crate::upstream::{ConnectError, Lease, Origin, SendError, Versions};

/// How often one request may be refused unseen (HTTP/2) before that is the answer.
const REFUSALS_MAX: u32 = 2;

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
    /// What the client can take.
    pub client: Client,
    /// The protocol of the asked ones that the upstream goes on in.
    pub upgraded_to: Option<HeaderValue>,
}

/// What the client speaks, as far as its answer depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// HTTP/1.1.
    Http1 {
        /// It said `TE: trailers`.
        takes_trailers: bool,
    },
    /// HTTP/2, where trailer fields are a part of every message.
    Http2,
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
    lane: &Rc<Lane>,
    arrival: &Arrival,
    admitted: &Admitted,
    route: &Route,
    permit: Permit,
    mut head: Parts,
    mut incoming: Incoming,
) -> Result<Exchange, Rejection> {
    let shared = &worker.shared;
    let patience = Patience::of(shared, &route.target);
    lane.bound_total(arrival.instant + patience.total);

    let origin = Origin {
        scheme: route.target.policy.scheme,
        host: std::sync::Arc::clone(&route.host),
        port: route.port,
        allowance: route.allowance,
    };
    if head.version == Version::HTTP_2 && incoming.size_hint().exact() == Some(0) {
        lane.wait_until(lane.now() + patience.idle);
        if let Err(rejection) = nothing_comes(&mut incoming).await {
            permit.give_back();
            return Err(rejection);
        }
    }
    let upload = (!incoming.is_end_stream()).then(|| {
        Rc::new(Progress::new(
            Rc::clone(worker),
            Rc::clone(lane),
            patience.idle,
            patience.first_byte,
        ))
    });
    let credential = match given(shared, route, lane).await {
        Ok(credential) => credential,
        Err(rejection) => {
            permit.give_back();
            return Err(rejection);
        }
    };
    let mut hop = clean_request(&mut head.headers, route.host_header.clone());
    if head.version != Version::HTTP_11 {
        hop.upgrade = None;
    }
    if let Some((injection, value)) = credential {
        injection.put(&mut head.headers, value);
    }
    let client = match head.version {
        Version::HTTP_2 => Client::Http2,
        _ => Client::Http1 {
            takes_trailers: hop.takes_trailers,
        },
    };
    let passing = match client {
        Client::Http2 => Trailing::Any,
        Client::Http1 { .. } => Trailing::Announced(hop.trailers.clone()),
    };
    let body = match &upload {
        None => RequestBody::Empty,
        Some(progress) => {
            let bounds = &shared.config.bounds;
            let pace = Pace {
                bytes_min: bounds.body_bytes_per_s_min * bounds.body_rate_window_ms / 1_000,
                window: Duration::from_millis(bounds.body_rate_window_ms),
            };
            let bytes_max = authorize::request_bytes_max(shared, &route.target);
            RequestBody::streaming(incoming, Rc::clone(progress), bytes_max, passing, pace)
        }
    };
    let upgrade = hop.upgrade.clone();
    let has_trailers = client == Client::Http2 && !hop.trailers.is_empty();
    let is_chunked = upload.is_some() && (has_trailers || body.size_hint().exact().is_none());
    let request = rewrite(head, route, hop, body, is_chunked);
    let sending = Sending {
        worker,
        lane,
        admitted,
        route,
        patience,
        origin,
        upload,
        client,
        upgrade,
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
    lane: &'a Rc<Lane>,
    admitted: &'a Admitted,
    route: &'a Route,
    patience: Patience,
    origin: Origin,
    upload: Option<Rc<Progress>>,
    client: Client,
    /// The protocols that the client would like better.
    upgrade: Option<HeaderValue>,
}

/// Whether the upstream may have seen something of the request.
enum Failure {
    NotSent(Rejection),
    Sent(Rejection),
}

/// No head came.
enum NoHead {
    /// Nothing was sent, the upstream has done nothing with it, or the connection ended.
    Error(SendError),
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
        let versions = match self.upgrade {
            Some(_) => Versions::Http1,
            None => Versions::Any,
        };
        let mut refusals = 0;
        let mut is_marked = false;
        loop {
            let mut lease = match self.worker.upstreams.reuse(&self.origin, versions) {
                Some(lease) => lease,
                // Kept apart, so that the many requests that need none do not carry its room.
                None => Box::pin(self.connect(versions))
                    .await
                    .map_err(Failure::NotSent)?,
            };
            if !is_marked {
                // Before the last look: see `limit::cell`.
                let now = shared.clock.at(self.lane.now());
                shared.cells.mark_used(&permit.cell, now.unix_ms);
                is_marked = true;
            }
            self.last_look().map_err(Failure::NotSent)?;

            let wait = match &self.upload {
                Some(_) => self.patience.idle,
                None => self.patience.first_byte,
            };
            self.lane.wait_until(self.lane.now() + wait);
            if let (Some(_), Some(link)) = (&self.upgrade, lease.link()) {
                link.expect_upgrade();
            }
            let spare = lease.is_shared().then(|| request.clone());
            let upload = self.upload.as_ref();
            let error = match wait_for_head(self.lane, &mut lease, request, upload).await {
                Ok(response) => {
                    let upgraded_to = self.upgraded_to(&response);
                    return Ok(Exchange {
                        response,
                        lease,
                        upload: self.upload,
                        patience: self.patience,
                        client: self.client,
                        upgraded_to,
                    });
                }
                Err(NoHead::Error(error)) => error,
                Err(NoHead::Late) => {
                    // Whether it is only slow or no longer there: others need not find out.
                    lease.spend();
                    return Err(Failure::Sent(Rejection::new(
                        Code::UpstreamTimeout,
                        "The upstream did not answer in time.",
                    )));
                }
            };
            let is_reused = lease.is_reused;
            if let SendError::Refused { went_away: true } = error {
                lease.spend();
            }
            drop(lease);
            let again = match (error, spare) {
                // The upstream closed an idle connection before anything was sent on it.
                (SendError::Unsent(unsent), None) if is_reused => Some(*unsent),
                (SendError::Unsent(_) | SendError::Refused { .. }, Some(spare))
                    if refusals < REFUSALS_MAX =>
                {
                    refusals += 1;
                    send_again(spare)
                }
                _ => None,
            };
            match again {
                Some(again) => request = again,
                None => return Err(Failure::Sent(self.lost())),
            }
        }
    }

    async fn connect(&self, versions: Versions) -> Result<Lease, Rejection> {
        let left = self
            .lane
            .total_until()
            .map_or(self.patience.connect, |until| {
                until.saturating_duration_since(Instant::now())
            });
        let within = self.patience.connect.min(left);
        self.worker
            .upstreams
            .connect(&self.origin, self.route.target.address, versions, within)
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

    /// What the upstream switches to, if that was asked for.
    fn upgraded_to<B>(&self, response: &Response<B>) -> Option<HeaderValue> {
        let asked = self.upgrade.as_ref()?;
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS
            && is_upgrade_to(asked, response.headers());
        is_switch
            .then(|| response.headers().get(UPGRADE).cloned())
            .flatten()
    }

    fn last_look(&self) -> Result<(), Rejection> {
        let shared = &self.worker.shared;
        let unix_ms = shared.clock.at(self.lane.now()).unix_ms;
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
    Verdict::of(&found, workspace, target).allowed()?;
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

/// What the request is given for the upstream.
async fn given<'r>(
    shared: &Shared,
    route: &'r Route,
    lane: &Lane,
) -> Result<Option<(&'r Injection, HeaderValue)>, Rejection> {
    let injection = match &route.target.credential {
        Given::Nothing => return Ok(None),
        Given::Header(injection) => injection,
        Given::Unreadable => {
            return Err(Rejection::stale("The target's credential cannot be read."));
        }
    };
    let steady_ms = shared.clock.at(lane.now()).steady_ms;
    let value = shared.credentials.header(injection, steady_ms).await;
    value
        .map(|value| Some((injection, value)))
        .map_err(|_| Rejection::stale("The target's credential has no value on this proxy."))
}

/// Waits for the end of a body that has no bytes but has not ended either: HTTP/2 may say
/// that it is empty and go on all the same, and the upstream would have a whole request
/// before that shows.
async fn nothing_comes(incoming: &mut Incoming) -> Result<(), Rejection> {
    while !incoming.is_end_stream() {
        match poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            None => break,
            Some(Err(_)) => {
                let detail = "The body is longer than it should be.";
                return Err(Rejection::new(Code::BadRequest, detail));
            }
        }
    }
    Ok(())
}

/// The request as the upstream gets it; its headers are clean already.
fn rewrite(
    mut head: Parts,
    route: &Route,
    hop: Hop,
    body: RequestBody,
    is_chunked: bool,
) -> Request<RequestBody> {
    let headers = &mut head.headers;
    if hop.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if is_chunked {
        // HTTP/2 may tell a length and have trailer fields, HTTP/1.1 may not.
        headers.remove(CONTENT_LENGTH);
        // The HTTP library would leave a body out that it does not expect with a method,
        // unless it is told.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        announce_trailers(headers, &hop.trailers);
    }
    if let Some(protocols) = hop.upgrade {
        headers.insert(UPGRADE, protocols);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    head.uri = Uri::from(route.path.clone());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Request::from_parts(head, body)
}

/// The same request once more, if its body can be sent again.
fn send_again(request: Request<RequestBody>) -> Option<Request<RequestBody>> {
    let (head, body) = request.into_parts();
    Some(Request::from_parts(head, body.again()?))
}

/// Waits until the head of the answer has come, the connection has ended or a deadline
/// has passed; the lane wakes for the last.
async fn wait_for_head(
    lane: &Lane,
    lease: &mut Lease,
    request: Request<RequestBody>,
    upload: Option<&Rc<Progress>>,
) -> Result<Response<Incoming>, NoHead> {
    let mut sending = pin!(lease.send(request, upload));
    poll_fn(|cx| match lease.poll_head(sending.as_mut(), cx) {
        Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
        Poll::Ready(Err(err)) => {
            if let SendError::Lost(err) = &err {
                tracing::debug!(error = %err, "an upstream gave no answer");
            }
            Poll::Ready(Err(NoHead::Error(err)))
        }
        Poll::Pending if lane.is_late() => Poll::Ready(Err(NoHead::Late)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn unreachable(detail: &'static str) -> Rejection {
    Rejection::new(Code::UpstreamUnreachable, detail)
}
