//! `/teams`: the teams of a workspace, their people and what holds for their keys.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use events::command::{PatchTeam, TeamCommand};
use events::team::Team;
use events::{Aggregate, Command};
use schemas::api::{Page, TeamMember};
use schemas::problem::Code;
use schemas::{AccountId, TeamId, TeamRole};
use serde_json::Value;

use super::App;
use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::fields::Fields;
use super::permission::Permission;
use super::rights::Visible;
use crate::execute::Outcome;
use crate::store::log;
use crate::{fresh, view};

/// Fields whose enforcement does not exist yet.
const NOT_AVAILABLE: [&str; 2] = ["quotas", "budget"];

/// The two ids in the path of a member, as text.
pub(super) struct MemberPath {
    team: String,
    account: String,
}

impl FromRequestParts<App> for MemberPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        path.map(|Path((team, account))| Self { team, account })
            .map_err(|_| Failure::not_found("object"))
    }
}

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.permit(Permission::TeamUpdate)?;
    let wait = call.wait(true);
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let name = fields.required_text("name");
    let patch = PatchTeam {
        name: Some(name),
        ..read(&mut fields)
    };
    let command = TeamCommand::Create(Box::new(patch));
    fields.finish_with(|| {
        let look = events::SecretLook::default();
        events::team::decide(None, &command, &look).err()
    })?;
    let id = fresh::id(TeamId::from_parts);
    let outcome = call.execute(Command::Team(id, command)).await?;
    let body = shown(&call, &outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let among = among(&call, Permission::TeamRead)?;
    let limit = call.params.limit();
    let after = call.params.cursor()?;
    call.finish_params()?;
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let among = among.as_deref();
    let mut teams = view::team::list(store, workspace_id, among, after, limit + 1).await?;
    let more = teams.len() > limit as usize;
    teams.truncate(limit as usize);
    let next_cursor = teams.last().filter(|_| more).map(|it| it.id.to_string());
    let data: Vec<_> = teams
        .iter()
        .map(|team| view::team::to_api(team, sees_members(&call, team)))
        .collect();
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn show(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &id).await?;
    permit(&call, Permission::TeamRead, &team)?;
    call.finish_params()?;
    let shown = view::team::to_api(&team, sees_members(&call, &team));
    answer::resource(&shown, team.version)
}

pub(super) async fn patch(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &id).await?;
    permit(&call, Permission::TeamUpdate, &team)?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a field",
        ));
    }
    let name = fields.value("name", "a text, not null");
    let patch = PatchTeam {
        name,
        ..read(&mut fields)
    };
    let command = TeamCommand::Patch(Box::new(patch));
    fields.finish_with(|| {
        let look = events::SecretLook::default();
        events::team::decide(Some(&team), &command, &look).err()
    })?;
    let outcome = call.execute(Command::Team(team.id, command)).await?;
    let body = shown(&call, &outcome)?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &id).await?;
    permit(&call, Permission::TeamUpdate, &team)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let outcome = call
        .execute(Command::Team(team.id, TeamCommand::Delete))
        .await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

// === people ===

pub(super) async fn list_members(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &id).await?;
    permit(&call, Permission::MemberRead, &team)?;
    let limit = call.params.limit() as usize;
    let after: Option<AccountId> = call.params.cursor()?;
    call.finish_params()?;
    let mut rest =
        view::team::members(&team).filter(|it| after.is_none_or(|after| it.account_id > after));
    let data: Vec<TeamMember> = rest.by_ref().take(limit).collect();
    let next_cursor = match (rest.next(), data.last()) {
        (Some(_), Some(last)) => Some(last.account_id.to_string()),
        _ => None,
    };
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn show_member(path: MemberPath, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &path.team).await?;
    let member = find_member(&team, &path.account);
    // Who may not know the people of a team does not learn who is in it.
    permit(&call, Permission::MemberRead, &team)?;
    let member = member?;
    call.finish_params()?;
    answer::resource(&member, team.version)
}

pub(super) async fn set_member(path: MemberPath, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &path.team).await?;
    permit(&call, Permission::MemberUpdate, &team)?;
    let account_id = find_account(&call, &path.account).await?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.required_fields()?;
    let role: Option<TeamRole> = fields.value("role", TeamRole::NAMES);
    if role.is_none() {
        fields.refuse_missing("role", TeamRole::NAMES);
    }
    fields.finish()?;
    let role = role.unwrap_or(TeamRole::TeamViewer);
    let command = TeamCommand::SetMember { account_id, role };
    let outcome = call.execute(Command::Team(team.id, command)).await?;
    let body = TeamMember { account_id, role };
    let body = serde_json::to_value(body).map_err(|_| log::corrupt("a member"))?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn remove_member(path: MemberPath, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let team = find(&call, &path.team).await?;
    permit(&call, Permission::MemberUpdate, &team)?;
    let account_id = find_member(&team, &path.account)?.account_id;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let command = TeamCommand::RemoveMember { account_id };
    let outcome = call.execute(Command::Team(team.id, command)).await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

// === helpers ===

/// A team of the caller's workspace; another's is not found.
pub(super) async fn find(call: &Call, id: &str) -> Result<Team, Failure> {
    let not_found = || Failure::not_found("team");
    let id: TeamId = id.parse().map_err(|_| not_found())?;
    view::team::get(call.app.store(), call.caller.workspace_id, id)
        .await?
        .ok_or_else(not_found)
}

/// The teams that a list under a permission may show; `None` is all.
pub(super) fn among(call: &Call, permission: Permission) -> Result<Option<Vec<TeamId>>, Failure> {
    match call.caller.rights.reach(permission) {
        Visible::All => Ok(None),
        Visible::Some { teams, .. } if teams.is_empty() => {
            call.permit(permission).map(|()| Some(Vec::new()))
        }
        Visible::Some { teams, .. } => Ok(Some(teams.into_iter().collect())),
    }
}

fn permit(call: &Call, permission: Permission, team: &Team) -> Result<(), Failure> {
    let rights = &call.caller.rights;
    rights.permit_in(permission, Some(team.id), false)
}

fn sees_members(call: &Call, team: &Team) -> bool {
    permit(call, Permission::MemberRead, team).is_ok()
}

fn find_member(team: &Team, id: &str) -> Result<TeamMember, Failure> {
    let member = id.parse().ok().and_then(|account_id| {
        let role = *team.members.get(&account_id)?;
        Some(TeamMember { account_id, role })
    });
    member.ok_or_else(|| Failure::not_found("member of the team"))
}

/// A member of the workspace.
async fn find_account(call: &Call, id: &str) -> Result<AccountId, Failure> {
    let not_found = || Failure::not_found("member");
    let id: AccountId = id.parse().map_err(|_| not_found())?;
    let workspace = view::workspace::get(call.app.store(), call.caller.workspace_id).await?;
    workspace
        .filter(|it| it.members.contains_key(&id))
        .map(|_| id)
        .ok_or_else(not_found)
}

/// What can be set in a team, but its name.
fn read(fields: &mut Fields) -> PatchTeam {
    let patch = PatchTeam {
        name: None,
        limits: fields.limits("limits"),
        self_service: fields
            .members_of::<Value>("self_service", "a value")
            .map(set),
        access: super::access::patched(fields),
        blocked: fields
            .optional("blocked", "true, false or null")
            .map(Option::unwrap_or_default),
    };
    fields.not_available(&NOT_AVAILABLE);
    patch
}

fn set(
    members: Option<std::collections::BTreeMap<String, Option<Value>>>,
) -> Option<std::collections::BTreeMap<String, Value>> {
    let members = members?.into_iter();
    Some(
        members
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect(),
    )
}

fn shown(call: &Call, outcome: &Outcome) -> Result<Value, Failure> {
    let Aggregate::Team(team) = &outcome.aggregate else {
        return Err(Failure::not_found("team"));
    };
    let shown = view::team::to_api(team, sees_members(call, team));
    serde_json::to_value(shown).map_err(|_| log::corrupt("a team").into())
}
