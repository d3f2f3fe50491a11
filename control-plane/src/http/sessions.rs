//! `/sessions`: logging in and out, and the workspace that is active.
//!
//! Pages log in at `/login` instead: their token lives in a cookie that no script can read,
//! and a change needs the csrf token of the answer (or of `GET /v1/me`).

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use schemas::api::Page;
use schemas::problem::Code;
use schemas::{SessionId, WorkspaceId};
use serde_json::{Value, json};

use super::accounts::address_field;
use super::asked::{Asked, Own};
use super::call::Id;
use super::failure::Failure;
use super::fields::Fields;
use super::identity::{COOKIE, Proof};
use super::{App, answer, me};
use crate::account::log_in::{LoggedIn, Origin, Presented};
use crate::account::password::Password;
use crate::session::{self, Session};
use crate::view;

pub(super) async fn create(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let fields = asked.required_fields()?;
    let logged_in = log_in(&asked, fields, false).await?;
    let mut body = me::logged_in(&asked.app, &logged_in).await?;
    body["token"] = logged_in.token.into();
    answer::json_response(StatusCode::CREATED, &body)
}

pub(super) async fn list(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.permit_verified()?;
    let limit = own.asked.params.limit() as usize;
    let after: Option<SessionId> = own.asked.params.cursor()?;
    own.asked.finish_params()?;
    let current = own.identity.session().ok().map(|it| it.id);
    let sessions = session::list(own.asked.app.store(), own.identity.account_id).await?;
    let mut rest = sessions
        .iter()
        .filter(|it| after.is_none_or(|after| it.id > after));
    let page: Vec<&Session> = rest.by_ref().take(limit).collect();
    let next_cursor = match (rest.next(), page.last()) {
        (Some(_), Some(last)) => Some(last.id.to_string()),
        _ => None,
    };
    let data: Vec<Value> = page
        .into_iter()
        .map(|it| {
            json!({
                "id": it.id,
                "workspace_id": it.workspace_id,
                "agent": it.agent,
                "current": Some(it.id) == current,
                "created_at": it.created_at,
                "last_used_at": it.last_used_at,
                "expires_at": it.expires_at(),
            })
        })
        .collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn delete(Id(id): Id, own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.identity.permit_own()?;
    own.asked.finish_params()?;
    let not_found = || Failure::not_found("session");
    let id = match (id.as_str(), &own.identity.proof) {
        ("current", Proof::Session { session, .. }) => session.id,
        (id, _) => id.parse().map_err(|_| not_found())?,
    };
    let store = own.asked.app.store();
    if !session::end(store, own.identity.account_id, id).await? {
        return Err(not_found());
    }
    Ok(no_content())
}

/// Switches the session to another workspace of the account.
pub(super) async fn enter(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.require_verified()?;
    let session = own.identity.session()?.id;
    own.asked.finish_params()?;
    let mut fields = own.asked.required_fields()?;
    let workspace_id = fields.required_as::<String>("workspace_id", "a text, required");
    fields.finish()?;
    let not_found = || Failure::not_found("workspace");
    let workspace_id: WorkspaceId = workspace_id
        .and_then(|it| it.parse().ok())
        .ok_or_else(not_found)?;
    let store = own.asked.app.store();
    let memberships = view::workspace::memberships(store, own.identity.account_id).await?;
    let membership = memberships
        .iter()
        .find(|it| it.workspace_id == workspace_id && it.is_active())
        .ok_or_else(not_found)?;
    session::enter(store, session, workspace_id).await?;
    answer::ok(&json!({ "workspace_id": workspace_id, "role": membership.role }))
}

// === pages ===

/// `POST /login`: as `POST /sessions`, for a page, with JSON or a form.
pub(super) async fn log_in_page(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let mut asked = Asked::read(&app, parts, body).await?;
    asked.finish_params()?;
    refuse_other_sites(&asked)?;
    let content_type = asked.header("content-type");
    let fields = if content_type.starts_with("application/x-www-form-urlencoded") {
        Fields::of_form(&asked.body)?
    } else {
        asked.require_json()?;
        asked.required_fields()?
    };
    let logged_in = log_in(&asked, fields, true).await?;
    let mut body = me::logged_in(&app, &logged_in).await?;
    body["csrf_token"] = session::csrf_token(&logged_in.token).into();
    let mut response = answer::ok(&body)?;
    set_cookie(
        &app,
        &mut response,
        &logged_in.token,
        session::LASTS_MS / 1_000,
    );
    Ok(response)
}

/// `POST /logout`: ends the session of a page and takes its cookie back.
pub(super) async fn log_out_page(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Failure> {
    let own = Own::from_request(request, &app).await?;
    let session = own.identity.session()?;
    session::end(app.store(), own.identity.account_id, session.id).await?;
    let mut response = no_content();
    set_cookie(&app, &mut response, "", 0);
    Ok(response)
}

pub(super) fn set_cookie(app: &App, response: &mut Response, token: &str, max_age_seconds: i64) {
    let secure = if app.is_behind_tls() { "; Secure" } else { "" };
    let text = format!(
        "{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_seconds}{secure}"
    );
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append("set-cookie", value);
    }
}

/// A form of another site must not log its visitor in as somebody else: there is no csrf
/// token before there is a session, so the browser's word on where the form stood counts.
fn refuse_other_sites(asked: &Asked) -> Result<(), Failure> {
    let origin = asked.header("origin");
    let site = asked.header("sec-fetch-site");
    let host = asked.header("host");
    let is_own_origin = origin
        .split_once("://")
        .is_some_and(|(_, it)| it.eq_ignore_ascii_case(host))
        || origin == asked.app.public_origin();
    let is_own = (origin.is_empty() || is_own_origin) && site != "cross-site";
    if is_own {
        return Ok(());
    }
    Err(Failure::new(
        Code::Csrf,
        "a page of another site cannot log anybody in",
    ))
}

async fn log_in(asked: &Asked, fields: Fields, is_cookie: bool) -> Result<LoggedIn, Failure> {
    let mut fields = fields;
    let origin = Origin {
        peer: asked.peer,
        agent: asked.agent(),
        is_cookie,
    };
    let accounts = asked.app.accounts();
    let code = fields
        .optional::<String>("totp", "null or the code of the second factor")
        .flatten();
    let ticket: Option<String> = fields
        .optional(
            "ticket",
            "null or the ticket of a sign-in that needs a code",
        )
        .flatten();
    if let Some(ticket) = ticket {
        fields.finish()?;
        let code = code.unwrap_or_default();
        return Ok(accounts.finish_sign_in(&ticket, &code, origin).await?);
    }
    let address = address_field(&mut fields);
    let password = fields.required_as::<String>("password", "a text, required");
    fields.finish()?;
    let (Some(address), Some(password)) = (address, password) else {
        return Err(Failure::field("email", "an e-mail address"));
    };
    let presented = Presented {
        address,
        password: Password::typed(&password),
        code,
    };
    Ok(accounts.log_in(presented, origin).await?)
}

pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
