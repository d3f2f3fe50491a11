//! Names on the wire: NATS subjects and Redis keys.
//!
//! The `0` is the shard. There is one; the place for it is kept in the names because
//! names are what cannot be changed later.

use crate::CredentialHash;

/// Buckets that the secret entries of a region are spread over.
pub const BUCKETS: u16 = 1_024;

/// Cells of the [digest](crate::digest) in one bucket.
pub const CELLS_PER_BUCKET: usize = 16;

/// Cells of the digest in all.
pub const CELLS: usize = BUCKETS as usize * CELLS_PER_BUCKET;

/// Positions that a region's feed reaches back.
pub const FEED_POSITIONS: u64 = 100_000;

/// Whether `name` may be a region: 1 to 32 of `a-z`, `0-9` and `-`.
pub fn is_region(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The bucket of a secret: the first 10 bits of its hash.
pub fn bucket_of(hash: &CredentialHash) -> u16 {
    let bytes = hash.as_bytes();
    u16::from_be_bytes([bytes[0], bytes[1]]) >> 6
}

/// NATS subjects.
pub mod subject {
    /// Where a region's [frames](crate::stream::Frame) are published.
    pub fn frames(region: &str) -> String {
        format!("tp.{region}.f.0")
    }

    /// Where a region's [heartbeats](crate::stream::Heartbeat) are published.
    pub fn heartbeats(region: &str) -> String {
        format!("tp.{region}.h.0")
    }

    /// Where a region's proxies send their [renewals](crate::fleet::Renewal).
    pub fn renewals(region: &str) -> String {
        format!("tp.{region}.r.0")
    }
}

/// Redis keys. The hash tag keeps the keys of a shard on one node.
pub mod redis_key {
    /// A hash: the region's [`Meta`](crate::stream::Meta), a field per member.
    pub fn meta(region: &str) -> String {
        format!("{{tp:{region}:0}}:meta")
    }

    /// What all keys of one epoch begin with.
    pub fn epoch(region: &str, epoch: u64) -> String {
        format!("{{tp:{region}:0}}:e{epoch}:")
    }

    /// A hash: the secret entries of a bucket, by lookup hash.
    pub fn bucket(region: &str, epoch: u64, bucket: u16) -> String {
        format!("{{tp:{region}:0}}:e{epoch}:b{bucket}")
    }

    /// A hash: the policy entries, by `<kind>:<id>`.
    pub fn policies(region: &str, epoch: u64) -> String {
        format!("{{tp:{region}:0}}:e{epoch}:p")
    }

    /// A string: the [digests](crate::digest) of the 1,024 buckets and of the policies, 32
    /// bytes each.
    pub fn digests(region: &str, epoch: u64) -> String {
        format!("{{tp:{region}:0}}:e{epoch}:d")
    }

    /// A stream: the frames, by the position they lead to. The frame stands in the
    /// field [`FEED_FIELD`](super::FEED_FIELD), its signature in
    /// [`SIGNATURE_FIELD`](super::SIGNATURE_FIELD).
    pub fn feed(region: &str, epoch: u64) -> String {
        format!("{{tp:{region}:0}}:e{epoch}:feed")
    }
}

/// The field of a feed item that holds the encoded frame.
pub const FEED_FIELD: &str = "frame";

/// The field of a feed item, and of meta, that holds the signature of the rest.
pub const SIGNATURE_FIELD: &str = "signature";

/// The header of a NATS message that holds its signature or MAC, in hex.
pub const PROOF_HEADER: &str = "tp-proof";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_is_the_first_ten_bits() {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&[0b1000_0000, 0b0111_1111]);
        assert_eq!(
            bucket_of(&CredentialHash::from_bytes(bytes)),
            0b10_0000_0001
        );
        assert_eq!(
            bucket_of(&CredentialHash::from_bytes([0xff; 32])),
            BUCKETS - 1
        );
    }

    #[test]
    fn names_are_as_written_down() {
        assert_eq!(subject::frames("eu"), "tp.eu.f.0");
        assert_eq!(redis_key::meta("eu"), "{tp:eu:0}:meta");
        assert_eq!(redis_key::bucket("eu", 3, 1023), "{tp:eu:0}:e3:b1023");
        assert_eq!(redis_key::policies("eu", 3), "{tp:eu:0}:e3:p");
        assert_eq!(redis_key::digests("eu", 3), "{tp:eu:0}:e3:d");
        assert_eq!(redis_key::feed("eu", 3), "{tp:eu:0}:e3:feed");
    }

    #[test]
    fn region_names() {
        assert!(is_region("eu-west-1"));
        for bad in ["", "EU", "eu.west", "eu west", &"a".repeat(33)] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
