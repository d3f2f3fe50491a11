//! `/me`: who the caller is, what they may do, and their second factor.

use axum::http::StatusCode;
use axum::response::Response;
use schemas::problem::Code;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::App;
use super::answer;
use super::asked::{Asked, Own};
use super::failure::Failure;
use super::identity::{Identity, Proof};
use super::rights::{Rights, Standing};
use super::sessions::no_content;
use crate::account::log_in::LoggedIn;
use crate::account::{self, Account};
use crate::attempts::Kind;
use crate::{totp, view};

/// Answers every account, whatever its standing: who has no rights is told that.
pub(super) async fn show(own: Own) -> Result<Response, Failure> {
    let Own {
        mut asked,
        identity,
    } = own;
    asked.finish_params()?;
    let app = &asked.app;
    let workspace_id = match identity.is_verified {
        true => identity.active_workspace(app).await?,
        false => None,
    };
    let rights = match workspace_id {
        Some(workspace_id) => {
            let scopes = match &identity.proof {
                Proof::Session { .. } => None,
                Proof::Token(token) => token.scopes.as_deref(),
            };
            let account_id = identity.account_id;
            match Standing::load(app.store(), account_id, workspace_id, scopes).await? {
                Standing::Member(rights) => Some(rights),
                _ => None,
            }
        }
        None => None,
    };
    let account = account::get(app.store(), identity.account_id).await?;
    let account = account.ok_or_else(|| Failure::not_found("account"))?;
    let mut body = json!({
        "account": shown(app, &account).await?,
        "workspace_id": workspace_id,
        "role": rights.as_ref().map(|it| it.role),
        "permissions": permissions(rights.as_ref()),
        "teams": teams(rights.as_ref()),
    });
    if let Proof::Session {
        csrf_token: Some(csrf_token),
        ..
    } = &identity.proof
    {
        body["csrf_token"] = csrf_token.as_str().into();
    }
    answer::ok(&body)
}

/// What a log-in answers, without its token.
pub(super) async fn logged_in(app: &App, logged_in: &LoggedIn) -> Result<Value, Failure> {
    let memberships = view::workspace::memberships(app.store(), logged_in.account.id).await?;
    let workspaces: Vec<Value> = memberships
        .iter()
        .map(|it| {
            json!({
                "id": it.workspace_id,
                "name": it.name,
                "role": it.role,
                "status": it.status,
            })
        })
        .collect();
    Ok(json!({
        "account": shown(app, &logged_in.account).await?,
        "workspaces": workspaces,
        "workspace_id": logged_in.workspace_id,
    }))
}

async fn shown(app: &App, account: &Account) -> Result<Value, Failure> {
    Ok(json!({
        "id": account.id,
        "email": account.address.written(),
        "name": account.name,
        "email_verified": account.is_verified,
        "totp": totp::is_enabled(app.store(), account.id).await?,
    }))
}

fn permissions(rights: Option<&Rights>) -> Vec<&'static str> {
    let held = rights.into_iter().flat_map(Rights::permissions);
    held.map(|it| it.as_str()).collect()
}

fn teams(rights: Option<&Rights>) -> Vec<Value> {
    let Some(rights) = rights else {
        return Vec::new();
    };
    let shown = |(id, role): (&schemas::TeamId, &schemas::TeamRole)| {
        let held = rights.permissions_in(*role);
        let permissions: Vec<&str> = held.map(|it| it.as_str()).collect();
        json!({ "id": id, "role": role, "permissions": permissions })
    };
    rights.teams.iter().map(shown).collect()
}

// === the second factor ===

/// Without a code: a new secret, not yet in force. With one: puts it in force.
pub(super) async fn set_totp(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    let account_id = of_session(&own.identity)?;
    own.asked.finish_params()?;
    let mut fields = own.asked.fields()?;
    let code: Option<String> = fields
        .optional("code", "the code that the authenticator shows")
        .flatten();
    fields.finish()?;
    let store = own.asked.app.store();
    let Some(code) = code else {
        let account = account::get(store, account_id).await?;
        let account = account.ok_or_else(|| Failure::not_found("account"))?;
        let enrolment = totp::begin(store, account_id, &account.address).await?;
        return answer::json_response(
            StatusCode::CREATED,
            &json!({ "secret": enrolment.secret, "otpauth_url": enrolment.otpauth_url }),
        );
    };
    take_code(&own.asked, account_id)?;
    totp::enable(store, account_id, &code).await?;
    answer::ok(&json!({ "enabled": true }))
}

pub(super) async fn remove_totp(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    let account_id = of_session(&own.identity)?;
    own.asked.finish_params()?;
    let mut fields = own.asked.required_fields()?;
    let code = fields.required_text("code");
    fields.finish()?;
    take_code(&own.asked, account_id)?;
    totp::disable(own.asked.app.store(), account_id, &code).await?;
    Ok(no_content())
}

fn of_session(identity: &Identity) -> Result<schemas::AccountId, Failure> {
    if !identity.is_verified {
        return Err(Failure::new(
            Code::EmailNotVerified,
            "verify the e-mail address first",
        ));
    }
    identity.session().map(|it| it.account_id)
}

fn take_code(asked: &Asked, account_id: schemas::AccountId) -> Result<(), Failure> {
    let attempts = &asked.app.accounts().attempts;
    let name = account_id.to_string();
    Ok(attempts.take(Kind::CodeOf, &name, Instant::now())?)
}
