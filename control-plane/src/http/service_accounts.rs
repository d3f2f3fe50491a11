//! `/service-accounts`: owners of keys that cannot log in.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::ServiceAccountCommand;
use events::service_account::ServiceAccount;
use events::{Aggregate, Command};
use schemas::api::Page;
use schemas::problem::Code;
use schemas::{ServiceAccountId, TeamId};
use serde_json::Value;

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use super::teams;
use crate::execute::Outcome;
use crate::store::log;
use crate::{fresh, view};

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let rights = &call.caller.rights;
    if !rights.holds_somewhere(Permission::ServiceAccountUpdate) {
        call.permit(Permission::ServiceAccountUpdate)?;
    }
    let mut fields = call.required_fields()?;
    let team: Option<String> = fields.value("team_id", "the id of a team");
    let team_id = match &team {
        Some(id) if call.answered_before().await?.is_some() => id.parse::<TeamId>().ok(),
        Some(id) => Some(teams::find(&call, id).await?.id),
        None => {
            fields.refuse_missing("team_id", "the id of a team");
            None
        }
    };
    if team_id.is_some() {
        let rights = &call.caller.rights;
        rights.permit_in(Permission::ServiceAccountUpdate, team_id, false)?;
    }
    let wait = call.wait(true);
    call.finish_params()?;
    let name = fields.required_text("name");
    fields.not_available(&["limits"]);
    let create = |team_id| ServiceAccountCommand::Create {
        name: name.clone(),
        team_id,
    };
    fields.finish_with(|| {
        let look = events::SecretLook::default();
        let command = create(team_id.unwrap_or(TeamId::from_u128(0)));
        events::service_account::decide(None, &command, &look).err()
    })?;
    let team_id = team_id.ok_or_else(|| Failure::not_found("team"))?;
    let id = fresh::id(ServiceAccountId::from_parts);
    let outcome = call
        .execute(Command::ServiceAccount(id, create(team_id)))
        .await?;
    let body = shown(&outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let among = teams::among(&call, Permission::TeamRead)?;
    let limit = call.params.limit();
    let after = call.params.cursor()?;
    let team = call.params.text("team_id");
    call.finish_params()?;
    let among = match team {
        None => among,
        Some(id) => {
            let id = teams::find(&call, &id).await?.id;
            let rights = &call.caller.rights;
            rights.permit_in(Permission::TeamRead, Some(id), false)?;
            Some(vec![id])
        }
    };
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let among = among.as_deref();
    let mut accounts =
        view::service_account::list(store, workspace_id, among, after, limit + 1).await?;
    let more = accounts.len() > limit as usize;
    accounts.truncate(limit as usize);
    let next_cursor = accounts.last().filter(|_| more).map(|it| it.id.to_string());
    let data: Vec<_> = accounts.iter().map(view::service_account::to_api).collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn patch(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let account = find(&call, &id).await?;
    let rights = &call.caller.rights;
    rights.permit_in(
        Permission::ServiceAccountUpdate,
        Some(account.team_id),
        false,
    )?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a field",
        ));
    }
    let command = ServiceAccountCommand::Patch {
        name: fields.value("name", "a text, not null"),
        active: fields.value("active", "true or false"),
    };
    fields.not_available(&["limits"]);
    fields.fixed(&["team_id"]);
    fields.finish_with(|| {
        let look = events::SecretLook::default();
        events::service_account::decide(Some(&account), &command, &look).err()
    })?;
    let outcome = call
        .execute(Command::ServiceAccount(account.id, command))
        .await?;
    let body = shown(&outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

/// A service account of the caller's workspace; another's is not found.
async fn find(call: &Call, id: &str) -> Result<ServiceAccount, Failure> {
    let not_found = || Failure::not_found("service account");
    let id: ServiceAccountId = id.parse().map_err(|_| not_found())?;
    view::service_account::get(call.app.store(), call.caller.workspace_id, id)
        .await?
        .ok_or_else(not_found)
}

fn shown(outcome: &Outcome) -> Result<Value, Failure> {
    let Aggregate::ServiceAccount(account) = &outcome.aggregate else {
        return Err(Failure::not_found("service account"));
    };
    let shown = view::service_account::to_api(account);
    serde_json::to_value(shown).map_err(|_| log::corrupt("a service account").into())
}
