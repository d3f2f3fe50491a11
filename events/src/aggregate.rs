//! Any aggregate, so that the shell needs one way to load, decide and fold.

use schemas::{Position, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::denied::Denied;
use crate::event::{Event, Recorded, Stream};
use crate::instance::Instance;
use crate::key::Key;
use crate::refusal::Refusal;
use crate::service_account::ServiceAccount;
use crate::target::Target;
use crate::team::Team;
use crate::text::SecretLook;
use crate::workspace::Workspace;
use crate::{denied, instance, key, service_account, target, team, workspace};

/// One aggregate, folded from its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "state", rename_all = "snake_case")]
pub enum Aggregate {
    /// A key.
    Key(Box<Key>),
    /// A workspace.
    Workspace(Box<Workspace>),
    /// A target.
    Target(Box<Target>),
    /// What was denied in a workspace of late.
    Denied(Box<Denied>),
    /// A team.
    Team(Box<Team>),
    /// A service account.
    ServiceAccount(Box<ServiceAccount>),
    /// The installation.
    Instance(Box<Instance>),
}

impl Aggregate {
    /// Number of its last event.
    pub fn version(&self) -> u64 {
        match self {
            Self::Key(it) => it.version,
            Self::Workspace(it) => it.version,
            Self::Target(it) => it.version,
            Self::Denied(it) => it.version,
            Self::Team(it) => it.version,
            Self::ServiceAccount(it) => it.version,
            Self::Instance(it) => it.version,
        }
    }

    /// Place of its last event in the log.
    pub fn position(&self) -> Position {
        match self {
            Self::Key(it) => it.position,
            Self::Workspace(it) => it.position,
            Self::Target(it) => it.position,
            Self::Denied(it) => it.position,
            Self::Team(it) => it.position,
            Self::ServiceAccount(it) => it.position,
            Self::Instance(it) => it.position,
        }
    }

    /// The workspace it belongs to.
    pub fn workspace_id(&self) -> Option<WorkspaceId> {
        match self {
            Self::Key(it) => Some(it.workspace_id),
            Self::Workspace(it) => Some(it.id),
            Self::Target(it) => Some(it.workspace_id),
            Self::Denied(it) => Some(it.workspace_id),
            Self::Team(it) => Some(it.workspace_id),
            Self::ServiceAccount(it) => Some(it.workspace_id),
            Self::Instance(_) => None,
        }
    }
}

/// What follows from a command, or why nothing does. An empty list means that things are
/// already as asked.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    aggregate: Option<&Aggregate>,
    command: &Command,
    now: Timestamp,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    match (command, aggregate) {
        (Command::Key(_, command), Some(Aggregate::Key(it))) => {
            key::decide(Some(it), command, now, look)
        }
        (Command::Key(_, command), _) => key::decide(None, command, now, look),
        (Command::Workspace(_, command), Some(Aggregate::Workspace(it))) => {
            workspace::decide(Some(it), command, now, look)
        }
        (Command::Workspace(_, command), _) => workspace::decide(None, command, now, look),
        (Command::Target(_, command), Some(Aggregate::Target(it))) => {
            target::decide(Some(it), command, look)
        }
        (Command::Target(_, command), _) => target::decide(None, command, look),
        (Command::Access(_, command), Some(Aggregate::Denied(it))) => {
            Ok(denied::decide(Some(it), command, now))
        }
        (Command::Access(_, command), _) => Ok(denied::decide(None, command, now)),
        (Command::Team(_, command), Some(Aggregate::Team(it))) => {
            team::decide(Some(it), command, look)
        }
        (Command::Team(_, command), _) => team::decide(None, command, look),
        (Command::ServiceAccount(_, command), Some(Aggregate::ServiceAccount(it))) => {
            service_account::decide(Some(it), command, look)
        }
        (Command::ServiceAccount(_, command), _) => service_account::decide(None, command, look),
        (Command::Instance(command), Some(Aggregate::Instance(it))) => {
            instance::decide(Some(it), command)
        }
        (Command::Instance(command), _) => instance::decide(None, command),
    }
}

/// The aggregate after an event of its stream. `None` only where a stream does not begin
/// at its beginning.
pub fn evolve(aggregate: Option<Aggregate>, recorded: &Recorded) -> Option<Aggregate> {
    match recorded.stream {
        Stream::Key(_) => {
            let before = match aggregate {
                Some(Aggregate::Key(it)) => Some(*it),
                _ => None,
            };
            key::evolve(before, recorded).map(|it| Aggregate::Key(Box::new(it)))
        }
        Stream::Workspace(_) => {
            let before = match aggregate {
                Some(Aggregate::Workspace(it)) => Some(*it),
                _ => None,
            };
            workspace::evolve(before, recorded).map(|it| Aggregate::Workspace(Box::new(it)))
        }
        Stream::Target(_) => {
            let before = match aggregate {
                Some(Aggregate::Target(it)) => Some(*it),
                _ => None,
            };
            target::evolve(before, recorded).map(|it| Aggregate::Target(Box::new(it)))
        }
        Stream::Access(_) => {
            let before = match aggregate {
                Some(Aggregate::Denied(it)) => Some(*it),
                _ => None,
            };
            denied::evolve(before, recorded).map(|it| Aggregate::Denied(Box::new(it)))
        }
        Stream::Team(_) => {
            let before = match aggregate {
                Some(Aggregate::Team(it)) => Some(*it),
                _ => None,
            };
            team::evolve(before, recorded).map(|it| Aggregate::Team(Box::new(it)))
        }
        Stream::ServiceAccount(_) => {
            let before = match aggregate {
                Some(Aggregate::ServiceAccount(it)) => Some(*it),
                _ => None,
            };
            service_account::evolve(before, recorded)
                .map(|it| Aggregate::ServiceAccount(Box::new(it)))
        }
        Stream::Instance => {
            let before = match aggregate {
                Some(Aggregate::Instance(it)) => Some(*it),
                _ => None,
            };
            instance::evolve(before, recorded).map(|it| Aggregate::Instance(Box::new(it)))
        }
    }
}
