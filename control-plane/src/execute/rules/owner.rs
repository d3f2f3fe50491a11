//! Who may own keys, and where service accounts may be.

use events::refusal::FieldRefusal;
use events::service_account::ServiceAccount;
use events::workspace::Workspace;
use events::{Aggregate, Event, Refusal, Stream};
use schemas::entry::Owner;
use schemas::{MemberStatus, TeamId, WorkspaceId};
use sqlx::AnyConnection;

use super::{Verdict, find_team};
use crate::store::{Error, failed};
use crate::view;

/// Whether keys of a team, or of none, may belong to this owner: an active member of the
/// workspace, or an active service account of that very team.
pub(super) async fn check(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    team_id: Option<TeamId>,
    owner: Owner,
) -> Verdict {
    let refused = |field, detail| Err(Refusal::Fields(vec![FieldRefusal::invalid(field, detail)]));
    match owner {
        Owner::User(account_id) => {
            let workspace = find_workspace(connection, workspace_id).await?;
            Ok(workspace.and_then(|it| match it.members.get(&account_id) {
                None => Err(Refusal::NotFound("owner")),
                Some(member) if member.status != MemberStatus::Active => {
                    refused("owner", "an active member, or an active service account")
                }
                Some(_) => Ok(()),
            }))
        }
        Owner::ServiceAccount(id) => {
            let loaded = view::load(connection, Stream::ServiceAccount(id)).await?;
            let account: ServiceAccount = match loaded {
                Some(Aggregate::ServiceAccount(it)) if it.workspace_id == workspace_id => *it,
                _ => return Ok(Err(Refusal::NotFound("owner"))),
            };
            if find_team(connection, workspace_id, account.team_id)
                .await?
                .is_err()
            {
                return Ok(Err(Refusal::NotFound("owner")));
            }
            Ok(match team_id {
                None => refused(
                    "team_id",
                    "the team of the service account that owns the key",
                ),
                Some(team_id) if team_id != account.team_id => {
                    refused("owner", "a service account of the key's own team")
                }
                Some(_) if !account.active => {
                    refused("owner", "an active member, or an active service account")
                }
                Some(_) => Ok(()),
            })
        }
    }
}

/// Whether a service account may be made, renamed or switched: in a team that there is,
/// under a name that is free there.
pub(super) async fn check_account(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: &str,
    before: Option<&Aggregate>,
    event: &Event,
) -> Verdict {
    let (team_id, name) = match (event, before) {
        (Event::ServiceAccountCreated { name, team_id }, _) => (*team_id, Some(name)),
        (Event::ServiceAccountUpdated { changes }, Some(Aggregate::ServiceAccount(it))) => {
            (it.team_id, changes.name.as_ref().map(|name| &name.to))
        }
        (_, Some(Aggregate::ServiceAccount(it))) => (it.team_id, None),
        _ => return Ok(Ok(())),
    };
    if let Err(refusal) = find_team(connection, workspace_id, team_id).await? {
        return Ok(Err(refusal));
    }
    let Some(name) = name else {
        return Ok(Ok(()));
    };
    let is_taken = is_name_taken(connection, workspace_id, team_id, id, name).await?;
    Ok(if is_taken {
        Err(Refusal::NameTaken("name"))
    } else {
        Ok(())
    })
}

/// The workspace, as it is under the lock.
pub(super) async fn find_workspace(
    connection: &mut AnyConnection,
    id: WorkspaceId,
) -> Result<Result<Workspace, Refusal>, Error> {
    Ok(match view::load(connection, Stream::Workspace(id)).await? {
        Some(Aggregate::Workspace(workspace)) => Ok(*workspace),
        _ => Err(Refusal::NotFound("workspace")),
    })
}

async fn is_name_taken(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    team_id: TeamId,
    id: &str,
    name: &str,
) -> Result<bool, Error> {
    let row = sqlx::query(
        "SELECT 1 FROM service_accounts WHERE workspace_id = $1 AND team_id = $2 \
         AND name_key = $3 AND id <> $4",
    )
    .bind(workspace_id.to_string())
    .bind(team_id.to_string())
    .bind(events::text::name_key(name))
    .bind(id.to_owned())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a taken name"))?;
    Ok(row.is_some())
}
