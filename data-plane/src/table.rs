//! The key table: what the proxy knows of every secret, read without a lock while it is
//! changed.
//!
//! **Shape.** 1,024 shards by the first 10 bits of the lookup hash, each behind its own
//! `ArcSwap`; a table that grows beyond 65,536 secrets is cut once into 16,384, by 14 bits.
//! A change copies one shard (kilobytes), not the table. In a shard the slots
//! lie in one exact-size array, and a small hash index of two bytes per slot finds them;
//! the SHA-256 is its own hash. What many keys share (team, owner, limits) is kept once per
//! shard, so that a reader of a shard needs nothing outside it.
//!
//! **Merging.** Entries merge by the highest (generation, rev), and a revoked, ended or
//! purged secret never leaves that state: messages may come in any order and any number
//! of times. An entry that this build cannot read is set aside alone: its secret is
//! denied.
//!
//! **Digest.** [`KeyTable::root`] is the digest that the region's control plane signs, so that
//! a table that is not what it should be is found ([`schemas::digest`]).
//!
//! **Comparing.** The look-up compares the SHA-256 of what was presented. An attacker
//! cannot steer that digest towards a stored one, so the time the comparison takes tells
//! nothing about a stored hash, and a constant-time comparison would buy nothing.
//!
//! **Time of loads.** A request loads once per stretch without an await and looks again,
//! by [`KeyTable::version`], right before its first byte goes upstream.

pub mod access;
mod digest;
pub mod policy;
mod shard;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};
use schemas::digest::{self as digests, Digest};
use schemas::entry::{
    BadEntry, Change, Owner, PolicyEntry, PolicyId, Revision, SecretEntry, SecretStatus,
    check_reader,
};
use schemas::name::{BUCKETS, bucket_of};
use schemas::{CredentialHash, KeyId, SecretId, TeamId};

use crate::limit::Rates;
use access::Restriction;
use digest::Digests;
use policy::PolicyBook;
pub use policy::{Policies, Target, Workspace};
use shard::{Order, Record, Shard, Slot};

/// Shards of a small table, one for each bucket of a region: with a few secrets in each,
/// what a shard costs by itself weighs little.
const FEW: usize = BUCKETS as usize;
/// Shards of a large table. A bucket of the region covers neighbouring ones, so that it
/// can be merged without touching others.
const MANY: usize = 1 << 14;
/// A table with more secrets than this is large.
const GROWS_BEYOND: usize = 64 * FEW;

type Shards = Box<[ArcSwap<Shard>]>;

/// The table of one proxy.
pub struct KeyTable {
    few: Shards,
    /// Once these are there, all secrets are here and `few` is empty.
    many: OnceLock<Shards>,
    policies: ArcSwap<Policies>,
    /// Rises after every change.
    version: AtomicU64,
    entries: AtomicUsize,
    quarantined_total: AtomicU64,
    /// Only the follower writes; the lock keeps that true.
    writer: Mutex<PolicyBook>,
    /// Only the follower looks; taken after `writer`.
    digests: Mutex<Digests>,
}

/// What the table knows of a secret: a copy, so that nothing of the table is held.
#[derive(Debug, Clone)]
pub struct Found {
    /// The key.
    pub key_id: KeyId,
    /// The secret.
    pub secret_id: SecretId,
    /// Whether requests may pass; `None` when the entry cannot be read by this build.
    pub status: Option<SecretStatus>,
    /// Orders it against others of the same secret.
    pub revision: Revision,
    /// When the key expires, unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// When this secret ends, unix milliseconds.
    pub ends_at_ms: Option<i64>,
    /// The place of the key's workspace in [`Policies`].
    pub workspace: u32,
    /// The key's team.
    pub team: Option<TeamId>,
    /// The key's owner.
    pub owner: Option<Owner>,
    /// The key's own limits.
    pub rates: Rates,
    /// Where the key may go; `None` is wherever its team may.
    pub access: Option<Arc<Restriction>>,
}

/// What dropping the entries that a snapshot does not hold came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// So many were dropped.
    Dropped(usize),
    /// More than half of the table would have gone: nothing was dropped.
    TooMany(usize),
}

// === impl KeyTable ===

impl KeyTable {
    /// A table that knows nobody.
    pub fn new() -> Self {
        Self {
            few: empty_shards(FEW),
            many: OnceLock::new(),
            policies: ArcSwap::from_pointee(Policies::default()),
            version: AtomicU64::new(0),
            entries: AtomicUsize::new(0),
            quarantined_total: AtomicU64::new(0),
            writer: Mutex::new(PolicyBook::default()),
            digests: Mutex::new(Digests::new()),
        }
    }

    /// What is known of a secret.
    pub fn get(&self, hash: &CredentialHash) -> Option<Found> {
        if let Some(many) = self.many.get() {
            return many[place_in(many, hash)].load().get(hash);
        }
        let found = self.few[place_in(&self.few, hash)].load().get(hash);
        match self.many.get() {
            // The table grew in between: the secret may have been moved.
            Some(many) if found.is_none() => many[place_in(many, hash)].load().get(hash),
            _ => found,
        }
    }

    /// The policies, compiled. Do not hold the guard over an await.
    pub fn policies(&self) -> Guard<Arc<Policies>> {
        self.policies.load()
    }

    /// Rises after every change. While it stands still, a verdict of the table stands.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// How many secrets are known.
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether no secret is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries could not be read so far.
    pub fn quarantined_total(&self) -> u64 {
        self.quarantined_total.load(Ordering::Relaxed)
    }

    /// Merges changes. When this returns, every request that looks sees all of them.
    pub fn apply(&self, changes: &[Change]) {
        let mut book = self.write();
        // Policies first: a key that is new in the same frame finds its workspace.
        let mut policies_changed = false;
        for change in changes {
            if let Change::Policy { policy } = change {
                let name = policy.policy.id().to_string();
                self.digests().policy(name, policy.revision);
                policies_changed |=
                    self.merge_policy(&mut book, policy.policy.id(), Ok(policy.clone()));
            }
        }
        for change in changes {
            if let Change::Secret { secret, .. } = change {
                policies_changed |= book.ensure_workspace(secret.workspace_id);
            }
        }
        if policies_changed {
            self.policies.store(Arc::new(book.compile()));
        }
        for change in changes {
            if let Change::Secret { hash, secret } = change {
                let slot = self.slot(&book, *hash, secret.revision, Ok(secret));
                self.digests().touch(bucket_of(hash));
                let shard = &self.shards()[place_in(self.shards(), hash)];
                self.swap_shard(shard, |shard| shard.with(slot));
            }
        }
        self.grow();
        self.changed();
    }

    /// Merges the policies of a region at `through`, which holds no others: those that it
    /// does not hold and that are not newer are dropped.
    pub fn replace_policies(
        &self,
        entries: Vec<(String, Revision, Result<PolicyEntry, BadEntry>)>,
        through: Revision,
    ) {
        let mut book = self.write();
        let names = entries
            .iter()
            .map(|(name, revision, _)| (name.clone(), *revision));
        self.digests().replace_policies(names, through);
        let mut present = HashSet::new();
        for (name, _, entry) in entries {
            // A kind that this build does not know asks for a newer reader where it matters.
            if let Ok(id) = name.parse() {
                present.insert(id);
                self.merge_policy(&mut book, id, entry);
            }
        }
        book.drop_absent(&present, through);
        self.policies.store(Arc::new(book.compile()));
        self.changed();
    }

    /// Merges one bucket of a snapshot and marks what it does not hold. Secrets of other
    /// buckets are left out.
    pub fn merge_bucket(
        &self,
        bucket: u16,
        entries: Vec<(CredentialHash, Result<SecretEntry, BadEntry>)>,
    ) {
        let none = Order::MIN.revision();
        let revised = |(hash, entry): (_, Result<SecretEntry, _>)| {
            let revision = entry.as_ref().map_or(none, |it| it.revision);
            (hash, revision, entry)
        };
        self.replace_bucket(bucket, none, entries.into_iter().map(revised).collect());
    }

    /// Merges one bucket that is known to be what the region held at `through`. Up to there
    /// its word is taken even where the table seems to know newer; only what is off for good
    /// stays so. What the bucket does not hold is marked, for [`Self::sweep`].
    pub fn replace_bucket(
        &self,
        bucket: u16,
        through: Revision,
        entries: Vec<(CredentialHash, Revision, Result<SecretEntry, BadEntry>)>,
    ) {
        let mut book = self.write();
        self.digests().touch(bucket);
        let through = Order::of(through).unwrap_or(Order::MIN);
        let mut policies_changed = false;
        for (_, _, entry) in &entries {
            if let Ok(entry) = entry {
                policies_changed |= book.ensure_workspace(entry.workspace_id);
            }
        }
        if policies_changed {
            self.policies.store(Arc::new(book.compile()));
        }
        let shards = self.shards();
        let per_bucket = shards.len() / FEW;
        let first = usize::from(bucket) * per_bucket;
        let mut by_shard: Vec<Vec<shard::Incoming>> = vec![Vec::new(); per_bucket];
        for (hash, revision, entry) in entries {
            if let Some(slots) = place_in(shards, &hash)
                .checked_sub(first)
                .and_then(|at| by_shard.get_mut(at))
            {
                let entry = entry.as_ref().map_err(Clone::clone);
                slots.push(self.slot(&book, hash, revision, entry));
            }
        }
        for (at, slots) in by_shard.into_iter().enumerate() {
            self.swap_shard(&shards[first + at], |shard| shard.with_all(slots, through));
        }
        self.grow();
        self.changed();
    }

    /// Ends a snapshot that was read whole, at `through`: entries that it does not hold
    /// and that are not newer than it are dropped. Tombstones stay, so that an older copy
    /// of a region cannot bring a revoked secret back. When more than half of the table
    /// would go, nothing goes: that is a broken region sooner than a change.
    pub fn sweep(&self, through: Revision) -> Swept {
        let _book = self.write();
        let through = Order::of(through).unwrap_or(Order::MAX);
        let shards = self.shards();
        let absent: usize = shards.iter().map(|it| it.load().absent(through)).sum();
        if absent > 16 && absent > self.len() / 2 {
            return Swept::TooMany(absent);
        }
        if absent > 0 {
            for (at, shard) in shards.iter().enumerate() {
                if shard.load().absent(through) > 0 {
                    self.digests().touch((at * FEW / shards.len()) as u16);
                    self.swap_shard(shard, |shard| shard.without_absent(through));
                }
            }
            self.changed();
        }
        Swept::Dropped(absent)
    }

    /// The digest of the table: what the region's control plane signs for this place.
    pub fn root(&self) -> Digest {
        let buckets: Vec<Digest> = (0..BUCKETS).map(|it| self.bucket_digest(it)).collect();
        digests::of_root(&buckets, self.policies_digest())
    }

    /// The digest of one bucket.
    pub fn bucket_digest(&self, bucket: u16) -> Digest {
        self.digests().bucket(bucket, || {
            let shards = self.shards();
            let per_bucket = shards.len() / FEW;
            let first = usize::from(bucket) * per_bucket;
            let mut leaves = Vec::new();
            for shard in &shards[first..first + per_bucket] {
                leaves.extend(shard.load().leaves());
            }
            digests::of_bucket(leaves)
        })
    }

    /// The digest of the policies.
    pub fn policies_digest(&self) -> Digest {
        self.digests().policies()
    }

    /// The policies of one workspace with others put in their place, for a request that
    /// was looked up outside the table. `None` when its targets are not known here.
    pub fn workspace_with(
        &self,
        secret: &SecretEntry,
        policies: &[PolicyEntry],
    ) -> Option<(u32, Arc<Workspace>)> {
        self.write().workspace_with(secret, policies)
    }

    fn merge_policy(
        &self,
        book: &mut PolicyBook,
        id: PolicyId,
        entry: Result<PolicyEntry, BadEntry>,
    ) -> bool {
        let entry = entry.and_then(|entry| {
            let revision = entry.revision;
            match check_reader(entry.min_reader) {
                Ok(()) if Order::of(revision).is_some() => Ok(entry),
                Ok(()) => Err(BadEntry::Malformed("its revision is out of range".into())),
                Err(err) => Err(err),
            }
        });
        if let Err(err) = &entry {
            self.quarantined_total.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(policy = %id, error = %err, "a policy entry cannot be used");
        }
        book.merge(id, entry)
    }

    /// The slot of an entry, or one that denies when the entry cannot be used.
    fn slot(
        &self,
        book: &PolicyBook,
        hash: CredentialHash,
        revision: Revision,
        entry: Result<&SecretEntry, BadEntry>,
    ) -> shard::Incoming {
        let order = Order::of(revision);
        let usable = entry.and_then(|entry| {
            check_reader(entry.min_reader)?;
            let order = Order::of(entry.revision)
                .ok_or_else(|| BadEntry::Malformed("its revision is out of range".into()))?;
            let workspace = book
                .index_of(entry.workspace_id)
                .ok_or_else(|| BadEntry::Malformed("its workspace is not known".into()))?;
            Ok((entry, order, workspace))
        });
        match usable {
            Ok((entry, order, workspace)) => shard::Incoming {
                slot: Slot {
                    hash: *hash.as_bytes(),
                    record: Record::new(entry, order, workspace),
                },
                detail: shard::Detail {
                    team: entry.team_id,
                    owner: entry.owner,
                    rates: entry.limits.into(),
                    ends_at_ms: entry.ends_at_ms,
                    access: Restriction::compile(&entry.access),
                },
            },
            Err(err) => {
                self.quarantined_total.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = %err, "a secret entry cannot be used, its secret is denied");
                shard::Incoming {
                    slot: Slot {
                        hash: *hash.as_bytes(),
                        record: Record::unreadable(order.unwrap_or(Order::MIN)),
                    },
                    detail: shard::Detail::default(),
                }
            }
        }
    }

    /// Where all secrets are now, for the writer.
    fn shards(&self) -> &[ArcSwap<Shard>] {
        self.many.get().unwrap_or(&self.few)
    }

    /// Cuts a table that has become large into more shards. Readers go on meanwhile: they
    /// find a secret in the old place until it is in the new one, and one that they miss
    /// in the old place they look for in the new.
    fn grow(&self) {
        if self.len() <= GROWS_BEYOND || self.many.get().is_some() {
            return;
        }
        let many: Shards = empty_shards(MANY);
        let parts = MANY / FEW;
        for (at, shard) in self.few.iter().enumerate() {
            let shard = shard.load();
            for place in at * parts..(at + 1) * parts {
                let is_here = |hash: &[u8; 32]| place_of(hash, MANY) == place;
                if let Some(part) = shard.part(is_here) {
                    many[place].store(Arc::new(part));
                }
            }
        }
        if self.many.set(many).is_ok() {
            for shard in &self.few {
                shard.store(Arc::default());
            }
        }
    }

    fn swap_shard(&self, place: &ArcSwap<Shard>, change: impl FnOnce(&Shard) -> Option<Shard>) {
        let shard = place.load();
        let before = shard.len();
        if let Some(changed) = change(&shard) {
            let after = changed.len();
            place.store(Arc::new(changed));
            self.entries.fetch_add(after, Ordering::Relaxed);
            self.entries.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Makes a change known. The fence pairs with the one in `Cells::mark_used`: a request
    /// that does not see the new version has left its mark where a later collection finds
    /// it.
    fn changed(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> MutexGuard<'_, PolicyBook> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for KeyTable {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyTable")
            .field("entries", &self.len())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

fn empty_shards(count: usize) -> Shards {
    let empty = Arc::new(Shard::default());
    (0..count)
        .map(|_| ArcSwap::new(Arc::clone(&empty)))
        .collect()
}

fn place_in(shards: &[ArcSwap<Shard>], hash: &CredentialHash) -> usize {
    place_of(hash.as_bytes(), shards.len())
}

/// The place of a hash among `count` shards, a power of two up to 65,536.
fn place_of(hash: &[u8; 32], count: usize) -> usize {
    (usize::from(u16::from_be_bytes([hash[0], hash[1]])) * count) >> u16::BITS
}

#[cfg(test)]
mod tests;
