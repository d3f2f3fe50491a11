//! Workspaces and the installation as REST shows them.

use std::collections::BTreeMap;

use events::Aggregate;
use events::instance::Instance;
use events::workspace::{Member, Workspace};
use schemas::{AccountId, MemberStatus, Role, TeamId, WorkspaceId, api};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::state_of;
use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
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

/// How an account stands to a workspace, in what each request asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// What people call the workspace.
    pub name: String,
    /// Suspended: nobody of it is let in.
    pub workspace_suspended: bool,
    /// Whether its members need a second factor.
    pub require_totp: bool,
    /// What the account is in it.
    pub role: Role,
    /// Whether the account is let in.
    pub status: MemberStatus,
}

const MEMBERSHIPS: &str = "SELECT workspaces.id AS workspace_id, workspaces.name AS name, \
     workspaces.suspended AS suspended, workspaces.require_totp AS require_totp, \
     workspace_members.role AS role, workspace_members.status AS status \
     FROM workspace_members JOIN workspaces ON workspaces.id = workspace_members.workspace_id \
     WHERE workspace_members.account_id = ";

// === impl Membership ===

impl Membership {
    /// Whether the account is let in.
    pub fn is_active(&self) -> bool {
        self.status == MemberStatus::Active && !self.workspace_suspended
    }

    fn of_row(row: &AnyRow) -> Result<Self, Error> {
        let text = |name| column::<String>(row, name);
        Ok(Self {
            workspace_id: text("workspace_id")?
                .parse()
                .map_err(|_| corrupt("workspaces.id"))?,
            name: text("name")?,
            workspace_suspended: column::<i64>(row, "suspended")? != 0,
            require_totp: column::<i64>(row, "require_totp")? != 0,
            role: text("role")?
                .parse()
                .map_err(|_| corrupt("workspace_members.role"))?,
            status: text("status")?
                .parse()
                .map_err(|_| corrupt("workspace_members.status"))?,
        })
    }
}

/// How an account stands to a workspace; `None` where it does not belong to it.
///
/// # Errors
/// [`Error`].
pub async fn membership(
    store: &Store,
    workspace_id: WorkspaceId,
    account_id: AccountId,
) -> Result<Option<Membership>, Error> {
    let mut sql = Sql::new(MEMBERSHIPS);
    sql.bind(account_id.to_string())?
        .push(" AND workspaces.id = ")
        .bind(workspace_id.to_string())?;
    let rows = sql.fetch_all(store.pool(), "read a membership").await?;
    rows.first().map(Membership::of_row).transpose()
}

/// All workspaces that an account belongs to, suspended memberships too, oldest first.
///
/// # Errors
/// [`Error`].
pub async fn memberships(store: &Store, account_id: AccountId) -> Result<Vec<Membership>, Error> {
    let mut sql = Sql::new(MEMBERSHIPS);
    sql.bind(account_id.to_string())?
        .push(" ORDER BY workspaces.id");
    let rows = sql.fetch_all(store.pool(), "read memberships").await?;
    rows.iter().map(Membership::of_row).collect()
}

/// A member, as lists show one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRow {
    /// The account.
    pub account_id: AccountId,
    /// What they are.
    pub role: Role,
    /// Whether they are let in.
    pub status: MemberStatus,
}

/// Members of a workspace in the order of their ids: of all, or those who are in one of the
/// teams that are named.
///
/// # Errors
/// [`Error`].
pub async fn members(
    store: &Store,
    workspace_id: WorkspaceId,
    among: Option<&[TeamId]>,
    after: Option<AccountId>,
    limit: u32,
) -> Result<Vec<MemberRow>, Error> {
    let mut sql =
        Sql::new("SELECT account_id, role, status FROM workspace_members WHERE workspace_id = ");
    sql.bind(workspace_id.to_string())?;
    match among {
        None => {}
        Some([]) => return Ok(Vec::new()),
        Some(teams) => {
            sql.push(" AND account_id IN (SELECT account_id FROM team_members WHERE team_id IN (");
            sql.bind_all(teams.iter().map(TeamId::to_string))?
                .push("))");
        }
    }
    if let Some(after) = after {
        sql.push(" AND account_id > ").bind(after.to_string())?;
    }
    sql.push(" ORDER BY account_id LIMIT ")
        .bind(i64::from(limit))?;
    let rows = sql.fetch_all(store.pool(), "list members").await?;
    rows.iter()
        .map(|row| {
            let text = |name| column::<String>(row, name);
            Ok(MemberRow {
                account_id: text("account_id")?
                    .parse()
                    .map_err(|_| corrupt("workspace_members.account_id"))?,
                role: text("role")?
                    .parse()
                    .map_err(|_| corrupt("workspace_members.role"))?,
                status: text("status")?
                    .parse()
                    .map_err(|_| corrupt("workspace_members.status"))?,
            })
        })
        .collect()
}

/// Whether an account belongs to a workspace, suspended or not, read under the lock of the
/// head.
///
/// # Errors
/// [`Error`].
pub async fn is_member(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    account_id: AccountId,
) -> Result<bool, Error> {
    sqlx::query("SELECT 1 FROM workspace_members WHERE workspace_id = $1 AND account_id = $2")
        .bind(workspace_id.to_string())
        .bind(account_id.to_string())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for a member"))
}

/// Writes who belongs to a workspace: only the rows that differ.
pub(super) async fn save_members(
    connection: &mut AnyConnection,
    workspace: &Workspace,
) -> Result<(), Error> {
    let workspace_id = workspace.id.to_string();
    let rows = sqlx::query(
        "SELECT account_id, role, status FROM workspace_members WHERE workspace_id = $1",
    )
    .bind(workspace_id.clone())
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("read the members of a workspace"))?;
    let mut written = BTreeMap::new();
    for row in &rows {
        let role: String = column(row, "role")?;
        let status: String = column(row, "status")?;
        written.insert(column::<String>(row, "account_id")?, (role, status));
    }
    for (account_id, member) in &workspace.members {
        let (role, status) = (member.role.as_str(), member.status.as_str());
        let before = written.remove(&account_id.to_string());
        if before.is_some_and(|(r, s)| r == role && s == status) {
            continue;
        }
        sqlx::query(
            "INSERT INTO workspace_members (workspace_id, account_id, role, status) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (workspace_id, account_id) \
             DO UPDATE SET role = excluded.role, status = excluded.status",
        )
        .bind(workspace_id.clone())
        .bind(account_id.to_string())
        .bind(role)
        .bind(status)
        .execute(&mut *connection)
        .await
        .map_err(failed("write a member"))?;
    }
    for account_id in written.into_keys() {
        sqlx::query("DELETE FROM workspace_members WHERE workspace_id = $1 AND account_id = $2")
            .bind(workspace_id.clone())
            .bind(account_id)
            .execute(&mut *connection)
            .await
            .map_err(failed("forget a member"))?;
    }
    Ok(())
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
