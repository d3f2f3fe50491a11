//! `/me`: who the caller is, and what they may do.

use axum::response::Response;
use serde_json::json;

use super::answer;
use super::call::Call;
use super::failure::Failure;
use crate::{account, view};

pub(super) async fn show(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let caller = &call.caller;
    let workspace = view::workspace::get(call.app.store(), caller.workspace_id).await?;
    let is_owner = workspace.is_some_and(|it| it.owner == caller.account_id);
    let email = account::email(call.app.store(), caller.account_id).await?;
    let permissions: Vec<&str> = caller.permissions().map(|it| it.as_str()).collect();
    answer::ok(&json!({
        "account": { "id": caller.account_id, "email": email, "name": null },
        "workspace_id": caller.workspace_id,
        "role": is_owner.then_some("owner"),
        "permissions": permissions,
        "teams": [],
    }))
}
