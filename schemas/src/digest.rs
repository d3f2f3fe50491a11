//! The digest of a region's table: one hash that says which revision of which entry the
//! table holds.
//!
//! ```text
//! leaf    hash of a secret ‖ generation ‖ rev          40 bytes
//! cell    SHA-256 of its leaves, in order              16,384: the first 14 bits
//! bucket  SHA-256 of its 16 cells                       1,024: what a Redis key holds
//! group   SHA-256 of its 32 buckets                        32
//! root    SHA-256 of the groups and the policies            1
//! ```
//!
//! What holds nothing has 32 zero bytes, so that a new region has a digest without anybody
//! writing one. One change hashes one cell and three small nodes: at a million keys a cell
//! has 61 leaves, which is about 2 KB.
//!
//! **Why revisions and not bytes.** The bytes of an entry are a function of the log up to
//! its revision, and each stored entry carries a MAC that binds its bytes to its region
//! and its place ([`seal`](crate::seal)). So the MAC says what an entry is, and this digest
//! says which one: an old entry, though its MAC is good, has the wrong revision. A proxy
//! holds hash and revision of every secret anyway and compares its table with the signed
//! root without keeping anything more; a digest over bytes would cost it 32 bytes a key.
//!
//! **Why sorted lists and not a sum or an XOR.** Sums of hashes modulo a word, and XORs,
//! can be made to collide by whoever chooses the elements; a hash over a sorted list cannot
//! and needs no further argument.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::CredentialHash;
use crate::entry::Revision;
use crate::name::{BUCKETS, CELLS, CELLS_PER_BUCKET};

/// Bytes of one digest.
pub const DIGEST_BYTES: usize = 32;

const GROUP: usize = 32;
const GROUPS: usize = BUCKETS as usize / GROUP;

/// A node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest([u8; DIGEST_BYTES]);

/// One secret in the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf {
    /// The lookup hash.
    pub hash: CredentialHash,
    /// Which entry of it.
    pub revision: Revision,
}

/// The nodes of the tree, kept while single cells change.
#[derive(Debug, Clone)]
pub struct Tree {
    cells: Box<[Digest]>,
    buckets: Box<[Digest]>,
    groups: [Digest; GROUPS],
    policies: Digest,
}

// === impl Digest ===

impl Digest {
    /// The digest of nothing.
    pub const EMPTY: Self = Self([0; DIGEST_BYTES]);

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    fn of(kind: u8, parts: &[Self]) -> Self {
        if parts.iter().all(|it| *it == Self::EMPTY) {
            return Self::EMPTY;
        }
        let mut sha = Sha256::new_with_prefix([kind]);
        for part in parts {
            sha.update(part.0);
        }
        Self(sha.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hex digits")]
pub struct BadDigest;

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let hash: CredentialHash = text.parse().map_err(|_| BadDigest)?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

// The first byte of what is hashed tells the kinds of node apart.
const CELL: u8 = 1;
const BUCKET: u8 = 2;
const GROUP_KIND: u8 = 3;
const ROOT: u8 = 4;
const POLICIES: u8 = 5;

/// The digest of a cell; its leaves in order.
pub fn of_cell(leaves: &[Leaf]) -> Digest {
    if leaves.is_empty() {
        return Digest::EMPTY;
    }
    let mut sha = Sha256::new_with_prefix([CELL]);
    for leaf in leaves {
        sha.update(leaf.hash.as_bytes());
        sha.update(leaf.revision.generation.to_be_bytes());
        sha.update(leaf.revision.rev.to_be_bytes());
    }
    Digest(sha.finalize().into())
}

/// The digest of a bucket; its leaves in any order.
pub fn of_bucket(mut leaves: Vec<Leaf>) -> Digest {
    leaves.sort_unstable();
    let mut cells = [Digest::EMPTY; CELLS_PER_BUCKET];
    for leaves in leaves.chunk_by(|one, next| cell_of(&one.hash) == cell_of(&next.hash)) {
        cells[cell_of(&leaves[0].hash) % CELLS_PER_BUCKET] = of_cell(leaves);
    }
    Digest::of(BUCKET, &cells)
}

/// The digest of the policies, by `<kind>:<id>` in the order of the text.
pub fn of_policies<'a>(policies: impl IntoIterator<Item = (&'a str, Revision)>) -> Digest {
    let mut sha = Sha256::new_with_prefix([POLICIES]);
    let mut is_empty = true;
    for (field, revision) in policies {
        is_empty = false;
        sha.update((field.len() as u64).to_be_bytes());
        sha.update(field);
        sha.update(revision.generation.to_be_bytes());
        sha.update(revision.rev.to_be_bytes());
    }
    if is_empty {
        Digest::EMPTY
    } else {
        Digest(sha.finalize().into())
    }
}

/// The root over 1,024 buckets and the policies.
pub fn of_root(buckets: &[Digest], policies: Digest) -> Digest {
    let mut nodes = [Digest::EMPTY; GROUPS + 1];
    for (at, group) in buckets.chunks(GROUP).take(GROUPS).enumerate() {
        nodes[at] = Digest::of(GROUP_KIND, group);
    }
    nodes[GROUPS] = policies;
    Digest::of(ROOT, &nodes)
}

/// The cell of a secret: the first 14 bits of its hash.
pub fn cell_of(hash: &CredentialHash) -> usize {
    let bytes = hash.as_bytes();
    (usize::from(u16::from_be_bytes([bytes[0], bytes[1]])) * CELLS) >> u16::BITS
}

/// Reads what a region keeps beside its table: the digests of its buckets and, last, of its
/// policies. What was never written is the digest of nothing. `None` when it is too long.
pub fn read_all(bytes: &[u8]) -> Option<(Vec<Digest>, Digest)> {
    let count = usize::from(BUCKETS) + 1;
    if bytes.len() > count * DIGEST_BYTES || !bytes.len().is_multiple_of(DIGEST_BYTES) {
        return None;
    }
    let mut all: Vec<Digest> = bytes
        .chunks_exact(DIGEST_BYTES)
        .map(|it| Digest(it.try_into().unwrap_or_default()))
        .collect();
    all.resize(count, Digest::EMPTY);
    let policies = all.pop()?;
    Some((all, policies))
}

// === impl Tree ===

impl Tree {
    /// Of an empty table.
    pub fn new() -> Self {
        Self {
            cells: vec![Digest::EMPTY; CELLS].into(),
            buckets: vec![Digest::EMPTY; usize::from(BUCKETS)].into(),
            groups: [Digest::EMPTY; GROUPS],
            policies: Digest::EMPTY,
        }
    }

    /// Says what a cell holds now, its leaves in order.
    pub fn set_cell(&mut self, cell: usize, leaves: &[Leaf]) {
        self.cells[cell] = of_cell(leaves);
        let bucket = cell / CELLS_PER_BUCKET;
        let first = bucket * CELLS_PER_BUCKET;
        self.buckets[bucket] = Digest::of(BUCKET, &self.cells[first..first + CELLS_PER_BUCKET]);
        let first = bucket / GROUP * GROUP;
        self.groups[bucket / GROUP] = Digest::of(GROUP_KIND, &self.buckets[first..first + GROUP]);
    }

    /// Says what the digest of the policies is now.
    pub fn set_policies(&mut self, policies: Digest) {
        self.policies = policies;
    }

    /// The digest of a bucket.
    pub fn bucket(&self, bucket: u16) -> Digest {
        self.buckets[usize::from(bucket)]
    }

    /// The digest of the policies.
    pub fn policies(&self) -> Digest {
        self.policies
    }

    /// The root.
    pub fn root(&self) -> Digest {
        let mut nodes = [Digest::EMPTY; GROUPS + 1];
        nodes[..GROUPS].copy_from_slice(&self.groups);
        nodes[GROUPS] = self.policies;
        Digest::of(ROOT, &nodes)
    }

    /// All digests as [`read_all`] reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let all = self.buckets.iter().chain([&self.policies]);
        all.flat_map(|it| it.0).collect()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(number: u64, rev: u64) -> Leaf {
        Leaf {
            hash: CredentialHash::of(&number.to_be_bytes()),
            revision: Revision { generation: 1, rev },
        }
    }

    /// The tree of these leaves, built cell by cell.
    fn tree(leaves: &[Leaf]) -> Tree {
        let mut sorted = leaves.to_vec();
        sorted.sort_unstable();
        let mut tree = Tree::new();
        for leaves in sorted.chunk_by(|one, next| cell_of(&one.hash) == cell_of(&next.hash)) {
            tree.set_cell(cell_of(&leaves[0].hash), leaves);
        }
        tree
    }

    #[test]
    fn the_tree_and_the_whole_come_to_the_same_root() {
        let leaves: Vec<Leaf> = (0..5_000).map(|number| leaf(number, number)).collect();
        let mut tree = tree(&leaves);
        tree.set_policies(of_policies([("global:instance", leaves[1].revision)]));
        let mut by_bucket = vec![Vec::new(); usize::from(BUCKETS)];
        for leaf in leaves {
            by_bucket[usize::from(crate::name::bucket_of(&leaf.hash))].push(leaf);
        }
        let buckets: Vec<Digest> = by_bucket.into_iter().map(of_bucket).collect();
        assert_eq!(of_root(&buckets, tree.policies()), tree.root());
        assert_eq!(read_all(&tree.to_bytes()), Some((buckets, tree.policies())));
    }

    #[test]
    fn whatever_differs_changes_the_root() {
        let leaves = [leaf(1, 1), leaf(2, 2)];
        let root = tree(&leaves).root();
        let other = |leaves: &[Leaf]| tree(leaves).root();
        assert_ne!(other(&leaves[..1]), root, "one is missing");
        assert_ne!(other(&[leaves[0], leaf(2, 1)]), root, "an older entry");
        assert_ne!(other(&[leaves[0], leaves[1], leaf(3, 2)]), root, "one more");
        let generation_2 = Revision {
            generation: 2,
            rev: 2,
        };
        let restored = Leaf {
            revision: generation_2,
            ..leaves[1]
        };
        assert_ne!(other(&[leaves[0], restored]), root, "another generation");
        let mut with_policy = tree(&leaves);
        with_policy.set_policies(of_policies([("team:a", generation_2)]));
        assert_ne!(with_policy.root(), root, "a policy");
    }

    #[test]
    fn a_cell_that_empties_leaves_nothing_behind() {
        let mut tree = tree(&[leaf(1, 1)]);
        tree.set_cell(cell_of(&leaf(1, 1).hash), &[]);
        assert_eq!(tree.root(), Digest::EMPTY);
        assert_eq!(
            read_all(&[]),
            Some((vec![Digest::EMPTY; 1_024], Digest::EMPTY))
        );
        assert_eq!(read_all(&[0; 33]), None);
        assert_eq!(read_all(&vec![0; 1_026 * DIGEST_BYTES]), None);
    }

    #[test]
    fn names_of_policies_cannot_be_cut_elsewhere() {
        let revision = leaf(1, 1).revision;
        let one = of_policies([("team:ab", revision)]);
        assert_ne!(one, of_policies([("team:a", revision), ("b", revision)]));
    }
}
