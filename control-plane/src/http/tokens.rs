//! `/control-tokens`: what programs open this API with.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use schemas::api::Page;
use schemas::problem::{Code, FieldError};
use schemas::{ControlTokenId, Timestamp};
use serde_json::{Value, json};

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use crate::token::{self, Created, NewToken, Token};
use crate::{execute, fresh};

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let name = fields.required_text("name").trim().to_owned();
    let scopes: Option<Vec<String>> = fields
        .optional("scopes", "null or a list of permissions")
        .flatten();
    let expires_at: Option<Timestamp> = fields
        .optional("expires_at", "null or an RFC 3339 time with a zone")
        .flatten();
    fields.not_available(&["service_account_id"]);
    if !name.is_empty() && (name.chars().count() > 255 || name.chars().any(char::is_control)) {
        fields.refuse("name", "1 to 255 characters, no control characters");
    }
    if expires_at.is_some_and(|at| at <= fresh::now()) {
        fields.refuse("expires_at", "a time to come");
    }
    fields.finish()?;
    if name.is_empty() {
        let error = FieldError::new("name", Code::Validation.as_str(), "1 to 255 characters");
        return Err(Failure::fields(vec![error]));
    }
    for scope in scopes.iter().flatten() {
        let permission = Permission::of_name(scope).ok_or_else(|| {
            let detail = "one of them is not a permission";
            Failure::fields(vec![FieldError::new(
                "scopes",
                Code::Validation.as_str(),
                detail,
            )])
        })?;
        if !call.caller.rights.holds_somewhere(permission) {
            call.permit(permission)?;
        }
    }
    // Without scopes a token carries all that its account has, now and later: more than a
    // narrowed one may hand on.
    let scopes = scopes.or_else(|| {
        let held = || {
            let rights = &call.caller.rights;
            Permission::all()
                .filter(|it| rights.holds_somewhere(*it))
                .map(|it| it.as_str().to_owned())
                .collect()
        };
        call.caller.is_narrowed.then(held)
    });
    let expires_at = match (expires_at, call.caller.expires_at) {
        (Some(asked), Some(own)) => Some(asked.min(own)),
        (asked, own) => asked.or(own),
    };
    let text = token::generate();
    let new = NewToken {
        id: fresh::id(ControlTokenId::from_parts),
        hash: token::hash(&text),
        account_id: call.caller.account_id,
        workspace_id: call.caller.workspace_id,
        name,
        scopes,
        expires_at,
    };
    let mut body = json!({
        "id": new.id,
        "name": new.name,
        "scopes": new.scopes,
        "expires_at": new.expires_at,
    });
    let idempotency = call.idempotency()?;
    let _running = call.run_once(idempotency.as_ref())?;
    match token::create(call.app.store(), &new, idempotency.as_ref(), &body).await? {
        Created::New => body["token"] = text.into(),
        Created::Before(first) => {
            let mut response = answer::json_response(StatusCode::CREATED, &first)?;
            answer::mark_replayed(&mut response);
            return Ok(response);
        }
        Created::Conflict => return Err(execute::Error::IdempotencyConflict.into()),
    }
    answer::json_response(StatusCode::CREATED, &body)
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let limit = call.params.limit() as usize;
    let after: Option<ControlTokenId> = call.params.cursor()?;
    call.finish_params()?;
    let caller = &call.caller;
    let tokens = token::list(call.app.store(), caller.workspace_id, caller.account_id).await?;
    let mut rest = tokens
        .iter()
        .filter(|it| after.is_none_or(|after| it.id > after));
    let page: Vec<&Token> = rest.by_ref().take(limit).collect();
    let next_cursor = match (rest.next(), page.last()) {
        (Some(_), Some(last)) => Some(last.id.to_string()),
        _ => None,
    };
    let data: Vec<Value> = page
        .into_iter()
        .map(|it| {
            json!({
                "id": it.id,
                "name": it.name,
                "scopes": it.scopes,
                "created_at": it.created_at,
                "expires_at": it.expires_at,
            })
        })
        .collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let not_found = || Failure::not_found("control token");
    let id: ControlTokenId = id.parse().map_err(|_| not_found())?;
    let caller = &call.caller;
    let found = token::delete(call.app.store(), caller.workspace_id, caller.account_id, id).await?;
    if !found {
        return Err(not_found());
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
