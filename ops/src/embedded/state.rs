//! What the in-process region holds, and the rules by which it changes.
//!
//! They are the rules of the Redis script: check everything first, write last.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use control_plane::region::{Batch, Entry, Place, Repair, Verdict};
use schemas::digest::DIGEST_BYTES;
use schemas::entry::{self, PolicyId, Revision};
use schemas::name::{BUCKETS, FEED_POSITIONS, bucket_of};
use schemas::seal::Signed;
use schemas::stream::{Meta, MetaFields, Part};
use schemas::{CredentialHash, Position};

/// The content of the region: one epoch, or nothing.
#[derive(Debug)]
pub(super) struct State {
    meta: Option<Held>,
    /// By the first ten bits of the hash, so that reading one bucket does not walk all.
    buckets: Vec<HashMap<CredentialHash, Stored>>,
    policies: HashMap<PolicyId, Stored>,
    digests: Vec<u8>,
    /// Oldest first, by where they lead; reaches back [`FEED_POSITIONS`].
    feed: VecDeque<(Position, Signed)>,
}

/// What the region says of itself: as it is read, and as the rules look at it.
#[derive(Debug)]
struct Held {
    meta: Meta,
    signed: MetaFields,
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
            digests: vec![0; (usize::from(BUCKETS) + 1) * DIGEST_BYTES],
            feed: VecDeque::new(),
        }
    }

    /// What the region says of itself.
    pub(super) fn meta(&self) -> Option<&MetaFields> {
        self.meta.as_ref().map(|held| &held.signed)
    }

    /// The build of the table; `None` when the region is empty.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.meta.as_ref().map(|held| held.meta.epoch)
    }

    /// Writes a batch, or nothing of it.
    pub(super) fn apply(&mut self, batch: &Batch) -> Verdict {
        if let Some(verdict) = self.misplaced(batch) {
            return verdict;
        }
        for entry in &batch.entries {
            let old = self.stored(&entry.place);
            if let Some(reason) = old.and_then(|old| cannot_follow(entry, old)) {
                return Verdict::Refused { reason };
            }
        }

        for entry in &batch.entries {
            self.put(entry);
        }
        for (at, digest) in &batch.digests {
            let first = usize::from(*at) * DIGEST_BYTES;
            self.digests[first..first + DIGEST_BYTES].copy_from_slice(digest.as_bytes());
        }
        let to = batch.meta.position;
        self.feed.push_back((to, batch.frame.clone()));
        let oldest = to.saturating_sub(FEED_POSITIONS);
        while self.feed.front().is_some_and(|(to, _)| *to < oldest) {
            self.feed.pop_front();
        }
        self.meta = Some(Held {
            meta: batch.meta.clone(),
            signed: batch.signed_meta.clone(),
        });
        Verdict::Applied
    }

    /// Puts back what differs; `false` where a later projector has written.
    pub(super) fn repair(&mut self, repair: &Repair) -> bool {
        let is_ours = self
            .meta
            .as_ref()
            .is_some_and(|held| held.meta.epoch == repair.epoch && held.meta.fence <= repair.fence);
        if !is_ours {
            return false;
        }
        for entry in &repair.entries {
            self.put(entry);
        }
        for (bucket, field) in &repair.strangers {
            match bucket {
                Some(bucket) => {
                    if let Ok(hash) = field.parse() {
                        self.buckets[usize::from(*bucket)].remove(&hash);
                    }
                }
                None => {
                    if let Ok(id) = field.parse() {
                        self.policies.remove(&id);
                    }
                }
            }
        }
        if let Some(digests) = &repair.digests {
            self.digests.clone_from(digests);
        }
        true
    }

    /// Puts a meta in place of the one that was seen.
    pub(super) fn replace_meta(
        &mut self,
        seen: &MetaFields,
        signed: &MetaFields,
        digests: &[u8],
    ) -> bool {
        let Ok(meta) = Meta::of_fields(signed) else {
            return false;
        };
        if self.meta().is_some_and(|it| it != seen) {
            return false;
        }
        self.meta = Some(Held {
            meta,
            signed: signed.clone(),
        });
        self.digests = digests.to_vec();
        true
    }

    /// Some buckets, and the policies if asked for, with what is signed of them.
    pub(super) fn read(&self, epoch: u64, buckets: Range<u16>, policies: bool) -> Part {
        let holds = self.holds(epoch);
        let bucket = |bucket: u16| {
            let entries = self.buckets[usize::from(bucket)].iter();
            let stored = entries
                .filter(|_| holds)
                .map(|(hash, it)| (hash.to_string(), it.text.clone().into_bytes()));
            (bucket, stored.collect())
        };
        let all = self.policies.iter().filter(|_| holds);
        let all = all.map(|(id, it)| (id.to_string(), it.text.clone().into_bytes()));
        Part {
            meta: self.meta().cloned(),
            digests: if holds {
                self.digests.clone()
            } else {
                Vec::new()
            },
            policies: policies.then(|| all.collect()),
            buckets: buckets.map(bucket).collect(),
        }
    }

    /// Frames that lead to positions above `after`, oldest first.
    pub(super) fn feed(&self, epoch: u64, after: Position, limit: usize) -> Vec<Signed> {
        if !self.holds(epoch) {
            return Vec::new();
        }
        let first = self.feed.partition_point(|(to, _)| *to <= after);
        let frames = self.feed.iter().skip(first).take(limit);
        frames.map(|(_, frame)| frame.clone()).collect()
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
    ) -> Option<(Vec<u8>, schemas::stream::Stored)> {
        let text = self.entry(epoch, hash)?;
        let mut around = vec![PolicyId::Global];
        // One that cannot be read goes out alone; the proxy says what it makes of it.
        if let Ok(secret) = serde_json::from_str::<entry::SecretEntry>(text) {
            around.push(PolicyId::Workspace(secret.workspace_id));
            around.extend(secret.team_id.map(PolicyId::Team));
            let owner = secret
                .owner
                .map(|it| PolicyId::Owner(secret.workspace_id, it));
            around.extend(owner);
        }
        let policies = around
            .iter()
            .filter_map(|id| Some((id.to_string(), self.policies.get(id)?)))
            .map(|(name, stored)| (name, stored.text.clone().into_bytes()))
            .collect();
        Some((text.as_bytes().to_vec(), policies))
    }

    /// Why the batch does not belong here, if it does not.
    fn misplaced(&self, batch: &Batch) -> Option<Verdict> {
        let Some(Held { meta, .. }) = &self.meta else {
            return (batch.from != 0).then_some(Verdict::Elsewhere);
        };
        let new = &batch.meta;
        if new.fence < meta.fence {
            return Some(Verdict::Fenced);
        }
        let older = new.generation < meta.generation;
        let foreign = new.generation == meta.generation && new.lineage != meta.lineage;
        if older || foreign {
            return Some(Verdict::Refused {
                reason: "the region belongs to another lineage".to_owned(),
            });
        }
        let here = new.epoch == meta.epoch
            && new.generation == meta.generation
            && batch.from == meta.position;
        (!here).then_some(Verdict::Elsewhere)
    }

    fn put(&mut self, entry: &Entry) {
        let stored = Stored {
            text: entry.text.clone(),
            revision: entry.revision,
            absorbing: entry.absorbing,
        };
        match entry.place {
            Place::Secret(hash) => {
                self.buckets[usize::from(bucket_of(&hash))].insert(hash, stored);
            }
            Place::Policy(id) => {
                self.policies.insert(id, stored);
            }
        }
    }

    fn stored(&self, place: &Place) -> Option<&Stored> {
        match place {
            Place::Secret(hash) => self.buckets[usize::from(bucket_of(hash))].get(hash),
            Place::Policy(id) => self.policies.get(id),
        }
    }

    fn holds(&self, epoch: u64) -> bool {
        self.epoch() == Some(epoch)
    }
}

/// Why an entry may not take the place of `old`.
fn cannot_follow(new: &Entry, old: &Stored) -> Option<String> {
    if new.revision <= old.revision {
        Some("an entry is not newer than the stored one".to_owned())
    } else if old.absorbing && !new.absorbing {
        Some("an entry is off for good".to_owned())
    } else {
        None
    }
}
