//! Uses of secrets, as proxies report them: the first becomes an event, the rest is
//! counted beside the log.

use std::collections::{BTreeMap, HashSet};

use events::Command;
use events::command::KeyCommand;
use schemas::api::{Actor, ActorKind};
use schemas::fleet::Use;
use schemas::{KeyId, SecretId, Timestamp, WorkspaceId};
use sqlx::Row as _;

use super::Error;
use crate::execute::{self, Execute, Request, Step};
use crate::store::log::{column, corrupt, to_i64};
use crate::store::sql::Sql;
use crate::store::{self, Store, failed};

/// Minutes that are kept: the last hour, and one that is still counting.
const MINUTES_KEPT: i64 = 65;
const MINUTE_MS: i64 = 60_000;

/// Rows in one statement at most.
const ROWS_MAX: usize = 500;

/// What several reports say of each secret. Rows are written in the order of ids, so that
/// two control planes that store at the same time wait for each other and never for ever.
pub(super) type Merged = BTreeMap<SecretId, Use>;

/// Adds the uses of one report.
pub(super) fn merge(merged: &mut Merged, uses: &[Use]) {
    for used in uses {
        merged
            .entry(used.secret_id)
            .and_modify(|it| {
                it.first_at_ms = it.first_at_ms.min(used.first_at_ms);
                it.last_at_ms = it.last_at_ms.max(used.last_at_ms);
                it.requests = it.requests.saturating_add(used.requests);
            })
            .or_insert(*used);
    }
}

/// Stores uses. A report that comes twice moves the counts twice but never the facts: that
/// a secret was used, and when first and last.
pub(super) async fn store(store: &Store, execute: &Execute, merged: &Merged) -> Result<(), Error> {
    let uses: Vec<&Use> = merged.values().collect();
    for uses in uses.chunks(ROWS_MAX) {
        record_first_uses(store, execute, uses).await?;
        count(store, uses).await?;
    }
    Ok(())
}

async fn count(store: &Store, uses: &[&Use]) -> Result<(), store::Error> {
    let mut transaction = store.background().begin().await.map_err(failed("begin"))?;

    let mut sql = Sql::new(
        "INSERT INTO secret_uses (secret_id, key_id, first_at_ms, last_at_ms, requests) VALUES ",
    );
    for (number, used) in uses.iter().enumerate() {
        sql.push(if number == 0 { "(" } else { ", (" });
        sql.bind(used.secret_id.to_string())?.push(", ");
        sql.bind(used.key_id.to_string())?.push(", ");
        sql.bind(used.first_at_ms)?.push(", ");
        sql.bind(used.last_at_ms)?.push(", ");
        sql.bind(to_i64(used.requests))?.push(")");
    }
    sql.push(
        " ON CONFLICT (secret_id) DO UPDATE SET \
         last_at_ms = CASE WHEN excluded.last_at_ms > secret_uses.last_at_ms \
         THEN excluded.last_at_ms ELSE secret_uses.last_at_ms END, \
         requests = secret_uses.requests + excluded.requests",
    );
    sql.execute(&mut transaction, "store uses").await?;

    let mut sql = Sql::new("INSERT INTO secret_use_minutes (secret_id, minute, requests) VALUES ");
    for (number, used) in uses.iter().enumerate() {
        sql.push(if number == 0 { "(" } else { ", (" });
        sql.bind(used.secret_id.to_string())?.push(", ");
        sql.bind(used.last_at_ms / MINUTE_MS)?.push(", ");
        sql.bind(to_i64(used.requests))?.push(")");
    }
    sql.push(
        " ON CONFLICT (secret_id, minute) DO UPDATE SET \
         requests = secret_use_minutes.requests + excluded.requests",
    );
    sql.execute(&mut transaction, "count uses").await?;
    transaction.commit().await.map_err(failed("commit uses"))
}

/// Forgets counts by the minute that nobody asks for any more.
pub(super) async fn forget_old_minutes(store: &Store, now: Timestamp) -> Result<(), store::Error> {
    sqlx::query("DELETE FROM secret_use_minutes WHERE minute < $1")
        .bind(now.unix_ms() / MINUTE_MS - MINUTES_KEPT)
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("forget old counts"))
}

/// A key's first use is an event: from there on it has a history.
async fn record_first_uses(store: &Store, execute: &Execute, uses: &[&Use]) -> Result<(), Error> {
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
        let first_use = KeyCommand::RecordFirstUse {
            secret_id: used.secret_id,
            used_at: Timestamp::from_unix_ms(used.first_at_ms),
        };
        let request = Request {
            steps: vec![Step {
                command: Command::Key(used.key_id, first_use),
                workspace_id: Some(workspace_id),
            }],
            actor: Actor {
                kind: ActorKind::System,
                id: "fleet".to_owned(),
            },
            request_id: None,
            expected_versions: None,
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

async fn known_secrets(store: &Store, uses: &[&Use]) -> Result<HashSet<String>, store::Error> {
    let mut sql = Sql::new("SELECT secret_id FROM secret_uses WHERE secret_id IN (");
    sql.bind_all(uses.iter().map(|it| it.secret_id.to_string()))?
        .push(")");
    let rows = sql.fetch_all(store.background(), "read uses").await?;
    rows.iter().map(|row| column(row, "secret_id")).collect()
}

async fn workspace_of(store: &Store, key_id: KeyId) -> Result<Option<WorkspaceId>, store::Error> {
    let row = sqlx::query("SELECT workspace_id FROM keys WHERE id = $1")
        .bind(key_id.to_string())
        .fetch_optional(store.background())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_reports_of_a_secret_become_one() {
        let used = |first_at_ms, last_at_ms, requests| Use {
            key_id: KeyId::from_u128(1),
            secret_id: SecretId::from_u128(1),
            first_at_ms,
            last_at_ms,
            requests,
        };
        let mut merged = Merged::new();
        merge(&mut merged, &[used(5, 9, 2)]);
        merge(&mut merged, &[used(3, 7, 1)]);
        assert_eq!(Vec::from_iter(merged.into_values()), [used(3, 9, 3)]);
    }
}
