//! `/access-groups`: labels on targets, which access lists name.

use axum::http::StatusCode;
use axum::response::Response;
use events::catalog::{CatalogCommand, Group, Removal};
use events::command::WorkspaceCommand;
use events::workspace::Workspace;
use events::{Aggregate, Command};
use schemas::api::{AccessGroup, Page};
use serde_json::Value;

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use crate::execute::{self, Outcome, Step};
use crate::store::log;
use crate::view;
use crate::view::catalog::{Kind, count_targets, group_to_api};

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(true);
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let name = fields.required_text("name");
    fields.finish()?;
    let command = CatalogCommand::CreateGroup { name: name.clone() };
    let outcome = execute(&call, command).await?;
    let group = catalog_of(&outcome)?.groups.get(&name);
    let group = group.ok_or_else(|| Failure::not_found("access group"))?;
    let body = shown(&name, group, 0)?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetRead)?;
    let limit = call.params.limit() as usize;
    let after: Option<String> = call.params.cursor()?;
    call.finish_params()?;
    let workspace = workspace_of(&call).await?;
    let groups = &workspace.catalog.groups;
    let rest = groups
        .iter()
        .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
    let mut page: Vec<_> = rest.take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let counts = count_targets(call.app.store(), workspace.id, Kind::Group).await?;
    let count_of = |name: &String| counts.get(name).copied().unwrap_or_default();
    let data: Vec<AccessGroup> = page
        .iter()
        .map(|(name, group)| group_to_api(name, group, count_of(name)))
        .collect();
    let next_cursor = data.last().filter(|_| more).map(|it| it.name.clone());
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn delete(Id(name): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let workspace = workspace_of(&call).await?;
    if !workspace.catalog.groups.contains_key(&name) {
        return Err(Failure::not_found("access group"));
    }
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let versions = call.if_match();
    let command = CatalogCommand::DeleteGroup(Removal { name, versions });
    let outcome = execute(&call, command).await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

/// Carries out an order to the catalog of the caller's workspace. `If-Match` is about the
/// group or credential and not about the workspace, so the command brings it.
pub(super) async fn execute(call: &Call, command: CatalogCommand) -> Result<Outcome, Failure> {
    let idempotency = call.idempotency()?;
    let _running = call.run_once(idempotency.as_ref())?;
    let workspace_id = call.caller.workspace_id;
    let step = Step {
        command: Command::Workspace(workspace_id, WorkspaceCommand::Catalog(command)),
        workspace_id: Some(workspace_id),
    };
    let request = execute::Request {
        idempotency,
        ..call.request(step)
    };
    Ok(call.app.execute().run(request).await?)
}

/// The caller's workspace.
pub(super) async fn workspace_of(call: &Call) -> Result<Workspace, Failure> {
    view::workspace::get(call.app.store(), call.caller.workspace_id)
        .await?
        .ok_or_else(|| Failure::not_found("workspace"))
}

/// The catalog after a change.
pub(super) fn catalog_of(outcome: &Outcome) -> Result<&events::catalog::Catalog, Failure> {
    match &outcome.aggregate {
        Aggregate::Workspace(workspace) => Ok(&workspace.catalog),
        _ => Err(Failure::not_found("workspace")),
    }
}

fn shown(name: &str, group: &Group, targets: u64) -> Result<Value, Failure> {
    serde_json::to_value(group_to_api(name, group, targets))
        .map_err(|_| log::corrupt("an access group").into())
}
