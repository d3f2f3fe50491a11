//! Control tokens: what programs open the control API with, in one workspace.
//!
//! A token carries what the person who made it may do at the moment of the call, narrowed to
//! its scopes; so it never outgrows its maker and ends with their membership. It may act as
//! a service account, and then ends with that one, too.
//!
//! `tpc_` and 43 base62 characters; 256 bits of randomness need no salt, so a SHA-256 is
//! what is stored.

use schemas::{AccountId, ControlTokenId, ServiceAccountId, TeamId, Timestamp, WorkspaceId};
use sqlx::{AnyConnection, Row as _};

use crate::execute::{self, Idempotency};
use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};
use crate::{fresh, view};

/// What every control token begins with.
pub const PREFIX: &str = "tpc_";

/// A token that is about to be stored.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its id.
    pub id: ControlTokenId,
    /// SHA-256 of the token in hex.
    pub hash: String,
    /// Whose rights it carries.
    pub account_id: AccountId,
    /// Who it acts as, where that is not the person who made it.
    pub service_account_id: Option<ServiceAccountId>,
    /// The workspace it acts in.
    pub workspace_id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// The permissions it is narrowed to; `None` is all that the account has.
    pub scopes: Option<Vec<String>>,
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
}

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: ControlTokenId,
    /// Whose rights it carries.
    pub account_id: AccountId,
    /// Who it acts as, where that is not the person who made it.
    pub service_account_id: Option<ServiceAccountId>,
    /// The workspace it acts in.
    pub workspace_id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// The permissions it is narrowed to; `None` is all that the account has.
    pub scopes: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
}

/// Which tokens of a workspace somebody lists and revokes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Managed {
    /// Those that a person made for themselves.
    Own(AccountId),
    /// Those that act as a service account: what one of them sees.
    ServiceAccount(ServiceAccountId),
    /// The person's own, and those of all service accounts.
    OwnAndAll(AccountId),
    /// The person's own, and those of the service accounts of some teams.
    OwnAndTeams(AccountId, Vec<TeamId>),
}

const SELECT: &str = "SELECT id, account_id, workspace_id, name, scopes, created_at_ms, \
     expires_at_ms, service_account_id FROM control_tokens";

/// A new token string, to be shown once.
pub fn generate() -> String {
    fresh::token(PREFIX)
}

/// What is stored of a token string.
pub fn hash(text: &str) -> String {
    fresh::token_hash(text)
}

/// Stores a token.
///
/// # Errors
/// [`Error`].
pub async fn insert(
    connection: &mut AnyConnection,
    token: &NewToken,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO control_tokens (id, hash, account_id, workspace_id, name, scopes, \
         created_at_ms, expires_at_ms, service_account_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(token.id.to_string())
    .bind(token.hash.clone())
    .bind(token.account_id.to_string())
    .bind(token.workspace_id.to_string())
    .bind(token.name.clone())
    .bind(
        token
            .scopes
            .as_ref()
            .map(|scopes| serde_json::json!(scopes).to_string()),
    )
    .bind(now.unix_ms())
    .bind(token.expires_at.map(Timestamp::unix_ms))
    .bind(token.service_account_id.map(|id| id.to_string()))
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("write a control token"))
}

/// What came of making a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is stored.
    New,
    /// An earlier request with this idempotency key made one, and was answered so.
    Before(serde_json::Value),
    /// The idempotency key was used with another body.
    Conflict,
}

/// Makes and stores a token of its own, outside any change of the log. `answer` is what
/// the client reads, without the token: a repetition is given it again.
///
/// # Errors
/// [`Error`].
pub async fn create(
    store: &Store,
    token: &NewToken,
    idempotency: Option<&Idempotency>,
    answer: &serde_json::Value,
) -> Result<Created, Error> {
    let now = fresh::now();
    let mut transaction = store.begin().await?;
    if let Some(repeated) = idempotency {
        let state = answer.to_string();
        if !execute::remember_answer(&mut transaction, repeated, "", &state, 0, now).await? {
            return answered_before(&mut transaction, repeated).await;
        }
    }
    insert(&mut transaction, token, now).await?;
    transaction.commit().await?;
    Ok(Created::New)
}

async fn answered_before(
    connection: &mut AnyConnection,
    repeated: &Idempotency,
) -> Result<Created, Error> {
    match execute::find_remembered(connection, repeated).await? {
        Some(before) if before.fingerprint == repeated.fingerprint => {
            serde_json::from_str(&before.state)
                .map(Created::Before)
                .map_err(|_| corrupt("idempotency.state"))
        }
        _ => Ok(Created::Conflict),
    }
}

// === impl Token ===

impl Token {
    /// Whether it is for its workspace only: it has scopes, or acts as somebody else.
    pub fn is_bound(&self) -> bool {
        self.scopes.is_some() || self.service_account_id.is_some()
    }
}

/// The token that this string is, unless it has expired, or acts as a service account that
/// is switched off.
///
/// # Errors
/// [`Error`].
pub async fn find(store: &Store, text: &str) -> Result<Option<Token>, Error> {
    let mut sql = Sql::new(SELECT);
    sql.push(" WHERE hash = ").bind(hash(text))?;
    let rows = sql
        .fetch_all(store.pool(), "look for a control token")
        .await?;
    let token = rows.first().map(to_token).transpose()?;
    let now = fresh::now();
    let Some(token) = token.filter(|it| it.expires_at.is_none_or(|at| now < at)) else {
        return Ok(None);
    };
    if let Some(id) = token.service_account_id {
        let account = view::service_account::get(store, token.workspace_id, id).await?;
        if !account.is_some_and(|it| it.active) {
            return Ok(None);
        }
    }
    Ok(Some(token))
}

/// The tokens of a workspace that somebody manages, oldest first: those that they made, and
/// those that act as the service accounts named.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    managed: &Managed,
) -> Result<Vec<Token>, Error> {
    let mut sql = Sql::new(SELECT);
    sql.push(" WHERE workspace_id = ")
        .bind(workspace_id.to_string())?;
    managed.push(&mut sql)?;
    sql.push(" ORDER BY id");
    let rows = sql.fetch_all(store.pool(), "list control tokens").await?;
    rows.iter().map(to_token).collect()
}

/// Removes a token that somebody manages; `false` where there is none.
///
/// # Errors
/// [`Error`].
pub async fn delete(
    store: &Store,
    workspace_id: WorkspaceId,
    managed: &Managed,
    id: ControlTokenId,
) -> Result<bool, Error> {
    let mut sql = Sql::new("DELETE FROM control_tokens WHERE id = ");
    sql.bind(id.to_string())?.push(" AND workspace_id = ");
    sql.bind(workspace_id.to_string())?;
    managed.push(&mut sql)?;
    sql.push(" RETURNING id");
    let mut writing = store.begin().await?;
    let removed = sql
        .fetch_optional(&mut writing, "remove a control token")
        .await?;
    writing.commit().await?;
    Ok(removed.is_some())
}

// === impl Managed ===

impl Managed {
    fn push(&self, sql: &mut Sql) -> Result<(), Error> {
        match self {
            Self::Own(account_id) => {
                sql.push(" AND (service_account_id IS NULL AND account_id = ");
                sql.bind(account_id.to_string())?.push(")");
            }
            Self::ServiceAccount(id) => {
                sql.push(" AND service_account_id = ")
                    .bind(id.to_string())?;
            }
            Self::OwnAndAll(account_id) => {
                sql.push(" AND (service_account_id IS NOT NULL OR account_id = ");
                sql.bind(account_id.to_string())?.push(")");
            }
            Self::OwnAndTeams(account_id, teams) => {
                sql.push(" AND ((service_account_id IS NULL AND account_id = ");
                sql.bind(account_id.to_string())?
                    .push(") OR service_account_id IN (SELECT id FROM service_accounts WHERE ");
                sql.push("team_id IN (");
                sql.bind_all(teams.iter().map(TeamId::to_string))?
                    .push(")))");
            }
        }
        Ok(())
    }
}

fn to_token(row: &sqlx::any::AnyRow) -> Result<Token, Error> {
    let scopes: Option<String> = row
        .try_get("scopes")
        .map_err(|_| corrupt("control_tokens.scopes"))?;
    let scopes = scopes
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|_| corrupt("control_tokens.scopes"))?;
    let expires_at: Option<i64> = column(row, "expires_at_ms")?;
    let service_account_id: Option<String> = column(row, "service_account_id")?;
    let service_account_id = service_account_id
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| corrupt("control_tokens.service_account_id"))?;
    Ok(Token {
        id: parsed(row, "id")?,
        account_id: parsed(row, "account_id")?,
        service_account_id,
        workspace_id: parsed(row, "workspace_id")?,
        name: column(row, "name")?,
        scopes,
        created_at: Timestamp::from_unix_ms(column(row, "created_at_ms")?),
        expires_at: expires_at.map(Timestamp::from_unix_ms),
    })
}

fn parsed<T: std::str::FromStr>(row: &sqlx::any::AnyRow, name: &'static str) -> Result<T, Error> {
    column::<String>(row, name)?
        .parse()
        .map_err(|_| corrupt(name))
}
