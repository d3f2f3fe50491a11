//! The first owner: somebody has to be there before anybody can be asked.

use events::Command;
use events::command::{InstanceCommand, WorkspaceCommand};
use schemas::api::{Actor, ActorKind};
use schemas::{AccountId, ControlTokenId, WorkspaceId};
use serde::Serialize;

use crate::execute::{self, Execute, Request, SideRow, Step};
use crate::fresh;
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
    /// Where the owner sets a password; there are no passwords yet.
    pub set_password_url: Option<String>,
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
}

/// Makes the first owner, a workspace and a token, all of it or nothing.
///
/// # Errors
/// [`Error`]; refused where an owner exists.
pub async fn bootstrap(
    execute: &Execute,
    email: &str,
    workspace_name: &str,
) -> Result<Bootstrapped, Error> {
    let email = email.trim();
    let is_address = email.len() <= 254
        && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        && email
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    if !is_address {
        return Err(Error::Email);
    }
    let account_id = fresh::id(AccountId::from_parts);
    let workspace_id = fresh::id(WorkspaceId::from_parts);
    let control_token = token::generate();
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
                SideRow::Account {
                    id: account_id,
                    email: email.to_lowercase(),
                },
                SideRow::Token(NewToken {
                    id: fresh::id(ControlTokenId::from_parts),
                    hash: token::hash(&control_token),
                    account_id,
                    workspace_id,
                    name: "bootstrap".to_owned(),
                    scopes: None,
                    expires_at: None,
                }),
            ],
            departure: None,
        })
        .await?;
    Ok(Bootstrapped {
        account_id,
        workspace_id,
        control_token,
        set_password_url: None,
    })
}
