//! The life of a request: the stages, in the only order there is.
//!
//! | stage | answers | waits |
//! |---|---|---|
//! | [`identify`] | which request is this, from whom, and can it be passed on at all? | never |
//! | [`authenticate`] | whose key is this? One SHA-256, one look-up. | only when the table cannot tell |
//! | [`admit`] | may this key be used now? | never |
//! | [`authorize`] | may it go there? | never |
//! | [`mod@limit`] | is there room for one more? One decision over all limits. | never |
//! | [`forward`] | a connection, a last look at the table, and the request goes. | yes |
//! | [`relay`] | the answer comes back, piece by piece. | yes |
//! | [`record`] | how did it end? Always, also when the client leaves. | never |
//!
//! The first stage that refuses ends the request, and nothing later is charged. Each stage
//! returns the evidence that the next one needs, so none can be left out. Inside, a
//! refusal is a [`Rejection`]; only [`handle`] turns it into an answer.

pub mod access;
pub mod admit;
pub mod authenticate;
pub mod authorize;
pub mod body;
pub mod forward;
pub mod headers;
pub mod identify;
pub mod limit;
pub mod me;
pub mod record;
pub mod relay;
pub mod tunnel;
pub mod verify;

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use schemas::entry::ErrorProfile;

use crate::limit::Standings;
use crate::metrics::Outcome;
use crate::rejection::{self, Rejection};
use crate::server::Worker;
use crate::server::lane::Lane;
use body::{Content, ResponseBody};
use identify::Arrival;
use record::Record;

/// The header of every answer that names the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What an answer needs to know of the walk, however far it came.
#[derive(Debug, Default)]
struct Trail {
    /// The shape of error bodies for this caller.
    profile: ErrorProfile,
    /// How the caller's limits stand.
    standings: Standings,
    /// Another proxy asks that understands one kind of refusal only.
    denies_as_403: bool,
}

/// Serves one request. It cannot fail: whatever goes wrong is an answer.
pub async fn handle(
    worker: Rc<Worker>,
    lane: Rc<Lane>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let arrival = identify::identify(&worker, &lane, request.headers());
    let record = Record::open(Rc::clone(&worker), Rc::clone(&lane), &arrival);
    let mut trail = Trail {
        denies_as_403: verify::denies_as_403(request.uri()),
        ..Trail::default()
    };
    let (version, is_head) = (request.version(), request.method() == Method::HEAD);
    let outcome = walk(&worker, &lane, &arrival, request, &mut trail).await;
    let mut response = match outcome {
        Ok(response) => {
            if matches!(response.body(), Content::Own(_)) {
                record.ends(Outcome::Served);
            }
            response
        }
        Err(rejection) => {
            record.ends(Outcome::Refused(rejection.code));
            let mut response =
                rejection::answer(&rejection, trail.profile, arrival.request_id.as_str());
            if trail.denies_as_403 {
                verify::deny_as_403(&mut response);
            }
            response.map(|text| Content::Own(Some(text)))
        }
    };
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, arrival.request_id.to_header());
    headers::show_limits(headers, &trail.standings);
    if version == Version::HTTP_2 {
        // Streams end one by one, and what is wrong with one says nothing of the others.
        headers.remove(CONNECTION);
        if is_head {
            leave_body_out(&mut response);
        }
    } else if worker.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|content| ResponseBody::new(content, record)))
}

/// The stages in order.
async fn walk(
    worker: &Rc<Worker>,
    lane: &Rc<Lane>,
    arrival: &Arrival,
    request: Request<Incoming>,
    trail: &mut Trail,
) -> Result<Response<Content>, Rejection> {
    let shared = &worker.shared;
    trail.profile = shared.table.policies().global.error_profile;
    let (head, incoming) = request.into_parts();

    identify::check_form(&head)?;
    identify::check_size(&head, shared.config.bounds.headers_max)?;
    if verify::is_asked(head.uri.path()) {
        return verify::answer(shared, arrival, head, trail).await;
    }
    let known = authenticate::authenticate(shared, arrival, &head).await?;
    trail.profile = known.profile();
    let admitted = admit::admit(known, arrival.now)?;
    if me::is_for_us(head.uri.path()) {
        return me::answer(shared, &admitted, arrival, &head).await;
    }
    let route = authorize::authorize(shared, &admitted, &head)?;
    let permit = match limit::limit(shared, &admitted, arrival.now) {
        Ok(permit) => permit,
        Err(refusal) => {
            trail.standings = refusal.standings;
            return Err(Rejection::limit(&refusal.refused));
        }
    };
    trail.standings = permit.standings();
    let exchange = forward::forward(
        worker, lane, arrival, &admitted, &route, permit, head, incoming,
    )
    .await?;
    relay::relay(worker, lane, &admitted, &route, exchange).await
}

/// Tells the length of an answer of our own and keeps the rest; for HTTP/1.1 the HTTP
/// library does that.
fn leave_body_out(response: &mut Response<Content>) {
    if let Content::Own(text) = response.body_mut() {
        let length = text.take().map_or(0, |it| it.len());
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// An answer of the proxy's own.
fn own(body: impl Into<Bytes>) -> Response<Content> {
    Response::new(Content::Own(Some(body.into())))
}

#[cfg(test)]
mod tests;
