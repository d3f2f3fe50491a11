//! Uses of secrets, as proxies report them: the first becomes an event, the rest is
//! counted beside the log.

use std::collections::{BTreeMap, HashMap, HashSet};

use events::Command;
use events::command::KeyCommand;
use futures_util::StreamExt;
use futures_util::stream;
use schemas::api::{Actor, ActorKind};
use schemas::fleet::Use;
use schemas::{KeyId, SecretId, Timestamp, WorkspaceId};

use super::listener::Error;
use crate::execute::{self, Execute, Request, Step};
use crate::store::log::{column, corrupt, to_i64};
use crate::store::sql::Sql;
use crate::store::{self, Store, failed};

/// Minutes that are kept: the last hour, and one that is still counting.
const MINUTES_KEPT: i64 = 65;
const MINUTE_MS: i64 = 60_000;

/// First uses that wait for a commit at the same time.
const FIRST_USES_AT_ONCE: usize = 64;

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
    let _turn = store.turn().await;
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
         first_at_ms = CASE WHEN excluded.first_at_ms < secret_uses.first_at_ms \
         THEN excluded.first_at_ms ELSE secret_uses.first_at_ms END, \
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

/// A key's first use is an event: from there on it has a history. They are asked for at the
/// same time, so that the log commits many at once.
async fn record_first_uses(store: &Store, execute: &Execute, uses: &[&Use]) -> Result<(), Error> {
    let known = known_secrets(store, uses).await?;
    let mut firsts = BTreeMap::<KeyId, &Use>::new();
    for used in uses {
        if !known.contains(&used.secret_id.to_string()) {
            firsts.entry(used.key_id).or_insert(used);
        }
    }
    if firsts.is_empty() {
        return Ok(());
    }
    let workspaces = workspaces_of(store, firsts.keys()).await?;
    // Each future owns what it needs: borrowed ones in a stream are not `Send`.
    let recording: Vec<_> = firsts
        .into_values()
        .map(|used| {
            let workspace_id = workspaces.get(&used.key_id).copied();
            record_first_use(execute.clone(), *used, workspace_id)
        })
        .collect();
    let mut recorded = stream::iter(recording).buffer_unordered(FIRST_USES_AT_ONCE);
    while let Some(outcome) = recorded.next().await {
        outcome?;
    }
    Ok(())
}

async fn record_first_use(
    execute: Execute,
    used: Use,
    workspace_id: Option<WorkspaceId>,
) -> Result<(), Error> {
    if workspace_id.is_none() {
        tracing::warn!(key_id = %used.key_id, "a proxy reported a key that is not known");
        return Ok(());
    }
    let first_use = KeyCommand::RecordFirstUse {
        secret_id: used.secret_id,
        used_at: Timestamp::from_unix_ms(used.first_at_ms),
    };
    let request = Request {
        steps: vec![Step {
            command: Command::Key(used.key_id, first_use),
            workspace_id,
        }],
        actor: Actor {
            kind: ActorKind::System,
            id: "fleet".to_owned(),
        },
        request_id: None,
        expected_versions: None,
        idempotency: None,
        rows: Vec::new(),
        departures: Vec::new(),
        erases: None,
    };
    match execute.run(request).await {
        // A purged key refuses: the report is of a request that was turned away at the last
        // look, after its use was marked.
        Ok(_) | Err(execute::Error::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn known_secrets(store: &Store, uses: &[&Use]) -> Result<HashSet<String>, store::Error> {
    let mut sql = Sql::new("SELECT secret_id FROM secret_uses WHERE secret_id IN (");
    sql.bind_all(uses.iter().map(|it| it.secret_id.to_string()))?
        .push(")");
    let rows = sql.fetch_all(store.background(), "read uses").await?;
    rows.iter().map(|row| column(row, "secret_id")).collect()
}

async fn workspaces_of(
    store: &Store,
    keys: impl Iterator<Item = &KeyId>,
) -> Result<HashMap<KeyId, WorkspaceId>, store::Error> {
    let mut sql = Sql::new("SELECT id, workspace_id FROM keys WHERE id IN (");
    sql.bind_all(keys.map(KeyId::to_string))?.push(")");
    let rows = sql.fetch_all(store.background(), "look for keys").await?;
    rows.iter()
        .map(|row| {
            let key: String = column(row, "id")?;
            let workspace: String = column(row, "workspace_id")?;
            let key = key.parse().map_err(|_| corrupt("keys.id"))?;
            Ok((
                key,
                workspace
                    .parse()
                    .map_err(|_| corrupt("keys.workspace_id"))?,
            ))
        })
        .collect()
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
