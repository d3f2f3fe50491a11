//! What the mails say. All of it is ASCII in short lines, so that no transfer encoding
//! breaks a link.

use super::Mail;
use crate::account::link::{self, NewLink, Purpose};
use crate::account::{self, Account, Address};
use crate::fresh;
use crate::store::{Error, Store, failed};

/// The kinds of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// Somebody signed up: a link to verify the address, or, where it was verified long
    /// ago, a word of that.
    SignUp,
    /// A new link to verify the address.
    Verify,
    /// A link to set a new password.
    Reset,
    /// It stands as it is.
    Plain,
}

// === impl Letter ===

impl Letter {
    const ALL: [Self; 4] = [Self::SignUp, Self::Verify, Self::Reset, Self::Plain];

    /// The word in the database.
    pub(super) const fn stored(self) -> &'static str {
        match self {
            Self::SignUp => "sign_up",
            Self::Verify => "verify",
            Self::Reset => "reset",
            Self::Plain => "plain",
        }
    }

    pub(super) fn of_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.stored() == text)
    }
}

/// Writes a letter to whoever has this address; `None` where there is nothing to say.
pub(super) async fn write(
    store: &Store,
    public_url: &str,
    letter: Letter,
    to: &Address,
) -> Result<Option<Mail>, Error> {
    let mut connection = store
        .background()
        .acquire()
        .await
        .map_err(failed("get a connection"))?;
    let account = account::by_address(&mut connection, to).await?;
    drop(connection);
    let Some(account) = account.filter(|it| !it.is_suspended) else {
        return Ok(None);
    };
    let (subject, text) = match letter {
        Letter::SignUp | Letter::Verify if !account.is_verified => {
            let token = new_token(store, Purpose::Verify, &account).await?;
            let url = link::url(public_url, "verify", &token);
            ("Confirm your e-mail address", verify(&url))
        }
        Letter::SignUp => ("You have an account already", known(public_url)),
        Letter::Reset => {
            let token = new_token(store, Purpose::Reset, &account).await?;
            let url = link::url(public_url, "reset-password", &token);
            ("Set a new password", reset(&url))
        }
        Letter::Verify | Letter::Plain => return Ok(None),
    };
    Ok(Some(Mail {
        // As it was written when the account was made: a stranger's spelling is not used.
        to: account.address,
        subject: subject.to_owned(),
        text,
    }))
}

async fn new_token(store: &Store, purpose: Purpose, account: &Account) -> Result<String, Error> {
    let (new, token) = NewLink::make(purpose, account.id);
    let mut writing = store.begin().await?;
    link::insert(&mut writing, &new, fresh::now()).await?;
    writing.commit().await?;
    Ok(token)
}

fn verify(url: &str) -> String {
    format!(
        "Somebody, most likely you, made a ThrottleProxy account with this address.\n\
         This link confirms that it is yours. It works once, for 24 hours:\n\
         \n\
         {url}\n\
         \n\
         If it was not you, do nothing: without the link the account cannot be used.\n"
    )
}

fn known(public_url: &str) -> String {
    format!(
        "Somebody, perhaps you, tried to make a ThrottleProxy account with this address.\n\
         It has one already, and nothing was changed. If you forgot your password, ask for\n\
         a new one at\n\
         \n\
         {public_url}\n\
         \n\
         If it was not you, do nothing.\n"
    )
}

fn reset(url: &str) -> String {
    format!(
        "Somebody, most likely you, asked for a new password for your ThrottleProxy account.\n\
         This link sets one, and logs you out everywhere. It works once, for one hour:\n\
         \n\
         {url}\n\
         \n\
         If it was not you, do nothing: your password stays as it is.\n"
    )
}
