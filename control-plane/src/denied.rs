//! Attempts at what callers may not do, on their way into the log.
//!
//! A request is answered first; what it tried is queued and written beside it. The queue is
//! bounded and so is what is kept of each caller, here and once more in the log itself, where
//! several control planes meet: nobody fills the log by being refused.

use std::sync::Arc;

use events::Command;
use events::command::RecordDenied;
use events::event::AccessDenied;
use schemas::WorkspaceId;
use schemas::api::Actor;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::attempts::{Attempts, Kind};
use crate::chain::Chain;
use crate::execute::{Execute, Request, Step};

/// Attempts that may wait to be written; more are left out.
const QUEUE_MAX: usize = 256;

/// Who tried what.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Who.
    pub(crate) actor: Actor,
    /// Where they work.
    pub(crate) workspace_id: WorkspaceId,
    /// The request that was refused.
    pub(crate) request_id: String,
    /// What they tried, and how they were answered.
    pub(crate) denied: AccessDenied,
}

/// Takes attempts; clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Denials {
    queue: mpsc::Sender<Attempt>,
    attempts: Arc<Attempts>,
}

// === impl Denials ===

impl Denials {
    /// Starts the task that writes; it ends with the last handle.
    pub(crate) fn start(execute: Execute, attempts: Arc<Attempts>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write(execute, waiting));
        Self { queue, attempts }
    }

    /// Records an attempt, unless enough is kept of its caller already. Never waits.
    pub(crate) fn record(&self, attempt: Attempt) {
        let name = format!("{} {}", attempt.workspace_id, attempt.actor.id);
        if self
            .attempts
            .take(Kind::Denied, &name, Instant::now())
            .is_ok()
            && self.queue.try_send(attempt).is_err()
        {
            tracing::warn!("too many denied attempts at once; one is not recorded");
        }
    }
}

async fn write(execute: Execute, mut waiting: mpsc::Receiver<Attempt>) {
    while let Some(attempt) = waiting.recv().await {
        let record = RecordDenied {
            caller: attempt.actor.id.clone(),
            denied: attempt.denied,
        };
        let request = Request {
            steps: vec![Step {
                command: Command::Access(attempt.workspace_id, record),
                workspace_id: Some(attempt.workspace_id),
            }],
            actor: attempt.actor,
            request_id: Some(attempt.request_id),
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        };
        if let Err(error) = execute.run(request).await {
            tracing::warn!(error = %Chain(&error), "a denied attempt is not recorded");
        }
    }
}
