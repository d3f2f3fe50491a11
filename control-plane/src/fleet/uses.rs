//! Uses of secrets, as proxies report them: the first becomes an event, the rest is
//! counted beside the log.

use std::collections::HashSet;

use events::Command;
use events::command::KeyCommand;
use schemas::api::{Actor, ActorKind};
use schemas::fleet::Use;
use schemas::{KeyId, Timestamp};
use sqlx::Row as _;

use super::Error;
use crate::execute::{self, Execute, Request, Step};
use crate::store::log::{column, corrupt, to_i64};
use crate::store::sql::Sql;
use crate::store::{self, Store, failed};

/// Minutes that are kept: the last hour, and one that is still counting.
const MINUTES_KEPT: i64 = 65;
const MINUTE_MS: i64 = 60_000;

/// Stores uses. A report that comes twice moves the counts twice but never the facts: that
/// a secret was used, and when first and last.
pub(super) async fn store(store: &Store, execute: &Execute, uses: &[Use]) -> Result<(), Error> {
    if uses.is_empty() {
        return Ok(());
    }
    record_first_uses(store, execute, uses).await?;
    let mut transaction = store.pool().begin().await.map_err(failed("begin"))?;
    for used in uses {
        sqlx::query(
            "INSERT INTO secret_uses (secret_id, key_id, first_at_ms, last_at_ms, requests) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (secret_id) DO UPDATE SET \
             last_at_ms = CASE WHEN excluded.last_at_ms > secret_uses.last_at_ms \
             THEN excluded.last_at_ms ELSE secret_uses.last_at_ms END, \
             requests = secret_uses.requests + excluded.requests",
        )
        .bind(used.secret_id.to_string())
        .bind(used.key_id.to_string())
        .bind(used.first_at_ms)
        .bind(used.last_at_ms)
        .bind(to_i64(used.requests))
        .execute(&mut *transaction)
        .await
        .map_err(failed("store a use"))?;
        sqlx::query(
            "INSERT INTO secret_use_minutes (secret_id, minute, requests) VALUES ($1, $2, $3) \
             ON CONFLICT (secret_id, minute) DO UPDATE SET \
             requests = secret_use_minutes.requests + excluded.requests",
        )
        .bind(used.secret_id.to_string())
        .bind(used.last_at_ms / MINUTE_MS)
        .bind(to_i64(used.requests))
        .execute(&mut *transaction)
        .await
        .map_err(failed("count a use"))?;
    }
    if let Some(newest) = uses.iter().map(|it| it.last_at_ms / MINUTE_MS).max() {
        sqlx::query("DELETE FROM secret_use_minutes WHERE minute < $1")
            .bind(newest - MINUTES_KEPT)
            .execute(&mut *transaction)
            .await
            .map_err(failed("forget old counts"))?;
    }
    transaction.commit().await.map_err(failed("commit uses"))?;
    Ok(())
}

/// A key's first use is an event: from there on it has a history.
async fn record_first_uses(store: &Store, execute: &Execute, uses: &[Use]) -> Result<(), Error> {
    let known = known_secrets(store, uses).await?;
    let mut done = HashSet::<KeyId>::new();
    for used in uses {
        if known.contains(&used.secret_id.to_string()) || !done.insert(used.key_id) {
            continue;
        }
        let Some(workspace_id) = workspace_of(store, used.key_id).await? else {
            tracing::warn!(key_id = %used.key_id, "a proxy reported a key that is not known");
            continue;
        };
        let request = Request {
            steps: vec![Step {
                command: Command::Key(
                    used.key_id,
                    KeyCommand::RecordFirstUse {
                        secret_id: used.secret_id,
                        used_at: Timestamp::from_unix_ms(used.first_at_ms),
                    },
                ),
                workspace_id: Some(workspace_id),
            }],
            actor: Actor {
                kind: ActorKind::System,
                id: "fleet".to_owned(),
            },
            request_id: None,
            expected_version: None,
            idempotency: None,
            rows: Vec::new(),
        };
        match execute.run(request).await {
            // A purged key refuses: it was proven unused, so the report is of a secret
            // that no proxy admitted.
            Ok(_) | Err(execute::Error::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn known_secrets(store: &Store, uses: &[Use]) -> Result<HashSet<String>, store::Error> {
    let mut sql = Sql::new("SELECT secret_id FROM secret_uses WHERE secret_id IN (");
    sql.bind_all(uses.iter().map(|it| it.secret_id.to_string()))?
        .push(")");
    let rows = sql.fetch_all(store.pool(), "read uses").await?;
    rows.iter().map(|row| column(row, "secret_id")).collect()
}

async fn workspace_of(
    store: &Store,
    key_id: KeyId,
) -> Result<Option<schemas::WorkspaceId>, store::Error> {
    let row = sqlx::query("SELECT workspace_id FROM keys WHERE id = $1")
        .bind(key_id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("look for a key"))?;
    row.map(|row| {
        let id: String = row
            .try_get("workspace_id")
            .map_err(|_| corrupt("keys.workspace_id"))?;
        id.parse().map_err(|_| corrupt("keys.workspace_id"))
    })
    .transpose()
}
