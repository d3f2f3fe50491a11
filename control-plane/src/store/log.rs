//! The log: events by position, and the head row that orders them.

use events::codec::{self, Hash};
use events::{Recorded, Stream};
use schemas::{LineageId, Position};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::{Backend, Error, Store, failed};
use crate::fresh;

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The position of the last event; 0 in an empty log.
    pub position: Position,
    /// The hash of all events so far.
    pub chain_hash: Hash,
    /// The history this is.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
}

/// A row of the log: an event and the hashes beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event.
    pub recorded: Recorded,
    /// The canonical bytes that were hashed.
    pub canonical: Vec<u8>,
    /// The hash of the event by itself.
    pub leaf_hash: Hash,
    /// The hash of the event and all before it.
    pub chain_hash: Hash,
}

/// Makes the head row of a new log; an existing one stays.
pub(super) async fn create_head(store: &Store) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO head (position, chain_hash, lineage, generation, view_form) \
         VALUES (0, $1, $2, 1, $3) \
         ON CONFLICT (only_row) DO NOTHING",
    )
    .bind(codec::CHAIN_START.to_vec())
    .bind(fresh::id(LineageId::from_parts).to_string())
    .bind(crate::view::FORM)
    .execute(store.pool())
    .await
    .map(drop)
    .map_err(failed("make the head row"))
}

/// Reads the head.
///
/// # Errors
/// [`Error`].
pub async fn head(store: &Store) -> Result<Head, Error> {
    let row = sqlx::query("SELECT position, chain_hash, lineage, generation FROM head")
        .fetch_one(store.background())
        .await
        .map_err(failed("read the head"))?;
    to_head(&row)
}

/// Reads the head and keeps others from appending until the transaction ends.
pub(crate) async fn lock_head(
    connection: &mut AnyConnection,
    backend: Backend,
) -> Result<Head, Error> {
    let row = sqlx::query(backend.lock_head())
        .fetch_one(connection)
        .await
        .map_err(failed("lock the head"))?;
    to_head(&row)
}

/// Moves the head; the caller has locked it.
pub(crate) async fn move_head(connection: &mut AnyConnection, head: &Head) -> Result<(), Error> {
    sqlx::query("UPDATE head SET position = $1, chain_hash = $2")
        .bind(to_i64(head.position))
        .bind(head.chain_hash.to_vec())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("move the head"))
}

/// Writes an event whose place is already known.
pub(crate) async fn insert(connection: &mut AnyConnection, row: &Row) -> Result<(), Error> {
    let event = &row.recorded;
    let kind = codec::kind(&event.event).map_err(|err| Error::Corrupt {
        what: format!("event to write: {err}"),
    })?;
    sqlx::query(
        "INSERT INTO events (position, lineage, generation, stream, stream_version, id, type, \
         schema_version, workspace_id, at_ms, canonical, leaf_hash, chain_hash, actor_id, \
         object_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(to_i64(event.position))
    .bind(event.lineage.to_string())
    .bind(i64::from(event.generation))
    .bind(event.stream.to_string())
    .bind(to_i64(event.stream_version))
    .bind(event.id.to_string())
    .bind(kind.clone())
    .bind(i64::from(codec::version_of(&kind)))
    .bind(event.workspace_id.map(|id| id.to_string()))
    .bind(event.at.unix_ms())
    .bind(row.canonical.clone())
    .bind(row.leaf_hash.to_vec())
    .bind(row.chain_hash.to_vec())
    .bind(event.actor.id.clone())
    .bind(event.object_id())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("write an event"))
}

/// Events after a position, in order, at most `limit`.
///
/// # Errors
/// [`Error`].
pub async fn after(store: &Store, position: Position, limit: u32) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query(
        "SELECT position, canonical, leaf_hash, chain_hash FROM events WHERE position > $1 \
         ORDER BY position LIMIT $2",
    )
    .bind(to_i64(position))
    .bind(i64::from(limit))
    .fetch_all(store.background())
    .await
    .map_err(failed("read the log"))?;
    rows.iter().map(to_row).collect()
}

/// The form that the views are in.
pub(crate) async fn view_form(store: &Store) -> Result<i64, Error> {
    let row = sqlx::query("SELECT view_form FROM head")
        .fetch_one(store.pool())
        .await
        .map_err(failed("read the form of the views"))?;
    column(&row, "view_form")
}

/// Says which form the views are in now.
pub(crate) async fn set_view_form(connection: &mut AnyConnection, form: i64) -> Result<(), Error> {
    sqlx::query("UPDATE head SET view_form = $1")
        .bind(form)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("write the form of the views"))
}

/// Events of a stream after a position, in order, at most `limit`: a page for readers.
///
/// # Errors
/// [`Error`].
pub async fn page_of_stream(
    store: &Store,
    stream: Stream,
    after: Position,
    limit: u32,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query(
        "SELECT position, canonical, leaf_hash, chain_hash FROM events \
         WHERE stream = $1 AND position > $2 ORDER BY stream_version LIMIT $3",
    )
    .bind(stream.to_string())
    .bind(to_i64(after))
    .bind(i64::from(limit))
    .fetch_all(store.pool())
    .await
    .map_err(failed("read a page of a stream"))?;
    rows.iter().map(to_row).collect()
}

/// All events of a stream up to a position, in order.
///
/// # Errors
/// [`Error`].
pub async fn of_stream(
    store: &Store,
    stream: Stream,
    through: Position,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query(
        "SELECT position, canonical, leaf_hash, chain_hash FROM events \
         WHERE stream = $1 AND position <= $2 ORDER BY stream_version",
    )
    .bind(stream.to_string())
    .bind(to_i64(through))
    .fetch_all(store.background())
    .await
    .map_err(failed("read a stream"))?;
    rows.iter().map(to_row).collect()
}

/// The chain hash at a position: of the start at 0, `None` beyond the head.
///
/// # Errors
/// [`Error`].
pub async fn chain_hash_at(store: &Store, position: Position) -> Result<Option<Hash>, Error> {
    if position == 0 {
        return Ok(Some(codec::CHAIN_START));
    }
    let row = sqlx::query("SELECT chain_hash FROM events WHERE position = $1")
        .bind(to_i64(position))
        .fetch_optional(store.background())
        .await
        .map_err(failed("read a chain hash"))?;
    row.map(|row| hash_column(&row, "chain_hash")).transpose()
}

/// Whether an event is in the log; asked on a new connection when the answer to a commit
/// was lost.
pub(crate) async fn holds(
    connection: &mut AnyConnection,
    position: Position,
    id: &str,
) -> Result<bool, Error> {
    sqlx::query("SELECT 1 FROM events WHERE position = $1 AND id = $2")
        .bind(to_i64(position))
        .bind(id.to_owned())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for a committed event"))
}

fn to_head(row: &AnyRow) -> Result<Head, Error> {
    let lineage: String = column(row, "lineage")?;
    Ok(Head {
        position: position_column(row, "position")?,
        chain_hash: hash_column(row, "chain_hash")?,
        lineage: lineage.parse().map_err(|_| corrupt("head.lineage"))?,
        generation: u32::try_from(column::<i64>(row, "generation")?)
            .map_err(|_| corrupt("head.generation"))?,
    })
}

pub(crate) fn to_row(row: &AnyRow) -> Result<Row, Error> {
    let canonical: Vec<u8> = column(row, "canonical")?;
    let recorded = codec::decode(&canonical).map_err(|err| {
        let position: i64 = row.try_get("position").unwrap_or_default();
        Error::Corrupt {
            what: format!("event {position}: {err}"),
        }
    })?;
    Ok(Row {
        recorded,
        canonical,
        leaf_hash: hash_column(row, "leaf_hash")?,
        chain_hash: hash_column(row, "chain_hash")?,
    })
}

pub(crate) fn corrupt(what: &str) -> Error {
    Error::Corrupt {
        what: what.to_owned(),
    }
}

/// Positions and counts are below 2^53 and so fit the database's signed integers.
pub(crate) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn column<'r, T>(row: &'r AnyRow, name: &'static str) -> Result<T, Error>
where
    T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    row.try_get(name).map_err(|_| corrupt(name))
}

pub(crate) fn position_column(row: &AnyRow, name: &'static str) -> Result<Position, Error> {
    Position::try_from(column::<i64>(row, name)?).map_err(|_| corrupt(name))
}

pub(crate) fn hash_column(row: &AnyRow, name: &'static str) -> Result<Hash, Error> {
    column::<Vec<u8>>(row, name)?
        .try_into()
        .map_err(|_| corrupt(name))
}
