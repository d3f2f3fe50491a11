//! The stream of a region: what its Redis says of itself, and what NATS carries.
//!
//! Redis is the truth of the region and NATS its doorbell: a frame that is lost,
//! repeated or out of order looks like a gap, and a gap is filled from the feed.
//!
//! Neither is believed: frames, heartbeats and meta are signed ([`seal`](crate::seal)), and
//! the bytes of a table count only where they match the signed root
//! ([`digest`](crate::digest)).

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::{self, Digest};
use crate::entry::{Change, Revision};
use crate::name::{BUCKETS, bucket_of};
use crate::seal::{Error, Kind, Trust};
use crate::{CredentialHash, LineageId, Position};

/// The most bytes of an encoded frame. A larger one travels without its entries, and
/// the proxy reads them from the feed.
pub const FRAME_BYTES_MAX: usize = 65_536;

/// How often a projector says how far its region is, in milliseconds.
pub const HEARTBEAT_EVERY_MS: u64 = 500;

/// How long a region or a proxy that differs from the log may stay so, in milliseconds,
/// while it has at most 400,000 keys; a larger one is looked through at the same pace.
pub const REPAIRED_WITHIN_MS: u64 = 30_000;

/// [`Meta`] as a region stores it: a text for each member, and the signature of all.
pub type MetaFields = BTreeMap<String, String>;

/// The record that a region keeps about itself, next to the entries that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    /// The history that the entries were folded from.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table; a rebuild makes a new one beside the live one.
    pub epoch: u64,
    /// The term of the projector that wrote last; a lower one may not write.
    pub fence: u64,
    /// Every event up to here is in the entries.
    pub position: Position,
    /// The chain hash of the log at `position`, 64 hex digits.
    pub chain_hash: String,
    /// When the projector last wrote; unix milliseconds.
    pub as_of_ms: i64,
    /// The secrets in the table.
    #[serde(default)]
    pub count: u64,
    /// The digest of the table at `position`.
    #[serde(default)]
    pub root: Digest,
}

/// The entries that changed over the log positions `(from, to]`.
///
/// A frame covers its interval also when nothing in it concerns the region, so that
/// positions stay contiguous.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// The history that the positions belong to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// The position that a table must have reached (it may be further).
    pub from: Position,
    /// The position of a table after this frame.
    pub to: Position,
    /// The entries, whole. `None`: too large for one message, read the feed.
    pub changes: Option<Vec<Change>>,
    /// When the frame was made; unix milliseconds.
    pub as_of_ms: i64,
}

/// Says how far a region is, so that losing the last frame is noticed too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// The history that the position belongs to.
    pub lineage: LineageId,
    /// The generation of that history.
    pub generation: u32,
    /// The build of the table.
    pub epoch: u64,
    /// The region's position.
    pub to: Position,
    /// When the heartbeat was made; unix milliseconds.
    pub as_of_ms: i64,
    /// The digest of the table at `to`: a proxy that is there compares.
    #[serde(default)]
    pub root: Digest,
}

/// Some of a region's table, read in one step together with what is signed of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// What the region says of itself; `None` when it is empty.
    pub meta: Option<MetaFields>,
    /// The digests of all buckets and of the policies, as stored.
    pub digests: Vec<u8>,
    /// The policies, if they were asked for.
    pub policies: Option<Stored>,
    /// The buckets that were asked for.
    pub buckets: Vec<(u16, Stored)>,
}

/// Fields and entries as they are stored.
pub type Stored = Vec<(String, Vec<u8>)>;

/// The digests in a [`Part`], which are those that were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// What was signed.
    pub meta: Meta,
    /// Of each bucket.
    pub buckets: Vec<Digest>,
    /// Of the policies.
    pub policies: Digest,
}

/// An entry of a bucket or of the policies, which is the one that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<K> {
    /// The lookup hash, or the name of the policy.
    pub key: K,
    /// Which entry of it.
    pub revision: Revision,
    /// The encoded entry.
    pub bytes: Vec<u8>,
}

// === impl Meta ===

impl Meta {
    /// The members as a region stores them, without a signature.
    pub fn to_fields(&self) -> MetaFields {
        let field = |name: &str, value: String| (name.to_owned(), value);
        MetaFields::from([
            field("lineage", self.lineage.to_string()),
            field("generation", self.generation.to_string()),
            field("epoch", self.epoch.to_string()),
            field("fence", self.fence.to_string()),
            field("position", self.position.to_string()),
            field("chain_hash", self.chain_hash.clone()),
            field("as_of_ms", self.as_of_ms.to_string()),
            field("count", self.count.to_string()),
            field("root", self.root.to_string()),
        ])
    }

    /// Reads what [`Self::to_fields`] wrote. Whether it is to be believed is another
    /// question: [`Trust::meta`].
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn of_fields(fields: &MetaFields) -> Result<Self, String> {
        fn member<T: FromStr>(fields: &MetaFields, name: &str) -> Result<T, String> {
            fields
                .get(name)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("`{name}` is missing or malformed"))
        }
        Ok(Self {
            lineage: member(fields, "lineage")?,
            generation: member(fields, "generation")?,
            epoch: member(fields, "epoch")?,
            fence: member(fields, "fence")?,
            position: member(fields, "position")?,
            chain_hash: member(fields, "chain_hash")?,
            as_of_ms: member(fields, "as_of_ms")?,
            // Those of before there were digests have none, and no signature either.
            count: member(fields, "count").unwrap_or_default(),
            root: member(fields, "root").unwrap_or_default(),
        })
    }

    /// Buckets to read in one step: a few thousand entries, so that it neither blocks a
    /// Redis for long nor carries the digests along too often.
    pub fn buckets_at_once(&self) -> u16 {
        const ENTRIES: u64 = 4_096;
        let each = self.count / u64::from(BUCKETS) + 1;
        u16::try_from((ENTRIES / each).clamp(1, 64)).unwrap_or(1)
    }
}

// === impl Part ===

impl Part {
    /// The digests, if they are those that the region's control plane signed. `None` when
    /// the region is empty.
    ///
    /// # Errors
    /// [`Error`].
    pub fn digests(&self, trust: &Trust) -> Result<Option<Digests>, Error> {
        let Some(fields) = &self.meta else {
            return Ok(None);
        };
        let meta = trust.meta(fields)?;
        let (buckets, policies) =
            digest::read_all(&self.digests).ok_or(Error::Unverified(Kind::Meta))?;
        if digest::of_root(&buckets, policies) != meta.root {
            return Err(Error::Unverified(Kind::Meta));
        }
        Ok(Some(Digests {
            meta,
            buckets,
            policies,
        }))
    }
}

// === impl Digests ===

impl Digests {
    /// The entries of a bucket, if they are those that were signed: each is authentic, and
    /// together they are what the digest says, no older one and none missing. What somebody
    /// added beside them is left out.
    ///
    /// # Errors
    /// [`Error::Unverified`].
    pub fn open_bucket(
        &self,
        trust: &Trust,
        bucket: u16,
        stored: Stored,
    ) -> Result<Vec<Verified<CredentialHash>>, Error> {
        let entries: Vec<Verified<CredentialHash>> = stored
            .into_iter()
            .filter_map(|(field, bytes)| open(trust, field, bytes))
            .filter(|it: &Verified<CredentialHash>| bucket_of(&it.key) == bucket)
            .collect();
        let leaves = entries.iter().map(|it| digest::Leaf {
            hash: it.key,
            revision: it.revision,
        });
        let is_signed = bucket < BUCKETS
            && digest::of_bucket(leaves.collect()) == self.buckets[usize::from(bucket)];
        is_signed
            .then_some(entries)
            .ok_or(Error::Unverified(Kind::Entry))
    }

    /// The policies, if they are those that were signed, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Unverified`].
    pub fn open_policies(
        &self,
        trust: &Trust,
        stored: Stored,
    ) -> Result<Vec<Verified<String>>, Error> {
        let mut entries: Vec<Verified<String>> = stored
            .into_iter()
            .filter_map(|(field, bytes)| open(trust, field, bytes))
            .collect();
        entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let all = entries.iter().map(|it| (it.key.as_str(), it.revision));
        (digest::of_policies(all) == self.policies)
            .then_some(entries)
            .ok_or(Error::Unverified(Kind::Entry))
    }
}

/// The entry under a field, if its MAC is good and it says its revision, which every format
/// of an entry does.
pub fn open<K: FromStr>(trust: &Trust, field: String, stored: Vec<u8>) -> Option<Verified<K>> {
    let bytes = trust.entry(&field, stored).ok()?;
    Some(Verified {
        key: field.parse().ok()?,
        revision: revision_of(&bytes)?,
        bytes,
    })
}

/// The revision that an encoded entry says. Our encoder writes it first, where it is found
/// without reading all of the entry once more; anything else is read as JSON.
fn revision_of(bytes: &[u8]) -> Option<Revision> {
    fn number<'a>(bytes: &'a [u8], name: &str) -> Option<(u64, &'a [u8])> {
        let rest = bytes.strip_prefix(name.as_bytes())?;
        let end = rest.iter().position(|it| !it.is_ascii_digit())?;
        let number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        Some((number, rest[end..].strip_prefix(b",")?))
    }
    let at_the_start = || {
        let (_, rest) = number(bytes, "{\"min_reader\":")?;
        let (generation, rest) = number(rest, "\"generation\":")?;
        let (rev, _) = number(rest, "\"rev\":")?;
        let generation = u32::try_from(generation).ok()?;
        Some(Revision { generation, rev })
    };
    at_the_start().or_else(|| serde_json::from_slice(bytes).ok())
}

/// Buckets, in order, as ranges to be read: neighbours together, at most so many.
pub fn neighbours(buckets: &[u16], at_once: u16) -> Vec<Range<u16>> {
    let mut ranges: Vec<Range<u16>> = Vec::new();
    for &bucket in buckets {
        match ranges.last_mut() {
            Some(last) if last.end == bucket && last.len() < usize::from(at_once) => {
                last.end += 1;
            }
            _ => ranges.push(bucket..bucket + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_found_wherever_it_stands() {
        let revision = Some(Revision {
            generation: 2,
            rev: 77,
        });
        for (text, expected) in [
            (
                r#"{"min_reader":1,"generation":2,"rev":77,"x":1}"#,
                revision,
            ),
            (r#"{"min_reader":1,"rev":77,"generation":2}"#, revision),
            (r#"{"x":{"rev":1},"generation":2,"rev":77}"#, revision),
            (r#"{"min_reader":1,"generation":2,"rev":77}"#, revision),
            (r#"{"min_reader":1,"generation":2}"#, None),
            (
                r#"{"min_reader":1,"generation":9999999999,"rev":77,"x":1}"#,
                None,
            ),
            ("", None),
        ] {
            assert_eq!(revision_of(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn neighbours_are_read_together() {
        assert!(neighbours(&[], 4).is_empty());
        assert_eq!(neighbours(&[0, 1, 2, 5, 6], 2), [0..2, 2..3, 5..7]);
        let all: Vec<u16> = (0..BUCKETS).collect();
        assert_eq!(neighbours(&all, 64).len(), 16);
        assert_eq!(neighbours(&all, 64)[15], 960..1_024);
    }
}
