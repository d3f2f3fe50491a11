//! Control tokens: what opens the control API, for now its only callers.
//!
//! `tpc_` and 43 base62 characters; 256 bits of randomness need no salt, so a SHA-256 is
//! what is stored.

use schemas::{AccountId, ControlTokenId, Timestamp, WorkspaceId};
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, Row as _};

use crate::execute::{self, Idempotency};
use crate::fresh;
use crate::store::log::{column, corrupt};
use crate::store::{Error, Store, failed};

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

/// A new token string, to be shown once.
pub fn generate() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::from(PREFIX);
    while text.len() < PREFIX.len() + 43 {
        let byte: u8 = rand::random();
        if byte < 248 {
            text.push(char::from(DIGITS[usize::from(byte % 62)]));
        }
    }
    text
}

/// What is stored of a token string.
pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
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
         created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
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
    let mut transaction = store.pool().begin().await.map_err(failed("begin"))?;
    if let Some(repeated) = idempotency {
        let state = answer.to_string();
        if !execute::remember_answer(&mut transaction, repeated, "", &state, 0, now).await? {
            return answered_before(&mut transaction, repeated).await;
        }
    }
    insert(&mut transaction, token, now).await?;
    transaction
        .commit()
        .await
        .map_err(failed("commit a control token"))?;
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

/// The token that this string is, unless it has expired.
///
/// # Errors
/// [`Error`].
pub async fn find(store: &Store, text: &str) -> Result<Option<Token>, Error> {
    let row = sqlx::query(
        "SELECT id, account_id, workspace_id, name, scopes, created_at_ms, expires_at_ms \
         FROM control_tokens WHERE hash = $1",
    )
    .bind(hash(text))
    .fetch_optional(store.pool())
    .await
    .map_err(failed("look for a control token"))?;
    let token = row.as_ref().map(to_token).transpose()?;
    Ok(token.filter(|it| it.expires_at.is_none_or(|at| fresh::now() < at)))
}

/// The tokens of an account in a workspace, oldest first.
///
/// # Errors
/// [`Error`].
pub async fn list(
    store: &Store,
    workspace_id: WorkspaceId,
    account_id: AccountId,
) -> Result<Vec<Token>, Error> {
    let rows = sqlx::query(
        "SELECT id, account_id, workspace_id, name, scopes, created_at_ms, expires_at_ms \
         FROM control_tokens WHERE workspace_id = $1 AND account_id = $2 ORDER BY id",
    )
    .bind(workspace_id.to_string())
    .bind(account_id.to_string())
    .fetch_all(store.pool())
    .await
    .map_err(failed("list control tokens"))?;
    rows.iter().map(to_token).collect()
}

/// Removes a token of an account; `false` where there is none.
///
/// # Errors
/// [`Error`].
pub async fn delete(
    store: &Store,
    workspace_id: WorkspaceId,
    account_id: AccountId,
    id: ControlTokenId,
) -> Result<bool, Error> {
    sqlx::query(
        "DELETE FROM control_tokens WHERE id = $1 AND workspace_id = $2 AND account_id = $3",
    )
    .bind(id.to_string())
    .bind(workspace_id.to_string())
    .bind(account_id.to_string())
    .execute(store.pool())
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(failed("remove a control token"))
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
    Ok(Token {
        id: parsed(row, "id")?,
        account_id: parsed(row, "account_id")?,
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
