//! `/members`: who belongs to the workspace, as what, and what becomes of the keys of those
//! who stop or go.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::{MemberCommand, WorkspaceCommand};
use events::workspace::Member;
use events::{Aggregate, Command, Refusal, SecretLook};
use schemas::api::Page;
use schemas::problem::Code;
use schemas::{AccountId, MemberStatus, Role, ServiceAccountId, TeamId};
use serde_json::{Value, json};

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use super::rights::Visible;
use crate::execute::{Departure, Keys, Outcome, Request, Step};
use crate::store::failed;
use crate::view::workspace::MemberRow;
use crate::{account, fresh, view};

/// How often keys are ended before a member goes who keeps on making new ones.
const ROUNDS_MAX: usize = 1_000;

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let among = match call.caller.rights.reach(Permission::MemberRead) {
        Visible::All => None,
        Visible::Some { teams, .. } => {
            if teams.is_empty() {
                call.permit(Permission::MemberRead)?;
            }
            Some(teams.into_iter().collect::<Vec<TeamId>>())
        }
    };
    let limit = call.params.limit();
    let after: Option<AccountId> = call.params.cursor()?;
    call.finish_params()?;
    let store = call.app.store();
    let workspace_id = call.caller.workspace_id;
    let among = among.as_deref();
    let mut rows = view::workspace::members(store, workspace_id, among, after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|it| it.account_id.to_string());
    let data = shown(&call, &rows).await?;
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn patch(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let account_id = find(&call, &id).await?;
    call.permit(Permission::MemberUpdate)?;
    let wait = call.wait(false);
    let keys = call.params.text("keys");
    if keys.as_deref().is_some_and(|it| it != "deactivate") {
        call.params.refuse("keys", "deactivate");
    }
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name role or status",
        ));
    }
    let role: Option<Role> = fields.value("role", Role::NAMES);
    let status: Option<MemberStatus> = fields.value("status", MemberStatus::NAMES);
    // Limits of a member are pools of all their keys, which nothing enforces yet.
    fields.not_available(&["limits"]);
    fields.finish()?;
    if keys.is_some() && status != Some(MemberStatus::Suspended) {
        return Err(Failure::field(
            "keys",
            "nothing, unless the status becomes suspended",
        ));
    }
    let command = MemberCommand::Update {
        by: call.caller.account_id,
        account_id,
        role,
        status,
    };
    let departure = keys.map(|_| Departure {
        workspace_id: call.caller.workspace_id,
        account_id,
        keys: Keys::Deactivate,
        leaves_teams: false,
    });
    let outcome = carry_out(&call, command, departure).await?;
    let Aggregate::Workspace(workspace) = &outcome.aggregate else {
        return Err(Failure::not_found("member"));
    };
    let member = workspace.members.get(&account_id);
    let rows: Vec<MemberRow> = member.map(|it| row(account_id, it)).into_iter().collect();
    let body = shown(&call, &rows).await?.pop();
    answer::change(&call, &outcome, wait, StatusCode::OK, body).await
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let account_id = find(&call, &id).await?;
    let fate = call.params.text("keys");
    let to = call.params.text("to");
    let heir = match (&to, fate.as_deref()) {
        (Some(to), Some("transfer")) => Some(find_heir(&call, to).await?),
        _ => None,
    };
    call.permit(Permission::MemberUpdate)?;
    let wait = call.wait(false);
    let keys = match (fate.as_deref(), heir) {
        (None, _) => Keys::None,
        (Some("revoke"), _) => Keys::Revoke,
        (Some("transfer"), Some(heir)) => Keys::Transfer(heir),
        (Some("transfer"), None) => {
            call.params.refuse("to", "the id of a service account");
            Keys::None
        }
        (Some(_), _) => {
            call.params.refuse("keys", "revoke or transfer");
            Keys::None
        }
    };
    if to.is_some() && fate.as_deref() != Some("transfer") {
        call.params.refuse("to", "nothing, unless keys is transfer");
    }
    call.finish_params()?;
    call.no_fields()?;
    let command = MemberCommand::Remove {
        by: Some(call.caller.account_id),
        account_id,
    };
    let departure = Departure {
        workspace_id: call.caller.workspace_id,
        account_id,
        keys,
        leaves_teams: true,
    };
    let outcome = carry_out(&call, command, Some(departure)).await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

// === carrying out ===

/// Carries out a command to a member and what follows from it. Up to a bound the keys
/// follow in the same transaction. Of more, the first are ended in transactions of their
/// own *before*, so that whatever breaks off in between, a key's owner is a member as long
/// as the key lives; the call can then be repeated.
async fn carry_out(
    call: &Call,
    command: MemberCommand,
    departure: Option<Departure>,
) -> Result<Outcome, Failure> {
    let step = Step {
        command: Command::Workspace(call.caller.workspace_id, WorkspaceCommand::Member(command)),
        workspace_id: Some(call.caller.workspace_id),
    };
    if let Some(departure) = &departure {
        for _ in 0..ROUNDS_MAX {
            let Some(first) = first_keys(call, departure).await? else {
                break;
            };
            // Nothing is ended for a change that would be refused.
            judge(call, &step).await?;
            let request = Request {
                steps: first,
                ..call.request(step.clone())
            };
            call.app.execute().run(request).await?;
        }
    }
    let request = Request {
        departures: departure.into_iter().collect(),
        ..call.request(step)
    };
    call.run(request).await
}

async fn first_keys(call: &Call, departure: &Departure) -> Result<Option<Vec<Step>>, Failure> {
    let pool = call.app.store().pool();
    let mut connection = pool.acquire().await.map_err(failed("get a connection"))?;
    let steps = departure.first_keys(&mut connection).await?;
    Ok(steps.transpose()?)
}

async fn judge(call: &Call, step: &Step) -> Result<(), Failure> {
    let found = view::workspace::get(call.app.store(), call.caller.workspace_id).await?;
    let workspace = found.ok_or_else(|| Failure::not_found("workspace"))?;
    let actual = workspace.version;
    if call.if_match().is_some_and(|it| !it.contains(&actual)) {
        return Err(Refusal::VersionMismatch { actual }.into());
    }
    let before = Aggregate::Workspace(Box::new(workspace));
    let look = SecretLook::default();
    events::decide(Some(&before), &step.command, fresh::now(), &look)?;
    Ok(())
}

// === looking up ===

/// A member of the caller's workspace; a stranger to it is not found.
async fn find(call: &Call, id: &str) -> Result<AccountId, Failure> {
    let not_found = || Failure::not_found("member");
    let id: AccountId = id.parse().map_err(|_| not_found())?;
    let store = call.app.store();
    let found = view::workspace::membership(store, call.caller.workspace_id, id).await?;
    found.map(|_| id).ok_or_else(not_found)
}

async fn find_heir(call: &Call, id: &str) -> Result<ServiceAccountId, Failure> {
    let not_found = || Failure::not_found("service account");
    let id: ServiceAccountId = id.parse().map_err(|_| not_found())?;
    let store = call.app.store();
    let found = view::service_account::get(store, call.caller.workspace_id, id).await?;
    found.map(|_| id).ok_or_else(not_found)
}

// === showing ===

fn row(account_id: AccountId, member: &Member) -> MemberRow {
    MemberRow {
        account_id,
        role: member.role,
        status: member.status,
    }
}

/// Members with what is known of them as people.
async fn shown(call: &Call, rows: &[MemberRow]) -> Result<Vec<Value>, Failure> {
    let ids: Vec<AccountId> = rows.iter().map(|it| it.account_id).collect();
    let profiles = account::profiles(call.app.store(), &ids).await?;
    let row = |it: &MemberRow| {
        let profile = profiles.get(&it.account_id);
        json!({
            "account_id": it.account_id,
            "email": profile.map(|it| it.email.as_str()),
            "name": profile.and_then(|it| it.name.as_deref()),
            "role": it.role,
            "status": it.status,
            "limits": null,
        })
    };
    Ok(rows.iter().map(row).collect())
}
