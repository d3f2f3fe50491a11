//! `/credentials`: references to what upstreams are given.

use axum::http::StatusCode;
use axum::response::Response;
use events::catalog::{CatalogCommand, Removal};
use schemas::api::Page;
use schemas::entry::{SecretSource, UpstreamCredential};

use super::access_groups::{catalog_of, execute, workspace_of};
use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use crate::store::log;
use crate::view::catalog::{Kind, count_targets, credential_to_api};

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(true);
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let name = fields.required_text("name");
    let asked = UpstreamCredential {
        name: name.clone(),
        header: fields.required_text("header"),
        format: fields.required_text("format"),
        source: fields
            .required_as("source", "env or file, required")
            .unwrap_or(SecretSource::File),
        reference: fields.required_text("ref"),
    };
    let command = CatalogCommand::CreateCredential(asked);
    fields.finish_with(|| {
        let look = events::SecretLook::default();
        events::catalog::decide(&Default::default(), &command, &look).err()
    })?;
    let outcome = execute(&call, command).await?;
    let made = catalog_of(&outcome)?.credentials.get(&name);
    let made = made.ok_or_else(|| Failure::not_found("credential"))?;
    let body = serde_json::to_value(credential_to_api(made, 0))
        .map_err(|_| log::corrupt("a credential"))?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetRead)?;
    let limit = call.params.limit() as usize;
    let after: Option<String> = call.params.cursor()?;
    call.finish_params()?;
    let workspace = workspace_of(&call).await?;
    let rest = workspace
        .catalog
        .credentials
        .iter()
        .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
    let mut page: Vec<_> = rest.take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let counts = count_targets(call.app.store(), workspace.id, Kind::Credential).await?;
    let count_of = |name: &String| counts.get(name).copied().unwrap_or_default();
    let data: Vec<_> = page
        .iter()
        .map(|(name, credential)| credential_to_api(credential, count_of(name)))
        .collect();
    let next_cursor = data.last().filter(|_| more).map(|it| it.name.clone());
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn delete(Id(name): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let workspace = workspace_of(&call).await?;
    if !workspace.catalog.credentials.contains_key(&name) {
        return Err(Failure::not_found("credential"));
    }
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let versions = call.if_match();
    let command = CatalogCommand::DeleteCredential(Removal { name, versions });
    let outcome = execute(&call, command).await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}
