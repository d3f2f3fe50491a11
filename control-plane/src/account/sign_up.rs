//! Making an account, showing that its address is one's own, and setting a new password.

use schemas::AccountId;
use schemas::api::SignUp;
use sqlx::AnyConnection;

use super::link::{self, Purpose};
use super::password::{Busy, Hashed, Password};
use super::{Accounts, Address, NewAccount};
use crate::mail::Letter;
use crate::store::{Error as StoreError, failed};
use crate::{account, fresh, invitation, session, totp};

/// What somebody who signs up says.
#[derive(Debug)]
pub struct Wanted {
    /// Where they are reached.
    pub address: Address,
    /// What they want to log in with.
    pub password: Password,
    /// What they are called.
    pub name: Option<String>,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is unknown, used, ended or replaced by a newer one.
    #[error("the token is dead or unknown")]
    DeadToken,
    /// The token is for another account than the one that is logged in.
    #[error("the token is for another account")]
    ForeignToken,
    /// Too many passwords are being hashed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl Accounts ===

impl Accounts {
    /// Makes an account, or does nothing visible where the address has one. Whatever there
    /// is to say is said in a mail to the address.
    ///
    /// Somebody may sign up with an address that is not theirs, and wait for its owner to
    /// verify it. So a second sign-up with another password, before the address is
    /// verified, makes the password *contested*: verifying ends it, and whoever reads the
    /// mail sets a new one.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Store`].
    pub async fn sign_up(&self, wanted: &Wanted, sign_up: SignUp) -> Result<(), Error> {
        // Read outside the transaction: hashing must not hold a lock. What changed in
        // between only matters to two who sign up at the same moment, who then contest.
        let mut connection = self
            .store
            .pool()
            .acquire()
            .await
            .map_err(failed("get a connection"))?;
        let known = account::by_address(&mut connection, &wanted.address).await?;
        drop(connection);
        let kept = known.as_ref().and_then(|it| it.password.as_ref());
        let is_same = self.hasher.verify(&wanted.password, kept).await?;
        let password = self.hasher.hash(&wanted.password).await?;

        let now = fresh::now();
        let mut writing = self.store.begin().await?;
        let is_welcome = match sign_up {
            SignUp::Open => true,
            SignUp::Invite => invitation::is_open_to(&mut writing, &wanted.address, now).await?,
        };
        if is_welcome {
            let new = NewAccount {
                id: fresh::id(AccountId::from_parts),
                address: wanted.address.clone(),
                name: wanted.name.clone(),
                password: Some(password),
                is_verified: false,
            };
            if !account::insert(&mut writing, &new, now).await? && !is_same {
                contest(&mut writing, &wanted.address).await?;
            }
        }
        // Also where nobody is welcome: whether there is something to write is found out
        // when the mail is due.
        self.outbox
            .ask(&mut writing, Letter::SignUp, &wanted.address, now)
            .await?;
        writing.commit().await?;
        self.outbox.wake();
        Ok(())
    }

    /// Asks for a mail that is written only if there is reason to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ask(&self, letter: Letter, address: &Address) -> Result<(), StoreError> {
        let mut writing = self.store.begin().await?;
        self.outbox
            .ask(&mut writing, letter, address, fresh::now())
            .await?;
        writing.commit().await?;
        self.outbox.wake();
        Ok(())
    }

    /// Uses a link that shows that mail reaches its owner. `caller` is who is logged in.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn verify(&self, token: &str, caller: Option<AccountId>) -> Result<(), Error> {
        let mut writing = self.store.begin().await?;
        let account_id = find_own(&mut writing, Purpose::Verify, token, caller).await?;
        if !link::take(&mut writing, Purpose::Verify, token).await? {
            return Err(Error::DeadToken);
        }
        prove(&mut writing, account_id).await?;
        writing.commit().await.map_err(Error::Store)
    }

    /// Uses a link that sets a password. All sessions end, and older links are dead. Who
    /// could use the link reads the address's mail, so the address is verified too.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn reset(
        &self,
        token: &str,
        password: &Password,
        caller: Option<AccountId>,
    ) -> Result<(), Error> {
        let mut connection = self
            .store
            .pool()
            .acquire()
            .await
            .map_err(failed("get a connection"))?;
        find_own(&mut connection, Purpose::Reset, token, caller).await?;
        drop(connection);
        let password = self.hasher.hash(password).await?;

        let mut writing = self.store.begin().await?;
        let account_id = find_own(&mut writing, Purpose::Reset, token, caller).await?;
        if !link::take(&mut writing, Purpose::Reset, token).await? {
            return Err(Error::DeadToken);
        }
        set_password(&mut writing, account_id, &password).await?;
        for purpose in [Purpose::Reset, Purpose::Verify, Purpose::SignIn] {
            link::remove_all(&mut writing, account_id, purpose).await?;
        }
        session::end_all(&mut writing, account_id).await?;
        // Whoever guessed codes beside the old password does not know the new one.
        totp::forget_wrong_codes(&mut writing, account_id).await?;
        writing.commit().await.map_err(Error::Store)
    }
}

/// Notes that an address reaches its owner. A contested password ends, and so do the
/// sessions that were opened with it.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn prove(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE accounts SET password_hash = NULL, password_contested = 0 \
         WHERE id = $1 AND email_verified = 0 AND password_contested = 1",
    )
    .bind(account_id.to_string())
    .execute(&mut *connection)
    .await
    .map_err(failed("end a contested password"))?;
    if done.rows_affected() == 1 {
        session::end_all(connection, account_id).await?;
    }
    sqlx::query("UPDATE accounts SET email_verified = 1 WHERE id = $1")
        .bind(account_id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("verify an address"))
}

/// Marks the password of an unverified account as one that more than one person may know.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn contest(
    connection: &mut AnyConnection,
    address: &Address,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE accounts SET password_contested = 1 WHERE email = $1 AND email_verified = 0",
    )
    .bind(address.key().to_owned())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("contest a password"))
}

async fn set_password(
    connection: &mut AnyConnection,
    account_id: AccountId,
    password: &Hashed,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE accounts SET password_hash = $2, password_contested = 0, email_verified = 1 \
         WHERE id = $1",
    )
    .bind(account_id.to_string())
    .bind(password.as_str().to_owned())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("set a password"))
}

/// The account of a link that works, unless somebody else is logged in.
async fn find_own(
    connection: &mut AnyConnection,
    purpose: Purpose,
    token: &str,
    caller: Option<AccountId>,
) -> Result<AccountId, Error> {
    let found = link::find(connection, purpose, token, fresh::now()).await?;
    let account_id = found.ok_or(Error::DeadToken)?;
    if caller.is_some_and(|it| it != account_id) {
        return Err(Error::ForeignToken);
    }
    // A link that was made before its account was suspended is dead, too.
    let row = sqlx::query("SELECT 1 AS one FROM accounts WHERE id = $1 AND suspended = 0")
        .bind(account_id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("read an account"))?;
    row.map(|_| account_id).ok_or(Error::DeadToken)
}
