//! Views: what REST reads, written in the transaction of the event.
//!
//! Each row holds the folded aggregate whole, and beside it the columns that lists filter
//! by. [`save`] and [`load`] are the only way in and out, so that a replay can rebuild a
//! row and compare it.

pub(crate) mod catalog;
pub mod event;
pub mod key;
pub mod service_account;
pub mod target;
pub mod team;
pub mod workspace;

use events::{Aggregate, Stream};
use sqlx::{AnyConnection, Row as _};

use crate::store::{Error, failed, log::corrupt};

/// The folded aggregate of a stream, as its view holds it.
pub(crate) async fn load(
    connection: &mut AnyConnection,
    stream: Stream,
) -> Result<Option<Aggregate>, Error> {
    let (sql, id) = match stream {
        Stream::Key(id) => ("SELECT state FROM keys WHERE id = $1", id.to_string()),
        Stream::Target(id) => ("SELECT state FROM targets WHERE id = $1", id.to_string()),
        Stream::Team(id) => ("SELECT state FROM teams WHERE id = $1", id.to_string()),
        Stream::ServiceAccount(id) => (
            "SELECT state FROM service_accounts WHERE id = $1",
            id.to_string(),
        ),
        Stream::Workspace(id) => ("SELECT state FROM workspaces WHERE id = $1", id.to_string()),
        Stream::Access(id) => ("SELECT state FROM denied WHERE id = $1", id.to_string()),
        Stream::Instance => (
            "SELECT state FROM instances WHERE id = $1",
            INSTANCE.to_owned(),
        ),
    };
    let row = sqlx::query(sql)
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(failed("read a view"))?;
    row.map(|row| decode(row.try_get("state").map_err(|_| corrupt("state"))?))
        .transpose()
}

/// Writes the view of an aggregate.
pub(crate) async fn save(
    connection: &mut AnyConnection,
    stream: Stream,
    aggregate: &Aggregate,
) -> Result<(), Error> {
    if let Aggregate::Target(target) = aggregate {
        target::save_origins(connection, target).await?;
    }
    if let Aggregate::Team(team) = aggregate {
        team::save_members(connection, team).await?;
    }
    if let Aggregate::Workspace(workspace) = aggregate {
        workspace::save_members(connection, workspace).await?;
    }
    catalog::save_uses(connection, aggregate).await?;
    let state = encode(aggregate)?;
    let query = match (stream, aggregate) {
        (Stream::Key(id), Aggregate::Key(key)) => sqlx::query(
            "INSERT INTO keys (id, workspace_id, name_key, name_free, state_name, purged, \
             expires_at_ms, category, prefixes, state, team_id, owner) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (id) DO UPDATE SET name_key = excluded.name_key, \
             name_free = excluded.name_free, state_name = excluded.state_name, \
             purged = excluded.purged, expires_at_ms = excluded.expires_at_ms, \
             category = excluded.category, prefixes = excluded.prefixes, \
             state = excluded.state, team_id = excluded.team_id, owner = excluded.owner",
        )
        .bind(id.to_string())
        .bind(key.workspace_id.to_string())
        .bind(events::text::name_key(&key.name))
        .bind(i64::from(
            key.purged || key.state == events::key::State::Revoked,
        ))
        .bind(key::state_name(key.state))
        .bind(i64::from(key.purged))
        .bind(key.expires_at.map(|at| at.unix_ms()))
        .bind(key.category.clone())
        .bind(
            key.secrets
                .iter()
                .map(|it| it.prefix.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        )
        .bind(state)
        .bind(key.team_id.map(|id| id.to_string()))
        .bind(key.owner.map(|owner| owner.to_string())),
        (Stream::Target(id), Aggregate::Target(target)) => sqlx::query(
            "INSERT INTO targets (id, workspace_id, name_key, deleted, state) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET name_key = excluded.name_key, \
             deleted = excluded.deleted, state = excluded.state",
        )
        .bind(id.to_string())
        .bind(target.workspace_id.to_string())
        .bind(events::text::name_key(&target.fields.name))
        .bind(i64::from(target.deleted))
        .bind(state),
        (Stream::Team(id), Aggregate::Team(team)) => sqlx::query(
            "INSERT INTO teams (id, workspace_id, deleted, state) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO UPDATE SET deleted = excluded.deleted, state = excluded.state",
        )
        .bind(id.to_string())
        .bind(team.workspace_id.to_string())
        .bind(i64::from(team.deleted))
        .bind(state),
        (Stream::ServiceAccount(id), Aggregate::ServiceAccount(account)) => sqlx::query(
            "INSERT INTO service_accounts (id, workspace_id, team_id, name_key, state) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET name_key = excluded.name_key, \
             state = excluded.state",
        )
        .bind(id.to_string())
        .bind(account.workspace_id.to_string())
        .bind(account.team_id.to_string())
        .bind(events::text::name_key(&account.name))
        .bind(state),
        (Stream::Workspace(id), Aggregate::Workspace(workspace)) => sqlx::query(
            "INSERT INTO workspaces (id, name, suspended, require_totp, state) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
             suspended = excluded.suspended, require_totp = excluded.require_totp, \
             state = excluded.state",
        )
        .bind(id.to_string())
        .bind(workspace.settings.name.clone())
        .bind(i64::from(workspace.suspended))
        .bind(i64::from(workspace.settings.require_totp))
        .bind(state),
        (Stream::Access(id), Aggregate::Denied(_)) => sqlx::query(
            "INSERT INTO denied (id, state) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state",
        )
        .bind(id.to_string())
        .bind(state),
        (Stream::Instance, Aggregate::Instance(_)) => sqlx::query(
            "INSERT INTO instances (id, state) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state",
        )
        .bind(INSTANCE)
        .bind(state),
        _ => return Err(corrupt("an aggregate of another stream")),
    };
    query
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("write a view"))
}

pub(crate) fn encode(aggregate: &Aggregate) -> Result<String, Error> {
    serde_json::to_string(aggregate).map_err(|_| corrupt("an aggregate to write"))
}

pub(crate) fn decode(state: &str) -> Result<Aggregate, Error> {
    serde_json::from_str(state).map_err(|err| Error::Corrupt {
        what: format!("the state of a view: {err}"),
    })
}

/// The form of the aggregates in the views. Raise it whenever a field of one is added,
/// removed or renamed: the views are then built anew from the log.
pub(crate) const FORM: i64 = 3;

const INSTANCE: &str = "instance";

/// The aggregate in the `state` of a row.
fn state_of(row: &sqlx::any::AnyRow) -> Result<Aggregate, Error> {
    decode(row.try_get("state").map_err(|_| corrupt("state"))?)
}

/// How many aggregates have a view.
pub(crate) async fn count(connection: &mut AnyConnection) -> Result<u64, Error> {
    let row = sqlx::query(
        "SELECT CAST((SELECT COUNT(*) FROM keys) + (SELECT COUNT(*) FROM targets) \
         + (SELECT COUNT(*) FROM teams) + (SELECT COUNT(*) FROM service_accounts) \
         + (SELECT COUNT(*) FROM denied) \
         + (SELECT COUNT(*) FROM workspaces) + (SELECT COUNT(*) FROM instances) AS BIGINT) \
         AS views",
    )
    .fetch_one(connection)
    .await
    .map_err(failed("count the views"))?;
    row.try_get::<i64, _>("views")
        .map(i64::unsigned_abs)
        .map_err(|_| corrupt("views"))
}

/// Forgets all views; the caller writes them anew in the same transaction.
pub(crate) async fn clear(connection: &mut AnyConnection) -> Result<(), Error> {
    for sql in [
        "DELETE FROM keys",
        "DELETE FROM targets",
        "DELETE FROM target_origins",
        "DELETE FROM catalog_uses",
        "DELETE FROM teams",
        "DELETE FROM team_members",
        "DELETE FROM service_accounts",
        "DELETE FROM workspaces",
        "DELETE FROM workspace_members",
        "DELETE FROM denied",
        "DELETE FROM instances",
    ] {
        sqlx::query(sql)
            .execute(&mut *connection)
            .await
            .map_err(failed("clear the views"))?;
    }
    Ok(())
}
