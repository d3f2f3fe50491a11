//! `/invitations`: asking somebody in, and coming in.
//!
//! The link is in the mail and in no answer. An invitation is bound to its address: only an
//! account that has shown that the address is its own can accept.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::{InvitationCommand, TeamCommand, WorkspaceCommand};
use events::event::InvitedTo;
use events::workspace::Invitation;
use events::{Aggregate, Command, Refusal};
use schemas::api::Page;
use schemas::problem::Code;
use schemas::{InvitationId, Role, TeamId, TeamRole};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accounts::address_field;
use super::answer;
use super::asked::Own;
use super::call::{Call, Id};
use super::failure::Failure;
use super::permission::Permission;
use super::rights::Visible;
use crate::account::{self, Address};
use crate::attempts::{Kind, peer};
use crate::execute::{self, Outcome, Request, SideRow, Step};
use crate::invitation::{self, NewLink};
use crate::store::failed;
use crate::{fresh, view};

/// How often an acceptance is tried beside other changes of the same workspace.
const TRIES_MAX: usize = 20;

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let rights = &call.caller.rights;
    if !rights.holds_somewhere(Permission::InvitationUpdate) {
        call.permit(Permission::InvitationUpdate)?;
    }
    let wait = call.wait(true);
    let mut fields = call.required_fields()?;
    let team_id: Option<String> = fields.optional("team_id", "null or a team's id").flatten();
    let team_id = match &team_id {
        Some(id) => Some(find_team(&call, id).await?),
        None => None,
    };
    let permitted = Permission::InvitationUpdate;
    call.caller.rights.permit_in(permitted, team_id, false)?;
    call.finish_params()?;
    let address = address_field(&mut fields);
    let role: Option<Role> = fields.optional("role", Role::NAMES).flatten();
    let team_role: Option<TeamRole> = fields.optional("team_role", TeamRole::NAMES).flatten();
    if team_role.is_some() && team_id.is_none() {
        fields.refuse("team_role", "nothing without a team_id");
    }
    if role.is_none() && team_id.is_none() && !fields.is_refused("role") {
        fields.refuse("role", Role::NAMES);
    }
    fields.finish()?;
    let (Some(address), role) = (address, role.unwrap_or(Role::Member)) else {
        return Err(Failure::field("email", account::address::EXPECTED));
    };
    let team = team_id.map(|team_id| InvitedTo {
        team_id,
        role: team_role.unwrap_or(TeamRole::TeamDeveloper),
    });
    if call.answered_before().await?.is_none() {
        refuse_known(&call, &address, team.as_ref()).await?;
        take_mail(&call, &address)?;
    }
    let id = fresh::id(InvitationId::from_parts);
    let command = InvitationCommand::Create {
        by: call.caller.account_id,
        id,
        role,
        team,
    };
    let link = new_link(&call, id, address.clone(), role);
    let outcome = carry_out(&call, command, Some(SideRow::Invitation(link))).await?;
    call.app.accounts().outbox.wake();
    // A repetition is answered with the invitation that was made then.
    let made = last_changed(&outcome)?;
    let body = shown(made.0, made.1, Some(&address));
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let among = match call.caller.rights.reach(Permission::InvitationUpdate) {
        Visible::All => None,
        Visible::Some { teams, .. } => {
            if teams.is_empty() {
                call.permit(Permission::InvitationUpdate)?;
            }
            Some(teams)
        }
    };
    let limit = call.params.limit() as usize;
    let after: Option<InvitationId> = call.params.cursor()?;
    call.finish_params()?;
    let store = call.app.store();
    let workspace = view::workspace::get(store, call.caller.workspace_id).await?;
    let invitations = workspace.map(|it| it.invitations).unwrap_or_default();
    let mut rest = invitations
        .iter()
        .filter(|(_, it)| match &among {
            None => true,
            Some(teams) => it.team.is_some_and(|team| teams.contains(&team.team_id)),
        })
        .filter(|(id, _)| after.is_none_or(|after| **id > after));
    let page: Vec<(&InvitationId, &Invitation)> = rest.by_ref().take(limit).collect();
    let next_cursor = match (rest.next(), page.last()) {
        (Some(_), Some((last, _))) => Some(last.to_string()),
        _ => None,
    };
    let ids: Vec<InvitationId> = page.iter().map(|(id, _)| **id).collect();
    let addresses = invitation::addresses(store, &ids).await?;
    let data: Vec<Value> = page
        .into_iter()
        .map(|(id, it)| shown(*id, it, addresses.get(id)))
        .collect();
    answer::ok(&Page { data, next_cursor })
}

/// A new link and a new term; the old link is dead.
pub(super) async fn reissue(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let (id, invitation) = find(&call, &id).await?;
    permit(&call, &invitation)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let found = invitation::addresses(call.app.store(), &[id]).await?;
    let Some(address) = found.get(&id) else {
        return Err(Failure::new(
            Code::InUse,
            "the invited person was erased; delete the invitation",
        ));
    };
    if call.answered_before().await?.is_none() {
        take_mail(&call, address)?;
    }
    let command = InvitationCommand::Reissue {
        by: call.caller.account_id,
        id,
    };
    let link = new_link(&call, id, address.clone(), invitation.role);
    let outcome = carry_out(&call, command, Some(SideRow::Invitation(link))).await?;
    call.app.accounts().outbox.wake();
    let made = last_changed(&outcome)?;
    let body = shown(made.0, made.1, Some(address));
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn delete(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let (id, invitation) = find(&call, &id).await?;
    permit(&call, &invitation)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let command = InvitationCommand::Delete {
        by: call.caller.account_id,
        id,
    };
    let outcome = carry_out(&call, command, Some(SideRow::NoInvitation(id))).await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

pub(super) async fn accept(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.permit_verified()?;
    let wait = own.wait(false);
    own.asked.finish_params()?;
    let mut fields = own.asked.required_fields()?;
    let token = fields.required_text("token");
    fields.finish()?;
    let attempts = &own.app().accounts().attempts;
    attempts.take(Kind::LinkFrom, &peer(own.asked.peer), Instant::now())?;
    let (idempotency, _running) = own.idempotency()?;
    if let Some(it) = &idempotency
        && let Some(outcome) = execute::answered_before(own.app().store(), it).await?
    {
        return accepted(&own, &outcome, wait).await;
    }
    for _ in 0..TRIES_MAX {
        let mut request = acceptance(&own, &token).await?;
        request.idempotency.clone_from(&idempotency);
        match own.app().execute().run(request).await {
            // Somebody changed the workspace meanwhile, perhaps used this very link: it is
            // looked at again.
            Err(execute::Error::Refused(Refusal::VersionMismatch { .. })) => {}
            outcome => return accepted(&own, &outcome?, wait).await,
        }
    }
    Err(Failure::new(
        Code::Unavailable,
        "the workspace changes too fast; try again",
    ))
}

/// Coming in, for a workspace as it is now: what the link says is read after the version,
/// so that it still says so if the version is still the same when the change is decided.
async fn acceptance(own: &Own, token: &str) -> Result<Request, Failure> {
    let store = own.app().store();
    let now = fresh::now();
    let dead = || Failure::field("token", "the token of an invitation that is open");
    let found = invitation::find(store, token, now)
        .await?
        .ok_or_else(dead)?;
    let workspace = view::workspace::get(store, found.workspace_id).await?;
    let workspace = workspace.ok_or_else(dead)?;
    if invitation::find(store, token, now).await?.as_ref() != Some(&found) {
        return Err(dead());
    }
    let account_id = own.identity.account_id;
    let account = account::get(store, account_id).await?;
    if account.is_none_or(|it| it.address.key() != found.email) {
        return Err(Failure::new(
            Code::Forbidden,
            "the invitation is for another address",
        ));
    }
    let step = |command| Step {
        command,
        workspace_id: Some(workspace.id),
    };
    let id = found.invitation_id;
    let command = WorkspaceCommand::Invitation(InvitationCommand::Accept { id, account_id });
    let mut steps = vec![step(Command::Workspace(workspace.id, command))];
    let invited = workspace.invitations.get(&id);
    if let Some(team) = invited.and_then(|it| it.team) {
        let role = team.role;
        let command = TeamCommand::SetMember { account_id, role };
        steps.push(step(Command::Team(team.team_id, command)));
    }
    Ok(Request {
        expected_versions: Some(vec![workspace.version]),
        rows: vec![SideRow::NoInvitation(id)],
        ..own.request(steps)
    })
}

async fn accepted(
    own: &Own,
    outcome: &Outcome,
    wait: super::call::Wait,
) -> Result<Response, Failure> {
    let Aggregate::Workspace(workspace) = &outcome.aggregate else {
        return Err(Failure::not_found("workspace"));
    };
    let member = workspace.members.get(&own.identity.account_id);
    let body = json!({
        "workspace_id": workspace.id,
        "workspace_name": workspace.settings.name,
        "role": member.map(|it| it.role),
    });
    answer::change_by(own.app(), outcome, wait, StatusCode::OK, Some(body)).await
}

// === parts ===

fn permit(call: &Call, invitation: &Invitation) -> Result<(), Failure> {
    let team = invitation.team.map(|it| it.team_id);
    let rights = &call.caller.rights;
    rights.permit_in(Permission::InvitationUpdate, team, false)
}

async fn carry_out(
    call: &Call,
    command: InvitationCommand,
    row: Option<SideRow>,
) -> Result<Outcome, Failure> {
    let workspace_id = call.caller.workspace_id;
    let command = WorkspaceCommand::Invitation(command);
    let step = Step {
        command: Command::Workspace(workspace_id, command),
        workspace_id: Some(workspace_id),
    };
    let request = Request {
        rows: row.into_iter().collect(),
        ..call.request(step)
    };
    call.run(request).await
}

fn new_link(call: &Call, id: InvitationId, address: Address, role: Role) -> NewLink {
    let workspace_id = call.caller.workspace_id;
    NewLink::make(workspace_id, id, address, role, call.app.public_url())
}

/// Nobody can use invitations to fill a stranger's mailbox.
fn take_mail(call: &Call, address: &Address) -> Result<(), Failure> {
    let name = format!("invitation {}", address.key());
    let attempts = &call.app.accounts().attempts;
    Ok(attempts.take(Kind::MailTo, &name, Instant::now())?)
}

/// Refuses an invitation that would change nothing: of a member, or the same once more.
async fn refuse_known(
    call: &Call,
    address: &Address,
    team: Option<&InvitedTo>,
) -> Result<(), Failure> {
    let store = call.app.store();
    let mut connection = store
        .pool()
        .acquire()
        .await
        .map_err(failed("get a connection"))?;
    let account = account::by_address(&mut connection, address).await?;
    drop(connection);
    let found = view::workspace::get(store, call.caller.workspace_id).await?;
    let workspace = found.ok_or_else(|| Failure::not_found("workspace"))?;
    let is_member = account.is_some_and(|it| workspace.members.contains_key(&it.id));
    if is_member && team.is_none() {
        return Err(Failure::new(
            Code::InUse,
            "a member of the workspace has this address already",
        ));
    }
    let now = fresh::now();
    let team_id = team.map(|it| it.team_id);
    let same: Vec<InvitationId> = workspace
        .invitations
        .iter()
        .filter(|(_, it)| now < it.expires_at && it.team.map(|it| it.team_id) == team_id)
        .map(|(id, _)| *id)
        .collect();
    let addresses = invitation::addresses(store, &same).await?;
    if addresses.values().any(|it| it.key() == address.key()) {
        return Err(Failure::new(
            Code::InUse,
            "this address is invited already; reissue that invitation, or delete it first",
        ));
    }
    Ok(())
}

/// An invitation of the caller's workspace; another's is not found.
async fn find(call: &Call, id: &str) -> Result<(InvitationId, Invitation), Failure> {
    let not_found = || Failure::not_found("invitation");
    let id: InvitationId = id.parse().map_err(|_| not_found())?;
    let workspace = view::workspace::get(call.app.store(), call.caller.workspace_id).await?;
    let mut invitations = workspace.map(|it| it.invitations).unwrap_or_default();
    let invitation = invitations.remove(&id).ok_or_else(not_found)?;
    Ok((id, invitation))
}

async fn find_team(call: &Call, id: &str) -> Result<TeamId, Failure> {
    let not_found = || Failure::not_found("team");
    let id: TeamId = id.parse().map_err(|_| not_found())?;
    let found = view::team::get(call.app.store(), call.caller.workspace_id, id).await?;
    found.map(|_| id).ok_or_else(not_found)
}

/// The invitation that a change of the workspace was about.
fn last_changed(outcome: &Outcome) -> Result<(InvitationId, &Invitation), Failure> {
    let not_found = || Failure::not_found("invitation");
    let Aggregate::Workspace(workspace) = &outcome.aggregate else {
        return Err(not_found());
    };
    let mut invitations = workspace.invitations.iter();
    let changed = invitations.find(|(_, it)| it.version == workspace.version);
    changed.map(|(id, it)| (*id, it)).ok_or_else(not_found)
}

/// An invitation as every answer shows it; the address only while it is known.
fn shown(id: InvitationId, invitation: &Invitation, address: Option<&Address>) -> Value {
    json!({
        "id": id,
        "email": address.map(Address::written),
        "role": invitation.role,
        "team_id": invitation.team.map(|it| it.team_id),
        "team_role": invitation.team.map(|it| it.role),
        "created_by": { "type": "user", "id": invitation.by },
        "created_at": invitation.created_at,
        "expires_at": invitation.expires_at,
        "expired": fresh::now() >= invitation.expires_at,
    })
}
