//! Signing in with what an OpenID Connect provider says.

use schemas::AccountId;
use schemas::api::SignUp;
use sqlx::AnyConnection;

use super::link::{self, NewLink, Purpose};
use super::log_in::{LoggedIn, Origin};
use super::{Account, Accounts, Address, NewAccount, id_of, sign_up};
use crate::oidc::Signed;
use crate::store::{Error as StoreError, failed};
use crate::{account, fresh, invitation, session, totp};

/// What came of a sign-in.
#[derive(Debug)]
pub enum SignedIn {
    /// Somebody is in.
    In(Box<LoggedIn>),
    /// The account has a second factor: a code and this ticket let its owner in.
    CodeNeeded {
        /// Works once, for five minutes.
        ticket: String,
    },
}

/// Why nobody is in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no account, and none may be made.
    #[error("nobody may sign up without an invitation")]
    NotInvited,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// What the provider calls an address is none that we could write to.
    #[error("the provider's e-mail address cannot be used")]
    Address,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl Accounts ===

impl Accounts {
    /// Lets somebody in whom a provider has signed in: the account that the subject is
    /// linked with, else the one with the verified address, else a new one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn sign_in(
        &self,
        signed: &Signed,
        sign_up: SignUp,
        origin: Origin,
    ) -> Result<SignedIn, Error> {
        let address = Address::parse(&signed.email).ok_or(Error::Address)?;
        let mut writing = self.store.begin().await?;
        let account_id = match linked(&mut writing, signed).await? {
            Some(account_id) => account_id,
            None => {
                let account_id = self.meet(&mut writing, signed, &address, sign_up).await?;
                link_subject(&mut writing, signed, account_id).await?;
                account_id
            }
        };
        writing.commit().await?;
        let account = account::get(&self.store, account_id).await?;
        let account: Account = account
            .filter(|it| !it.is_suspended)
            .ok_or(Error::Suspended)?;
        // The provider stands for the password, not for the second factor.
        if totp::is_enabled(&self.store, account_id).await? {
            let (new, ticket) = NewLink::make(Purpose::SignIn, account_id);
            let mut writing = self.store.begin().await?;
            link::insert(&mut writing, &new, fresh::now()).await?;
            writing.commit().await?;
            return Ok(SignedIn::CodeNeeded { ticket });
        }
        Ok(SignedIn::In(Box::new(self.let_in(account, origin).await?)))
    }

    /// The account of somebody who comes from a provider for the first time.
    async fn meet(
        &self,
        connection: &mut AnyConnection,
        signed: &Signed,
        address: &Address,
        sign_up: SignUp,
    ) -> Result<AccountId, Error> {
        let now = fresh::now();
        if let Some(account) = account::by_address(connection, address).await? {
            if !account.is_verified {
                // Whoever made it had not shown that the address is theirs, and now its
                // owner comes: the password and the sessions may be somebody else's.
                session::end_all(connection, account.id).await?;
                sign_up::contest(connection, address).await?;
                sign_up::prove(connection, account.id).await?;
            }
            return Ok(account.id);
        }
        if sign_up == SignUp::Invite && !invitation::is_open_to(connection, address, now).await? {
            return Err(Error::NotInvited);
        }
        let new = NewAccount {
            id: fresh::id(AccountId::from_parts),
            address: address.clone(),
            name: signed.name.clone(),
            password: None,
            is_verified: true,
        };
        account::insert(connection, &new, now).await?;
        Ok(new.id)
    }
}

async fn linked(
    connection: &mut AnyConnection,
    signed: &Signed,
) -> Result<Option<AccountId>, StoreError> {
    let row =
        sqlx::query("SELECT account_id FROM oidc_subjects WHERE provider = $1 AND subject = $2")
            .bind(signed.provider.clone())
            .bind(signed.subject.clone())
            .fetch_optional(connection)
            .await
            .map_err(failed("look for a subject"))?;
    row.map(|row| id_of(&row, "account_id")).transpose()
}

async fn link_subject(
    connection: &mut AnyConnection,
    signed: &Signed,
    account_id: AccountId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO oidc_subjects (provider, subject, account_id) VALUES ($1, $2, $3) \
         ON CONFLICT (provider, subject) DO NOTHING",
    )
    .bind(signed.provider.clone())
    .bind(signed.subject.clone())
    .bind(account_id.to_string())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("link a subject"))
}
