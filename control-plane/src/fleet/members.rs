//! What each proxy last said, as rows that every control plane can read.

use std::collections::HashMap;

use schemas::fleet::Renewal;
use schemas::{Position, Timestamp};
use serde::Serialize;

use crate::fresh;
use crate::store::log::{column, position_column, to_i64};
use crate::store::{Error, Store, failed};

/// What a proxy last said, as its region's control plane stored it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The proxy.
    pub proxy_id: String,
    /// The start of it that said so.
    pub boot_id: String,
    /// Every event up to here is in its table.
    pub position: Position,
    /// Every use up to here is stored.
    pub uses_position: Position,
    /// When it said so, by the control plane's clock.
    pub renewed_at: Timestamp,
    /// The version of its program.
    pub version: String,
    /// Its follower's state.
    pub state: String,
    /// How old its newest word from the region was, in milliseconds.
    pub freshness_ms: u64,
}

/// The proxies that ever reported in a region, by id.
///
/// # Errors
/// [`Error`].
pub async fn list(store: &Store, region: &str) -> Result<Vec<Member>, Error> {
    let rows = sqlx::query(
        "SELECT proxy_id, boot_id, position, uses_position, renewed_at_ms, version, state, \
         freshness_ms FROM members WHERE region = $1 ORDER BY proxy_id",
    )
    .bind(region.to_owned())
    .fetch_all(store.background())
    .await
    .map_err(failed("read the members"))?;
    rows.iter()
        .map(|row| {
            Ok(Member {
                proxy_id: column(row, "proxy_id")?,
                boot_id: column(row, "boot_id")?,
                position: position_column(row, "position")?,
                uses_position: position_column(row, "uses_position")?,
                renewed_at: Timestamp::from_unix_ms(column(row, "renewed_at_ms")?),
                version: column(row, "version")?,
                state: column(row, "state")?,
                freshness_ms: column::<i64>(row, "freshness_ms")?.unsigned_abs(),
            })
        })
        .collect()
}

/// Up to where the uses of each proxy of a region are stored, by proxy and boot.
pub(super) async fn uses_stored(
    store: &Store,
    region: &str,
) -> Result<HashMap<(String, String), Position>, Error> {
    let members = list(store, region).await?;
    Ok(members
        .into_iter()
        .map(|it| ((it.proxy_id, it.boot_id), it.uses_position))
        .collect())
}

/// Stores what a proxy said.
pub(super) async fn save(store: &Store, region: &str, renewal: &Renewal) -> Result<(), Error> {
    let uses_position = if renewal.uses_complete {
        renewal.position
    } else {
        0
    };
    sqlx::query(
        "INSERT INTO members (region, proxy_id, boot_id, position, uses_position, \
         renewed_at_ms, version, state, freshness_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (region, proxy_id) DO UPDATE SET boot_id = excluded.boot_id, \
         position = excluded.position, \
         uses_position = CASE WHEN excluded.uses_position > 0 THEN excluded.uses_position \
         WHEN members.boot_id = excluded.boot_id THEN members.uses_position ELSE 0 END, \
         renewed_at_ms = excluded.renewed_at_ms, version = excluded.version, \
         state = excluded.state, freshness_ms = excluded.freshness_ms",
    )
    .bind(region.to_owned())
    .bind(renewal.proxy_id.clone())
    .bind(renewal.boot_id.to_string())
    .bind(to_i64(renewal.position))
    .bind(to_i64(uses_position))
    .bind(fresh::now().unix_ms())
    .bind(renewal.version.clone())
    .bind(format!("{:?}", renewal.state).to_lowercase())
    .bind(to_i64(renewal.freshness_ms))
    .execute(store.background())
    .await
    .map(drop)
    .map_err(failed("store a renewal"))
}

/// Forgets a proxy that said goodbye.
pub(super) async fn forget(store: &Store, region: &str, renewal: &Renewal) -> Result<(), Error> {
    sqlx::query("DELETE FROM members WHERE region = $1 AND proxy_id = $2 AND boot_id = $3")
        .bind(region.to_owned())
        .bind(renewal.proxy_id.clone())
        .bind(renewal.boot_id.to_string())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("forget a proxy"))
}
