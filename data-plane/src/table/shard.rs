//! One shard of the table: immutable, copied when it changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hashbrown::HashTable;
use schemas::digest::Leaf;
use schemas::entry::{Owner, Revision, SecretEntry, SecretStatus};
use schemas::{CredentialHash, KeyId, SecretId, TeamId};

use super::Found;
use super::access::Restriction;
use crate::limit::Rates;

/// Secrets whose hashes share their first bits.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    /// Places in `slots`, by hash.
    index: HashTable<u16>,
    /// Exactly as long as needed: room to grow would cost more memory than the copy that
    /// every change makes anyway.
    slots: Box<[Slot]>,
    /// What slots share.
    details: Vec<Detail>,
}

/// One secret, 88 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// SHA-256 of the key string.
    pub hash: [u8; 32],
    pub record: Record,
}

/// What a slot holds beside its hash. Ids are halves, because a `u128` would align the
/// slot to 16 bytes and waste eight of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    key_id: [u64; 2],
    secret_id: [u64; 2],
    order: Order,
    /// Unix milliseconds; `i64::MAX` is never.
    expires_at_ms: i64,
    workspace: u32,
    detail: u16,
    state: State,
    /// The snapshot that is being read did not hold it.
    absent: bool,
}

/// What many secrets of a shard share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Detail {
    pub team: Option<TeamId>,
    pub owner: Option<Owner>,
    pub rates: Rates,
    /// Only secrets that were rotated away have one, so it is not in the slot.
    pub ends_at_ms: Option<i64>,
    /// `None` inherits.
    pub access: Option<Arc<Restriction>>,
}

/// A slot on its way in.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    pub slot: Slot,
    pub detail: Detail,
}

/// (generation, rev) in one word: 16 bits and 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(u64);

/// A status, or that there is none to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Known(SecretStatus),
    Unreadable,
}

// === impl Order ===

impl Order {
    pub(super) const MIN: Self = Self(0);
    pub(super) const MAX: Self = Self(u64::MAX);
    const REV_BITS: u32 = 48;

    /// `None` for a revision that no log of ours reaches.
    pub(super) fn of(revision: Revision) -> Option<Self> {
        let generation = u16::try_from(revision.generation).ok()?;
        (revision.rev >> Self::REV_BITS == 0)
            .then(|| Self(u64::from(generation) << Self::REV_BITS | revision.rev))
    }

    pub(super) fn revision(self) -> Revision {
        Revision {
            generation: (self.0 >> Self::REV_BITS) as u32,
            rev: self.0 & ((1 << Self::REV_BITS) - 1),
        }
    }
}

// === impl Record ===

impl Record {
    pub(super) fn new(entry: &SecretEntry, order: Order, workspace: u32) -> Self {
        Self {
            key_id: halves(entry.key_id.to_u128()),
            secret_id: halves(entry.secret_id.to_u128()),
            order,
            expires_at_ms: entry.expires_at_ms.unwrap_or(i64::MAX),
            workspace,
            detail: 0,
            state: State::Known(entry.status),
            absent: false,
        }
    }

    pub(super) fn unreadable(order: Order) -> Self {
        Self {
            key_id: [0; 2],
            secret_id: [0; 2],
            order,
            expires_at_ms: i64::MAX,
            workspace: u32::MAX,
            detail: 0,
            state: State::Unreadable,
            absent: false,
        }
    }

    fn is_absorbed(&self) -> bool {
        matches!(self.state, State::Known(status) if status.is_absorbing())
    }

    /// Whether `new` takes the place of this record.
    fn gives_way_to(&self, new: &Self) -> bool {
        match (self.state, new.state) {
            // Gone for good, whatever a newer entry may say; what cannot be read is no
            // reason to forget that either.
            _ if self.is_absorbed() => new.is_absorbed() && new.order > self.order,
            (State::Known(_), State::Unreadable) => true,
            (State::Unreadable, State::Known(_)) => new.order >= self.order,
            _ => new.order > self.order,
        }
    }
}

// === impl Shard ===

impl Shard {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, hash: &CredentialHash) -> Option<Found> {
        let bytes = hash.as_bytes();
        let at = self.find(bytes)?;
        let record = &self.slots[at].record;
        let detail = self.details.get(usize::from(record.detail))?;
        Some(Found {
            key_id: KeyId::from_u128(whole(record.key_id)),
            secret_id: SecretId::from_u128(whole(record.secret_id)),
            status: match record.state {
                State::Known(status) => Some(status),
                State::Unreadable => None,
            },
            revision: record.order.revision(),
            expires_at_ms: (record.expires_at_ms != i64::MAX).then_some(record.expires_at_ms),
            ends_at_ms: detail.ends_at_ms,
            workspace: record.workspace,
            team: detail.team,
            owner: detail.owner,
            rates: detail.rates,
            access: detail.access.clone(),
        })
    }

    /// This shard with one entry merged in; `None` when nothing changes.
    pub(super) fn with(&self, new: Incoming) -> Option<Self> {
        let found = self.find(&new.slot.hash);
        if found.is_some_and(|at| !self.slots[at].record.gives_way_to(&new.slot.record)) {
            return None;
        }
        if self.details.len() > self.slots.len() + 1 {
            // Details that no slot uses any more have piled up.
            return self.with_each(std::iter::once(new), |old| Some(*old));
        }
        let mut details = self.details.clone();
        let mut slot = new.slot;
        slot.record.detail = place(&mut details, new.detail)?;
        let mut index = self.index.clone();
        let mut slots = Vec::with_capacity(self.slots.len() + usize::from(found.is_none()));
        slots.extend_from_slice(&self.slots);
        match found {
            Some(at) => slots[at] = slot,
            None => {
                let at = u16::try_from(slots.len()).ok()?;
                slots.push(slot);
                index.insert_unique(index_hash(&slot.hash), at, |&it| {
                    index_hash(&slots[usize::from(it)].hash)
                });
            }
        }
        Some(Self {
            index,
            slots: slots.into_boxed_slice(),
            details,
        })
    }

    /// This shard with the whole of a snapshot at `through` merged in; what the snapshot does
    /// not hold is marked.
    pub(super) fn with_all(&self, new: Vec<Incoming>, through: Order) -> Option<Self> {
        if new.is_empty() && self.slots.is_empty() {
            return None;
        }
        let told: HashSet<[u8; 32]> = match self.slots.is_empty() {
            true => HashSet::new(),
            false => new.iter().map(|it| it.slot.hash).collect(),
        };
        self.with_each(new.into_iter(), |old| {
            let is_settled = old.record.order <= through && !old.record.is_absorbed();
            if is_settled && told.contains(&old.hash) {
                return None;
            }
            let mut slot = *old;
            slot.record.absent = true;
            Some(slot)
        })
    }

    /// What of it belongs into the digest: not the tombstones that the region has dropped.
    pub(super) fn leaves(&self) -> impl Iterator<Item = Leaf> {
        let counts = |slot: &&Slot| !(slot.record.absent && slot.record.is_absorbed());
        self.slots.iter().filter(counts).map(|slot| Leaf {
            hash: CredentialHash::from_bytes(slot.hash),
            revision: slot.record.order.revision(),
        })
    }

    /// The slots whose hash is wanted, as they are; `None` when there are none.
    pub(super) fn part(&self, is_wanted: impl Fn(&[u8; 32]) -> bool) -> Option<Self> {
        self.with_each(std::iter::empty(), |old| {
            is_wanted(&old.hash).then_some(*old)
        })
        .filter(|part| part.len() > 0)
    }

    /// How many slots are marked and may be dropped: not newer than the snapshot, and no
    /// tombstone.
    pub(super) fn absent(&self, through: Order) -> usize {
        self.slots
            .iter()
            .filter(|slot| is_droppable(slot, through))
            .count()
    }

    /// This shard without the slots that [`Self::absent`] counts.
    pub(super) fn without_absent(&self, through: Order) -> Option<Self> {
        self.with_each(std::iter::empty(), |old| {
            (!is_droppable(old, through)).then_some(*old)
        })
    }

    /// Builds the shard anew from what `keep` leaves of the old slots, and `new` ones.
    fn with_each(
        &self,
        new: impl Iterator<Item = Incoming>,
        keep: impl Fn(&Slot) -> Option<Slot>,
    ) -> Option<Self> {
        // Room for all at once: growing step by step would leave holes in the heap that
        // add up over thousands of shards.
        let (more, _) = new.size_hint();
        let mut built = Builder::with_room(self.slots.len() + more);
        for old in self.slots.iter().filter_map(keep) {
            let detail = self.details.get(usize::from(old.record.detail)).cloned();
            built.merge(Incoming {
                slot: old,
                detail: detail.unwrap_or_default(),
            });
        }
        for incoming in new {
            built.merge(incoming);
        }
        Some(built.finish())
    }

    fn find(&self, hash: &[u8; 32]) -> Option<usize> {
        self.index
            .find(index_hash(hash), |&at| {
                self.slots[usize::from(at)].hash == *hash
            })
            .map(|&at| usize::from(at))
    }
}

/// A shard in the making.
struct Builder {
    index: HashTable<u16>,
    slots: Vec<Slot>,
    details: Vec<Detail>,
    seen: HashMap<Detail, u16>,
}

impl Builder {
    fn with_room(count: usize) -> Self {
        Self {
            index: HashTable::with_capacity(count),
            slots: Vec::with_capacity(count),
            details: Vec::new(),
            seen: HashMap::new(),
        }
    }

    fn merge(&mut self, incoming: Incoming) {
        let Incoming { mut slot, detail } = incoming;
        let hash = index_hash(&slot.hash);
        let found = self
            .index
            .find(hash, |&at| self.slots[usize::from(at)].hash == slot.hash)
            .map(|&at| usize::from(at));
        if let Some(at) = found
            && !self.slots[at].record.gives_way_to(&slot.record)
        {
            self.slots[at].record.absent &= slot.record.absent;
            return;
        }
        // More secrets than a shard can number: they would be a thousand million in all.
        let Ok(next) = u16::try_from(self.details.len()) else {
            return;
        };
        slot.record.detail = match self.seen.get(&detail) {
            Some(&place) => place,
            None => {
                self.details.push(detail.clone());
                self.seen.insert(detail, next);
                next
            }
        };
        match found {
            Some(at) => self.slots[at] = slot,
            None => {
                let Ok(at) = u16::try_from(self.slots.len()) else {
                    return;
                };
                self.slots.push(slot);
                let slots = &self.slots;
                self.index
                    .insert_unique(hash, at, |&it| index_hash(&slots[usize::from(it)].hash));
            }
        }
    }

    fn finish(mut self) -> Shard {
        let slots = &self.slots;
        self.index
            .shrink_to_fit(|&it| index_hash(&slots[usize::from(it)].hash));
        self.slots.shrink_to_fit();
        self.details.shrink_to_fit();
        Shard {
            index: self.index,
            slots: self.slots.into_boxed_slice(),
            details: self.details,
        }
    }
}

fn is_droppable(slot: &Slot, through: Order) -> bool {
    slot.record.absent && !slot.record.is_absorbed() && slot.record.order <= through
}

/// The place of a detail, which is added when it is new; `None` when a shard is full.
fn place(details: &mut Vec<Detail>, detail: Detail) -> Option<u16> {
    let at = details
        .iter()
        .position(|it| *it == detail)
        .unwrap_or_else(|| {
            details.push(detail);
            details.len() - 1
        });
    u16::try_from(at).ok()
}

/// A digest is its own hash; these bits are not those that chose the shard.
fn index_hash(hash: &[u8; 32]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&hash[8..16]);
    u64::from_le_bytes(word)
}

fn halves(id: u128) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}

fn whole(halves: [u64; 2]) -> u128 {
    u128::from(halves[0]) << 64 | u128::from(halves[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_88_bytes() {
        assert_eq!(size_of::<Slot>(), 88);
    }
}
