//! What a region must hold, so that its digest can be signed and its entries be checked.
//!
//! Redis is written to, never trusted: a digest taken from there would sign whatever
//! somebody put there. So the projector itself keeps which revision of which entry there is,
//! about 50 bytes a key. After a start it comes from the region, if that matches what was
//! signed with the same key, and otherwise from the log, which is always right and slower.

use std::collections::{BTreeMap, BTreeSet};

use schemas::digest::{self, Digest, Leaf, Tree};
use schemas::entry::{Change, Revision};
use schemas::name::{BUCKETS, CELLS, CELLS_PER_BUCKET};
use schemas::seal::Seal;
use schemas::stream::{Digests, Meta, Part, neighbours};
use schemas::{CredentialHash, Position};

use crate::region::{self, POLICIES_DIGEST, Place, Region};

/// The revisions of all entries at the projector's position, and their digest.
pub(super) struct Truth {
    /// In each cell the secrets in order.
    cells: Box<[Vec<Leaf>]>,
    /// By `<kind>:<id>`.
    policies: BTreeMap<String, Revision>,
    tree: Tree,
    count: u64,
}

/// How to take a change back that the region did not take.
pub(super) struct Undo(Vec<(Place, Option<Revision>)>);

// === impl Truth ===

impl Truth {
    /// Of an empty region.
    pub(super) fn new() -> Self {
        Self {
            cells: vec![Vec::new(); CELLS].into(),
            policies: BTreeMap::new(),
            tree: Tree::new(),
            count: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Takes the table from a region that is at `meta`, which has been verified. `None` where
    /// the region does not hold what was signed; then nothing is known.
    pub(super) async fn of_region(
        region: &dyn Region,
        seal: &Seal,
        meta: &Meta,
    ) -> Result<Option<Self>, region::Error> {
        let mut truth = Self::new();
        let first = region.read(meta.epoch, 0..0, true).await?;
        let Ok(Some(signed)) = first.digests(seal.trust()) else {
            return Ok(None);
        };
        if signed.meta != *meta || !truth.take_part(seal, &signed, first) {
            return Ok(None);
        }
        let filled: Vec<u16> = (0..BUCKETS)
            .filter(|it| signed.buckets[usize::from(*it)] != Digest::EMPTY)
            .collect();
        for buckets in neighbours(&filled, meta.buckets_at_once()) {
            let part = region.read(meta.epoch, buckets, false).await?;
            // Nobody else writes what we sign, so these are the digests of before.
            if part.meta.is_none() || !truth.take_part(seal, &signed, part) {
                return Ok(None);
            }
        }
        Ok((truth.root() == meta.root).then_some(truth))
    }

    fn take_part(&mut self, seal: &Seal, signed: &Digests, part: Part) -> bool {
        if let Some(stored) = part.policies {
            let Ok(policies) = signed.open_policies(seal.trust(), stored) else {
                return false;
            };
            self.policies = policies
                .into_iter()
                .map(|it| (it.key, it.revision))
                .collect();
            self.tree.set_policies(self.policies_digest());
        }
        for (bucket, stored) in part.buckets {
            let Ok(entries) = signed.open_bucket(seal.trust(), bucket, stored) else {
                return false;
            };
            for entry in entries {
                self.count += 1;
                self.cells[digest::cell_of(&entry.key)].push(Leaf {
                    hash: entry.key,
                    revision: entry.revision,
                });
            }
            let first = usize::from(bucket) * CELLS_PER_BUCKET;
            for cell in first..first + CELLS_PER_BUCKET {
                self.cells[cell].sort_unstable();
                self.tree.set_cell(cell, &self.cells[cell]);
            }
        }
        true
    }

    /// Takes in the entries of a batch, each at most once.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Undo {
        let new = changes
            .iter()
            .map(|it| (Place::of(it), Some(it.revision())))
            .collect();
        self.set(new)
    }

    /// Takes back what a batch changed.
    pub(super) fn undo(&mut self, Undo(before): Undo) {
        self.set(before);
    }

    /// The nodes of the digest that a batch of these entries changed.
    pub(super) fn touched(&self, changes: &[Change]) -> Vec<(u16, Digest)> {
        let touched: BTreeSet<u16> = changes
            .iter()
            .map(|it| Place::of(it).bucket().unwrap_or(POLICIES_DIGEST))
            .collect();
        touched
            .into_iter()
            .map(|at| match at {
                POLICIES_DIGEST => (at, self.tree.policies()),
                bucket => (at, self.tree.bucket(bucket)),
            })
            .collect()
    }

    /// The digest of everything.
    pub(super) fn root(&self) -> Digest {
        self.tree.root()
    }

    /// All digests as a region stores them.
    pub(super) fn digests(&self) -> Vec<u8> {
        self.tree.to_bytes()
    }

    /// How many secrets there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The secrets of a bucket.
    pub(super) fn bucket(&self, bucket: u16) -> impl Iterator<Item = &Leaf> {
        let first = usize::from(bucket) * CELLS_PER_BUCKET;
        self.cells[first..first + CELLS_PER_BUCKET].iter().flatten()
    }

    /// Which entry of a secret there is.
    pub(super) fn secret(&self, hash: &CredentialHash) -> Option<Revision> {
        let cell = &self.cells[digest::cell_of(hash)];
        let at = cell.binary_search_by_key(hash, |it| it.hash).ok()?;
        Some(cell[at].revision)
    }

    /// The policies by name.
    pub(super) fn policies(&self) -> &BTreeMap<String, Revision> {
        &self.policies
    }

    fn set(&mut self, new: Vec<(Place, Option<Revision>)>) -> Undo {
        let mut before = Vec::with_capacity(new.len());
        let mut cells = BTreeSet::new();
        let mut policies = false;
        for (place, revision) in new {
            let old = match &place {
                Place::Secret(hash) => {
                    cells.insert(digest::cell_of(hash));
                    self.set_secret(hash, revision)
                }
                Place::Policy(id) => {
                    policies = true;
                    match revision {
                        Some(revision) => self.policies.insert(id.to_string(), revision),
                        None => self.policies.remove(&id.to_string()),
                    }
                }
            };
            before.push((place, old));
        }
        for cell in cells {
            self.tree.set_cell(cell, &self.cells[cell]);
        }
        if policies {
            self.tree.set_policies(self.policies_digest());
        }
        Undo(before)
    }

    fn set_secret(&mut self, hash: &CredentialHash, new: Option<Revision>) -> Option<Revision> {
        let cell = &mut self.cells[digest::cell_of(hash)];
        let found = cell.binary_search_by_key(hash, |it| it.hash);
        match (found, new) {
            (Ok(at), Some(new)) => Some(std::mem::replace(&mut cell[at].revision, new)),
            (Ok(at), None) => {
                self.count -= 1;
                Some(cell.remove(at).revision)
            }
            (Err(at), Some(revision)) => {
                self.count += 1;
                let hash = *hash;
                cell.insert(at, Leaf { hash, revision });
                None
            }
            (Err(_), None) => None,
        }
    }

    fn policies_digest(&self) -> Digest {
        let all = self.policies.iter();
        digest::of_policies(all.map(|(field, revision)| (field.as_str(), *revision)))
    }
}

/// Where a region is, and the digest of what it holds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) generation: u32,
    pub(super) epoch: u64,
    pub(super) position: Position,
    pub(super) root: Digest,
}

#[cfg(test)]
mod tests {
    use schemas::PlanLimits;
    use schemas::entry::{GlobalPolicy, Policy, PolicyEntry};

    use super::*;

    fn secret(number: u8, rev: Position) -> (Place, Option<Revision>) {
        let hash = CredentialHash::of(&[number]);
        let revision = Revision { generation: 1, rev };
        (Place::Secret(hash), Some(revision))
    }

    fn global(rev: Position) -> Change {
        Change::Policy {
            policy: PolicyEntry {
                min_reader: 1,
                revision: Revision { generation: 1, rev },
                policy: Policy::Global(GlobalPolicy {
                    limits: PlanLimits::default(),
                    error_profile: Default::default(),
                }),
            },
        }
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut truth = Truth::new();
        truth.set(vec![secret(1, 1), secret(2, 2)]);
        truth.apply(&[global(3)]);
        let (root, digests) = (truth.root(), truth.digests());

        let undo = truth.set(vec![secret(2, 4), secret(3, 4)]);
        assert_ne!(truth.root(), root);
        assert_eq!(truth.count(), 3);
        truth.undo(undo);
        let undo = truth.apply(&[global(5)]);
        assert_ne!(truth.root(), root);
        truth.undo(undo);

        assert_eq!((truth.root(), truth.digests()), (root, digests));
        assert_eq!(truth.count(), 2);
        assert_eq!(truth.secret(&CredentialHash::of(&[3])), None);
        let rev = truth.secret(&CredentialHash::of(&[2])).map(|it| it.rev);
        assert_eq!(rev, Some(2));
    }

    #[test]
    fn only_nodes_that_changed_are_written() {
        let mut truth = Truth::new();
        let change = global(1);
        truth.apply(std::slice::from_ref(&change));
        let touched = truth.touched(std::slice::from_ref(&change));
        assert_eq!(touched, [(POLICIES_DIGEST, truth.tree.policies())]);
        assert!(truth.touched(&[]).is_empty());
    }
}
