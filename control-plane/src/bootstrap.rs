//! The first owner: somebody has to be there before anybody can be asked.

use events::Command;
use events::command::{InstanceCommand, WorkspaceCommand};
use schemas::api::{Actor, ActorKind};
use schemas::{AccountId, ControlTokenId, WorkspaceId};
use serde::Serialize;

use crate::account::link::{self, NewLink, Purpose};
use crate::account::{self, Address, NewAccount};
use crate::execute::{self, Execute, Request, SideRow, Step};
use crate::fresh;
use crate::store::{self, Store};
use crate::token::{self, NewToken};

/// What `bootstrap` made; the token is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bootstrapped {
    /// The owner, verified, and the first operator.
    pub account_id: AccountId,
    /// Their workspace.
    pub workspace_id: WorkspaceId,
    /// Opens the control API with all the owner's rights.
    pub control_token: String,
    /// Where the owner sets a password, once, within 24 hours.
    pub set_password_url: String,
}

/// Why there is no first owner.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be one.
    #[error("--email: expected an address such as owner@example.com")]
    Email,
    /// The log refused (an owner exists), or is away.
    #[error(transparent)]
    Execute(#[from] execute::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes the first owner, a workspace, a token and a link to set a password, all of it or
/// nothing. An account that somebody made with the address before is taken: whoever knows
/// its password then may be anybody, so it has none afterwards.
///
/// # Errors
/// [`Error`]; refused where an owner exists.
pub async fn bootstrap(
    store: &Store,
    execute: &Execute,
    email: &str,
    workspace_name: &str,
    public_url: &str,
) -> Result<Bootstrapped, Error> {
    let address = Address::parse(email).ok_or(Error::Email)?;
    let mut connection = store
        .pool()
        .acquire()
        .await
        .map_err(store::failed("get a connection"))?;
    let known = account::by_address(&mut connection, &address).await?;
    drop(connection);
    let account_id = known.map_or_else(|| fresh::id(AccountId::from_parts), |it| it.id);
    let workspace_id = fresh::id(WorkspaceId::from_parts);
    let control_token = token::generate();
    let (link, link_token) = NewLink::make(Purpose::FirstPassword, account_id);
    execute
        .run(Request {
            steps: vec![
                Step {
                    command: Command::Instance(InstanceCommand::AddFirstOperator { account_id }),
                    workspace_id: None,
                },
                Step {
                    command: Command::Workspace(
                        workspace_id,
                        WorkspaceCommand::Create {
                            name: workspace_name.to_owned(),
                            owner: account_id,
                        },
                    ),
                    workspace_id: Some(workspace_id),
                },
            ],
            actor: Actor {
                kind: ActorKind::System,
                id: "bootstrap".to_owned(),
            },
            request_id: None,
            expected_versions: None,
            idempotency: None,
            rows: vec![
                SideRow::Owner(NewAccount {
                    id: account_id,
                    address,
                    name: None,
                    password: None,
                    is_verified: true,
                }),
                SideRow::Link(link),
                SideRow::Token(NewToken {
                    id: fresh::id(ControlTokenId::from_parts),
                    hash: token::hash(&control_token),
                    account_id,
                    service_account_id: None,
                    workspace_id,
                    name: "bootstrap".to_owned(),
                    scopes: None,
                    expires_at: None,
                }),
            ],
            departures: Vec::new(),
            erases: None,
        })
        .await?;
    Ok(Bootstrapped {
        account_id,
        workspace_id,
        control_token,
        set_password_url: link::url(public_url, "reset-password", &link_token),
    })
}
