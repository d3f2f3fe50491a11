//! Erasing an account: everything that names a person goes, the id in the log stays.

use schemas::AccountId;
use sqlx::AnyConnection;

use crate::store::{Error, failed};
use crate::{account, mail};

/// Removes all rows of an account: address, name, password, sessions, tokens, second
/// factor, links, familiar addresses, and mail that waits for it. The log keeps the opaque
/// id and nothing else, so nothing has to be changed there.
///
/// # Errors
/// [`Error`].
pub(crate) async fn remove_rows(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), Error> {
    const OF_ACCOUNT: [&str; 6] = [
        "DELETE FROM sessions WHERE account_id = $1",
        "DELETE FROM control_tokens WHERE account_id = $1",
        "DELETE FROM account_links WHERE account_id = $1",
        "DELETE FROM familiar_addresses WHERE account_id = $1",
        "DELETE FROM totps WHERE account_id = $1",
        "DELETE FROM oidc_subjects WHERE account_id = $1",
    ];
    let row = sqlx::query("SELECT * FROM accounts WHERE id = $1")
        .bind(account_id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("read an account"))?;
    if let Some(account) = row.as_ref().map(account::of_row).transpose()? {
        mail::remove_to(connection, &account.address).await?;
    }
    for sql in OF_ACCOUNT
        .into_iter()
        .chain(["DELETE FROM accounts WHERE id = $1"])
    {
        sqlx::query(sql)
            .bind(account_id.to_string())
            .execute(&mut *connection)
            .await
            .map_err(failed("erase an account"))?;
    }
    Ok(())
}
