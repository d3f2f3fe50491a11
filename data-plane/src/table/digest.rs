//! The digest of the table, as its region computes it.
//!
//! Computed when somebody compares, and then only for the buckets that changed since: a
//! change costs one mark, and nothing is kept per secret.

use std::collections::BTreeMap;

use schemas::digest::{self, Digest};
use schemas::entry::Revision;
use schemas::name::BUCKETS;

/// The digests of buckets, and the policies that the table was told of.
#[derive(Debug)]
pub(super) struct Digests {
    /// `None`: it changed since it was computed.
    buckets: Box<[Option<Digest>]>,
    /// By `<kind>:<id>`; also those that this build cannot read.
    policies: BTreeMap<String, Revision>,
    /// Of those; `None`: they changed since it was computed.
    of_policies: Option<Digest>,
}

// === impl Digests ===

impl Digests {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![Some(Digest::EMPTY); usize::from(BUCKETS)].into(),
            policies: BTreeMap::new(),
            of_policies: Some(Digest::EMPTY),
        }
    }

    /// A bucket changed.
    pub(super) fn touch(&mut self, bucket: u16) {
        self.buckets[usize::from(bucket)] = None;
    }

    /// The digest of a bucket, from what `compute` makes of it where it changed.
    pub(super) fn bucket(&mut self, bucket: u16, compute: impl FnOnce() -> Digest) -> Digest {
        *self.buckets[usize::from(bucket)].get_or_insert_with(compute)
    }

    /// A policy came.
    pub(super) fn policy(&mut self, name: String, revision: Revision) {
        self.of_policies = None;
        let held = self.policies.entry(name).or_insert(revision);
        *held = revision.max(*held);
    }

    /// These are the region's policies at `through`; only newer ones stay beside them.
    pub(super) fn replace_policies(
        &mut self,
        policies: impl Iterator<Item = (String, Revision)>,
        through: Revision,
    ) {
        self.of_policies = None;
        self.policies.retain(|_, revision| *revision > through);
        for (name, revision) in policies {
            self.policy(name, revision);
        }
    }

    pub(super) fn policies(&mut self) -> Digest {
        *self.of_policies.get_or_insert_with(|| {
            let all = self.policies.iter();
            digest::of_policies(all.map(|(name, revision)| (name.as_str(), *revision)))
        })
    }
}
