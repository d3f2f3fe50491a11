//! Proving that nobody edited the past: the chain, and the columns that repeat the bytes.

use events::codec::{self, CHAIN_START};
use schemas::Position;
use serde::Serialize;
use sqlx::Row as _;

use crate::store::log::{self, column, to_i64};
use crate::store::{Error, Store, failed};

const CHUNK: i64 = 1_000;

/// What `audit verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every event is as it was written.
    pub ok: bool,
    /// Events that were checked and found right.
    pub checked: u64,
    /// The first position at which something is wrong; for a missing event, its position.
    pub first_bad_position: Option<Position>,
    /// What is wrong there.
    pub reason: Option<String>,
}

/// Checks every event: dense positions, canonical bytes, leaf and chain hashes, the columns
/// beside them, and the head.
///
/// # Errors
/// [`Error`] where the database cannot be read; what is wrong with the log is in the report.
pub async fn verify(store: &Store) -> Result<Report, Error> {
    let mut chain = CHAIN_START;
    let mut checked: Position = 0;
    let mut is_last_look = false;
    let mut head;
    loop {
        let rows = sqlx::query(
            "SELECT position, lineage, generation, stream, stream_version, id, type, \
             schema_version, workspace_id, at_ms, canonical, leaf_hash, chain_hash, actor_id, \
             object_id FROM events \
             WHERE position > $1 ORDER BY position LIMIT $2",
        )
        .bind(to_i64(checked))
        .bind(CHUNK)
        .fetch_all(store.background())
        .await
        .map_err(failed("read the log"))?;
        for row in &rows {
            let expected = checked + 1;
            match check_row(row, expected, &chain) {
                Ok(next) => chain = next,
                Err(reason) => return Ok(bad(checked, expected, reason)),
            }
            checked = expected;
        }
        if rows.len() == CHUNK as usize {
            continue;
        }
        // Events may have been appended since the last look: only what is still not there
        // after the head was read is missing.
        head = log::head(store).await?;
        if head.position <= checked || rows.is_empty() && is_last_look {
            break;
        }
        is_last_look = rows.is_empty();
    }
    if head.position > checked {
        return Ok(bad(
            checked,
            checked + 1,
            "the event is missing: the log ends before its head",
        ));
    }
    if head.position < checked || head.chain_hash != chain {
        let at = head.position.min(checked).max(1);
        return Ok(bad(
            checked,
            at,
            "the head does not agree with the last event",
        ));
    }
    Ok(Report {
        ok: true,
        checked,
        first_bad_position: None,
        reason: None,
    })
}

fn bad(checked: u64, position: Position, reason: impl Into<String>) -> Report {
    Report {
        ok: false,
        checked,
        first_bad_position: Some(position),
        reason: Some(reason.into()),
    }
}

fn check_row(
    row: &sqlx::any::AnyRow,
    expected: Position,
    chain: &codec::Hash,
) -> Result<codec::Hash, String> {
    let position: i64 = column(row, "position").map_err(|err| err.to_string())?;
    if position != to_i64(expected) {
        return Err("the event is missing".to_owned());
    }
    let canonical: Vec<u8> = column(row, "canonical").map_err(|err| err.to_string())?;
    let recorded =
        codec::decode(&canonical).map_err(|_| "the bytes are not an event".to_owned())?;
    let leaf = codec::leaf_hash(&canonical);
    if log::hash_column(row, "leaf_hash").ok() != Some(leaf) {
        return Err("the bytes do not hash to the leaf hash".to_owned());
    }
    let next = codec::chain_hash(chain, expected, &leaf);
    if log::hash_column(row, "chain_hash").ok() != Some(next) {
        return Err("the chain does not continue here".to_owned());
    }
    let kind = codec::kind(&recorded.event).map_err(|err| err.to_string())?;
    let texts = [
        ("lineage", Some(recorded.lineage.to_string())),
        ("stream", Some(recorded.stream.to_string())),
        ("id", Some(recorded.id.to_string())),
        ("type", Some(kind)),
        (
            "workspace_id",
            recorded.workspace_id.map(|id| id.to_string()),
        ),
        ("actor_id", Some(recorded.actor.id.clone())),
        ("object_id", Some(recorded.object_id())),
    ];
    for (name, value) in texts {
        if row.try_get::<Option<String>, _>(name).ok() != Some(value) {
            return Err(format!("the column {name} does not repeat the bytes"));
        }
    }
    let schema_version = serde_json::from_slice::<serde_json::Value>(&canonical)
        .ok()
        .and_then(|event| event["schema_version"].as_i64())
        .unwrap_or_default();
    let numbers = [
        ("position", to_i64(recorded.position)),
        ("generation", i64::from(recorded.generation)),
        ("stream_version", to_i64(recorded.stream_version)),
        ("schema_version", schema_version),
        ("at_ms", recorded.at.unix_ms()),
    ];
    for (name, value) in numbers {
        if row.try_get::<i64, _>(name).ok() != Some(value) {
            return Err(format!("the column {name} does not repeat the bytes"));
        }
    }
    Ok(next)
}
