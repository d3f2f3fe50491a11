//! Where invitations go: their addresses and links, beside the log.
//!
//! The log knows of an invitation what the guest becomes and until when; who the guest is,
//! is here, and goes with the invitation. A link is written into a mail and nowhere else.

use std::collections::BTreeMap;

use events::workspace::invitations::TERM_MS;
use schemas::{InvitationId, Role, Timestamp, WorkspaceId};
use sqlx::AnyConnection;

use crate::account::{Address, link};
use crate::fresh;
use crate::mail::{self, Mail};
use crate::store::log::{column, corrupt};
use crate::store::sql::Sql;
use crate::store::{Error, Store, failed};

/// Where an invitation goes, and its link, about to be stored and sent.
#[derive(Debug, Clone)]
pub struct NewLink {
    /// The invitation.
    pub invitation_id: InvitationId,
    /// The workspace it leads into.
    pub workspace_id: WorkspaceId,
    /// Who is invited.
    pub address: Address,
    /// SHA-256 of the token in hex.
    pub hash: String,
    /// What the guest reads.
    pub mail: Mail,
}

/// What a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The invitation.
    pub invitation_id: InvitationId,
    /// The workspace it leads into.
    pub workspace_id: WorkspaceId,
    /// Who is invited, in the form that addresses are compared in.
    pub email: String,
}

// === impl NewLink ===

impl NewLink {
    /// A new link, and the mail that tells it.
    ///
    /// Neither the workspace's name nor anybody's is in the mail: anybody can make a
    /// workspace with a name that says what they want a stranger to read.
    pub fn make(
        workspace_id: WorkspaceId,
        invitation_id: InvitationId,
        address: Address,
        role: Role,
        public_url: &str,
    ) -> Self {
        let token = fresh::token("");
        let url = link::url(public_url, "invitation", &token);
        let text = format!(
            "You were invited into a ThrottleProxy workspace, with the role {role}.\n\
             This link lets you in. It works once, for 72 hours, for an account with this\n\
             very address; make one first if you have none:\n\
             \n\
             {url}\n\
             \n\
             If you do not know who that can have been, do nothing.\n"
        );
        Self {
            invitation_id,
            workspace_id,
            hash: fresh::token_hash(&token),
            mail: Mail {
                to: address.clone(),
                subject: "You were invited".to_owned(),
                text,
            },
            address,
        }
    }
}

/// Stores a link, instead of the one that the invitation had, and queues its mail.
///
/// # Errors
/// [`Error`].
pub(crate) async fn put(
    connection: &mut AnyConnection,
    link: &NewLink,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO invitation_links (invitation_id, workspace_id, email, address, hash, \
         expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (invitation_id) DO UPDATE SET hash = excluded.hash, \
         expires_at_ms = excluded.expires_at_ms",
    )
    .bind(link.invitation_id.to_string())
    .bind(link.workspace_id.to_string())
    .bind(link.address.key().to_owned())
    .bind(link.address.written().to_owned())
    .bind(link.hash.clone())
    .bind(now.plus_ms(TERM_MS).unix_ms())
    .execute(&mut *connection)
    .await
    .map_err(failed("write the link of an invitation"))?;
    mail::queue(connection, &link.mail, now).await
}

/// Forgets where an invitation went.
///
/// # Errors
/// [`Error`].
pub(crate) async fn remove(connection: &mut AnyConnection, id: InvitationId) -> Result<(), Error> {
    sqlx::query("DELETE FROM invitation_links WHERE invitation_id = $1")
        .bind(id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("forget the link of an invitation"))
}

/// Forgets an address wherever it is invited, when its account is erased. The invitations
/// stay, for nobody.
///
/// # Errors
/// [`Error`].
pub(crate) async fn remove_to(
    connection: &mut AnyConnection,
    address: &Address,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM invitation_links WHERE email = $1")
        .bind(address.key().to_owned())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("forget the invitations of an address"))
}

/// Forgets the addresses of invitations that nobody can reissue any more.
///
/// # Errors
/// [`Error`].
pub(crate) async fn sweep(store: &Store, now: Timestamp) -> Result<(), Error> {
    const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
    let _turn = store.turn().await;
    sqlx::query("DELETE FROM invitation_links WHERE expires_at_ms <= $1")
        .bind(now.plus_ms(-KEPT_MS).unix_ms())
        .execute(store.background())
        .await
        .map(drop)
        .map_err(failed("forget old invitations"))
}

/// What a token opens; `None` for one that is dead or unknown.
///
/// # Errors
/// [`Error`].
pub async fn find(store: &Store, token: &str, now: Timestamp) -> Result<Option<Found>, Error> {
    let row = sqlx::query(
        "SELECT invitation_id, workspace_id, email FROM invitation_links \
         WHERE hash = $1 AND expires_at_ms > $2",
    )
    .bind(fresh::token_hash(token))
    .bind(now.unix_ms())
    .fetch_optional(store.pool())
    .await
    .map_err(failed("look for an invitation"))?;
    row.map(|row| {
        let text = |name| column::<String>(&row, name);
        Ok(Found {
            invitation_id: text("invitation_id")?
                .parse()
                .map_err(|_| corrupt("invitation_links.invitation_id"))?,
            workspace_id: text("workspace_id")?
                .parse()
                .map_err(|_| corrupt("invitation_links.workspace_id"))?,
            email: text("email")?,
        })
    })
    .transpose()
}

/// Whether an address has an invitation that is open.
///
/// # Errors
/// [`Error`].
pub(crate) async fn is_open_to(
    connection: &mut AnyConnection,
    address: &Address,
    now: Timestamp,
) -> Result<bool, Error> {
    sqlx::query("SELECT 1 FROM invitation_links WHERE email = $1 AND expires_at_ms > $2 LIMIT 1")
        .bind(address.key().to_owned())
        .bind(now.unix_ms())
        .fetch_optional(connection)
        .await
        .map(|row| row.is_some())
        .map_err(failed("look for an invitation"))
}

/// Where the invitations that are named went. Who is missing has been erased.
///
/// # Errors
/// [`Error`].
pub async fn addresses(
    store: &Store,
    ids: &[InvitationId],
) -> Result<BTreeMap<InvitationId, Address>, Error> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut sql =
        Sql::new("SELECT invitation_id, address FROM invitation_links WHERE invitation_id IN (");
    sql.bind_all(ids.iter().map(InvitationId::to_string))?;
    sql.push(")");
    let rows = sql
        .fetch_all(store.pool(), "read where invitations went")
        .await?;
    rows.iter()
        .map(|row| {
            let id: String = column(row, "invitation_id")?;
            let address: String = column(row, "address")?;
            let address = Address::parse(&address);
            Ok((
                id.parse()
                    .map_err(|_| corrupt("invitation_links.invitation_id"))?,
                address.ok_or_else(|| corrupt("invitation_links.address"))?,
            ))
        })
        .collect()
}
