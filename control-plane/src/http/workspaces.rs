//! `/workspaces`: making them, and what operators do to them.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::WorkspaceCommand;
use events::{Aggregate, Command};
use schemas::WorkspaceId;

use super::answer;
use super::asked::Own;
use super::call::Id;
use super::failure::Failure;
use super::operators::Operator;
use crate::execute::{Outcome, Step};
use crate::store::log;
use crate::{fresh, view};

/// Any verified account may make a workspace, and owns it. The one that is active stays so.
pub(super) async fn create(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.permit_verified()?;
    let wait = own.wait(true);
    own.asked.finish_params()?;
    let mut fields = own.asked.required_fields()?;
    let name = fields.required_text("name");
    let owner = own.identity.account_id;
    let command = WorkspaceCommand::Create { name, owner };
    fields.finish()?;
    let id = fresh::id(WorkspaceId::from_parts);
    let outcome = own.run(own.request(vec![step(id, command)])).await?;
    let body = shown(&outcome)?;
    answer::change_by(own.app(), &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn suspend(id: Id, operator: Operator) -> Result<Response, Failure> {
    switch(id, operator, WorkspaceCommand::Suspend).await
}

pub(super) async fn reinstate(id: Id, operator: Operator) -> Result<Response, Failure> {
    switch(id, operator, WorkspaceCommand::Reinstate).await
}

async fn switch(
    Id(id): Id,
    operator: Operator,
    command: WorkspaceCommand,
) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    let not_found = || Failure::not_found("workspace");
    let id: WorkspaceId = id.parse().map_err(|_| not_found())?;
    let found = view::workspace::get(own.app().store(), id).await?;
    found.ok_or_else(not_found)?;
    let wait = own.wait(false);
    own.asked.finish_params()?;
    own.asked.fields()?.finish()?;
    let outcome = own.run(own.request(vec![step(id, command)])).await?;
    let body = shown(&outcome)?;
    answer::change_by(own.app(), &outcome, wait, StatusCode::OK, Some(body)).await
}

fn step(id: WorkspaceId, command: WorkspaceCommand) -> Step {
    Step {
        command: Command::Workspace(id, command),
        workspace_id: Some(id),
    }
}

fn shown(outcome: &Outcome) -> Result<serde_json::Value, Failure> {
    let Aggregate::Workspace(workspace) = &outcome.aggregate else {
        return Err(Failure::not_found("workspace"));
    };
    serde_json::to_value(view::workspace::to_api(workspace))
        .map_err(|_| log::corrupt("a workspace").into())
}
