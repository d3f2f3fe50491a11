//! Sessions: what a log-in opens.
//!
//! `tps_` and 43 base62 characters, stored as SHA-256. A session ends by itself 12 hours
//! after it was last used and 30 days after the log-in, whichever comes first, and at once
//! when its owner logs out, ends it from another one, resets the password, or is suspended
//! or erased.
//!
//! One kind lives in a cookie of a browser, which sends it along with whatever another
//! site makes it send. So a change also needs the session's *csrf token*: a second text,
//! made from the session token, that only our own pages were told.

use schemas::{AccountId, SessionId, Timestamp, WorkspaceId};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use subtle::ConstantTimeEq as _;

use crate::account::id_of;
use crate::fresh;
use crate::store::log::{column, corrupt};
use crate::store::{Error, Store, failed};

/// What every session token begins with.
pub const PREFIX: &str = "tps_";

const MINUTE_MS: i64 = 60 * 1_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// How long a session lasts without being used.
pub const IDLE_MS: i64 = 12 * HOUR_MS;

/// How long a session lasts at most.
pub const LASTS_MS: i64 = 30 * 24 * HOUR_MS;

/// How exactly the last use is written down: a session is not worth a write per request.
const USE_EVERY_MS: i64 = MINUTE_MS;

/// The most sessions of an account; a log-in beyond ends the one that was used longest ago.
const PER_ACCOUNT_MAX: usize = 100;

/// A session that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who logged in.
    pub account_id: AccountId,
    /// Whether the account's address is verified.
    pub is_verified: bool,
    /// The active workspace; `None` until the account has one.
    pub workspace_id: Option<WorkspaceId>,
    /// Whether it lives in a cookie.
    pub is_cookie: bool,
    /// The family of the browser or program.
    pub agent: String,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Timestamp,
    /// When it ends at the latest.
    pub ends_at: Timestamp,
}

/// A session that is about to be opened.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Who logged in.
    pub account_id: AccountId,
    /// The workspace that it begins in.
    pub workspace_id: Option<WorkspaceId>,
    /// Whether it will live in a cookie.
    pub is_cookie: bool,
    /// The family of the browser or program.
    pub agent: &'static str,
}

// === impl Session ===

impl Session {
    /// When it ends, if it is not used again.
    pub fn expires_at(&self) -> Timestamp {
        self.ends_at.min(self.last_used_at.plus_ms(IDLE_MS))
    }
}

/// The text that proves that a change was asked for by a page of ours.
pub fn csrf_token(session_token: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"throttleproxy csrf\0");
    hash.update(session_token);
    hex::encode(hash.finalize())
}

/// Whether `presented` is the csrf token of a session.
pub fn is_csrf_token(session_token: &str, presented: &str) -> bool {
    let expected = csrf_token(session_token);
    expected.as_bytes().ct_eq(presented.as_bytes()).into()
}

/// Opens a session; its token is in the answer and nowhere else.
///
/// # Errors
/// [`Error`].
pub async fn open(
    connection: &mut AnyConnection,
    new: &NewSession,
    now: Timestamp,
) -> Result<(SessionId, String), Error> {
    make_room(connection, new.account_id).await?;
    let id = fresh::id(SessionId::from_parts);
    let token = fresh::token(PREFIX);
    sqlx::query(
        "INSERT INTO sessions (id, hash, account_id, workspace_id, is_cookie, agent, \
         created_at_ms, last_used_at_ms, ends_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id.to_string())
    .bind(fresh::token_hash(&token))
    .bind(new.account_id.to_string())
    .bind(new.workspace_id.map(|it| it.to_string()))
    .bind(i64::from(new.is_cookie))
    .bind(new.agent)
    .bind(now.unix_ms())
    .bind(now.unix_ms())
    .bind(now.plus_ms(LASTS_MS).unix_ms())
    .execute(connection)
    .await
    .map_err(failed("open a session"))?;
    Ok((id, token))
}

/// The session that this token is, unless it has ended or its account is suspended. A use
/// is noted.
///
/// # Errors
/// [`Error`].
pub async fn find(store: &Store, token: &str) -> Result<Option<Session>, Error> {
    let now = fresh::now();
    let row = sqlx::query(
        "SELECT sessions.id AS id, account_id, workspace_id, is_cookie, agent, \
         sessions.created_at_ms AS created_at_ms, last_used_at_ms, ends_at_ms, email_verified \
         FROM sessions JOIN accounts ON accounts.id = sessions.account_id \
         WHERE hash = $1 AND ends_at_ms > $2 AND last_used_at_ms > $3 AND suspended = 0",
    )
    .bind(fresh::token_hash(token))
    .bind(now.unix_ms())
    .bind(now.plus_ms(-IDLE_MS).unix_ms())
    .fetch_optional(store.pool())
    .await
    .map_err(failed("look for a session"))?;
    let Some(session) = row.as_ref().map(of_row).transpose()? else {
        return Ok(None);
    };
    if session.last_used_at.plus_ms(USE_EVERY_MS) <= now {
        note_use(store, session.id, now).await?;
    }
    Ok(Some(session))
}

/// The sessions of an account that have not ended, oldest first.
///
/// # Errors
/// [`Error`].
pub async fn list(store: &Store, account_id: AccountId) -> Result<Vec<Session>, Error> {
    let now = fresh::now();
    let rows = sqlx::query(
        "SELECT sessions.id AS id, account_id, workspace_id, is_cookie, agent, \
         sessions.created_at_ms AS created_at_ms, last_used_at_ms, ends_at_ms, email_verified \
         FROM sessions JOIN accounts ON accounts.id = sessions.account_id \
         WHERE account_id = $1 AND ends_at_ms > $2 AND last_used_at_ms > $3 \
         ORDER BY sessions.id",
    )
    .bind(account_id.to_string())
    .bind(now.unix_ms())
    .bind(now.plus_ms(-IDLE_MS).unix_ms())
    .fetch_all(store.pool())
    .await
    .map_err(failed("list sessions"))?;
    rows.iter().map(of_row).collect()
}

/// Ends a session of an account; `false` where it has none with this id.
///
/// # Errors
/// [`Error`].
pub async fn end(store: &Store, account_id: AccountId, id: SessionId) -> Result<bool, Error> {
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM sessions WHERE id = $1 AND account_id = $2")
        .bind(id.to_string())
        .bind(account_id.to_string())
        .execute(store.pool())
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(failed("end a session"))
}

/// Ends all sessions of an account.
///
/// # Errors
/// [`Error`].
pub(crate) async fn end_all(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM sessions WHERE account_id = $1")
        .bind(account_id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("end the sessions of an account"))
}

/// Makes a workspace the active one of a session. Whoever asks has looked that the account
/// is an active member.
///
/// # Errors
/// [`Error`].
pub async fn enter(store: &Store, id: SessionId, workspace_id: WorkspaceId) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("UPDATE sessions SET workspace_id = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(workspace_id.to_string())
        .execute(store.pool())
        .await
        .map(drop)
        .map_err(failed("switch a session to another workspace"))
}

pub(crate) async fn sweep(store: &Store, now: Timestamp) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM sessions WHERE ends_at_ms <= $1 OR last_used_at_ms <= $2")
        .bind(now.unix_ms())
        .bind(now.plus_ms(-IDLE_MS).unix_ms())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("remove sessions that have ended"))
}

/// The family of whatever sent this `user-agent`: what helps people to know their own
/// sessions again, and nothing that tells them apart for others.
pub fn agent(user_agent: &str) -> &'static str {
    // Browsers name each other; the one that names fewest others comes last.
    const FAMILIES: [(&str, &str); 11] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("CriOS/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
        ("python", "Python"),
        ("Go-http-client", "Go"),
        ("node", "Node.js"),
    ];
    let found = FAMILIES.iter().find(|(sign, _)| user_agent.contains(sign));
    found.map_or("other", |(_, family)| family)
}

async fn note_use(store: &Store, id: SessionId, now: Timestamp) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("UPDATE sessions SET last_used_at_ms = $2 WHERE id = $1 AND last_used_at_ms < $2")
        .bind(id.to_string())
        .bind(now.unix_ms())
        .execute(store.pool())
        .await
        .map(drop)
        .map_err(failed("note the use of a session"))
}

/// A program that logs in for every call must not fill the table.
async fn make_room(connection: &mut AnyConnection, account_id: AccountId) -> Result<(), Error> {
    sqlx::query(
        "DELETE FROM sessions WHERE account_id = $1 AND id NOT IN ( \
         SELECT id FROM sessions WHERE account_id = $1 \
         ORDER BY last_used_at_ms DESC, id DESC LIMIT $2)",
    )
    .bind(account_id.to_string())
    .bind(PER_ACCOUNT_MAX as i64 - 1)
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("make room for a session"))
}

fn of_row(row: &AnyRow) -> Result<Session, Error> {
    let id: String = column(row, "id")?;
    let workspace_id: Option<String> = column(row, "workspace_id")?;
    Ok(Session {
        id: id.parse().map_err(|_| corrupt("sessions.id"))?,
        account_id: id_of(row, "account_id")?,
        is_verified: column::<i64>(row, "email_verified")? != 0,
        workspace_id: workspace_id
            .map(|it| it.parse())
            .transpose()
            .map_err(|_| corrupt("sessions.workspace_id"))?,
        is_cookie: column::<i64>(row, "is_cookie")? != 0,
        agent: column(row, "agent")?,
        created_at: Timestamp::from_unix_ms(column(row, "created_at_ms")?),
        last_used_at: Timestamp::from_unix_ms(column(row, "last_used_at_ms")?),
        ends_at: Timestamp::from_unix_ms(column(row, "ends_at_ms")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csrf_token_belongs_to_one_session_and_does_not_show_it() {
        let (one, other) = (fresh::token(PREFIX), fresh::token(PREFIX));
        assert!(is_csrf_token(&one, &csrf_token(&one)));
        assert!(!is_csrf_token(&one, &csrf_token(&other)));
        assert!(!is_csrf_token(&one, ""));
        assert_ne!(csrf_token(&one), fresh::token_hash(&one));
    }

    #[test]
    fn browsers_are_known_by_family() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Safari/537.36";
        for (text, family) in [
            (chrome, "Chrome"),
            (&format!("{chrome} Edg/131.0.0.0"), "Edge"),
            (
                "Mozilla/5.0 (X11; rv:132.0) Gecko/20100101 Firefox/132.0",
                "Firefox",
            ),
            (
                "Mozilla/5.0 (Macintosh) Version/17.6 Safari/605.1.15",
                "Safari",
            ),
            ("curl/8.5.0", "curl"),
            ("<script>", "other"),
            ("", "other"),
        ] {
            assert_eq!(agent(text), family, "{text}");
        }
    }
}
