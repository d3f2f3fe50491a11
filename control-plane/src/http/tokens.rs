//! `/control-tokens`: what programs open this API with.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use schemas::api::Page;
use schemas::problem::{Code, FieldError};
use schemas::{ControlTokenId, ServiceAccountId, Timestamp};
use serde_json::{Value, json};

use super::answer;
use super::call::{Call, Id};
use super::caller::Caller;
use super::failure::Failure;
use super::permission::Permission;
use super::rights::Visible;
use crate::token::{self, Created, Managed, NewToken, Token};
use crate::{execute, fresh, view};

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
    let service_account_id: Option<String> = fields
        .optional("service_account_id", "null or a service account's id")
        .flatten();
    let acts_as = acts_as(&call, service_account_id.as_deref()).await?;
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
        service_account_id: acts_as,
        workspace_id: call.caller.workspace_id,
        name,
        scopes,
        expires_at,
    };
    let mut body = json!({
        "id": new.id,
        "name": new.name,
        "scopes": new.scopes,
        "service_account_id": new.service_account_id,
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
    let tokens = token::list(call.app.store(), caller.workspace_id, &managed(caller)).await?;
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
                "service_account_id": it.service_account_id,
                "created_by": { "type": "user", "id": it.account_id },
                "created_at": it.created_at,
                "expires_at": it.expires_at,
            })
        })
        .collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let not_found = || Failure::not_found("control token");
    let id: ControlTokenId = id.parse().map_err(|_| not_found())?;
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let managed = managed(&call.caller);
    let tokens = token::list(store, workspace_id, &managed).await?;
    if !tokens.iter().any(|it| it.id == id) {
        return Err(not_found());
    }
    call.finish_params()?;
    call.no_fields()?;
    if !token::delete(call.app.store(), workspace_id, &managed, id).await? {
        return Err(not_found());
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Who a new token acts as. What a service account's own token makes acts as that service
/// account: it must not become the person who made it.
async fn acts_as(call: &Call, asked: Option<&str>) -> Result<Option<ServiceAccountId>, Failure> {
    let own = call.caller.service_account_id;
    let Some(asked) = asked else {
        return Ok(own);
    };
    let not_found = || Failure::not_found("service account");
    let id: ServiceAccountId = asked.parse().map_err(|_| not_found())?;
    let found = view::service_account::get(call.app.store(), call.caller.workspace_id, id).await?;
    let account = found.ok_or_else(not_found)?;
    let rights = &call.caller.rights;
    rights.permit_in(
        Permission::ServiceAccountUpdate,
        Some(account.team_id),
        false,
    )?;
    if own.is_some_and(|own| own != id) {
        return Err(Failure::new(
            Code::Forbidden,
            "a token of a service account makes tokens of that service account only",
        ));
    }
    if !account.active {
        return Err(Failure::field(
            "service_account_id",
            "a service account that is switched on",
        ));
    }
    Ok(Some(id))
}

/// Which tokens the caller lists and revokes: their own, and those of the service accounts
/// that they manage.
fn managed(caller: &Caller) -> Managed {
    if let Some(id) = caller.service_account_id {
        return Managed::ServiceAccount(id);
    }
    match caller.rights.reach(Permission::ServiceAccountUpdate) {
        Visible::All => Managed::OwnAndAll(caller.account_id),
        Visible::Some { teams, .. } if teams.is_empty() => Managed::Own(caller.account_id),
        Visible::Some { teams, .. } => {
            Managed::OwnAndTeams(caller.account_id, teams.into_iter().collect())
        }
    }
}
