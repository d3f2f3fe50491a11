//! Answers of calls that change something, and of lists.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use schemas::Position;
use schemas::api::Propagation;
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::call::{Call, Wait};
use super::failure::Failure;
use crate::execute::Outcome;
use crate::propagation;

/// An answer with a body.
pub(crate) fn ok<T: Serialize>(body: &T) -> Result<Response, Failure> {
    json_response(StatusCode::OK, body)
}

/// An answer that shows a resource and its version.
pub(crate) fn resource<T: Serialize>(body: &T, version: u64) -> Result<Response, Failure> {
    let mut response = json_response(StatusCode::OK, body)?;
    set_etag(&mut response, version);
    Ok(response)
}

/// The answer to a change: waits as asked, then tells the position and, where asked, how
/// far it has travelled. `body` is the usual one, `None` for calls without.
pub(crate) async fn change(
    call: &Call,
    outcome: &Outcome,
    wait: Wait,
    status: StatusCode,
    body: Option<Value>,
) -> Result<Response, Failure> {
    change_by(&call.app, outcome, wait, status, body).await
}

/// The same for a change that was asked for without a workspace.
pub(crate) async fn change_by(
    app: &App,
    outcome: &Outcome,
    wait: Wait,
    status: StatusCode,
    body: Option<Value>,
) -> Result<Response, Failure> {
    let propagation = travelled(app, outcome.position, wait).await;
    let arrived = propagation.as_ref().is_none_or(|it| it.level >= wait.level);
    let status = match status {
        StatusCode::CREATED => status,
        _ if !arrived => StatusCode::ACCEPTED,
        StatusCode::NO_CONTENT if propagation.is_some() => StatusCode::OK,
        _ => status,
    };
    let body = match (body, &propagation) {
        (Some(mut body), Some(told)) => {
            if let Some(members) = body.as_object_mut() {
                members.insert("propagation".to_owned(), json!(told));
            }
            Some(body)
        }
        (None, Some(told)) => Some(json!({ "propagation": told })),
        (body, None) => body,
    };
    let mut response = match body {
        Some(body) => json_response(status, &body)?,
        None => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        }
    };
    response
        .headers_mut()
        .insert("x-position", HeaderValue::from(outcome.position));
    if outcome.replayed {
        mark_replayed(&mut response);
    }
    set_etag(&mut response, outcome.aggregate.version());
    Ok(response)
}

async fn travelled(app: &App, position: Position, wait: Wait) -> Option<Propagation> {
    if !wait.is_told {
        return None;
    }
    Some(propagation::wait(app.fleet(), position, wait.level, wait.timeout).await)
}

fn set_etag(response: &mut Response, version: u64) {
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert("etag", value);
    }
}

/// Says that an answer was given before.
pub(crate) fn mark_replayed(response: &mut Response) {
    response
        .headers_mut()
        .insert("idempotent-replayed", HeaderValue::from_static("true"));
}

pub(crate) fn json_response<T: Serialize>(
    status: StatusCode,
    body: &T,
) -> Result<Response, Failure> {
    let bytes = serde_json::to_vec(body).map_err(|_| crate::store::log::corrupt("an answer"))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}
