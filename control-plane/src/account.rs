//! Accounts of people. They are not in the log, so that they can be erased.

use schemas::AccountId;

use crate::store::log::column;
use crate::store::{Error, Store, failed};

/// Where an account is reached; `None` for one that is gone.
///
/// # Errors
/// [`Error`].
pub async fn email(store: &Store, id: AccountId) -> Result<Option<String>, Error> {
    let row = sqlx::query("SELECT email FROM accounts WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("read an account"))?;
    row.map(|row| column(&row, "email")).transpose()
}
