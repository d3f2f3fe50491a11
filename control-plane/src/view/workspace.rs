//! Workspaces and the installation as REST shows them.

use events::Aggregate;
use events::instance::Instance;
use events::workspace::{Member, Workspace};
use schemas::{AccountId, WorkspaceId, api};

use super::state_of;
use crate::store::log::corrupt;
use crate::store::{Error, Store, failed};

/// A workspace.
///
/// # Errors
/// [`Error`].
pub async fn get(store: &Store, id: WorkspaceId) -> Result<Option<Workspace>, Error> {
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

/// A workspace as every answer shows it.
pub fn to_api(workspace: &Workspace) -> api::Workspace {
    let settings = &workspace.settings;
    api::Workspace {
        id: workspace.id,
        name: settings.name.clone(),
        status: if workspace.suspended {
            "suspended".to_owned()
        } else {
            "active".to_owned()
        },
        plan_limits: settings.plan_limits,
        error_profile: settings.error_profile,
        rotation_overlap_max_seconds: settings.rotation_overlap_max_seconds,
        allow_query_key: settings.allow_query_key,
        require_totp: settings.require_totp,
        created_at: workspace.created_at,
        version: workspace.version,
        propagation: None,
    }
}

/// A member as lists and a replay show one; what the log does not hold is added by who
/// may see it.
pub fn member_to_api(account_id: AccountId, member: &Member) -> api::Member {
    api::Member {
        account_id,
        role: member.role,
        status: member.status,
        limits: None,
    }
}
