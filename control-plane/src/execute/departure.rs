//! What follows when a member stops or goes: what becomes of the keys that they own, and
//! that they leave their teams.
//!
//! It is worked out under the lock of the head, in the request that ends the membership:
//! a key that is made at the same moment is either there before and follows, or its owner is
//! no member any more and it is refused. No key is left without an owner.

use events::command::{KeyCommand, TeamCommand};
use events::{Aggregate, Command, Refusal, Stream};
use schemas::entry::Owner;
use schemas::{AccountId, KeyId, ServiceAccountId, WorkspaceId};
use sqlx::AnyConnection;

use super::Step;
use crate::store::Error;
use crate::view;

/// The most keys that follow in one transaction; who owns more has them ended some at a
/// time before, so that nobody else has to wait for all of them.
pub const KEYS_MAX: usize = 500;

/// A member who stops or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The member.
    pub account_id: AccountId,
    /// What becomes of the keys that they own.
    pub keys: Keys,
    /// Whether they leave their teams.
    pub leaves_teams: bool,
}

/// What becomes of the keys of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// There must be none.
    None,
    /// They are switched off and may be switched on again.
    Deactivate,
    /// They are switched off for good.
    Revoke,
    /// They belong to a service account from now on, and to its team.
    Transfer(ServiceAccountId),
}

// === impl Departure ===

impl Departure {
    /// The steps that follow, or why the member cannot go like this.
    pub(super) async fn steps(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<Result<Vec<Step>, Refusal>, Error> {
        let keys = self.affected(connection).await?;
        let count = keys.len() as u64;
        match self.keys {
            Keys::None if count > 0 => return Ok(Err(Refusal::MemberOwnsKeys { count })),
            _ if keys.len() > KEYS_MAX => return Ok(Err(Refusal::TooManyKeys { count })),
            _ => {}
        }
        let mut steps = match self.key_steps(connection, &keys).await? {
            Ok(steps) => steps,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.leaves_teams {
            let teams =
                view::team::teams_of(connection, self.workspace_id, self.account_id).await?;
            let account_id = self.account_id;
            steps.extend(teams.into_iter().map(|team_id| {
                let command = TeamCommand::RemoveMember { account_id };
                self.step(Command::Team(team_id, command))
            }));
        }
        Ok(Ok(steps))
    }

    async fn key_steps(
        &self,
        connection: &mut AnyConnection,
        keys: &[KeyId],
    ) -> Result<Result<Vec<Step>, Refusal>, Error> {
        let command = match self.keys {
            Keys::None => return Ok(Ok(vec![])),
            Keys::Deactivate => KeyCommand::Deactivate,
            Keys::Revoke => KeyCommand::Revoke,
            Keys::Transfer(to) => {
                let loaded = view::load(connection, Stream::ServiceAccount(to)).await?;
                match loaded {
                    Some(Aggregate::ServiceAccount(it)) if it.workspace_id == self.workspace_id => {
                        KeyCommand::Transfer {
                            owner: Some(Owner::ServiceAccount(to)),
                            team_id: Some(it.team_id),
                        }
                    }
                    _ => return Ok(Err(Refusal::NotFound("service account"))),
                }
            }
        };
        let steps = keys.iter();
        Ok(Ok(steps
            .map(|id| self.step(Command::Key(*id, command.clone())))
            .collect()))
    }

    /// What has to be done to the first keys of a member who owns more than fit into one
    /// transaction, in a request of its own; `None` where all fit.
    pub(crate) async fn first_keys(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<Option<Result<Vec<Step>, Refusal>>, Error> {
        let keys = self.affected(connection).await?;
        match keys.get(..KEYS_MAX) {
            Some(first) if self.keys != Keys::None && keys.len() > KEYS_MAX => {
                self.key_steps(connection, first).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The keys that something happens to, oldest first.
    async fn affected(&self, connection: &mut AnyConnection) -> Result<Vec<KeyId>, Error> {
        let owner = Owner::User(self.account_id);
        if self.keys == Keys::Deactivate {
            view::key::switched_on_of(connection, self.workspace_id, owner).await
        } else {
            view::key::owned_by(connection, self.workspace_id, owner).await
        }
    }

    fn step(&self, command: Command) -> Step {
        Step {
            command,
            workspace_id: Some(self.workspace_id),
        }
    }
}
