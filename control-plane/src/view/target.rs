//! Targets as REST shows them, and the places they answer for.

use std::collections::BTreeSet;

use events::Aggregate;
use events::event::TargetFields;
use events::target::Target;
use schemas::{Limits, TargetId, WorkspaceId, api};
use sqlx::AnyConnection;

use super::state_of;
use crate::store::log::corrupt;
use crate::store::{Error, Store, failed};

/// A target of a workspace; `None` where it is another's, or deleted.
///
/// # Errors
/// [`Error`].
pub async fn get(
    store: &Store,
    workspace_id: WorkspaceId,
    id: TargetId,
) -> Result<Option<Target>, Error> {
    let row = sqlx::query(
        "SELECT state FROM targets WHERE id = $1 AND workspace_id = $2 AND deleted = 0",
    )
    .bind(id.to_string())
    .bind(workspace_id.to_string())
    .fetch_optional(store.pool())
    .await
    .map_err(failed("read a target"))?;
    row.as_ref().map(to_target).transpose()
}

/// Targets of a workspace in the order they were made.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    after: Option<TargetId>,
    limit: u32,
) -> Result<Vec<Target>, Error> {
    let rows = sqlx::query(
        "SELECT state FROM targets WHERE workspace_id = $1 AND deleted = 0 AND id > $2 \
         ORDER BY id LIMIT $3",
    )
    .bind(workspace_id.to_string())
    .bind(after.map(|id| id.to_string()).unwrap_or_default())
    .bind(i64::from(limit))
    .fetch_all(store.pool())
    .await
    .map_err(failed("list targets"))?;
    rows.iter().map(to_target).collect()
}

/// A target as every answer shows it.
pub fn to_api(target: &Target) -> api::Target {
    let fields = &target.fields;
    api::Target {
        id: target.id,
        name: fields.name.clone(),
        host: fields.host.clone(),
        scheme: fields.scheme,
        port: fields.port,
        extra_ports: fields.extra_ports.clone(),
        base_path: fields.base_path.clone(),
        groups: fields.groups.clone(),
        credential: fields.credential.as_ref().map(|it| it.name.clone()),
        meter: None,
        limits: Limits::default(),
        timeouts: fields.timeouts,
        bodies: fields.bodies,
        queue: None,
        concurrency: None,
        allow_set_cookie: fields.allow_set_cookie,
        allow_private: fields.allow_private,
        created_at: target.created_at,
        version: target.version,
        propagation: None,
    }
}

/// Writes which places a target answers for; the rules have checked that they are free.
pub(super) async fn save_origins(
    connection: &mut AnyConnection,
    target: &Target,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM target_origins WHERE target_id = $1")
        .bind(target.id.to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed("free the places of a target"))?;
    if target.deleted {
        return Ok(());
    }
    for origin in origins(&target.fields) {
        sqlx::query(
            "INSERT INTO target_origins (workspace_id, origin, target_id) VALUES ($1, $2, $3)",
        )
        .bind(target.workspace_id.to_string())
        .bind(origin)
        .bind(target.id.to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed("take a place for a target"))?;
    }
    Ok(())
}

/// Every `scheme://host:port` that a target answers for.
pub(crate) fn origins(fields: &TargetFields) -> BTreeSet<String> {
    std::iter::once(&fields.port)
        .chain(&fields.extra_ports)
        .map(|port| format!("{}://{}:{port}", fields.scheme.as_str(), fields.host))
        .collect()
}

fn to_target(row: &sqlx::any::AnyRow) -> Result<Target, Error> {
    match state_of(row)? {
        Aggregate::Target(target) => Ok(*target),
        _ => Err(corrupt("targets.state")),
    }
}
