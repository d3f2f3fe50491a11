//! `/workspace`: the settings of the active one.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::{PatchWorkspace, WorkspaceCommand};
use events::{Aggregate, Command};
use schemas::problem::Code;

use super::answer;
use super::call::Call;
use super::failure::Failure;
use super::permission::Permission;
use crate::store::log;
use crate::view;

/// Settings whose enforcement does not exist yet.
const NOT_AVAILABLE: [&str; 6] = [
    "staleness",
    "log_ip",
    "retention_days",
    "limits_outage",
    "queue",
    "concurrency",
];

pub(super) async fn show(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let workspace = view::workspace::get(call.app.store(), call.caller.workspace_id)
        .await?
        .ok_or_else(|| Failure::not_found("workspace"))?;
    answer::resource(&view::workspace::to_api(&workspace), workspace.version)
}

pub(super) async fn patch(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::WorkspaceUpdate)?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a setting",
        ));
    }
    let patch = PatchWorkspace {
        name: fields.value("name", "a text, not null"),
        plan_limits: fields.limits("plan_limits"),
        error_profile: fields.optional("error_profile", "standard, compact or null"),
        rotation_overlap_max_seconds: fields.optional(
            "rotation_overlap_max_seconds",
            "null or a number of seconds",
        ),
        allow_query_key: fields
            .optional("allow_query_key", "true or false")
            .map(Option::unwrap_or_default),
        require_totp: fields
            .optional("require_totp", "true or false")
            .map(Option::unwrap_or_default),
    };
    fields.not_available(&NOT_AVAILABLE);
    fields.finish()?;
    let id = call.caller.workspace_id;
    let outcome = call
        .execute(Command::Workspace(id, WorkspaceCommand::Patch(patch)))
        .await?;
    let Aggregate::Workspace(workspace) = &outcome.aggregate else {
        return Err(Failure::not_found("workspace"));
    };
    let body = serde_json::to_value(view::workspace::to_api(workspace))
        .map_err(|_| log::corrupt("a workspace"))?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}
