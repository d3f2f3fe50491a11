//! Logging in: an address and a password, perhaps a code, and limits on guessing that lock
//! nobody out.
//!
//! Two limits guard it ([`crate::attempts`]). By peer address: nobody guesses at many
//! accounts. By e-mail address: no account is guessed at by many. The second would let
//! anybody lock a stranger out, so it gives way to whoever is surely not guessing: who
//! comes from an address that this account logged in from before, and who has the right
//! password *and* the right code of a second factor.

use std::net::IpAddr;

use schemas::{AccountId, Timestamp, WorkspaceId};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;
use tokio::time::Instant;

use super::link::{self, Purpose};
use super::password::{Busy, Password};
use super::{Account, Accounts, Address};
use crate::attempts::{Kind, TooMany, peer};
use crate::session::{self, NewSession};
use crate::store::{Error as StoreError, Store, failed};
use crate::{account, fresh, totp, view};

/// For how long an address stays familiar: 90 days, in milliseconds.
const FAMILIAR_MS: i64 = 90 * 24 * 60 * 60 * 1_000;

/// The most familiar addresses of an account; the oldest give way.
const FAMILIAR_MAX: i64 = 20;

/// What somebody who logs in says.
#[derive(Debug)]
pub struct Presented {
    /// Who they say they are.
    pub address: Address,
    /// What they say proves it.
    pub password: Password,
    /// The code of a second factor.
    pub code: Option<String>,
}

/// Where a log-in comes from, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The peer of the connection.
    pub peer: IpAddr,
    /// The family of the browser or program.
    pub agent: &'static str,
    /// Whether the session will live in a cookie.
    pub is_cookie: bool,
}

/// Somebody who is in.
#[derive(Debug)]
pub struct LoggedIn {
    /// Who.
    pub account: Account,
    /// The session token, which is shown once.
    pub token: String,
    /// The workspace that the session begins in.
    pub workspace_id: Option<WorkspaceId>,
}

/// Why somebody is not in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unknown address, wrong password, wrong code, suspended account: which of them is
    /// not told.
    #[error("the address, the password or the code is not right")]
    Wrong,
    /// The password is right, and a code is needed.
    #[error("a code of the second factor is needed")]
    CodeNeeded,
    /// Too many attempts.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// Too many passwords are being hashed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl Accounts ===

impl Accounts {
    /// Logs somebody in.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn log_in(&self, presented: Presented, origin: Origin) -> Result<LoggedIn, Error> {
        let now = Instant::now();
        let address = &presented.address;
        self.attempts
            .take(Kind::LogInFrom, &peer(origin.peer), now)?;
        let guessed_at = self.attempts.take(Kind::LogInAs, address.key(), now).err();

        let found = self.find(address, origin.peer).await?;
        let is_familiar = found.as_ref().is_some_and(|it| it.is_familiar);
        let barred = guessed_at.filter(|_| !is_familiar);
        if let Some(too_many) = barred
            && presented.code.is_none()
        {
            return Err(too_many.into());
        }
        let proven = self.prove(found, &presented, barred.is_some()).await;
        match (proven, barred) {
            (Ok(account), _) => Ok(self.let_in(account, origin).await?),
            // Who is barred learns nothing of what was wrong.
            (Err(Error::Wrong | Error::CodeNeeded), Some(too_many)) => Err(too_many.into()),
            (Err(error), _) => Err(error),
        }
    }

    /// Finishes a sign-in with OpenID Connect of an account that has a second factor:
    /// `ticket` was given when the provider had answered.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn finish_sign_in(
        &self,
        ticket: &str,
        code: &str,
        origin: Origin,
    ) -> Result<LoggedIn, Error> {
        self.attempts
            .take(Kind::LogInFrom, &peer(origin.peer), Instant::now())?;
        let mut connection = self.connection().await?;
        let found = link::find(&mut connection, Purpose::SignIn, ticket, fresh::now()).await?;
        let Some(account_id) = found else {
            return Err(Error::Wrong);
        };
        let is_familiar = is_familiar(&mut connection, account_id, origin.peer).await?;
        drop(connection);
        let account = account::get(&self.store, account_id).await?;
        let account = account.filter(|it| !it.is_suspended).ok_or(Error::Wrong)?;
        self.check_code(&account, code, is_familiar).await?;
        let mut writing = self.store.begin().await?;
        let is_first = link::take(&mut writing, Purpose::SignIn, ticket).await?;
        writing.commit().await?;
        if !is_first {
            return Err(Error::Wrong);
        }
        Ok(self.let_in(account, origin).await?)
    }

    /// Opens a session for somebody who has proven who they are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn let_in(&self, account: Account, origin: Origin) -> Result<LoggedIn, StoreError> {
        let now = fresh::now();
        let memberships = view::workspace::memberships(&self.store, account.id).await?;
        let workspace_id = memberships
            .iter()
            .find(|it| it.is_active())
            .map(|it| it.workspace_id);
        let new = NewSession {
            account_id: account.id,
            workspace_id,
            is_cookie: origin.is_cookie,
            agent: origin.agent,
        };
        let mut writing = self.store.begin().await?;
        let (_, token) = session::open(&mut writing, &new, now).await?;
        note_address(&mut writing, account.id, origin.peer, now).await?;
        writing.commit().await?;
        Ok(LoggedIn {
            account,
            token,
            workspace_id,
        })
    }

    async fn find(&self, address: &Address, peer: IpAddr) -> Result<Option<Found>, StoreError> {
        let mut connection = self.connection().await?;
        let account = account::by_address(&mut connection, address).await?;
        // Asked for nobody, too: each question takes its time.
        let id = account.as_ref().map(|it| it.id);
        let id = id.unwrap_or_else(|| fresh::id(AccountId::from_parts));
        let is_familiar = is_familiar(&mut connection, id, peer).await?;
        let factor = totp::find(&mut connection, id).await?;
        Ok(account.map(|account| Found {
            account,
            is_familiar,
            has_factor: factor.is_some_and(|it| it.is_enabled()),
        }))
    }

    /// Who it is, if all that was presented is right. With `needs_code` a password alone
    /// is not enough.
    async fn prove(
        &self,
        found: Option<Found>,
        presented: &Presented,
        needs_code: bool,
    ) -> Result<Account, Error> {
        let kept = found.as_ref().and_then(|it| it.account.password.as_ref());
        let is_right = self.hasher.verify(&presented.password, kept).await?;
        let Some(found) = found.filter(|it| is_right && !it.account.is_suspended) else {
            return Err(Error::Wrong);
        };
        match &presented.code {
            _ if !found.has_factor && needs_code => Err(Error::Wrong),
            _ if !found.has_factor => Ok(found.account),
            None => Err(Error::CodeNeeded),
            Some(code) => {
                self.check_code(&found.account, code, found.is_familiar)
                    .await?;
                Ok(found.account)
            }
        }
    }

    async fn check_code(
        &self,
        account: &Account,
        code: &str,
        is_familiar: bool,
    ) -> Result<(), Error> {
        let mut writing = self.store.begin().await?;
        let factor = totp::find(&mut writing, account.id).await?;
        let factor = factor.ok_or(Error::Wrong)?;
        if factor.is_besieged() && !is_familiar {
            return Err(Error::Wrong);
        }
        let is_right = factor.use_code(&mut writing, account.id, code).await?;
        // Also when it was wrong: wrong codes are counted.
        writing.commit().await?;
        is_right.then_some(()).ok_or(Error::Wrong)
    }

    async fn connection(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Any>, StoreError> {
        let pool = self.store.pool();
        pool.acquire().await.map_err(failed("get a connection"))
    }
}

/// What is known of an address that somebody logs in with.
struct Found {
    account: Account,
    is_familiar: bool,
    has_factor: bool,
}

// === familiar addresses ===

async fn is_familiar(
    connection: &mut AnyConnection,
    account_id: AccountId,
    peer: IpAddr,
) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT 1 AS one FROM familiar_addresses WHERE account_id = $1 AND address_hash = $2 \
         AND last_at_ms > $3",
    )
    .bind(account_id.to_string())
    .bind(address_hash(account_id, peer))
    .bind(fresh::now().plus_ms(-FAMILIAR_MS).unix_ms())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a familiar address"))?;
    Ok(row.is_some())
}

async fn note_address(
    connection: &mut AnyConnection,
    account_id: AccountId,
    peer: IpAddr,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO familiar_addresses (account_id, address_hash, last_at_ms) \
         VALUES ($1, $2, $3) ON CONFLICT (account_id, address_hash) \
         DO UPDATE SET last_at_ms = excluded.last_at_ms",
    )
    .bind(account_id.to_string())
    .bind(address_hash(account_id, peer))
    .bind(now.unix_ms())
    .execute(&mut *connection)
    .await
    .map_err(failed("note a familiar address"))?;
    sqlx::query(
        "DELETE FROM familiar_addresses WHERE account_id = $1 AND address_hash NOT IN ( \
         SELECT address_hash FROM familiar_addresses WHERE account_id = $1 \
         ORDER BY last_at_ms DESC LIMIT $2)",
    )
    .bind(account_id.to_string())
    .bind(FAMILIAR_MAX)
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("forget old familiar addresses"))
}

pub(super) async fn sweep(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM familiar_addresses WHERE last_at_ms <= $1")
        .bind(now.plus_ms(-FAMILIAR_MS).unix_ms())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("forget familiar addresses"))
}

/// With the account's id inside, so that nobody can list who shares an address.
fn address_hash(account_id: AccountId, address: IpAddr) -> String {
    hex::encode(Sha256::digest(format!("{account_id} {}", peer(address))))
}
