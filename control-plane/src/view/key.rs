//! Keys as REST shows them.

use std::collections::{BTreeSet, HashMap};

use events::Aggregate;
use events::key::{Key, State};
use events::self_service::{self, Asked};
use events::team::Team;
use schemas::api::{self, KeyStatus, Rotation, RotationSecret, SelfServiceRule};
use schemas::entry::Owner;
use schemas::{CredentialHash, KeyId, SecretId, TeamId, Timestamp, WorkspaceId};
use sqlx::{AnyConnection, Row as _};

use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};

const MINUTE_MS: i64 = 60_000;

/// What a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Keys of this status; `None` shows all.
    pub status: Option<KeyStatus>,
    /// Keys with this label.
    pub category: Option<String>,
    /// Keys whose name holds this, or whose prefix begins with it.
    pub query: Option<String>,
    /// Keys of this team.
    pub team_id: Option<TeamId>,
    /// Keys of each of these owners at once; nothing else has more than one.
    pub owners: Vec<Owner>,
    /// Keys that whoever asks may see.
    pub scope: Scope,
    /// Keys after this one.
    pub after: Option<KeyId>,
    /// At most so many.
    pub limit: u32,
}

/// Which keys somebody may see.
#[derive(Debug, Clone, Default)]
pub enum Scope {
    /// All of the workspace.
    #[default]
    All,
    /// All of some teams, and of others what is the owner's.
    Some {
        /// Everything in these.
        teams: BTreeSet<TeamId>,
        /// In these, what is the owner's.
        own_in: BTreeSet<TeamId>,
        /// The owner.
        own: Owner,
    },
}

/// When a key's secrets were last used.
pub type Uses = HashMap<SecretId, Timestamp>;

/// The key's name in the column that lists filter by.
pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Inactive => "inactive",
        State::Revoked => "revoked",
    }
}

/// A key of a workspace; `None` where it is another's, or purged.
///
/// # Errors
/// [`Error`].
pub async fn get(
    store: &Store,
    workspace_id: WorkspaceId,
    id: KeyId,
) -> Result<Option<Key>, Error> {
    Ok(get_even_purged(store, workspace_id, id)
        .await?
        .filter(|key| !key.purged))
}

/// A key of a workspace, also one that was purged: its history stays.
///
/// # Errors
/// [`Error`].
pub async fn get_even_purged(
    store: &Store,
    workspace_id: WorkspaceId,
    id: KeyId,
) -> Result<Option<Key>, Error> {
    let row = sqlx::query("SELECT state FROM keys WHERE id = $1 AND workspace_id = $2")
        .bind(id.to_string())
        .bind(workspace_id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read a key"))?;
    row.map(|row| to_key(row.try_get("state").map_err(|_| corrupt("keys.state"))?))
        .transpose()
}

/// A key of any workspace, for operators at the command line.
///
/// # Errors
/// [`Error`].
pub async fn find_anywhere(store: &Store, id: KeyId) -> Result<Option<Key>, Error> {
    let row = sqlx::query("SELECT state FROM keys WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read a key"))?;
    row.map(|row| to_key(row.try_get("state").map_err(|_| corrupt("keys.state"))?))
        .transpose()
}

/// The hashes that a key's entries are stored under, oldest secret first.
pub fn hashes(key: &Key) -> Vec<CredentialHash> {
    events::project::hashes(key)
}

/// Keys of a workspace in the order they were made.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    filter: &Filter,
    now: Timestamp,
) -> Result<Vec<Key>, Error> {
    let mut sql = Sql::new("SELECT state FROM keys WHERE purged = 0 AND workspace_id = ");
    sql.bind(workspace_id.to_string())?;
    if let Some(after) = filter.after {
        sql.push(" AND id > ").bind(after.to_string())?;
    }
    match filter.status {
        None => {}
        Some(KeyStatus::Revoked) => {
            sql.push(" AND state_name = 'revoked'");
        }
        Some(KeyStatus::Inactive) => {
            sql.push(" AND state_name = 'inactive'");
        }
        Some(KeyStatus::Expired) => {
            sql.push(" AND state_name = 'active' AND expires_at_ms <= ")
                .bind(now.unix_ms())?;
        }
        Some(KeyStatus::Active) => {
            sql.push(" AND state_name = 'active' AND (expires_at_ms IS NULL OR expires_at_ms > ");
            sql.bind(now.unix_ms())?.push(")");
        }
    }
    if let Some(category) = &filter.category {
        sql.push(" AND category = ").bind(category.clone())?;
    }
    if let Some(team_id) = filter.team_id {
        sql.push(" AND team_id = ").bind(team_id.to_string())?;
    }
    for owner in &filter.owners {
        sql.push(" AND owner = ").bind(owner.to_string())?;
    }
    if let Scope::Some { teams, own_in, own } = &filter.scope {
        // An empty list is no SQL, and holds nothing.
        let texts = |ids: &BTreeSet<TeamId>| {
            let none = ids.is_empty().then(String::new);
            ids.iter()
                .map(TeamId::to_string)
                .chain(none)
                .collect::<Vec<_>>()
        };
        sql.push(" AND (team_id IN (");
        sql.bind_all(texts(teams))?.push(") OR owner = ");
        sql.bind(own.to_string())?.push(" AND team_id IN (");
        sql.bind_all(texts(own_in))?.push("))");
    }
    if let Some(text) = &filter.query {
        // ESCAPE makes `%` and `_` of the caller plain characters.
        let name = format!("%{}%", escape_like(&events::text::name_key(text)));
        let prefix = format!("% {}%", escape_like(text));
        sql.push(" AND (name_key LIKE ")
            .bind(name)?
            .push(r" ESCAPE '\' OR (' ' || prefixes) LIKE ");
        sql.bind(prefix)?.push(r" ESCAPE '\')");
    }
    sql.push(" ORDER BY id LIMIT ")
        .bind(i64::from(filter.limit))?;
    let rows = sql.fetch_all(store.pool(), "list keys").await?;
    rows.iter()
        .map(|row| to_key(row.try_get("state").map_err(|_| corrupt("keys.state"))?))
        .collect()
}

/// The keys of an owner that are neither revoked nor purged, oldest first. On the connection
/// of an append, and so under the lock of the head, none can be added before the commit.
///
/// # Errors
/// [`Error`].
pub async fn owned_by(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    owner: Owner,
) -> Result<Vec<KeyId>, Error> {
    let sql = "SELECT id FROM keys WHERE workspace_id = $1 AND owner = $2 AND name_free = 0 \
               ORDER BY id";
    ids_of(connection, sql, workspace_id, owner).await
}

/// The same of those that are switched on.
///
/// # Errors
/// [`Error`].
pub async fn switched_on_of(
    connection: &mut AnyConnection,
    workspace_id: WorkspaceId,
    owner: Owner,
) -> Result<Vec<KeyId>, Error> {
    let sql = "SELECT id FROM keys WHERE workspace_id = $1 AND owner = $2 AND purged = 0 \
               AND state_name = 'active' ORDER BY id";
    ids_of(connection, sql, workspace_id, owner).await
}

async fn ids_of(
    connection: &mut AnyConnection,
    sql: &'static str,
    workspace_id: WorkspaceId,
    owner: Owner,
) -> Result<Vec<KeyId>, Error> {
    let rows = sqlx::query(sql)
        .bind(workspace_id.to_string())
        .bind(owner.to_string())
        .fetch_all(connection)
        .await
        .map_err(failed("read the keys of an owner"))?;
    rows.iter()
        .map(|row| {
            let id: String = column(row, "id")?;
            id.parse().map_err(|_| corrupt("keys.id"))
        })
        .collect()
}

/// Whether any key of the workspace has this owner.
///
/// # Errors
/// [`Error`].
pub async fn has_owner(
    store: &Store,
    workspace_id: WorkspaceId,
    owner: Owner,
) -> Result<bool, Error> {
    sqlx::query("SELECT 1 FROM keys WHERE workspace_id = $1 AND owner = $2 LIMIT 1")
        .bind(workspace_id.to_string())
        .bind(owner.to_string())
        .fetch_optional(store.pool())
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for keys of an owner"))
}

/// Which rules of their teams' self-service would not let some keys be made today.
///
/// # Errors
/// [`Error`].
pub async fn out_of_policy(
    store: &Store,
    keys: &[Key],
    now: Timestamp,
) -> Result<HashMap<KeyId, Vec<SelfServiceRule>>, Error> {
    let bound: Vec<(&Key, TeamId, Owner)> = keys
        .iter()
        .filter_map(|key| {
            let (team_id, owner) = self_service::bound_by(key, now)?;
            Some((key, team_id, owner))
        })
        .collect();
    let Some((first, ..)) = bound.first() else {
        return Ok(HashMap::new());
    };
    let team_ids: BTreeSet<TeamId> = bound.iter().map(|(_, team_id, _)| *team_id).collect();
    let team_ids: Vec<TeamId> = team_ids.into_iter().collect();
    let most = u32::try_from(team_ids.len()).unwrap_or(u32::MAX);
    let workspace_id = first.workspace_id;
    let teams = super::team::list(store, workspace_id, Some(&team_ids), None, most).await?;
    let teams: HashMap<TeamId, Team> = teams.into_iter().map(|team| (team.id, team)).collect();
    let counted = |it: &&(&Key, TeamId, Owner)| {
        let policy = teams.get(&it.1).map(|team| team.fields.self_service);
        policy.is_some_and(|it| it.max_keys_per_user.is_some())
    };
    let counted: BTreeSet<String> = bound
        .iter()
        .filter(counted)
        .map(|(.., owner)| owner.to_string())
        .collect();
    let older = live_before(store, &team_ids, &counted, now).await?;
    let mut broken = HashMap::new();
    for (key, team_id, owner) in bound {
        let Some(team) = teams.get(&team_id) else {
            continue;
        };
        let ids = older.get(&(team_id, owner.to_string()));
        let others = ids.map_or(0, |ids| ids.partition_point(|id| *id < key.id));
        let others = u64::try_from(others).unwrap_or(u64::MAX);
        let rules = self_service::broken(team, &Asked::of_key(key, Some(others)), now);
        if !rules.is_empty() {
            broken.insert(key.id, rules);
        }
    }
    Ok(broken)
}

/// The live keys of some owners in some teams, oldest first.
async fn live_before(
    store: &Store,
    team_ids: &[TeamId],
    owners: &BTreeSet<String>,
    now: Timestamp,
) -> Result<HashMap<(TeamId, String), Vec<KeyId>>, Error> {
    let mut live: HashMap<(TeamId, String), Vec<KeyId>> = HashMap::new();
    if owners.is_empty() {
        return Ok(live);
    }
    let mut sql = Sql::new(
        "SELECT id, team_id, owner FROM keys \
         WHERE name_free = 0 AND (expires_at_ms IS NULL OR expires_at_ms > ",
    );
    sql.bind(now.unix_ms())?.push(") AND team_id IN (");
    sql.bind_all(team_ids.iter().map(TeamId::to_string))?
        .push(") AND owner IN (");
    sql.bind_all(owners.iter().cloned())?.push(") ORDER BY id");
    let rows = sql.fetch_all(store.pool(), "rank keys of owners").await?;
    for row in &rows {
        let id: String = column(row, "id")?;
        let team_id: String = column(row, "team_id")?;
        let team_id = team_id.parse().map_err(|_| corrupt("keys.team_id"))?;
        let id = id.parse().map_err(|_| corrupt("keys.id"))?;
        let owner = column(row, "owner")?;
        live.entry((team_id, owner)).or_default().push(id);
    }
    Ok(live)
}

/// The last uses of the secrets of some keys.
///
/// # Errors
/// [`Error`].
pub async fn last_uses(store: &Store, keys: &[Key]) -> Result<Uses, Error> {
    if keys.is_empty() {
        return Ok(Uses::new());
    }
    let mut sql = Sql::new("SELECT secret_id, last_at_ms FROM secret_uses WHERE key_id IN (");
    sql.bind_all(keys.iter().map(|key| key.id.to_string()))?
        .push(")");
    let rows = sql.fetch_all(store.pool(), "read uses").await?;
    rows.iter()
        .map(|row| {
            let id: String = column(row, "secret_id")?;
            let id = id.parse().map_err(|_| corrupt("secret_uses.secret_id"))?;
            Ok((id, Timestamp::from_unix_ms(column(row, "last_at_ms")?)))
        })
        .collect()
}

/// A key as every answer shows it.
pub fn to_api(key: &Key, uses: &Uses, now: Timestamp) -> api::Key {
    api::Key {
        id: key.id,
        name: key.name.clone(),
        status: key.status(now),
        secrets: key
            .live_secrets(now)
            .map(|secret| api::Secret {
                id: secret.id,
                prefix: secret.prefix.clone(),
                last4: secret.last4.clone(),
                created_at: secret.created_at,
                expires_at: secret.ends_at,
                last_used_at: uses.get(&secret.id).copied(),
            })
            .collect(),
        category: key.category.clone(),
        environment: key.environment,
        team_id: key.team_id,
        owner: key.owner,
        expires_at: key.expires_at,
        limits: key.limits,
        quotas: None,
        budget: None,
        concurrency: None,
        queue: None,
        access: key.access.clone(),
        staleness: None,
        metadata: key.metadata.clone(),
        replaces: key.replaces,
        rotation_due_at: key.rotation_due_at,
        created_by: Some(key.created_by.clone()),
        created_at: key.created_at,
        last_used_at: key
            .secrets
            .iter()
            .filter_map(|it| uses.get(&it.id))
            .max()
            .copied(),
        source: key.source,
        out_of_policy: Vec::new(),
        version: key.version,
        secret: None,
        propagation: None,
    }
}

/// What there is to know before an old secret is let go.
///
/// # Errors
/// [`Error`].
pub async fn rotation(store: &Store, key: &Key, now: Timestamp) -> Result<Rotation, Error> {
    let uses = last_uses(store, std::slice::from_ref(key)).await?;
    let hour_ago = (now.unix_ms() / MINUTE_MS) - 59;
    let mut secrets = Vec::with_capacity(key.secrets.len());
    for secret in &key.secrets {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(requests), 0) AS BIGINT) AS requests \
             FROM secret_use_minutes WHERE secret_id = $1 AND minute >= $2",
        )
        .bind(secret.id.to_string())
        .bind(hour_ago)
        .fetch_one(store.pool())
        .await
        .map_err(failed("count requests"))?;
        let requests: i64 = column(&row, "requests")?;
        secrets.push(RotationSecret {
            id: secret.id,
            prefix: secret.prefix.clone(),
            created_at: secret.created_at,
            ends_at: secret.ends_at,
            last_used_at: uses.get(&secret.id).copied(),
            requests_last_hour: requests.unsigned_abs(),
            safe_to_retire: false,
        });
    }
    let newest_is_used = secrets.last().is_some_and(|it| it.requests_last_hour > 0);
    let older = secrets.len().saturating_sub(1);
    for secret in &mut secrets[..older] {
        secret.safe_to_retire = newest_is_used && secret.requests_last_hour == 0;
    }
    Ok(Rotation {
        key_id: key.id,
        rotation_due_at: key.rotation_due_at,
        secrets,
    })
}

// === impl Scope ===

impl Scope {
    /// Whether any key of a team may be seen.
    pub fn reaches(&self, team_id: TeamId) -> bool {
        match self {
            Self::All => true,
            Self::Some { teams, own_in, .. } => {
                teams.contains(&team_id) || own_in.contains(&team_id)
            }
        }
    }
}

fn to_key(state: &str) -> Result<Key, Error> {
    match super::decode(state)? {
        Aggregate::Key(key) => Ok(*key),
        _ => Err(corrupt("keys.state")),
    }
}

fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_")
}
