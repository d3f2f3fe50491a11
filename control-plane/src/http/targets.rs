//! `/targets`: where the keys of a workspace may go.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::{CreateTarget, PatchTarget, TargetCommand};
use events::refusal::FieldRefusal;
use events::target::{Target, merge_bodies, merge_timeouts};
use events::{Aggregate, Command};
use schemas::TargetId;
use schemas::api::Page;
use schemas::entry::{Bodies, Scheme, Timeouts, UpstreamCredential};
use schemas::problem::Code;
use serde_json::Value;

use super::access_groups::workspace_of;
use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::fields::Fields;
use super::permission::Permission;
use crate::execute::Outcome;
use crate::store::log;
use crate::{fresh, view};

/// Fields whose enforcement does not exist yet.
const NOT_AVAILABLE: [&str; 4] = ["meter", "limits", "queue", "concurrency"];

const INTEGER: &str = "null or an integer above 0";
const PORT: &str = "a port, 1 to 65535";
const GROUPS: &str = "a list of names of access groups";
const CREDENTIAL: &str = "null or the name of a credential";

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(true);
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let mut timeouts = Timeouts::default();
    let mut bodies = Bodies::default();
    let mut refused = Vec::new();
    if let Some(Some(members)) = fields.members_of("timeouts", INTEGER) {
        merge_timeouts(&mut timeouts, &members, &mut refused);
    }
    if let Some(Some(members)) = fields.members_of("bodies", INTEGER) {
        merge_bodies(&mut bodies, &members, &mut refused);
    }
    let mut create = CreateTarget {
        workspace_id: call.caller.workspace_id,
        name: fields.required_text("name"),
        host: fields.required_text("host"),
        scheme: fields
            .optional("scheme", "https or http")
            .flatten()
            .unwrap_or(Scheme::Https),
        port: fields.optional("port", PORT).flatten(),
        extra_ports: fields
            .optional("extra_ports", "a list of ports")
            .flatten()
            .unwrap_or_default(),
        base_path: fields
            .optional("base_path", "a path")
            .flatten()
            .unwrap_or_default(),
        timeouts,
        bodies,
        allow_set_cookie: fields
            .optional("allow_set_cookie", "true or false")
            .flatten()
            .unwrap_or(false),
        allow_private: fields
            .optional("allow_private", "true, false or null")
            .flatten()
            .unwrap_or(call.app.target_rules().allow_private_upstreams),
        groups: fields
            .optional("groups", GROUPS)
            .flatten()
            .unwrap_or_default(),
        credential: None,
        rules: call.app.target_rules(),
    };
    let credential = fields.optional("credential", CREDENTIAL).flatten();
    read_unavailable(&mut fields, refused);
    fields.finish()?;
    // The credential may be gone when the request is repeated.
    if let Some(name) = credential
        && call.answered_before().await?.is_none()
    {
        create.credential = Some(find_credential(&call, name).await?);
    }
    let id = fresh::id(TargetId::from_parts);
    let command = Command::Target(id, TargetCommand::Create(Box::new(create)));
    let outcome = call.execute(command).await?;
    let body = shown(&outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TargetRead)?;
    let limit = call.params.limit();
    let after = call.params.cursor()?;
    call.finish_params()?;
    let mut targets =
        view::target::list(call.app.store(), call.caller.workspace_id, after, limit + 1).await?;
    let more = targets.len() > limit as usize;
    targets.truncate(limit as usize);
    let next_cursor = targets
        .last()
        .filter(|_| more)
        .map(|target| target.id.to_string());
    let data: Vec<_> = targets.iter().map(view::target::to_api).collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn show(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let target = find(&call, &id).await?;
    call.permit(Permission::TargetRead)?;
    call.finish_params()?;
    answer::resource(&view::target::to_api(&target), target.version)
}

pub(super) async fn patch(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let target = find(&call, &id).await?;
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a field",
        ));
    }
    let mut patch = PatchTarget {
        name: fields.value("name", "a text"),
        host: fields.value("host", "a host name"),
        scheme: fields.value("scheme", "https or http"),
        port: fields.optional("port", PORT),
        extra_ports: fields
            .optional("extra_ports", "a list of ports")
            .map(Option::unwrap_or_default),
        base_path: fields
            .optional("base_path", "a path")
            .map(Option::unwrap_or_default),
        timeouts: cleared(
            fields.members_of("timeouts", INTEGER),
            &["connect_ms", "first_byte_ms", "idle_ms", "total_ms"],
        ),
        bodies: cleared(
            fields.members_of("bodies", INTEGER),
            &["request_bytes_max", "response_bytes_max"],
        ),
        allow_set_cookie: fields
            .optional("allow_set_cookie", "true or false")
            .map(Option::unwrap_or_default),
        allow_private: fields
            .optional("allow_private", "true, false or null")
            .map(|it| it.unwrap_or(call.app.target_rules().allow_private_upstreams)),
        groups: fields
            .optional("groups", GROUPS)
            .map(Option::unwrap_or_default),
        credential: None,
        rules: call.app.target_rules(),
    };
    let credential: Option<Option<String>> = fields.optional("credential", CREDENTIAL);
    read_unavailable(&mut fields, Vec::new());
    fields.finish()?;
    patch.credential = match credential {
        Some(Some(name)) => Some(Some(find_credential(&call, name).await?)),
        other => other.map(|_| None),
    };
    let command = Command::Target(target.id, TargetCommand::Patch(Box::new(patch)));
    let outcome = call.execute(command).await?;
    let body = shown(&outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let target = find(&call, &id).await?;
    call.permit(Permission::TargetUpdate)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let outcome = call
        .execute(Command::Target(target.id, TargetCommand::Delete))
        .await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

/// A target of the caller's workspace; another's is not found.
pub(super) async fn find(call: &Call, id: &str) -> Result<Target, Failure> {
    let not_found = || Failure::not_found("target");
    let id: TargetId = id.parse().map_err(|_| not_found())?;
    view::target::get(call.app.store(), call.caller.workspace_id, id)
        .await?
        .ok_or_else(not_found)
}

/// A credential of the caller's workspace, as proxies are told of it. Whether it still is
/// one is judged once more under the lock.
async fn find_credential(call: &Call, name: String) -> Result<UpstreamCredential, Failure> {
    let workspace = workspace_of(call).await?;
    let found = workspace.catalog.credentials.get(&name);
    found
        .map(|it| it.credential.clone())
        .ok_or_else(|| Failure::not_found("credential"))
}

/// `null` for a whole clears each of its members.
fn cleared<T>(
    members: Option<Option<std::collections::BTreeMap<String, Option<T>>>>,
    names: &[&str],
) -> Option<std::collections::BTreeMap<String, Option<T>>> {
    Some(match members? {
        Some(members) => members,
        None => names
            .iter()
            .map(|name| ((*name).to_owned(), None))
            .collect(),
    })
}

fn read_unavailable(fields: &mut Fields, refused: Vec<FieldRefusal>) {
    fields.not_available(&NOT_AVAILABLE);
    for refusal in refused {
        fields.refuse_as(Code::Validation, &refusal.field, &refusal.detail);
    }
}

fn shown(outcome: &Outcome) -> Result<Value, Failure> {
    let Aggregate::Target(target) = &outcome.aggregate else {
        return Err(Failure::not_found("target"));
    };
    serde_json::to_value(view::target::to_api(target)).map_err(|_| log::corrupt("a target").into())
}
