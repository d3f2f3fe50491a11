//! `/operators`: who stands above workspaces, and the extractor that all their calls share.
//!
//! An operator needs no workspace for these calls: otherwise one who suspends the workspace
//! that he works in could not end that again.

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::Response;
use events::command::InstanceCommand;
use schemas::AccountId;
use schemas::api::Page;
use schemas::problem::Code;
use serde_json::{Value, json};

use super::asked::Own;
use super::call::Id;
use super::failure::Failure;
use super::identity::{Identity, Proof};
use super::instance::step;
use super::rights::Standing;
use super::{App, answer};
use crate::{account, view};

/// A request of an operator.
pub(super) struct Operator(pub(super) Own);

impl FromRequest<App> for Operator {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let own = Own::from_request(request, app).await?;
        own.require_verified()?;
        if own.identity.is_operator(app).await? && is_at_home(app, &own.identity).await? {
            Ok(Self(own))
        } else {
            Err(Failure::new(Code::Forbidden, "only operators may do this"))
        }
    }
}

/// Whether a token's maker still belongs to the token's workspace; a session is at home
/// anywhere.
async fn is_at_home(app: &App, identity: &Identity) -> Result<bool, Failure> {
    let Proof::Token(token) = &identity.proof else {
        return Ok(true);
    };
    let (account_id, workspace_id) = (token.account_id, token.workspace_id);
    let standing = Standing::load(app.store(), account_id, workspace_id, None).await?;
    Ok(!matches!(
        standing,
        Standing::Stranger | Standing::Suspended
    ))
}

pub(super) async fn list(operator: Operator) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    let limit = own.asked.params.limit() as usize;
    let after: Option<AccountId> = own.asked.params.cursor()?;
    own.asked.finish_params()?;
    let store = own.app().store();
    let instance = view::workspace::instance(store).await?;
    let mut rest = instance
        .operators
        .iter()
        .copied()
        .filter(|it| after.is_none_or(|after| *it > after));
    let page: Vec<AccountId> = rest.by_ref().take(limit).collect();
    let next_cursor = match (rest.next(), page.last()) {
        (Some(_), Some(last)) => Some(last.to_string()),
        _ => None,
    };
    let data = shown(own.app(), &page).await?;
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn create(operator: Operator) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    let wait = own.wait(true);
    own.asked.finish_params()?;
    let mut fields = own.asked.required_fields()?;
    let account_id = fields.required_text("account_id");
    fields.finish()?;
    let not_found = || Failure::not_found("account");
    let account_id: AccountId = account_id.parse().map_err(|_| not_found())?;
    let found = account::get(own.app().store(), account_id).await?;
    if !found.ok_or_else(not_found)?.is_verified {
        return Err(Failure::field(
            "account_id",
            "an account whose address is verified",
        ));
    }
    let command = InstanceCommand::AddOperator { account_id };
    let outcome = own.run(own.request(vec![step(command)])).await?;
    let body = shown(own.app(), &[account_id]).await?.pop();
    answer::change_by(own.app(), &outcome, wait, StatusCode::CREATED, body).await
}

pub(super) async fn delete(Id(id): Id, operator: Operator) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    let account_id: AccountId = id.parse().map_err(|_| Failure::not_found("operator"))?;
    let wait = own.wait(false);
    own.asked.finish_params()?;
    own.asked.fields()?.finish()?;
    let command = InstanceCommand::RemoveOperator { account_id };
    let outcome = own.run(own.request(vec![step(command)])).await?;
    answer::change_by(own.app(), &outcome, wait, StatusCode::NO_CONTENT, None).await
}

async fn shown(app: &App, ids: &[AccountId]) -> Result<Vec<Value>, Failure> {
    let profiles = account::profiles(app.store(), ids).await?;
    let row = |id: &AccountId| {
        let profile = profiles.get(id);
        json!({
            "account_id": id,
            "email": profile.map(|it| it.email.as_str()),
            "name": profile.and_then(|it| it.name.as_deref()),
        })
    };
    Ok(ids.iter().map(row).collect())
}
