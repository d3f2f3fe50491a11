//! Repetitions of a request: the first answer is remembered in the transaction of the
//! change, so that only committed changes are.

use events::Stream;
use schemas::Timestamp;
use sqlx::{AnyConnection, Row as _};

use super::{Error, Outcome};
use crate::store::log::{self, to_i64};
use crate::store::{self, Store, failed};
use crate::{fresh, view};

/// How long a first answer is remembered: 24 h, in milliseconds.
const KEPT_MS: i64 = 24 * 60 * 60 * 1_000;

/// A repeated request is known by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Workspace, method and path.
    pub scope: String,
    /// SHA-256 of what the client sent, in hex.
    pub key: String,
    /// SHA-256 of the body in hex.
    pub fingerprint: String,
}

/// A row that is remembered.
pub(crate) struct Remembered {
    /// The body that it was the answer to.
    pub(crate) fingerprint: String,
    /// What it was about; empty where that was no stream.
    pub(crate) state: String,
    position: i64,
    created_at_ms: i64,
}

/// The answer that a request with this key was given before, outside any transaction.
///
/// # Errors
/// [`Error::IdempotencyConflict`], [`Error::Unavailable`].
pub async fn answered_before(
    store: &Store,
    idempotency: &Idempotency,
) -> Result<Option<Outcome>, Error> {
    let unavailable = |error| Error::Unavailable(Some(error));
    let connection = store
        .pool()
        .acquire()
        .await
        .map_err(failed("get a connection"));
    let mut connection = connection.map_err(unavailable)?;
    first_answer(&mut connection, idempotency)
        .await
        .map_err(unavailable)?
        .transpose()
}

/// Forgets what is older than 24 h.
///
/// # Errors
/// [`store::Error`].
pub(crate) async fn forget_old(store: &Store) -> Result<(), store::Error> {
    sqlx::query("DELETE FROM idempotency WHERE created_at_ms <= $1")
        .bind(oldest_ms(fresh::now()))
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("forget old idempotency keys"))
}

pub(super) async fn first_answer(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
) -> Result<Option<Result<Outcome, Error>>, store::Error> {
    let Some(row) = find(connection, idempotency).await? else {
        return Ok(None);
    };
    if row.fingerprint != idempotency.fingerprint {
        return Ok(Some(Err(Error::IdempotencyConflict)));
    }
    Ok(Some(Ok(Outcome {
        aggregate: view::decode(&row.state)?,
        position: row.position.unsigned_abs(),
        at: Timestamp::from_unix_ms(row.created_at_ms),
        replayed: true,
    })))
}

pub(super) async fn remember(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
    stream: Stream,
    outcome: &Outcome,
) -> Result<(), store::Error> {
    let state = view::encode(&outcome.aggregate)?;
    let position = to_i64(outcome.position);
    insert(
        connection,
        idempotency,
        &stream.to_string(),
        &state,
        position,
        outcome.at,
    )
    .await
    .map(drop)
}

/// What is remembered under this key, if it is young enough.
pub(crate) async fn find(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
) -> Result<Option<Remembered>, store::Error> {
    let row = sqlx::query(
        "SELECT fingerprint, state, position, created_at_ms FROM idempotency \
         WHERE scope = $1 AND key = $2 AND created_at_ms > $3",
    )
    .bind(idempotency.scope.clone())
    .bind(idempotency.key.clone())
    .bind(oldest_ms(fresh::now()))
    .fetch_optional(connection)
    .await
    .map_err(failed("look for an idempotency key"))?;
    row.map(|row| {
        Ok(Remembered {
            fingerprint: log::column(&row, "fingerprint")?,
            state: row
                .try_get("state")
                .map_err(|_| log::corrupt("idempotency.state"))?,
            position: log::column(&row, "position")?,
            created_at_ms: log::column(&row, "created_at_ms")?,
        })
    })
    .transpose()
}

/// Remembers an answer unless one is remembered already; says whether it did.
pub(crate) async fn insert(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
    stream: &str,
    state: &str,
    position: i64,
    at: Timestamp,
) -> Result<bool, store::Error> {
    sqlx::query(
        "INSERT INTO idempotency (scope, key, fingerprint, stream, state, position, \
         created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (scope, key) DO UPDATE SET fingerprint = excluded.fingerprint, \
         stream = excluded.stream, state = excluded.state, position = excluded.position, \
         created_at_ms = excluded.created_at_ms WHERE idempotency.created_at_ms <= $8",
    )
    .bind(idempotency.scope.clone())
    .bind(idempotency.key.clone())
    .bind(idempotency.fingerprint.clone())
    .bind(stream.to_owned())
    .bind(state.to_owned())
    .bind(position)
    .bind(at.unix_ms())
    .bind(oldest_ms(at))
    .execute(connection)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(failed("remember an idempotency key"))
}

fn oldest_ms(now: Timestamp) -> i64 {
    now.unix_ms() - KEPT_MS
}
