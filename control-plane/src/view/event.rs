//! Events as readers look for them: those of one workspace, by who did them, what they are
//! about, what kind they are and when they were.

use schemas::{Position, Timestamp, WorkspaceId};

use crate::store::log::{self, to_i64};
use crate::store::sql::Sql;
use crate::store::{Error, Store};

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this workspace; `None` is the installation.
    pub workspace_id: Option<WorkspaceId>,
    /// After this position.
    pub after: Position,
    /// Of this type.
    pub kind: Option<String>,
    /// By this actor.
    pub actor_id: Option<String>,
    /// About this.
    pub object_id: Option<String>,
    /// Not before.
    pub from: Option<Timestamp>,
    /// Not after.
    pub to: Option<Timestamp>,
    /// At most so many.
    pub limit: u32,
}

/// What there is, in the order of the log.
///
/// # Errors
/// [`Error`].
pub async fn search(store: &Store, filter: &Filter) -> Result<Vec<log::Row>, Error> {
    let mut sql = Sql::new(
        "SELECT position, canonical, leaf_hash, chain_hash FROM events WHERE workspace_id ",
    );
    match filter.workspace_id {
        Some(id) => sql.push("= ").bind(id.to_string())?,
        None => sql.push("IS NULL"),
    };
    sql.push(" AND position > ").bind(to_i64(filter.after))?;
    if let Some(kind) = &filter.kind {
        sql.push(" AND type = ").bind(kind.clone())?;
    }
    if let Some(id) = &filter.actor_id {
        sql.push(" AND actor_id = ").bind(id.clone())?;
    }
    if let Some(id) = &filter.object_id {
        sql.push(" AND object_id = ").bind(id.clone())?;
    }
    if let Some(from) = filter.from {
        sql.push(" AND at_ms >= ").bind(from.unix_ms())?;
    }
    if let Some(to) = filter.to {
        sql.push(" AND at_ms <= ").bind(to.unix_ms())?;
    }
    sql.push(" ORDER BY position LIMIT ")
        .bind(i64::from(filter.limit))?;
    let rows = sql.fetch_all(store.pool(), "look for events").await?;
    rows.iter().map(log::to_row).collect()
}

/// Whether anything in a workspace was done by, or happened to, whatever has this id.
///
/// # Errors
/// [`Error`].
pub async fn is_known(
    store: &Store,
    workspace_id: Option<WorkspaceId>,
    id: &str,
) -> Result<bool, Error> {
    let mut sql = Sql::new("SELECT 1 FROM events WHERE workspace_id ");
    match workspace_id {
        Some(id) => sql.push("= ").bind(id.to_string())?,
        None => sql.push("IS NULL"),
    };
    sql.push(" AND (actor_id = ").bind(id.to_owned())?;
    sql.push(" OR object_id = ").bind(id.to_owned())?;
    sql.push(") LIMIT 1");
    let rows = sql.fetch_all(store.pool(), "look for an id").await?;
    Ok(!rows.is_empty())
}
