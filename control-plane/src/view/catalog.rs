//! Who names the access groups and upstream credentials of a workspace.

use std::collections::HashMap;

use events::Aggregate;
use events::catalog::{Credential, Group};
use events::key::State;
use schemas::{WorkspaceId, api};
use sqlx::AnyConnection;

use crate::store::log::column;
use crate::store::{Error, Store, failed};

/// What of a catalog is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Group,
    Credential,
}

// === impl Kind ===

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Credential => "credential",
        }
    }
}

/// Writes what a key, a team or a target names now.
pub(super) async fn save_uses(
    connection: &mut AnyConnection,
    aggregate: &Aggregate,
) -> Result<(), Error> {
    let Some(uses) = Uses::of(aggregate) else {
        return Ok(());
    };
    // Most are new and name nothing; they cost no statement.
    if aggregate.version() > 1 {
        sqlx::query("DELETE FROM catalog_uses WHERE holder = $1")
            .bind(uses.holder.clone())
            .execute(&mut *connection)
            .await
            .map_err(failed("forget what is named"))?;
    }
    for (kind, name) in uses.named {
        sqlx::query(
            "INSERT INTO catalog_uses (workspace_id, kind, name, holder) VALUES ($1, $2, $3, $4)",
        )
        .bind(uses.workspace_id.to_string())
        .bind(kind.as_str())
        .bind(name.to_owned())
        .bind(uses.holder.clone())
        .execute(&mut *connection)
        .await
        .map_err(failed("note what is named"))?;
    }
    Ok(())
}

/// Whether something names this.
pub(crate) async fn is_used(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    kind: Kind,
    name: &str,
) -> Result<bool, Error> {
    let row = sqlx::query(
        "SELECT 1 FROM catalog_uses WHERE workspace_id = $1 AND kind = $2 AND name = $3 LIMIT 1",
    )
    .bind(workspace_id.to_string())
    .bind(kind.as_str())
    .bind(name.to_owned())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for what names it"))?;
    Ok(row.is_some())
}

/// How many targets name each group or credential of a workspace; those that none names
/// are not in it.
///
/// # Errors
/// [`Error`].
pub(crate) async fn count_targets(
    store: &Store,
    workspace_id: WorkspaceId,
    kind: Kind,
) -> Result<HashMap<String, u64>, Error> {
    let rows = sqlx::query(
        "SELECT name, COUNT(*) AS targets FROM catalog_uses \
         WHERE workspace_id = $1 AND kind = $2 AND holder LIKE 'tgt_%' GROUP BY name",
    )
    .bind(workspace_id.to_string())
    .bind(kind.as_str())
    .fetch_all(store.pool())
    .await
    .map_err(failed("count the targets of a catalog"))?;
    rows.iter()
        .map(|row| {
            let count: i64 = column(row, "targets")?;
            Ok((column(row, "name")?, count.unsigned_abs()))
        })
        .collect()
}

/// A group as every answer shows it.
pub(crate) fn group_to_api(name: &str, group: &Group, targets: u64) -> api::AccessGroup {
    api::AccessGroup {
        name: name.to_owned(),
        targets,
        created_at: group.created_at,
        version: group.version,
    }
}

/// A credential as every answer shows it.
pub(crate) fn credential_to_api(credential: &Credential, targets: u64) -> api::UpstreamCredential {
    let told = &credential.credential;
    api::UpstreamCredential {
        name: told.name.clone(),
        header: told.header.clone(),
        format: told.format.clone(),
        source: told.source,
        reference: told.reference.clone(),
        targets,
        created_at: credential.created_at,
        version: credential.version,
    }
}

/// What one aggregate names.
struct Uses<'a> {
    workspace_id: WorkspaceId,
    holder: String,
    named: Vec<(Kind, &'a str)>,
}

// === impl Uses ===

impl<'a> Uses<'a> {
    /// `None` for what can name nothing.
    fn of(aggregate: &'a Aggregate) -> Option<Self> {
        let (workspace_id, holder, is_gone, groups, credential) = match aggregate {
            Aggregate::Key(key) => {
                let is_gone = key.purged || key.state == State::Revoked;
                let groups = &key.access.groups;
                (key.workspace_id, key.id.to_string(), is_gone, groups, None)
            }
            Aggregate::Team(team) => {
                let groups = &team.fields.access.groups;
                let id = team.id.to_string();
                (team.workspace_id, id, team.deleted, groups, None)
            }
            Aggregate::Target(target) => {
                let fields = &target.fields;
                let credential = fields.credential.as_ref();
                let id = target.id.to_string();
                (
                    target.workspace_id,
                    id,
                    target.deleted,
                    &fields.groups,
                    credential,
                )
            }
            _ => return None,
        };
        let groups = groups.iter().map(|it| (Kind::Group, it.as_str()));
        let credential = credential.map(|it| (Kind::Credential, it.name.as_str()));
        Some(Self {
            workspace_id,
            holder,
            named: groups.chain(credential).filter(|_| !is_gone).collect(),
        })
    }
}
