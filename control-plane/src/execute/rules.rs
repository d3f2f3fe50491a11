//! Rules that no aggregate can judge alone, as SELECTs under the lock of the head: what
//! they see cannot change before the commit.

mod catalog;
mod owner;

use events::command::KeyCommand;
use events::event::KeyCreated;
use events::key::Key;
use events::self_service::{self, Asked};
use events::team::{self, Team};
use events::{Aggregate, Command, Event, Refusal, Stream};
use schemas::api::Source;
use schemas::entry::Owner;
use schemas::{AccountId, KeyId, Limits, TeamId, Timestamp, WorkspaceId};
use sqlx::AnyConnection;

use crate::store::log::column;
use crate::store::{Error, failed};
use crate::view;

/// The outer error is the database's; the inner one is the rules' "no".
type Verdict = Result<Result<(), Refusal>, Error>;

/// A command with what was decided on it.
pub(super) struct Decided<'a> {
    pub(super) command: &'a Command,
    pub(super) workspace_id: Option<WorkspaceId>,
    /// The aggregate before the events.
    pub(super) aggregate: Option<&'a Aggregate>,
    pub(super) events: &'a [Event],
    /// What the steps before this one of the same request came to.
    pub(super) earlier: &'a [&'a Event],
    pub(super) now: Timestamp,
}

/// Whether what was decided may stand beside everything else in the workspace.
pub(super) async fn check(connection: &mut AnyConnection, decided: &Decided<'_>) -> Verdict {
    let Some(workspace_id) = decided.workspace_id else {
        return Ok(Ok(()));
    };
    for event in decided.events {
        let verdict = match (decided.command.stream(), decided.aggregate) {
            (Stream::Key(id), before) => {
                let before = match before {
                    Some(Aggregate::Key(key)) => Some(&**key),
                    _ => None,
                };
                check_key(connection, workspace_id, id, before, event, decided).await?
            }
            (Stream::Target(id), before) => {
                check_target(connection, workspace_id, &id.to_string(), before, event).await?
            }
            (Stream::Team(id), _) => {
                check_team(connection, workspace_id, id, event, decided.earlier).await?
            }
            (Stream::ServiceAccount(id), before) => {
                let id = id.to_string();
                owner::check_account(connection, workspace_id, &id, before, event).await?
            }
            (Stream::Workspace(_), _) => check_workspace(connection, workspace_id, event).await?,
            _ => Ok(()),
        };
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}

// === workspaces ===

async fn check_workspace(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    event: &Event,
) -> Verdict {
    match event {
        Event::InvitationAccepted { account_id, .. } => check_joins(connection, *account_id).await,
        _ => catalog::check_unused(connection, workspace_id, event).await,
    }
}

/// Nobody joins who is being erased: a member without an account could not be told from
/// one, nor ever leave.
async fn check_joins(connection: &mut AnyConnection, account_id: AccountId) -> Verdict {
    let row = sqlx::query("SELECT 1 AS one FROM accounts WHERE id = $1")
        .bind(account_id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("look for an account"))?;
    Ok(row.map(drop).ok_or(Refusal::NotFound("account")))
}

// === keys ===

async fn check_key(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: KeyId,
    before: Option<&Key>,
    event: &Event,
    decided: &Decided<'_>,
) -> Verdict {
    match (event, before) {
        (Event::KeyCreated(created), _) => {
            let created_now = decided.now;
            check_created(connection, workspace_id, id, created, created_now).await
        }
        (Event::KeyUpdated { changes }, Some(key)) => {
            if let Some(access) = &changes.access
                && let Err(refusal) =
                    catalog::check_access(connection, workspace_id, Some(&access.from), &access.to)
                        .await?
            {
                return Ok(Err(refusal));
            }
            if let Some(name) = &changes.name
                && key_name_is_taken(connection, workspace_id, id, &name.to).await?
            {
                return Ok(Err(Refusal::NameTaken("name")));
            }
            match (&changes.limits, key.team_id) {
                (Some(limits), Some(team_id)) => {
                    let team = find_team(connection, workspace_id, team_id).await?;
                    Ok(team.and_then(|team| within(Some(&limits.from), &limits.to, &team)))
                }
                _ => Ok(Ok(())),
            }
        }
        (Event::KeyTransferred { changes }, Some(key)) => {
            let mut after = key.clone();
            changes.apply(&mut after);
            let Some(owner) = after.owner else {
                return Ok(Ok(()));
            };
            owner::check(connection, workspace_id, after.team_id, owner).await
        }
        (Event::KeyRotated(_), Some(key)) => {
            let Command::Key(_, KeyCommand::Rotate(rotate)) = decided.command else {
                return Ok(Ok(()));
            };
            match key.team_id.filter(|_| rotate.self_service) {
                Some(team_id) => {
                    let team = find_team(connection, workspace_id, team_id).await?;
                    let asked = Asked::of_key(key, None);
                    Ok(team.and_then(|team| self_service::check(&team, &asked, decided.now)))
                }
                None => Ok(Ok(())),
            }
        }
        _ => Ok(Ok(())),
    }
}

async fn check_created(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: KeyId,
    created: &KeyCreated,
    now: Timestamp,
) -> Verdict {
    if key_name_is_taken(connection, workspace_id, id, &created.name).await? {
        return Ok(Err(Refusal::NameTaken("name")));
    }
    if let Err(refusal) =
        catalog::check_access(connection, workspace_id, None, &created.access).await?
    {
        return Ok(Err(refusal));
    }
    if let Some(owner) = created.owner
        && let Err(refusal) = owner::check(connection, workspace_id, created.team_id, owner).await?
    {
        return Ok(Err(refusal));
    }
    let Some(team_id) = created.team_id else {
        return Ok(Ok(()));
    };
    let team = match find_team(connection, workspace_id, team_id).await? {
        Ok(team) => team,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match created
        .owner
        .filter(|_| created.source == Source::SelfService)
    {
        Some(owner) => {
            let asked = Asked {
                expires_at: created.expires_at,
                limits: created.limits,
                others: Some(count_live(connection, team_id, owner, now).await?),
            };
            Ok(self_service::check(&team, &asked, now))
        }
        None => Ok(within(None, &created.limits, &team)),
    }
}

/// A key's own limits are not above its team's.
fn within(before: Option<&Limits>, after: &Limits, team: &Team) -> Result<(), Refusal> {
    match team::above_team(before, after, team) {
        above if above.is_empty() => Ok(()),
        above => Err(Refusal::Fields(above)),
    }
}

/// The live keys of an owner in a team: switched on or off, and not past their end.
async fn count_live(
    connection: &mut AnyConnection,
    team_id: TeamId,
    owner: Owner,
    now: Timestamp,
) -> Result<u64, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS live FROM keys WHERE team_id = $1 AND owner = $2 \
         AND name_free = 0 AND (expires_at_ms IS NULL OR expires_at_ms > $3)",
    )
    .bind(team_id.to_string())
    .bind(owner.to_string())
    .bind(now.unix_ms())
    .fetch_one(connection)
    .await
    .map_err(failed("count the keys of an owner"))?;
    column(&row, "live").map(i64::unsigned_abs)
}

async fn key_name_is_taken(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: KeyId,
    name: &str,
) -> Result<bool, Error> {
    exists(
        connection,
        "SELECT 1 FROM keys WHERE workspace_id = $1 AND name_key = $2 AND name_free = 0 \
         AND id <> $3",
        workspace_id,
        events::text::name_key(name),
        &id.to_string(),
    )
    .await
}

// === targets ===

async fn check_target(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: &str,
    before: Option<&Aggregate>,
    event: &Event,
) -> Verdict {
    let (before, after) = match (event, before) {
        (Event::TargetCreated(fields), _) => (None, (**fields).clone()),
        (Event::TargetUpdated { changes }, Some(Aggregate::Target(before))) => {
            let mut fields = before.fields.clone();
            changes.apply(&mut fields);
            (Some(&before.fields), fields)
        }
        _ => return Ok(Ok(())),
    };
    match target(connection, workspace_id, id, &after).await? {
        Some(what) => Ok(Err(Refusal::NameTaken(what))),
        None => catalog::check_target(connection, workspace_id, before, &after).await,
    }
}

async fn target(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: &str,
    fields: &events::event::TargetFields,
) -> Result<Option<&'static str>, Error> {
    let name = events::text::name_key(&fields.name);
    let by_name = "SELECT 1 FROM targets WHERE workspace_id = $1 AND name_key = $2 \
                   AND deleted = 0 AND id <> $3";
    if exists(connection, by_name, workspace_id, name, id).await? {
        return Ok(Some("name"));
    }
    let taken_by_another = "SELECT 1 FROM target_origins WHERE workspace_id = $1 \
                            AND origin = $2 AND target_id <> $3";
    for origin in view::target::origins(fields) {
        if exists(connection, taken_by_another, workspace_id, origin, id).await? {
            return Ok(Some("combination of scheme, host and port"));
        }
    }
    Ok(None)
}

// === teams ===

async fn check_team(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: TeamId,
    event: &Event,
    earlier: &[&Event],
) -> Verdict {
    let above_plan = |before, after, plan| match team::above_plan(before, after, plan) {
        above if above.is_empty() => Ok(()),
        above => Err(Refusal::Fields(above)),
    };
    match event {
        Event::TeamCreated(fields) => {
            if let Err(refusal) =
                catalog::check_access(connection, workspace_id, None, &fields.access).await?
            {
                return Ok(Err(refusal));
            }
            let workspace = owner::find_workspace(connection, workspace_id).await?;
            Ok(workspace.and_then(|it| above_plan(None, &fields.limits, it.settings.plan_limits)))
        }
        Event::TeamUpdated { changes } => {
            if let Some(access) = &changes.access
                && let Err(refusal) =
                    catalog::check_access(connection, workspace_id, Some(&access.from), &access.to)
                        .await?
            {
                return Ok(Err(refusal));
            }
            let Some(limits) = &changes.limits else {
                return Ok(Ok(()));
            };
            let workspace = owner::find_workspace(connection, workspace_id).await?;
            Ok(workspace
                .and_then(|it| above_plan(Some(&limits.from), &limits.to, it.settings.plan_limits)))
        }
        Event::TeamDeleted {} => {
            let row =
                sqlx::query("SELECT 1 FROM keys WHERE team_id = $1 AND name_free = 0 LIMIT 1")
                    .bind(id.to_string())
                    .fetch_optional(connection)
                    .await
                    .map_err(failed("look for keys of a team"))?;
            Ok(row.map_or(Ok(()), |_| Err(Refusal::TeamHasKeys)))
        }
        Event::TeamMemberSet { account_id, .. } if comes_in(earlier, *account_id) => Ok(Ok(())),
        Event::TeamMemberSet { account_id, .. } => {
            let workspace = owner::find_workspace(connection, workspace_id).await?;
            Ok(workspace.and_then(|it| match it.members.get(account_id) {
                Some(_) => Ok(()),
                None => Err(Refusal::NotFound("member")),
            }))
        }
        _ => Ok(Ok(())),
    }
}

/// Whether an earlier step of the request makes somebody a member of the workspace.
fn comes_in(earlier: &[&Event], who: AccountId) -> bool {
    earlier.iter().any(
        |event| matches!(event, Event::InvitationAccepted { account_id, .. } if *account_id == who),
    )
}

/// A team of the workspace, as it is under the lock.
async fn find_team(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: TeamId,
) -> Result<Result<Team, Refusal>, Error> {
    Ok(match view::load(connection, Stream::Team(id)).await? {
        Some(Aggregate::Team(team)) if team.workspace_id == workspace_id && !team.deleted => {
            Ok(*team)
        }
        _ => Err(Refusal::NotFound("team")),
    })
}

async fn exists(
    connection: &mut AnyConnection,
    sql: &'static str,
    workspace_id: WorkspaceId,
    value: String,
    id: &str,
) -> Result<bool, Error> {
    sqlx::query(sql)
        .bind(workspace_id.to_string())
        .bind(value)
        .bind(id.to_owned())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for a taken name"))
}
