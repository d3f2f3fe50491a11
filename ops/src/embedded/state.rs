//! What the in-process region holds, and the rules by which it changes.
//!
//! They are the rules of the Redis script: check everything first, write last.

use std::collections::{HashMap, VecDeque};

use control_plane::region::{Batch, Verdict};
use schemas::entry::{self, BadEntry, Change, PolicyId, Revision};
use schemas::name::{BUCKETS, FEED_POSITIONS, bucket_of};
use schemas::stream::{Frame, Meta};
use schemas::{CredentialHash, Position};

/// The content of the region: one epoch, or nothing.
#[derive(Debug)]
pub(super) struct State {
    meta: Option<Meta>,
    /// By the first ten bits of the hash, so that reading one bucket does not walk all.
    buckets: Vec<HashMap<CredentialHash, Stored>>,
    policies: HashMap<PolicyId, Stored>,
    /// Oldest first; reaches back [`FEED_POSITIONS`].
    feed: VecDeque<Frame>,
}

/// An entry as it is stored, and what of it the rules look at.
#[derive(Debug)]
struct Stored {
    text: String,
    revision: Revision,
    absorbing: bool,
}

// === impl State ===

impl State {
    /// A new region.
    pub(super) fn empty() -> Self {
        Self {
            meta: None,
            buckets: std::iter::repeat_with(HashMap::new)
                .take(usize::from(BUCKETS))
                .collect(),
            policies: HashMap::new(),
            feed: VecDeque::new(),
        }
    }

    /// What the region says of itself.
    pub(super) fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// Writes a batch, or nothing of it.
    ///
    /// # Errors
    /// When an entry cannot be encoded; nothing is written.
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<Verdict, BadEntry> {
        if let Some(verdict) = self.misplaced(batch) {
            return Ok(verdict);
        }
        let mut written = Vec::with_capacity(batch.changes.len());
        for change in &batch.changes {
            let new = Stored::of(change)?;
            if let Some(reason) = self.stored(change).and_then(|old| new.cannot_follow(old)) {
                return Ok(Verdict::Refused { reason });
            }
            written.push((change, new));
        }

        for (change, new) in written {
            match change {
                Change::Secret { hash, .. } => {
                    self.buckets[usize::from(bucket_of(hash))].insert(*hash, new);
                }
                Change::Policy { policy } => {
                    self.policies.insert(policy.policy.id(), new);
                }
            }
        }
        self.feed.push_back(batch.frame());
        let oldest = batch.to.saturating_sub(FEED_POSITIONS);
        while self.feed.front().is_some_and(|frame| frame.to < oldest) {
            self.feed.pop_front();
        }
        self.meta = Some(batch.meta());
        Ok(Verdict::Applied)
    }

    /// The policy entries of an epoch, by `<kind>:<id>`.
    pub(super) fn policies(&self, epoch: u64) -> Vec<(String, Vec<u8>)> {
        if !self.holds(epoch) {
            return Vec::new();
        }
        self.policies
            .iter()
            .map(|(id, stored)| (id.to_string(), stored.text.clone().into_bytes()))
            .collect()
    }

    /// The secret entries of one bucket of an epoch, by hash.
    pub(super) fn bucket(&self, epoch: u64, bucket: u16) -> Vec<(String, Vec<u8>)> {
        match self.buckets.get(usize::from(bucket)) {
            Some(entries) if self.holds(epoch) => entries
                .iter()
                .map(|(hash, stored)| (hash.to_string(), stored.text.clone().into_bytes()))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Frames that lead to positions above `after`, oldest first.
    pub(super) fn feed(&self, epoch: u64, after: Position, limit: usize) -> Vec<Frame> {
        if !self.holds(epoch) {
            return Vec::new();
        }
        let first = self.feed.partition_point(|frame| frame.to <= after);
        self.feed.iter().skip(first).take(limit).cloned().collect()
    }

    /// The exact entry of a secret in an epoch.
    pub(super) fn entry(&self, epoch: u64, hash: &CredentialHash) -> Option<&str> {
        let bucket = &self.buckets[usize::from(bucket_of(hash))];
        let stored = bucket.get(hash).filter(|_| self.holds(epoch))?;
        Some(&stored.text)
    }

    /// The exact entry of a secret, and of the policies around it those that exist.
    pub(super) fn lookup(
        &self,
        epoch: u64,
        hash: &CredentialHash,
    ) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        let text = self.entry(epoch, hash)?;
        let mut around = vec![PolicyId::Global];
        // One that cannot be read goes out alone; the proxy says what it makes of it.
        if let Ok(secret) = entry::decode_secret(text.as_bytes()) {
            around.push(PolicyId::Workspace(secret.workspace_id));
            around.extend(secret.team_id.map(PolicyId::Team));
            let owner = secret
                .owner
                .map(|it| PolicyId::Owner(secret.workspace_id, it));
            around.extend(owner);
        }
        let policies = around
            .iter()
            .filter_map(|id| self.policies.get(id))
            .map(|stored| stored.text.clone().into_bytes())
            .collect();
        Some((text.as_bytes().to_vec(), policies))
    }

    /// Why the batch does not belong here, if it does not.
    fn misplaced(&self, batch: &Batch) -> Option<Verdict> {
        let Some(meta) = &self.meta else {
            return (batch.from != 0).then_some(Verdict::Elsewhere);
        };
        if batch.fence < meta.fence {
            return Some(Verdict::Fenced);
        }
        let older = batch.generation < meta.generation;
        let foreign = batch.generation == meta.generation && batch.lineage != meta.lineage;
        if older || foreign {
            return Some(Verdict::Refused {
                reason: "the region belongs to another lineage".to_owned(),
            });
        }
        let here = batch.epoch == meta.epoch
            && batch.generation == meta.generation
            && batch.from == meta.position;
        (!here).then_some(Verdict::Elsewhere)
    }

    fn stored(&self, change: &Change) -> Option<&Stored> {
        match change {
            Change::Secret { hash, .. } => self.buckets[usize::from(bucket_of(hash))].get(hash),
            Change::Policy { policy } => self.policies.get(&policy.policy.id()),
        }
    }

    fn holds(&self, epoch: u64) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.epoch == epoch)
    }
}

// === impl Stored ===

impl Stored {
    fn of(change: &Change) -> Result<Self, BadEntry> {
        Ok(match change {
            Change::Secret { secret, .. } => Self {
                text: entry::encode(secret)?,
                revision: secret.revision,
                absorbing: secret.status.is_absorbing(),
            },
            Change::Policy { policy } => Self {
                text: entry::encode(policy)?,
                revision: policy.revision,
                absorbing: false,
            },
        })
    }

    /// Why this entry may not take the place of `old`.
    fn cannot_follow(&self, old: &Self) -> Option<String> {
        if self.revision <= old.revision {
            Some("an entry is not newer than the stored one".to_owned())
        } else if old.absorbing && !self.absorbing {
            Some("an entry is off for good".to_owned())
        } else {
            None
        }
    }
}
