//! Accounts of people. They are not in the log, so that they can be erased; the log knows
//! an account by its opaque id, and that stays.
//!
//! ```text
//! sign_up ─▶ a mail ─▶ verify           nothing but that works before it is verified
//! log_in ─▶ session (and attempts, familiar addresses, second factor)
//! forgot ─▶ a mail ─▶ reset             ends all sessions
//! erase                                 leaves the id
//! ```
//!
//! No answer tells whether an address is known, neither by what it says nor by how long it
//! takes: the same work is done for both, and what differs happens after the answer, when
//! the mail is written ([`crate::mail`]).

pub mod address;
pub mod erase;
pub mod link;
pub mod log_in;
pub mod password;
pub mod sign_in;
pub mod sign_up;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::api::SignUp;
use schemas::{AccountId, Timestamp};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::attempts::Attempts;
use crate::fresh;
use crate::mail::Outbox;
use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};

pub use address::Address;
use password::{Hashed, Hasher};

/// Everything that accounts need; clones share it.
#[derive(Clone)]
pub struct Accounts {
    pub(crate) store: Store,
    pub(crate) hasher: Hasher,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) outbox: Outbox,
    /// `[accounts] sign_up`, until the instance says otherwise.
    pub(crate) sign_up: SignUp,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id, which outlives it.
    pub id: AccountId,
    /// Where it is reached.
    pub address: Address,
    /// What its owner is called.
    pub name: Option<String>,
    /// Whether its owner has shown that mail to the address reaches them.
    pub is_verified: bool,
    /// Whether an operator has suspended it.
    pub is_suspended: bool,
    /// What is kept of its password.
    pub(crate) password: Option<Hashed>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What is shown of a person to the members of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Where the person is reached.
    pub email: String,
    /// What the person is called.
    pub name: Option<String>,
}

/// An account that is about to be made.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Its id.
    pub id: AccountId,
    /// Where it is reached.
    pub address: Address,
    /// What its owner is called.
    pub name: Option<String>,
    /// What is kept of its password.
    pub password: Option<Hashed>,
    /// Whether it is known already that mail to the address reaches its owner.
    pub is_verified: bool,
}

// === reading ===

/// The account with this id; `None` for one that is gone.
///
/// # Errors
/// [`Error`].
pub async fn get(store: &Store, id: AccountId) -> Result<Option<Account>, Error> {
    let row = sqlx::query("SELECT * FROM accounts WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read an account"))?;
    row.as_ref().map(of_row).transpose()
}

/// The account that is reached at this address.
///
/// # Errors
/// [`Error`].
pub async fn by_address(
    connection: &mut AnyConnection,
    address: &Address,
) -> Result<Option<Account>, Error> {
    let row = sqlx::query("SELECT * FROM accounts WHERE email = $1")
        .bind(address.key().to_owned())
        .fetch_optional(connection)
        .await
        .map_err(failed("look for an account"))?;
    row.as_ref().map(of_row).transpose()
}

/// What is shown of people. Who is missing in the answer is gone: show the id, and that it
/// was erased.
///
/// # Errors
/// [`Error`].
pub async fn profiles(
    store: &Store,
    ids: &[AccountId],
) -> Result<BTreeMap<AccountId, Profile>, Error> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut sql = Sql::new("SELECT id, address, name FROM accounts WHERE id IN (");
    sql.bind_all(ids.iter().map(AccountId::to_string))?;
    sql.push(")");
    let rows = sql.fetch_all(store.pool(), "read profiles").await?;
    rows.iter()
        .map(|row| {
            let profile = Profile {
                email: column(row, "address")?,
                name: name_of(row)?,
            };
            Ok((id_of(row, "id")?, profile))
        })
        .collect()
}

// === writing ===

/// Stores an account unless its address has one; says whether it did.
///
/// # Errors
/// [`Error`].
pub(crate) async fn insert(
    connection: &mut AnyConnection,
    new: &NewAccount,
    now: Timestamp,
) -> Result<bool, Error> {
    sqlx::query(
        "INSERT INTO accounts (id, email, address, name, password_hash, email_verified, \
         created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (email) DO NOTHING",
    )
    .bind(new.id.to_string())
    .bind(new.address.key().to_owned())
    .bind(new.address.written().to_owned())
    .bind(new.name.clone().unwrap_or_default())
    .bind(new.password.as_ref().map(|it| it.as_str().to_owned()))
    .bind(i64::from(new.is_verified))
    .bind(now.unix_ms())
    .execute(connection)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(failed("write an account"))
}

/// Makes the account of a first owner. Where the address has one already, that is it: it
/// loses its password and its sessions, since nobody had verified whose they are.
///
/// # Errors
/// [`Error`].
pub(crate) async fn make_owner(
    connection: &mut AnyConnection,
    owner: &NewAccount,
    now: Timestamp,
) -> Result<(), Error> {
    if insert(connection, owner, now).await? {
        return Ok(());
    }
    crate::session::end_all(connection, owner.id).await?;
    sqlx::query(
        "UPDATE accounts SET password_hash = NULL, password_contested = 0, \
         email_verified = 1, suspended = 0 WHERE id = $1",
    )
    .bind(owner.id.to_string())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("take an account over"))
}

/// Suspends the account of an address, or ends that; `None` where there is none. A
/// suspended account cannot log in, and its sessions and tokens open nothing.
///
/// # Errors
/// [`Error`].
pub async fn suspend(
    store: &Store,
    address: &Address,
    is_suspended: bool,
) -> Result<Option<AccountId>, Error> {
    let mut writing = store.begin().await?;
    let Some(account) = by_address(&mut writing, address).await? else {
        return Ok(None);
    };
    sqlx::query("UPDATE accounts SET suspended = $2 WHERE id = $1")
        .bind(account.id.to_string())
        .bind(i64::from(is_suspended))
        .execute(&mut *writing)
        .await
        .map_err(failed("suspend an account"))?;
    if is_suspended {
        crate::session::end_all(&mut writing, account.id).await?;
    }
    writing.commit().await?;
    Ok(Some(account.id))
}

/// Removes what nobody can use any more: links that have ended, sessions that have ended,
/// addresses that nobody logged in from for long.
///
/// # Errors
/// [`Error`].
pub(crate) async fn sweep(store: &Store) -> Result<(), Error> {
    let now = fresh::now();
    link::sweep(store, now).await?;
    crate::session::sweep(store, now).await?;
    crate::invitation::sweep(store, now).await?;
    log_in::sweep(store, now).await
}

// === rows ===

pub(crate) fn of_row(row: &AnyRow) -> Result<Account, Error> {
    let address: String = column(row, "address")?;
    let password: Option<String> = column(row, "password_hash")?;
    Ok(Account {
        id: id_of(row, "id")?,
        address: Address::parse(&address).ok_or_else(|| corrupt("accounts.address"))?,
        name: name_of(row)?,
        is_verified: column::<i64>(row, "email_verified")? != 0,
        is_suspended: column::<i64>(row, "suspended")? != 0,
        password: password.map(Hashed::stored),
        created_at: Timestamp::from_unix_ms(column(row, "created_at_ms")?),
    })
}

fn name_of(row: &AnyRow) -> Result<Option<String>, Error> {
    column::<String>(row, "name").map(|name| (!name.is_empty()).then_some(name))
}

pub(crate) fn id_of(row: &AnyRow, name: &'static str) -> Result<AccountId, Error> {
    column::<String>(row, name)?
        .parse()
        .map_err(|_| corrupt(name))
}
