//! Mail: an outbox in the database, and the task that empties it.
//!
//! A handler writes a row in its own transaction and answers; the task writes the mail and
//! hands it over. So a mail server that is away delays nobody and loses nothing, and no
//! answer tells by its time whether there was a mail to send. A row is tried again, later
//! and later, for a day.
//!
//! Letters with a link are written when they are sent: only then their token is made, so
//! that it is in the mail and nowhere else, and only then is it looked up whether the
//! address has an account. A letter that is tried again has a new token; the one before is
//! dead.
//!
//! Names of people are in no mail: anybody can sign up a stranger's address, with a name
//! that says what they want the stranger to read.

mod letter;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use schemas::{MailId, Timestamp};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use tokio::sync::Notify;

use crate::account::Address;
use crate::attempts::{Attempts, Kind};
use crate::chain::Chain;
use crate::fresh;
use crate::store::log::{column, corrupt};
use crate::store::{Error, Store, failed};

pub use letter::Letter;
pub use transport::{OpenError, Transport, is_sender};

/// Mails that are handed over at the same time.
const BATCH: i64 = 8;

/// How long a sender may take over a mail before another takes it up.
const CLAIM_MS: i64 = 60 * 1_000;

/// After this a mail is given up: what it says is of no use any more.
const GIVE_UP_MS: i64 = 24 * 60 * 60 * 1_000;

const RETRY_MS_MIN: i64 = 1_000;
const RETRY_MS_MAX: i64 = 15 * 60 * 1_000;

/// The floor under being woken.
const POLL: Duration = Duration::from_secs(1);

/// A mail that stands as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Who gets it.
    pub to: Address,
    /// What it is about.
    pub subject: String,
    /// What it says; plain text.
    pub text: String,
}

/// Where mail is put to be sent; clones share it.
#[derive(Debug, Clone)]
pub struct Outbox {
    wake: Arc<Notify>,
    attempts: Arc<Attempts>,
}

/// The task that sends mail.
pub struct Sender {
    store: Store,
    outbox: Outbox,
    transport: Transport,
    public_url: String,
}

/// A row of the outbox.
struct Waiting {
    id: MailId,
    letter: Letter,
    mail: Mail,
    created_at: Timestamp,
    next_at_ms: i64,
    attempts: i64,
}

/// What became of a try.
enum Tried {
    /// It is handed over, or there was nothing to say.
    Done,
    /// It will never be taken.
    Refused,
    /// It may be taken later.
    Later,
}

// === impl Outbox ===

impl Outbox {
    pub(crate) fn new(attempts: Arc<Attempts>) -> Self {
        Self {
            wake: Arc::default(),
            attempts,
        }
    }

    /// Queues a mail; it is sent when the transaction around it is committed. Call
    /// [`wake`](Self::wake) then, or it waits for up to a second.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queue(
        &self,
        connection: &mut AnyConnection,
        mail: &Mail,
        now: Timestamp,
    ) -> Result<(), Error> {
        queue(connection, mail, now).await
    }

    /// Asks for a letter, which is written only if its address has an account that it is
    /// for. Asked for too often, it is left out in silence: ten are on their way already,
    /// and the last of them works.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn ask(
        &self,
        connection: &mut AnyConnection,
        letter: Letter,
        to: &Address,
        now: Timestamp,
    ) -> Result<(), Error> {
        let at = tokio::time::Instant::now();
        let name = format!("{} {}", letter.stored(), to.key());
        if self.attempts.take(Kind::MailTo, &name, at).is_err() {
            return Ok(());
        }
        let mail = Mail {
            to: to.clone(),
            subject: String::new(),
            text: String::new(),
        };
        insert(connection, letter, &mail, now).await
    }

    /// Says that there is something to send.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

// === impl Sender ===

impl Sender {
    pub(crate) fn new(
        store: Store,
        outbox: Outbox,
        transport: Transport,
        public_url: String,
    ) -> Self {
        Self {
            store,
            outbox,
            transport,
            public_url,
        }
    }

    /// Sends whatever there is, until it is dropped. Many control planes may do so on one
    /// database: each mail is claimed before it is sent.
    pub async fn run(self) {
        loop {
            match self.send_due().await {
                Ok(sent) if sent > 0 => continue,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the outbox cannot be read");
                }
            }
            // Either way it is looked again: nothing depends on being woken.
            drop(tokio::time::timeout(POLL, self.outbox.wake.notified()).await);
        }
    }

    /// Tries what is due once; says how many were tried.
    async fn send_due(&self) -> Result<usize, Error> {
        let now = fresh::now();
        let mut claimed = Vec::new();
        for waiting in due(&self.store, now).await? {
            if claim(&self.store, &waiting, now).await? {
                claimed.push(waiting);
            }
        }
        // Written in the order in which they were asked for, so that of two links to one
        // address the later one works. Handed over at the same time.
        let mut written = Vec::with_capacity(claimed.len());
        for waiting in &claimed {
            written.push((waiting, self.write(waiting).await));
        }
        let tries = written.into_iter().map(|(it, mail)| self.send(it, mail));
        let tries = join_all(tries).await;
        let count = tries.len();
        for tried in tries {
            tried?;
        }
        Ok(count)
    }

    async fn send(
        &self,
        waiting: &Waiting,
        written: Result<Option<Mail>, Error>,
    ) -> Result<(), Error> {
        let tried = match written {
            Ok(Some(mail)) => match self.transport.hand_over(waiting.id, &mail).await {
                Ok(()) => Tried::Done,
                // The words of a mail server may name the address, so they are not logged.
                Err(error) => {
                    let (code, cause) = (error.code(), error.kind());
                    tracing::warn!(mail = %waiting.id, code, cause, "a mail was not taken");
                    if error.is_final() {
                        Tried::Refused
                    } else {
                        Tried::Later
                    }
                }
            },
            Ok(None) => Tried::Done,
            Err(error) => {
                tracing::warn!(mail = %waiting.id, error = %Chain(&error), "a mail was not written");
                Tried::Later
            }
        };
        let now = fresh::now();
        let is_late = waiting.created_at.plus_ms(GIVE_UP_MS) <= now;
        match tried {
            Tried::Later if !is_late => put_back(&self.store, waiting, now).await,
            Tried::Later | Tried::Refused => {
                tracing::error!(mail = %waiting.id, "a mail is given up");
                remove(&self.store, waiting.id).await
            }
            Tried::Done => remove(&self.store, waiting.id).await,
        }
    }

    /// The mail, unless there is nothing to say.
    async fn write(&self, waiting: &Waiting) -> Result<Option<Mail>, Error> {
        match waiting.letter {
            Letter::Plain => Ok(Some(waiting.mail.clone())),
            letter => letter::write(&self.store, &self.public_url, letter, &waiting.mail.to).await,
        }
    }
}

// === rows ===

/// Queues a mail as [`Outbox::queue`] does, for the append task, which has no outbox.
///
/// # Errors
/// [`Error`].
pub(crate) async fn queue(
    connection: &mut AnyConnection,
    mail: &Mail,
    now: Timestamp,
) -> Result<(), Error> {
    insert(connection, Letter::Plain, mail, now).await
}

async fn insert(
    connection: &mut AnyConnection,
    letter: Letter,
    mail: &Mail,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO outbox (id, kind, email, address, subject, body, created_at_ms, \
         next_at_ms, attempts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)",
    )
    .bind(fresh::id(MailId::from_parts).to_string())
    .bind(letter.stored())
    .bind(mail.to.key().to_owned())
    .bind(mail.to.written().to_owned())
    .bind(mail.subject.clone())
    .bind(mail.text.clone())
    .bind(now.unix_ms())
    .bind(now.unix_ms())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("queue a mail"))
}

async fn due(store: &Store, now: Timestamp) -> Result<Vec<Waiting>, Error> {
    let rows = sqlx::query(
        "SELECT id, kind, address, subject, body, created_at_ms, next_at_ms, attempts \
         FROM outbox WHERE next_at_ms <= $1 ORDER BY next_at_ms, id LIMIT $2",
    )
    .bind(now.unix_ms())
    .bind(BATCH)
    .fetch_all(store.background())
    .await
    .map_err(failed("look for mail to send"))?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in &rows {
        match of_row(row) {
            Ok(row) => waiting.push(row),
            // It must not stand in the way of all others for ever.
            Err(error) => {
                let id: MailId = column::<String>(row, "id")?
                    .parse()
                    .map_err(|_| corrupt("outbox.id"))?;
                tracing::error!(mail = %id, error = %Chain(&error), "a mail is given up");
                remove(store, id).await?;
            }
        }
    }
    Ok(waiting)
}

/// Takes a mail for this sender; `false` where another was first.
async fn claim(store: &Store, waiting: &Waiting, now: Timestamp) -> Result<bool, Error> {
    let _turn = store.turn().await;
    sqlx::query(
        "UPDATE outbox SET next_at_ms = $3, attempts = attempts + 1 \
         WHERE id = $1 AND next_at_ms = $2",
    )
    .bind(waiting.id.to_string())
    .bind(waiting.next_at_ms)
    .bind(now.plus_ms(CLAIM_MS).unix_ms())
    .execute(store.background())
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(failed("claim a mail"))
}

async fn put_back(store: &Store, waiting: &Waiting, now: Timestamp) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("UPDATE outbox SET next_at_ms = $2 WHERE id = $1")
        .bind(waiting.id.to_string())
        .bind(now.plus_ms(retry_ms(waiting.attempts)).unix_ms())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("put a mail back"))
}

async fn remove(store: &Store, id: MailId) -> Result<(), Error> {
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM outbox WHERE id = $1")
        .bind(id.to_string())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("remove a mail"))
}

/// Removes every mail that waits for an address, when its account is erased.
///
/// # Errors
/// [`Error`].
pub(crate) async fn remove_to(
    connection: &mut AnyConnection,
    address: &Address,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM outbox WHERE email = $1")
        .bind(address.key().to_owned())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("remove mail to an address"))
}

/// Doubles from one second to a quarter of an hour.
fn retry_ms(attempts: i64) -> i64 {
    let doublings = u32::try_from(attempts.clamp(0, 20)).unwrap_or(20);
    (RETRY_MS_MIN << doublings).min(RETRY_MS_MAX)
}

fn of_row(row: &AnyRow) -> Result<Waiting, Error> {
    let text = |name| column::<String>(row, name);
    let kind = text("kind")?;
    Ok(Waiting {
        id: text("id")?.parse().map_err(|_| corrupt("outbox.id"))?,
        letter: Letter::of_stored(&kind).ok_or_else(|| corrupt("outbox.kind"))?,
        mail: Mail {
            to: Address::parse(&text("address")?).ok_or_else(|| corrupt("outbox.address"))?,
            subject: text("subject")?,
            text: text("body")?,
        },
        created_at: Timestamp::from_unix_ms(column(row, "created_at_ms")?),
        next_at_ms: column(row, "next_at_ms")?,
        attempts: column(row, "attempts")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later() {
        let waits: Vec<i64> = [0, 1, 2, 9, 10, 1_000].map(retry_ms).to_vec();
        assert_eq!(waits, [1_000, 2_000, 4_000, 512_000, 900_000, 900_000]);
    }
}
