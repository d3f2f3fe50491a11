//! Folding events into the entries that they change.

use std::collections::HashMap;

use events::{Aggregate, Recorded, Stream, project};
use schemas::CredentialHash;
use schemas::entry::{self, Change, PolicyId};

use crate::store::{self, Store, log};

/// Aggregates remembered between batches; one that is forgotten is folded again from its
/// stream.
const FOLDED_MAX: usize = 50_000;

/// Aggregates at the projector's position. Whoever moves the position anywhere but forward
/// clears it: an event that is folded a second time would change nothing.
#[derive(Default)]
pub(super) struct Folded(HashMap<Stream, Option<Aggregate>>);

/// The entries of a batch: of each, only the last.
#[derive(Default)]
pub(super) struct Changes {
    order: Vec<EntryName>,
    entries: HashMap<EntryName, Change>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum EntryName {
    Secret(CredentialHash),
    Policy(PolicyId),
}

// === impl Folded ===

impl Folded {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Folds the next event and says which entries it changed.
    pub(super) async fn fold(
        &mut self,
        store: &Store,
        recorded: &Recorded,
    ) -> Result<Vec<Change>, store::Error> {
        if self.0.len() >= FOLDED_MAX {
            self.0.clear();
        }
        let stream = recorded.stream;
        let before = match self.0.remove(&stream) {
            Some(before) => before,
            None if recorded.stream_version == 1 => None,
            None => {
                let history = log::of_stream(store, stream, recorded.position - 1).await?;
                history
                    .iter()
                    .fold(None, |state, row| events::evolve(state, &row.recorded))
            }
        };
        let after = events::evolve(before.clone(), recorded);
        let changes = after
            .as_ref()
            .map(|after| project::project(before.as_ref(), after, recorded))
            .unwrap_or_default();
        self.0.insert(stream, after);
        Ok(changes)
    }
}

// === impl Changes ===

impl Changes {
    pub(super) fn merge(&mut self, changes: Vec<Change>) {
        for change in changes {
            let name = match &change {
                Change::Secret { hash, .. } => EntryName::Secret(*hash),
                Change::Policy { policy } => EntryName::Policy(policy.policy.id()),
            };
            if self.entries.insert(name, change).is_none() {
                self.order.push(name);
            }
        }
    }

    /// The entries, checked with the same code that a proxy reads them with. They were
    /// checked before the commit too; one that still cannot be read is left out and
    /// reported, because it must not hold up all the others.
    pub(super) fn into_valid(mut self) -> Vec<Change> {
        let entries = self
            .order
            .iter()
            .filter_map(|name| self.entries.remove(name));
        entries
            .filter(|change| {
                let checked = entry::check(change);
                if let Err(error) = &checked {
                    tracing::error!(%error, "an entry cannot be published and was left out");
                }
                checked.is_ok()
            })
            .collect()
    }
}
