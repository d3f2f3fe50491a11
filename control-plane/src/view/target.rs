//! Targets, workspaces and the installation as REST shows them.

use events::Aggregate;
use events::instance::Instance;
use events::target::Target;
use events::workspace::Workspace;
use schemas::{Limits, TargetId, WorkspaceId, api};
use sqlx::Row as _;

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

/// A workspace.
///
/// # Errors
/// [`Error`].
pub async fn workspace(store: &Store, id: WorkspaceId) -> Result<Option<Workspace>, Error> {
    let row = sqlx::query("SELECT state FROM workspaces WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read a workspace"))?;
    match row.as_ref().map(state_of).transpose()? {
        None => Ok(None),
        Some(Aggregate::Workspace(workspace)) => Ok(Some(*workspace)),
        Some(_) => Err(corrupt("workspaces.state")),
    }
}

/// The installation; empty before anything was set.
///
/// # Errors
/// [`Error`].
pub async fn instance(store: &Store) -> Result<Instance, Error> {
    let row = sqlx::query("SELECT state FROM instances")
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read the instance"))?;
    match row.as_ref().map(state_of).transpose()? {
        None => Ok(Instance::default()),
        Some(Aggregate::Instance(instance)) => Ok(*instance),
        Some(_) => Err(corrupt("instances.state")),
    }
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
        groups: Vec::new(),
        credential: None,
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

/// A workspace as every answer shows it.
pub fn workspace_to_api(workspace: &Workspace) -> api::Workspace {
    let settings = &workspace.settings;
    api::Workspace {
        id: workspace.id,
        name: settings.name.clone(),
        status: "active".to_owned(),
        plan_limits: settings.plan_limits,
        error_profile: settings.error_profile,
        rotation_overlap_max_seconds: settings.rotation_overlap_max_seconds,
        allow_query_key: settings.allow_query_key,
        created_at: workspace.created_at,
        version: workspace.version,
        propagation: None,
    }
}

fn to_target(row: &sqlx::any::AnyRow) -> Result<Target, Error> {
    match state_of(row)? {
        Aggregate::Target(target) => Ok(*target),
        _ => Err(corrupt("targets.state")),
    }
}

fn state_of(row: &sqlx::any::AnyRow) -> Result<Aggregate, Error> {
    super::decode(row.try_get("state").map_err(|_| corrupt("state"))?)
}
