//! Looking through a region for what differs from the log, and putting it right.
//!
//! Some buckets with every heartbeat: a region of up to 128,000 secrets is through in 8 s,
//! one of 480,000 in 30 s, and a larger one at the same pace of 16,000 secrets a second, so
//! that looking never holds a change up for more than a few milliseconds.
//!
//! What a region should hold is known by revision ([`Truth`](super::truth)); an entry that
//! has to be written again is folded from the event of that revision, which is the last one
//! that changed it.

use std::collections::HashSet;
use std::ops::Range;

use events::project;
use schemas::CredentialHash;
use schemas::entry::{PolicyId, Revision};
use schemas::name::{BUCKETS, bucket_of};
use schemas::stream::{Part, Stored, open};

use super::lead::Term;
use super::{Error, Projector};
use crate::region::{Entry, Place, Repair};
use crate::store::{self, Store, log};

/// Secrets looked through with one heartbeat.
const SECRETS_AT_ONCE: u64 = 8_000;
/// Buckets looked through with one heartbeat.
const BUCKETS_AT_ONCE: u64 = 64;
/// Entries that one script writes again.
const REPAIRED_AT_ONCE: usize = 500;

/// What differs.
#[derive(Default)]
struct Differing {
    /// Entries that are missing, old, or not ours.
    wanted: Vec<(Place, Revision)>,
    /// Fields that the log knows nothing of.
    strangers: Vec<(Option<u16>, String)>,
    /// The digests beside the table.
    digests: bool,
}

// === impl Projector ===

impl Projector {
    /// Looks through the next buckets.
    pub(super) async fn audit_next(&mut self, term: &mut Term) -> Result<(), Error> {
        let each = self.truth.count() / u64::from(BUCKETS) + 1;
        let count = (SECRETS_AT_ONCE / each).clamp(1, BUCKETS_AT_ONCE) as u16;
        let first = self.audit_at;
        let next = BUCKETS.min(first + count);
        self.audit(term, first..next, first == 0).await?;
        self.audit_at = if next == BUCKETS { 0 } else { next };
        Ok(())
    }

    /// Looks through some buckets, and says how much had to be put right.
    pub(super) async fn audit(
        &mut self,
        term: &mut Term,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<usize, Error> {
        let part = self.led.region.read(term.epoch, buckets, policies).await?;
        if part.meta != self.written {
            // That is a matter of its own, and looked at with each heartbeat.
            return Ok(0);
        }
        let differing = self.compare(part);
        let count = differing.count();
        if count == 0 {
            return Ok(0);
        }
        let region = self.led.region.name().to_owned();
        tracing::error!(
            region,
            entries = differing.wanted.len(),
            strangers = differing.strangers.len(),
            digests = differing.digests,
            "the region differs from the log: somebody else writes to its Redis, or it lost \
             something; it is put right"
        );
        self.put_right(term, differing).await?;
        Ok(count)
    }

    fn compare(&self, part: Part) -> Differing {
        let mut differing = Differing {
            digests: !is_same(&part.digests, &self.truth.digests()),
            ..Differing::default()
        };
        if let Some(stored) = part.policies {
            self.compare_policies(stored, &mut differing);
        }
        for (bucket, stored) in part.buckets {
            self.compare_bucket(bucket, stored, &mut differing);
        }
        differing
    }

    fn compare_bucket(&self, bucket: u16, stored: Stored, differing: &mut Differing) {
        let trust = self.led.seal.trust();
        let mut right = HashSet::with_capacity(stored.len());
        for (field, bytes) in stored {
            let hash = field.parse::<CredentialHash>().ok();
            let hash = hash.filter(|hash| bucket_of(hash) == bucket);
            let Some((hash, revision)) = hash.and_then(|it| Some((it, self.truth.secret(&it)?)))
            else {
                differing.strangers.push((Some(bucket), field));
                continue;
            };
            let found = open::<CredentialHash>(trust, field, bytes);
            if found.is_some_and(|it| it.revision == revision) {
                right.insert(hash);
            }
        }
        let wrong = self.truth.bucket(bucket);
        differing.wanted.extend(
            wrong
                .filter(|it| !right.contains(&it.hash))
                .map(|it| (Place::Secret(it.hash), it.revision)),
        );
    }

    fn compare_policies(&self, stored: Stored, differing: &mut Differing) {
        let trust = self.led.seal.trust();
        let mut right = HashSet::with_capacity(stored.len());
        for (field, bytes) in stored {
            let Some(revision) = self.truth.policies().get(&field) else {
                differing.strangers.push((None, field));
                continue;
            };
            let found = open::<String>(trust, field.clone(), bytes);
            if found.is_some_and(|it| it.revision == *revision) {
                right.insert(field);
            }
        }
        for (field, revision) in self.truth.policies() {
            let id = field.parse::<PolicyId>().ok();
            if let Some(id) = id.filter(|_| !right.contains(field)) {
                differing.wanted.push((Place::Policy(id), *revision));
            }
        }
    }

    async fn put_right(&mut self, term: &mut Term, differing: Differing) -> Result<(), Error> {
        let repair = Repair {
            fence: term.fence,
            epoch: term.epoch,
            strangers: differing.strangers,
            digests: differing.digests.then(|| self.truth.digests()),
            ..Repair::default()
        };
        self.write(&repair).await?;
        for wanted in differing.wanted.chunks(REPAIRED_AT_ONCE) {
            let mut repair = Repair {
                fence: term.fence,
                epoch: term.epoch,
                ..Repair::default()
            };
            for (place, revision) in wanted {
                let change = entry_of(&self.store, *place, *revision).await?;
                let entry = change.map(|it| Entry::seal(&self.led.seal, &it));
                match entry {
                    Some(Ok(entry)) => repair.entries.push(entry),
                    _ => tracing::error!(
                        rev = revision.rev,
                        "an entry of the region cannot be made from the log"
                    ),
                }
            }
            self.write(&repair).await?;
            self.keep(term).await?;
        }
        Ok(())
    }

    async fn write(&self, repair: &Repair) -> Result<(), Error> {
        if self.led.region.repair(repair).await? {
            Ok(())
        } else {
            Err(Error::Fenced)
        }
    }
}

// === impl Differing ===

impl Differing {
    fn count(&self) -> usize {
        self.wanted.len() + self.strangers.len() + usize::from(self.digests)
    }
}

/// Whether digests are these; those that were never written are zeros.
fn is_same(stored: &[u8], truth: &[u8]) -> bool {
    stored.len() <= truth.len()
        && truth.starts_with(stored)
        && truth[stored.len()..].iter().all(|it| *it == 0)
}

/// The entry of a revision, folded from the log.
async fn entry_of(
    store: &Store,
    place: Place,
    revision: Revision,
) -> Result<Option<schemas::entry::Change>, store::Error> {
    let Some(before) = revision.rev.checked_sub(1) else {
        return Ok(None);
    };
    let rows = log::after(store, before, 1).await?;
    let Some(row) = rows
        .first()
        .filter(|it| it.recorded.position == revision.rev)
    else {
        return Ok(None);
    };
    let history = log::of_stream(store, row.recorded.stream, before).await?;
    let state = history
        .iter()
        .fold(None, |state, row| events::evolve(state, &row.recorded));
    let after = events::evolve(state.clone(), &row.recorded);
    let changes = after.map(|after| project::project(state.as_ref(), &after, &row.recorded));
    Ok(changes
        .into_iter()
        .flatten()
        .find(|it| Place::of(it) == place && it.revision() == revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_that_were_never_written_are_zeros() {
        for (stored, truth, same) in [
            (&[][..], &[0, 0][..], true),
            (&[1], &[1, 0], true),
            (&[1], &[1, 2], false),
            (&[2, 0], &[1, 0], false),
            (&[1, 0, 0], &[1, 0], false),
        ] {
            assert_eq!(is_same(stored, truth), same, "{stored:?}");
        }
    }
}
