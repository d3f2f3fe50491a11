//! Rules that no aggregate can judge alone, as SELECTs under the lock of the head: what
//! they see cannot change before the commit.

use events::{Aggregate, Event, Refusal, Stream};
use schemas::WorkspaceId;
use sqlx::AnyConnection;

use crate::store::{Error, failed};
use crate::view;

/// Whether what was decided may stand beside everything else in the workspace.
pub(super) async fn check(
    connection: &mut AnyConnection,
    stream: Stream,
    workspace_id: Option<WorkspaceId>,
    events: &[Event],
    aggregate: Option<&Aggregate>,
) -> Result<Result<(), Refusal>, Error> {
    let Some(workspace_id) = workspace_id else {
        return Ok(Ok(()));
    };
    for event in events {
        let taken = match (stream, event) {
            (Stream::Key(id), Event::KeyCreated(created)) => {
                key_name(connection, workspace_id, &id.to_string(), &created.name).await?
            }
            (Stream::Key(id), Event::KeyUpdated { changes }) => match &changes.name {
                Some(name) => key_name(connection, workspace_id, &id.to_string(), &name.to).await?,
                None => None,
            },
            (Stream::Target(id), Event::TargetCreated(fields)) => {
                target(connection, workspace_id, &id.to_string(), fields).await?
            }
            (Stream::Target(id), Event::TargetUpdated { changes }) => {
                let Some(Aggregate::Target(before)) = aggregate else {
                    continue;
                };
                let mut fields = before.fields.clone();
                changes.apply(&mut fields);
                target(connection, workspace_id, &id.to_string(), &fields).await?
            }
            _ => None,
        };
        if let Some(what) = taken {
            return Ok(Err(Refusal::NameTaken(what)));
        }
    }
    Ok(Ok(()))
}

async fn key_name(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: &str,
    name: &str,
) -> Result<Option<&'static str>, Error> {
    let taken = exists(
        connection,
        "SELECT 1 FROM keys WHERE workspace_id = $1 AND name_key = $2 AND name_free = 0 \
         AND id <> $3",
        workspace_id,
        events::text::name_key(name),
        id,
    )
    .await?;
    Ok(taken.then_some("name"))
}

async fn target(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    id: &str,
    fields: &events::event::TargetFields,
) -> Result<Option<&'static str>, Error> {
    let name = events::text::name_key(&fields.name);
    let by_name = "SELECT 1 FROM targets WHERE workspace_id = $1 AND name_key = $2 \
                   AND deleted = 0 AND id <> $3";
    if exists(connection, by_name, workspace_id, name, id).await? {
        return Ok(Some("name"));
    }
    let taken_by_another = "SELECT 1 FROM target_origins WHERE workspace_id = $1 \
                            AND origin = $2 AND target_id <> $3";
    for origin in view::target::origins(fields) {
        if exists(connection, taken_by_another, workspace_id, origin, id).await? {
            return Ok(Some("combination of scheme, host and port"));
        }
    }
    Ok(None)
}

async fn exists(
    connection: &mut AnyConnection,
    sql: &'static str,
    workspace_id: WorkspaceId,
    value: String,
    id: &str,
) -> Result<bool, Error> {
    sqlx::query(sql)
        .bind(workspace_id.to_string())
        .bind(value)
        .bind(id.to_owned())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for a taken name"))
}
