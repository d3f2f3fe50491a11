//! `/me`: who the caller is, and what they may do.

use axum::response::Response;
use serde_json::json;

use super::answer;
use super::call::Call;
use super::failure::Failure;
use crate::account;

pub(super) async fn show(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let caller = &call.caller;
    let email = account::email(call.app.store(), caller.account_id).await?;
    let permissions: Vec<&str> = caller.rights.permissions().map(|it| it.as_str()).collect();
    answer::ok(&json!({
        "account": { "id": caller.account_id, "email": email, "name": null },
        "workspace_id": caller.workspace_id,
        "role": caller.rights.role,
        "permissions": permissions,
        "teams": [],
    }))
}
