//! Service accounts as REST shows them.

use events::Aggregate;
use events::service_account::ServiceAccount;
use schemas::{Limits, ServiceAccountId, TeamId, WorkspaceId, api};

use super::state_of;
use crate::store::log::corrupt;
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};

/// A service account of a workspace; `None` where it is another's, or its team is no more.
///
/// # Errors
/// [`Error`].
pub async fn get(
    store: &Store,
    workspace_id: WorkspaceId,
    id: ServiceAccountId,
) -> Result<Option<ServiceAccount>, Error> {
    let row = sqlx::query(
        "SELECT state FROM service_accounts WHERE id = $1 AND workspace_id = $2 \
         AND team_id IN (SELECT id FROM teams WHERE deleted = 0)",
    )
    .bind(id.to_string())
    .bind(workspace_id.to_string())
    .fetch_optional(store.pool())
    .await
    .map_err(failed("read a service account"))?;
    row.as_ref().map(to_account).transpose()
}

/// Service accounts of a workspace in the order they were made; of all teams, or of those
/// that are named.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    among: Option<&[TeamId]>,
    after: Option<ServiceAccountId>,
    limit: u32,
) -> Result<Vec<ServiceAccount>, Error> {
    let mut sql = Sql::new(
        "SELECT state FROM service_accounts \
         WHERE team_id IN (SELECT id FROM teams WHERE deleted = 0) AND workspace_id = ",
    );
    sql.bind(workspace_id.to_string())?;
    match among {
        None => {}
        Some([]) => return Ok(Vec::new()),
        Some(ids) => {
            sql.push(" AND team_id IN (");
            sql.bind_all(ids.iter().map(TeamId::to_string))?.push(")");
        }
    }
    if let Some(after) = after {
        sql.push(" AND id > ").bind(after.to_string())?;
    }
    sql.push(" ORDER BY id LIMIT ").bind(i64::from(limit))?;
    let rows = sql.fetch_all(store.pool(), "list service accounts").await?;
    rows.iter().map(to_account).collect()
}

/// A service account as every answer shows it.
pub fn to_api(account: &ServiceAccount) -> api::ServiceAccount {
    api::ServiceAccount {
        id: account.id,
        name: account.name.clone(),
        team_id: account.team_id,
        active: account.active,
        limits: Limits::default(),
        created_at: account.created_at,
        version: account.version,
        propagation: None,
    }
}

fn to_account(row: &sqlx::any::AnyRow) -> Result<ServiceAccount, Error> {
    match state_of(row)? {
        Aggregate::ServiceAccount(account) => Ok(*account),
        _ => Err(corrupt("service_accounts.state")),
    }
}
