//! The second factor: codes that change every 30 seconds (RFC 6238: SHA-1, six digits, one
//! step of grace to each side, what every authenticator speaks).
//!
//! A code works once: the last step whose code was used is kept, and only later ones are
//! taken. Showing that an authenticator holds the secret, when the factor is switched on,
//! is no use of a code.
//!
//! There is no recovery code, and no operator can switch a factor off: whoever loses the
//! authenticator loses the account.

use schemas::{AccountId, Timestamp};
use sqlx::AnyConnection;
use totp_rs::{Builder, Secret, Totp};

use crate::account::Address;
use crate::fresh;
use crate::store::log::{column, corrupt};
use crate::store::{Error as StoreError, Store, failed};

/// What authenticators show the account under.
const ISSUER: &str = "ThrottleProxy";

/// Wrong codes beside a right password after which only familiar addresses may go on.
/// Whoever knows a password and tries codes from ever new addresses would find one in the
/// end; this leaves them one chance in some three thousand.
pub(crate) const WRONG_CODES_MAX: i64 = 100;

const SECRET_BYTES: usize = 20;

/// What an authenticator is told, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The secret in base32.
    pub secret: String,
    /// The same as an `otpauth:` URL, for a QR code.
    pub otpauth_url: String,
}

/// Why a factor was not changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one in force.
    #[error("a second factor is in force")]
    InForce,
    /// The code is not right, was used, or there is nothing that it could be for.
    #[error("the code is not right")]
    WrongCode,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A factor as it is stored.
#[derive(Debug)]
pub(crate) struct Factor {
    secret: Secret,
    is_enabled: bool,
    last_step: i64,
    wrong_codes: i64,
}

/// Makes a secret. The factor is not in force before [`enable`] saw a code of it.
///
/// # Errors
/// [`Error::InForce`]; [`Error::Store`].
pub async fn begin(
    store: &Store,
    account_id: AccountId,
    address: &Address,
) -> Result<Enrolment, Error> {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let secret = Secret::new(Box::from(bytes));
    let encoded = secret.to_base32();
    let otpauth_url = url(secret, address)?;
    let mut writing = store.begin().await?;
    if find(&mut writing, account_id)
        .await?
        .is_some_and(|it| it.is_enabled)
    {
        return Err(Error::InForce);
    }
    sqlx::query(
        "INSERT INTO totps (account_id, secret, enabled, last_step, wrong_codes) \
         VALUES ($1, $2, 0, 0, 0) ON CONFLICT (account_id) DO UPDATE SET \
         secret = excluded.secret, enabled = 0, last_step = 0, wrong_codes = 0",
    )
    .bind(account_id.to_string())
    .bind(encoded.clone())
    .execute(&mut *writing)
    .await
    .map_err(failed("write a second factor"))?;
    writing.commit().await?;
    Ok(Enrolment {
        secret: encoded,
        otpauth_url,
    })
}

/// Puts the factor in force, once a code shows that an authenticator holds its secret.
///
/// # Errors
/// [`Error`].
pub async fn enable(store: &Store, account_id: AccountId, code: &str) -> Result<(), Error> {
    let mut writing = store.begin().await?;
    match find(&mut writing, account_id).await? {
        Some(factor) if factor.is_enabled => return Err(Error::InForce),
        Some(factor) if factor.step_of(code, fresh::now()).is_some() => {}
        _ => return Err(Error::WrongCode),
    }
    sqlx::query("UPDATE totps SET enabled = 1 WHERE account_id = $1")
        .bind(account_id.to_string())
        .execute(&mut *writing)
        .await
        .map_err(failed("switch on a second factor"))?;
    writing.commit().await.map_err(Error::Store)
}

/// Removes the factor, for whoever has a code of it.
///
/// # Errors
/// [`Error`].
pub async fn disable(store: &Store, account_id: AccountId, code: &str) -> Result<(), Error> {
    let mut writing = store.begin().await?;
    let factor = find(&mut writing, account_id).await?;
    let factor = factor.filter(|it| it.is_enabled).ok_or(Error::WrongCode)?;
    factor
        .use_code(&mut writing, account_id, code)
        .await?
        .then_some(())
        .ok_or(Error::WrongCode)?;
    remove(&mut writing, account_id).await?;
    writing.commit().await.map_err(Error::Store)
}

/// Whether an account has a factor in force.
///
/// # Errors
/// [`StoreError`].
pub async fn is_enabled(store: &Store, account_id: AccountId) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 AS one FROM totps WHERE account_id = $1 AND enabled = 1")
        .bind(account_id.to_string())
        .fetch_optional(store.pool())
        .await
        .map_err(failed("look for a second factor"))?;
    Ok(row.is_some())
}

/// The factor of an account, in force or not.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn find(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<Option<Factor>, StoreError> {
    let row = sqlx::query(
        "SELECT secret, enabled, last_step, wrong_codes FROM totps WHERE account_id = $1",
    )
    .bind(account_id.to_string())
    .fetch_optional(connection)
    .await
    .map_err(failed("read a second factor"))?;
    row.map(|row| {
        let secret: String = column(&row, "secret")?;
        Ok(Factor {
            secret: Secret::try_from_base32(secret).map_err(|_| corrupt("totps.secret"))?,
            is_enabled: column::<i64>(&row, "enabled")? != 0,
            last_step: column(&row, "last_step")?,
            wrong_codes: column(&row, "wrong_codes")?,
        })
    })
    .transpose()
}

/// Begins to count wrong codes anew.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn forget_wrong_codes(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE totps SET wrong_codes = 0 WHERE account_id = $1")
        .bind(account_id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("forget wrong codes"))
}

/// Removes the factor of an account.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn remove(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM totps WHERE account_id = $1")
        .bind(account_id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("remove a second factor"))
}

// === impl Factor ===

impl Factor {
    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Whether so many wrong codes were tried that strangers may try no more.
    pub(crate) fn is_besieged(&self) -> bool {
        self.wrong_codes >= WRONG_CODES_MAX
    }

    /// Uses a code up, or counts a wrong one. `false` for a wrong one, and for one that was
    /// used: the row is changed by whoever is first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn use_code(
        &self,
        connection: &mut AnyConnection,
        account_id: AccountId,
        code: &str,
    ) -> Result<bool, StoreError> {
        let step = self.step_of(code, fresh::now());
        if let Some(step) = step.filter(|it| *it > self.last_step) {
            let done = sqlx::query(
                "UPDATE totps SET last_step = $2, wrong_codes = 0 \
                 WHERE account_id = $1 AND last_step < $2",
            )
            .bind(account_id.to_string())
            .bind(step)
            .execute(&mut *connection)
            .await
            .map_err(failed("use a code"))?;
            if done.rows_affected() == 1 {
                return Ok(true);
            }
        }
        sqlx::query("UPDATE totps SET wrong_codes = wrong_codes + 1 WHERE account_id = $1")
            .bind(account_id.to_string())
            .execute(connection)
            .await
            .map(|_| false)
            .map_err(failed("count a wrong code"))
    }

    /// The step whose code this is.
    fn step_of(&self, code: &str, now: Timestamp) -> Option<i64> {
        let totp = totp(self.secret.clone(), "").ok()?;
        let step = totp.check(code, now.unix_ms().unsigned_abs() / 1_000)?;
        i64::try_from(step).ok()
    }
}

fn totp(secret: Secret, account_name: &str) -> Result<Totp, StoreError> {
    Builder::new()
        .with_secret(secret)
        .with_issuer(Some(ISSUER))
        .with_account_name(account_name)
        .build()
        .map_err(|_| corrupt("totps.secret"))
}

/// An authenticator shows the address. A colon would end it there, and only a quoted one
/// has it.
fn url(secret: Secret, address: &Address) -> Result<String, StoreError> {
    totp(secret, &address.written().replace(':', "_"))?
        .to_url()
        .map_err(|_| corrupt("an otpauth URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B.
    fn factor(last_step: i64) -> Factor {
        Factor {
            secret: Secret::new(Box::from(*b"12345678901234567890")),
            is_enabled: true,
            last_step,
            wrong_codes: 0,
        }
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        // The RFC shows eight digits; six are the last six of them.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
        ] {
            let now = Timestamp::from_unix_ms(seconds * 1_000);
            assert_eq!(factor(0).step_of(code, now), Some(seconds / 30), "{code}");
            for wrong in ["000000", "", "28708", "2870822", "abcdef", "287082\n1"] {
                assert_eq!(factor(0).step_of(wrong, now), None, "{wrong}");
            }
        }
    }

    #[test]
    fn one_step_of_grace_to_each_side() {
        let at = |seconds: i64| Timestamp::from_unix_ms(seconds * 1_000);
        let code = "287082"; // of the second 59, step 1
        for (seconds, is_right) in [(0, true), (30, true), (89, true), (90, false)] {
            assert_eq!(factor(0).step_of(code, at(seconds)).is_some(), is_right);
        }
    }

    #[test]
    fn any_address_makes_a_url() {
        for text in ["jane@example.com", "\"a:b c\"@example.com"] {
            let address = Address::parse(text).unwrap();
            let url = url(factor(0).secret, &address).unwrap();
            assert!(url.starts_with("otpauth://totp/ThrottleProxy:"), "{url}");
        }
    }
}
