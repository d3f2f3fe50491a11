//! One-time links: a token in a mail, its hash in a row, and the row gone when it is used.
//!
//! Of concurrent uses exactly one removes the row; the others find a dead token.

use schemas::{AccountId, Timestamp};
use sqlx::AnyConnection;

use super::id_of;
use crate::fresh;
use crate::store::{Error, Store, failed};

/// What a link is for, and how long it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Shows that mail to an address reaches its owner; 24 hours.
    Verify,
    /// Sets a password; one hour.
    Reset,
    /// Sets the first password of a bootstrapped owner; 24 hours. Used like a reset.
    FirstPassword,
    /// Not in a mail: the rest of a sign-in with OpenID Connect whose account has a second
    /// factor; five minutes.
    SignIn,
}

/// A link that is about to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    /// SHA-256 of its token in hex.
    pub hash: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whose it is.
    pub account_id: AccountId,
}

const MINUTE_MS: i64 = 60 * 1_000;

// === impl Purpose ===

impl Purpose {
    /// The word in the database.
    const fn stored(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Reset | Self::FirstPassword => "reset",
            Self::SignIn => "sign_in",
        }
    }

    const fn lasts_ms(self) -> i64 {
        match self {
            Self::Verify | Self::FirstPassword => 24 * 60 * MINUTE_MS,
            Self::Reset => 60 * MINUTE_MS,
            Self::SignIn => 5 * MINUTE_MS,
        }
    }
}

// === impl NewLink ===

impl NewLink {
    /// A link and its token, which is shown once.
    pub fn make(purpose: Purpose, account_id: AccountId) -> (Self, String) {
        let token = fresh::token("");
        let link = Self {
            hash: fresh::token_hash(&token),
            purpose,
            account_id,
        };
        (link, token)
    }
}

/// Where the page of a link is: the token stands in the fragment, which no browser sends
/// to a server, so that it is in no log on the way.
pub fn url(public_url: &str, page: &str, token: &str) -> String {
    format!("{}/{page}#token={token}", public_url.trim_end_matches('/'))
}

/// Stores a link; older ones of the account for the same purpose are dead.
///
/// # Errors
/// [`Error`].
pub(crate) async fn insert(
    connection: &mut AnyConnection,
    link: &NewLink,
    now: Timestamp,
) -> Result<(), Error> {
    remove_all(connection, link.account_id, link.purpose).await?;
    sqlx::query(
        "INSERT INTO account_links (hash, purpose, account_id, expires_at_ms) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(link.hash.clone())
    .bind(link.purpose.stored())
    .bind(link.account_id.to_string())
    .bind(now.plus_ms(link.purpose.lasts_ms()).unix_ms())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("write a link"))
}

/// Whose link this token opens; `None` for one that is dead or unknown.
///
/// # Errors
/// [`Error`].
pub(crate) async fn find(
    connection: &mut AnyConnection,
    purpose: Purpose,
    token: &str,
    now: Timestamp,
) -> Result<Option<AccountId>, Error> {
    let row = sqlx::query(
        "SELECT account_id FROM account_links \
         WHERE hash = $1 AND purpose = $2 AND expires_at_ms > $3",
    )
    .bind(fresh::token_hash(token))
    .bind(purpose.stored())
    .bind(now.unix_ms())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a link"))?;
    row.map(|row| id_of(&row, "account_id")).transpose()
}

/// Uses a link up; `false` where somebody else was first.
///
/// # Errors
/// [`Error`].
pub(crate) async fn take(
    connection: &mut AnyConnection,
    purpose: Purpose,
    token: &str,
) -> Result<bool, Error> {
    sqlx::query("DELETE FROM account_links WHERE hash = $1 AND purpose = $2")
        .bind(fresh::token_hash(token))
        .bind(purpose.stored())
        .execute(connection)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(failed("use a link"))
}

/// Makes all links of an account for a purpose dead.
///
/// # Errors
/// [`Error`].
pub(crate) async fn remove_all(
    connection: &mut AnyConnection,
    account_id: AccountId,
    purpose: Purpose,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM account_links WHERE account_id = $1 AND purpose = $2")
        .bind(account_id.to_string())
        .bind(purpose.stored())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("end links"))
}

pub(super) async fn sweep(store: &Store, now: Timestamp) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM account_links WHERE expires_at_ms <= $1")
        .bind(now.unix_ms())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("remove links that have ended"))
}
