//! Removing a key that was never used, and proving that it was not.
//!
//! The key is switched off first. Then every proxy that renewed in the last 2 s must have
//! acknowledged that *and* reported its uses up to it; a proxy marks a use before its last
//! look at the key's state, so after that report no use can be outstanding.

use std::time::Duration;

use events::command::KeyCommand;
use events::key::{Key, State};
use events::{Command, Refusal};
use schemas::api::Level;
use tokio::time::{Instant, sleep};

use crate::execute::{Execute, Idempotency, Outcome, Request, Step};
use crate::fleet::Fleet;
use crate::store::{self, Store};
use crate::{execute, fleet, propagation};

const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Why a key was not purged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refused, or is away.
    #[error(transparent)]
    Execute(#[from] execute::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Not all proxies reported in time; the key stays inactive.
    #[error("not proven in time; still to report: {}", .missing.join(", "))]
    Unproven {
        /// Those that have not reported.
        missing: Vec<String>,
    },
}

/// Purges a key; `request` gives each command its actor and request id, and what makes a
/// repetition harmless belongs to the last one.
///
/// # Errors
/// [`Error`].
pub async fn purge(
    store: &Store,
    execute: &Execute,
    fleet: &Fleet,
    key: &Key,
    timeout: Duration,
    request: impl Fn(Step) -> Request,
    idempotency: Option<Idempotency>,
) -> Result<Outcome, Error> {
    if key.first_used_at.is_some() {
        return Err(execute::Error::Refused(Refusal::KeyHasHistory).into());
    }
    let step = |command| Step {
        command: Command::Key(key.id, command),
        workspace_id: Some(key.workspace_id),
    };
    let deadline = Instant::now() + timeout;
    let (mut position, mut version) = (key.position, key.version);
    if key.state == State::Active {
        let switched_off = execute.run(request(step(KeyCommand::Deactivate))).await?;
        (position, version) = (switched_off.position, switched_off.aggregate.version());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let propagation = propagation::wait(fleet, position, Level::Applied, left).await;
    if propagation.level < Level::Applied {
        let missing = propagation
            .regions
            .iter()
            .filter(|it| it.level < Level::Applied)
            .flat_map(|it| {
                let name = it.name.clone();
                let proxies = it.missing.iter().map(move |id| format!("{name}/{id}"));
                std::iter::once(it.name.clone()).chain(proxies)
            })
            .collect();
        return Err(Error::Unproven { missing });
    }
    loop {
        let missing = fleet::not_reported(fleet, store, position).await?;
        if missing.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            return Err(Error::Unproven { missing });
        }
        sleep(LOOK_EVERY).await;
    }
    if fleet::was_used(store, key.id).await? {
        return Err(execute::Error::Refused(Refusal::KeyHasHistory).into());
    }
    // What was proven is proven of the key as it was switched off, and of nothing later.
    let last = Request {
        idempotency,
        expected_versions: Some(vec![version]),
        ..request(step(KeyCommand::Purge))
    };
    match execute.run(last).await {
        Err(execute::Error::Refused(Refusal::VersionMismatch { .. } | Refusal::KeyActive)) => {
            Err(Error::Unproven {
                missing: vec!["the key was changed meanwhile".to_owned()],
            })
        }
        outcome => Ok(outcome?),
    }
}
