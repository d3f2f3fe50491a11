//! What access and targets name exists, and what is named is not deleted.

use events::event::TargetFields;
use events::{Event, Refusal};
use schemas::entry::Access;
use schemas::{TargetId, WorkspaceId};
use sqlx::AnyConnection;

use super::Verdict;
use super::owner::find_workspace;
use crate::store::Error;
use crate::store::sql::Sql;
use crate::view::catalog::{Kind, is_used};

/// Whether nothing names what an event of a workspace deletes.
pub(super) async fn check_unused(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    event: &Event,
) -> Verdict {
    let (kind, name, what) = match event {
        Event::AccessGroupDeleted { name } => (
            Kind::Group,
            name,
            "access group is named by a target, a team or a key",
        ),
        Event::CredentialDeleted { name } => {
            (Kind::Credential, name, "credential is named by a target")
        }
        _ => return Ok(Ok(())),
    };
    let is_used = is_used(connection, workspace_id, kind, name).await?;
    Ok(if is_used {
        Err(Refusal::InUse(what))
    } else {
        Ok(())
    })
}

/// Whether the targets and groups that an access came to name are the workspace's. What
/// it named before stays: a target may have been deleted since, and then lets nothing
/// through.
pub(super) async fn check_access(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    before: Option<&Access>,
    after: &Access,
) -> Verdict {
    let is_old_target = |id: &&TargetId| before.is_some_and(|it| it.targets.contains(id));
    let is_old_group = |name: &&String| before.is_some_and(|it| it.groups.contains(name));
    let targets: Vec<_> = after
        .targets
        .iter()
        .filter(|it| !is_old_target(it))
        .collect();
    let groups: Vec<_> = after.groups.iter().filter(|it| !is_old_group(it)).collect();
    if !targets.is_empty() && count(connection, workspace_id, &targets).await? < targets.len() {
        return Ok(Err(Refusal::NotFound("target")));
    }
    check_groups(connection, workspace_id, &groups).await
}

/// Whether the groups and the credential that a target came to name are the workspace's.
pub(super) async fn check_target(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    before: Option<&TargetFields>,
    after: &TargetFields,
) -> Verdict {
    let is_old = |name: &&String| before.is_some_and(|it| it.groups.contains(name));
    let groups: Vec<_> = after.groups.iter().filter(|it| !is_old(it)).collect();
    if let Err(refusal) = check_groups(connection, workspace_id, &groups).await? {
        return Ok(Err(refusal));
    }
    let Some(credential) = &after.credential else {
        return Ok(Ok(()));
    };
    if before.is_some_and(|it| it.credential.as_ref() == Some(credential)) {
        return Ok(Ok(()));
    }
    let workspace = find_workspace(connection, workspace_id).await?;
    // It was copied before the lock; in between another may have got its name.
    Ok(
        workspace.and_then(|it| match it.catalog.credentials.get(&credential.name) {
            Some(held) if held.credential == *credential => Ok(()),
            _ => Err(Refusal::NotFound("credential")),
        }),
    )
}

async fn check_groups(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    groups: &[&String],
) -> Verdict {
    if groups.is_empty() {
        return Ok(Ok(()));
    }
    let workspace = find_workspace(connection, workspace_id).await?;
    Ok(workspace.and_then(|it| {
        let all_exist = groups
            .iter()
            .all(|name| it.catalog.groups.contains_key(*name));
        match all_exist {
            true => Ok(()),
            false => Err(Refusal::NotFound("access group")),
        }
    }))
}

async fn count(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    targets: &[&TargetId],
) -> Result<usize, Error> {
    let mut sql = Sql::new("SELECT id FROM targets WHERE deleted = 0 AND workspace_id = ");
    sql.bind(workspace_id.to_string())?.push(" AND id IN (");
    sql.bind_all(targets.iter().map(ToString::to_string))?
        .push(")");
    let rows = sql.fetch_all_on(connection, "look for targets").await?;
    Ok(rows.len())
}
