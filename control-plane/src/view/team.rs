//! Teams as REST shows them, and who has which role in them.

use events::Aggregate;
use events::team::Team;
use schemas::api::{self, TeamMember};
use schemas::{AccountId, TeamId, TeamRole, WorkspaceId};
use sqlx::AnyConnection;

use super::state_of;
use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};

/// A team of a workspace; `None` where it is another's, or deleted.
///
/// # Errors
/// [`Error`].
pub async fn get(
    store: &Store,
    workspace_id: WorkspaceId,
    id: TeamId,
) -> Result<Option<Team>, Error> {
    let row =
        sqlx::query("SELECT state FROM teams WHERE id = $1 AND workspace_id = $2 AND deleted = 0")
            .bind(id.to_string())
            .bind(workspace_id.to_string())
            .fetch_optional(store.pool())
            .await
            .map_err(failed("read a team"))?;
    row.as_ref().map(to_team).transpose()
}

/// Teams of a workspace in the order they were made; of all, or of those that are named.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    among: Option<&[TeamId]>,
    after: Option<TeamId>,
    limit: u32,
) -> Result<Vec<Team>, Error> {
    let mut sql = Sql::new("SELECT state FROM teams WHERE deleted = 0 AND workspace_id = ");
    sql.bind(workspace_id.to_string())?;
    match among {
        None => {}
        Some([]) => return Ok(Vec::new()),
        Some(ids) => {
            sql.push(" AND id IN (");
            sql.bind_all(ids.iter().map(TeamId::to_string))?.push(")");
        }
    }
    if let Some(after) = after {
        sql.push(" AND id > ").bind(after.to_string())?;
    }
    sql.push(" ORDER BY id LIMIT ").bind(i64::from(limit))?;
    let rows = sql.fetch_all(store.pool(), "list teams").await?;
    rows.iter().map(to_team).collect()
}

/// The roles that somebody has in the teams of a workspace now.
///
/// # Errors
/// [`Error`].
pub async fn roles_of(
    store: &Store,
    workspace_id: WorkspaceId,
    account_id: AccountId,
) -> Result<Vec<(TeamId, TeamRole)>, Error> {
    let rows = sqlx::query(
        "SELECT team_id, role FROM team_members WHERE workspace_id = $1 AND account_id = $2 \
         ORDER BY team_id",
    )
    .bind(workspace_id.to_string())
    .bind(account_id.to_string())
    .fetch_all(store.pool())
    .await
    .map_err(failed("read the team roles of an account"))?;
    rows.iter()
        .map(|row| {
            let id: String = column(row, "team_id")?;
            let role: String = column(row, "role")?;
            let id = id.parse().map_err(|_| corrupt("team_members.team_id"))?;
            let role = role.parse().map_err(|_| corrupt("team_members.role"))?;
            Ok((id, role))
        })
        .collect()
}

/// The teams that somebody is in, read under the lock of the head.
///
/// # Errors
/// [`Error`].
pub async fn teams_of(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    account_id: AccountId,
) -> Result<Vec<TeamId>, Error> {
    let rows = sqlx::query(
        "SELECT team_id FROM team_members WHERE workspace_id = $1 AND account_id = $2 \
         ORDER BY team_id",
    )
    .bind(workspace_id.to_string())
    .bind(account_id.to_string())
    .fetch_all(connection)
    .await
    .map_err(failed("read the teams of an account"))?;
    rows.iter()
        .map(|row| {
            let id: String = column(row, "team_id")?;
            id.parse().map_err(|_| corrupt("team_members.team_id"))
        })
        .collect()
}

/// A team as every answer shows it; its people only to those who may know them.
pub fn to_api(team: &Team, shows_members: bool) -> api::Team {
    let fields = &team.fields;
    let policy = fields.self_service;
    api::Team {
        id: team.id,
        name: fields.name.clone(),
        limits: fields.limits,
        quotas: None,
        budget: None,
        self_service: api::SelfService {
            enabled: policy.enabled,
            max_keys_per_user: policy.max_keys_per_user,
            budget_ceiling: None,
            require_expiry: policy.require_expiry,
            max_expiry_days: policy.max_expiry_days,
        },
        access: fields.access.clone(),
        blocked: fields.blocked,
        members: shows_members.then(|| members(team).collect()),
        created_at: team.created_at,
        version: team.version,
        propagation: None,
    }
}

/// The people of a team, in the order of their ids.
pub fn members(team: &Team) -> impl Iterator<Item = TeamMember> + '_ {
    team.members
        .iter()
        .map(|(&account_id, &role)| TeamMember { account_id, role })
}

/// Writes who is in a team; nobody is in a deleted one.
pub(super) async fn save_members(connection: &mut AnyConnection, team: &Team) -> Result<(), Error> {
    sqlx::query("DELETE FROM team_members WHERE team_id = $1")
        .bind(team.id.to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed("forget the people of a team"))?;
    for (account_id, role) in &team.members {
        sqlx::query(
            "INSERT INTO team_members (team_id, account_id, workspace_id, role) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(team.id.to_string())
        .bind(account_id.to_string())
        .bind(team.workspace_id.to_string())
        .bind(role.as_str())
        .execute(&mut *connection)
        .await
        .map_err(failed("write the people of a team"))?;
    }
    Ok(())
}

fn to_team(row: &sqlx::any::AnyRow) -> Result<Team, Error> {
    match state_of(row)? {
        Aggregate::Team(team) => Ok(*team),
        _ => Err(corrupt("teams.state")),
    }
}
