//! Erasing an account: everything that names a person goes, the id in the log stays.
//!
//! The memberships end in the same transaction, one event each, with what follows from
//! that for keys and teams. It is all or nothing: who is the last owner of one workspace
//! stays in all of them.

use std::collections::BTreeSet;

use events::command::{InstanceCommand, MemberCommand, WorkspaceCommand};
use events::{Command, SecretLook};
use schemas::api::{Actor, ActorKind};
use schemas::{AccountId, ServiceAccountId, WorkspaceId};
use sqlx::AnyConnection;

use crate::execute::{self, Departure, Execute, Keys, Request, Step};
use crate::store::log::{column, corrupt, lock_head};
use crate::store::{Error as StoreError, Store, failed};
use crate::{account, fresh, invitation, mail, view};

/// What becomes of the keys that the account owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysOfAccount {
    /// There must be none.
    None,
    /// They are switched off for good.
    Revoke,
    /// Those in the service account's workspace belong to it from now on; in others there
    /// must be none.
    Transfer(ServiceAccountId),
}

/// Why an account stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys are to go to a service account that the account does not know.
    #[error("there is no such service account")]
    NoServiceAccount,
    /// The rules say no, or the log is away.
    #[error(transparent)]
    Execute(#[from] execute::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Erases an account.
///
/// # Errors
/// [`Error`]; refused for the last owner of a workspace, and for the last operator.
pub async fn erase(
    store: &Store,
    execute: &Execute,
    account_id: AccountId,
    keys: KeysOfAccount,
    request_id: Option<String>,
) -> Result<(), Error> {
    let memberships = view::workspace::memberships(store, account_id).await?;
    let workspaces: Vec<WorkspaceId> = memberships.iter().map(|it| it.workspace_id).collect();
    let mut home = None;
    if let KeysOfAccount::Transfer(to) = keys {
        home = home_of(store, &workspaces, to).await?;
        if home.is_none() {
            return Err(Error::NoServiceAccount);
        }
    }
    let mut steps: Vec<Step> = workspaces
        .iter()
        .map(|id| Step {
            command: Command::Workspace(
                *id,
                WorkspaceCommand::Member(MemberCommand::Remove {
                    by: None,
                    account_id,
                }),
            ),
            workspace_id: Some(*id),
        })
        .collect();
    let instance = view::workspace::instance(store).await?;
    if instance.operators.contains(&account_id) {
        steps.push(Step {
            command: Command::Instance(InstanceCommand::RemoveOperator { account_id }),
            workspace_id: None,
        });
    }
    if steps.is_empty() {
        return Ok(erase_stranger(store, account_id).await?);
    }
    let departures = workspaces
        .into_iter()
        .map(|workspace_id| Departure {
            workspace_id,
            account_id,
            keys: match keys {
                KeysOfAccount::Revoke => Keys::Revoke,
                KeysOfAccount::Transfer(to) if home == Some(workspace_id) => Keys::Transfer(to),
                KeysOfAccount::None | KeysOfAccount::Transfer(_) => Keys::None,
            },
            leaves_teams: true,
        })
        .collect();
    let request = Request {
        steps,
        actor: Actor {
            kind: ActorKind::User,
            id: account_id.to_string(),
        },
        request_id,
        expected_versions: None,
        idempotency: None,
        rows: Vec::new(),
        departures,
        erases: Some(account_id),
    };
    end_many_keys(store, execute, &request).await?;
    execute.run(request).await?;
    Ok(())
}

/// Who owns more keys than fit into one transaction has the first of them ended before, in
/// transactions of their own, once it is clear that nothing else would be refused. Whatever
/// breaks off in between, a key's owner is an account as long as the key lives.
async fn end_many_keys(store: &Store, execute: &Execute, request: &Request) -> Result<(), Error> {
    let pool = store.pool();
    for departure in &request.departures {
        loop {
            let mut connection = pool.acquire().await.map_err(failed("get a connection"))?;
            let first = departure.first_keys(&mut connection).await?;
            drop(connection);
            let Some(first) = first.transpose().map_err(execute::Error::Refused)? else {
                break;
            };
            judge(store, request).await?;
            let first = Request {
                steps: first,
                departures: Vec::new(),
                erases: None,
                ..request.clone()
            };
            execute.run(first).await?;
        }
    }
    Ok(())
}

/// What the rules would say to the steps now.
async fn judge(store: &Store, request: &Request) -> Result<(), Error> {
    let mut connection = store
        .pool()
        .acquire()
        .await
        .map_err(failed("get a connection"))?;
    let look = SecretLook::default();
    for step in &request.steps {
        let before = view::load(&mut connection, step.command.stream()).await?;
        events::decide(before.as_ref(), &step.command, fresh::now(), &look)
            .map_err(execute::Error::Refused)?;
    }
    Ok(())
}

/// Whether the account belongs to no workspace but these, and so would be in none
/// afterwards; asked under the lock of the head.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn is_only_in(
    connection: &mut AnyConnection,
    account_id: AccountId,
    workspaces: impl IntoIterator<Item = WorkspaceId>,
) -> Result<bool, StoreError> {
    let leaves: BTreeSet<WorkspaceId> = workspaces.into_iter().collect();
    let rows = sqlx::query("SELECT workspace_id FROM workspace_members WHERE account_id = $1")
        .bind(account_id.to_string())
        .fetch_all(connection)
        .await
        .map_err(failed("read the workspaces of an account"))?;
    for row in &rows {
        let id: String = column(row, "workspace_id")?;
        let id = id
            .parse()
            .map_err(|_| corrupt("workspace_members.workspace_id"))?;
        if !leaves.contains(&id) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes all rows of an account: address, name, password, sessions, tokens, second
/// factor, links, familiar addresses, and mail that waits for it. The log keeps the opaque
/// id and nothing else, so nothing has to be changed there.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn remove_rows(
    connection: &mut AnyConnection,
    account_id: AccountId,
) -> Result<(), StoreError> {
    const OF_ACCOUNT: [&str; 7] = [
        "DELETE FROM sessions WHERE account_id = $1",
        "DELETE FROM control_tokens WHERE account_id = $1",
        "DELETE FROM account_links WHERE account_id = $1",
        "DELETE FROM familiar_addresses WHERE account_id = $1",
        "DELETE FROM totps WHERE account_id = $1",
        "DELETE FROM oidc_subjects WHERE account_id = $1",
        "DELETE FROM accounts WHERE id = $1",
    ];
    let row = sqlx::query("SELECT * FROM accounts WHERE id = $1")
        .bind(account_id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("read an account"))?;
    if let Some(account) = row.as_ref().map(account::of_row).transpose()? {
        mail::remove_to(connection, &account.address).await?;
        invitation::remove_to(connection, &account.address).await?;
    }
    for sql in OF_ACCOUNT {
        sqlx::query(sql)
            .bind(account_id.to_string())
            .execute(&mut *connection)
            .await
            .map_err(failed("erase an account"))?;
    }
    Ok(())
}

/// An account that is nowhere a member: nothing happens in the log.
async fn erase_stranger(store: &Store, account_id: AccountId) -> Result<(), StoreError> {
    let mut writing = store.begin().await?;
    // Whoever adds a member holds this lock, too.
    lock_head(&mut writing, store.backend()).await?;
    if !is_only_in(&mut writing, account_id, []).await? {
        return Err(StoreError::Timeout {
            operation: "erase an account that is just joining a workspace",
        });
    }
    remove_rows(&mut writing, account_id).await?;
    writing.commit().await
}

/// The one of these workspaces that a service account belongs to.
async fn home_of(
    store: &Store,
    workspaces: &[WorkspaceId],
    id: ServiceAccountId,
) -> Result<Option<WorkspaceId>, StoreError> {
    for workspace_id in workspaces {
        let found = view::service_account::get(store, *workspace_id, id).await?;
        if found.is_some() {
            return Ok(Some(*workspace_id));
        }
    }
    Ok(None)
}
