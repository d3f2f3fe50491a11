//! What callers tried and may not: kept for auditors, at a rate that nobody can use to
//! fill the log.

use std::collections::BTreeMap;

use schemas::{Position, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::command::RecordDenied;
use crate::event::{Event, Recorded};

/// What is kept of one caller in any [`WINDOW_MS`].
pub const KEPT_MAX: usize = 10;

/// A minute, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;

/// What was denied in a workspace within the last minute; what is older is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// When, by the id of the caller.
    pub recent: BTreeMap<String, Vec<Timestamp>>,
    /// Number of the last event.
    pub version: u64,
    /// Place of the last event in the log.
    pub position: Position,
}

/// What follows from an attempt: nothing where enough is kept of that caller already.
pub fn decide(denied: Option<&Denied>, command: &RecordDenied, now: Timestamp) -> Vec<Event> {
    let kept = denied
        .and_then(|it| it.recent.get(&command.caller))
        .map_or(0, |at| at.iter().filter(|at| is_recent(**at, now)).count());
    if kept >= KEPT_MAX {
        vec![]
    } else {
        vec![Event::AccessDenied(command.denied.clone())]
    }
}

/// The record after an event.
pub fn evolve(denied: Option<Denied>, recorded: &Recorded) -> Option<Denied> {
    let mut recent = denied.map(|it| it.recent).unwrap_or_default();
    for times in recent.values_mut() {
        times.retain(|at| is_recent(*at, recorded.at));
    }
    recent.retain(|_, times| !times.is_empty());
    if let Event::AccessDenied(_) = &recorded.event {
        let caller = recent.entry(recorded.actor.id.clone()).or_default();
        caller.push(recorded.at);
    }
    Some(Denied {
        workspace_id: recorded.workspace_id?,
        recent,
        version: recorded.stream_version,
        position: recorded.position,
    })
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now < at.plus_ms(WINDOW_MS)
}

#[cfg(test)]
mod tests;
