//! Reading a region's table: those buckets of it that differ from ours.
//!
//! First the digests are read and compared. A proxy that starts finds every bucket that holds
//! something to differ; one whose table went wrong in one entry reads one bucket. Each
//! bucket is read in one step with the signed meta and the digests of that moment, so that
//! it is proved by itself, however much the region changes meanwhile, and nothing is merged
//! that was not signed: a bucket in which somebody changed an entry is not used, and the
//! snapshot is tried again until the region's control plane has put it right.

use std::ops::Range;

use futures_util::{StreamExt, stream};
use schemas::Position;
use schemas::entry::{Revision, decode_policy, decode_secret};
use schemas::name::BUCKETS;
use schemas::seal::{Error, Kind};
use schemas::stream::{Digests, Meta, Part, neighbours};

use super::driver::within;
use super::source::{RegionSource, SourceError};
use super::trust::Verifier;
use crate::table::{KeyTable, Swept};

/// Reads that run at the same time.
const READS_AT_ONCE: usize = 4;

/// Something of the region, and up to where the log is in it.
struct Proved {
    digests: Digests,
    part: Part,
}

/// Makes the table what the region holds: entries are merged by revision while requests go
/// on, and what the region does not hold is dropped at the end. Says how far the entries
/// reach at most.
pub(super) async fn snapshot(
    source: &dyn RegionSource,
    verifier: &Verifier,
    table: &KeyTable,
    meta: &Meta,
) -> Result<Position, SourceError> {
    let first = read(source, verifier, meta, 0..0, false).await?;
    let mut through = first.digests.meta.position;
    let revision = Revision {
        generation: meta.generation,
        rev: meta.position,
    };
    if first.digests.policies != table.policies_digest() {
        let Proved { digests, part } = read(source, verifier, meta, 0..0, true).await?;
        through = through.max(digests.meta.position);
        merge_policies(verifier, table, &digests, part, revision)?;
    }

    let differing = differing(table, &first.digests);
    let mut reads = stream::iter(neighbours(&differing, meta.buckets_at_once()))
        .map(|buckets| read(source, verifier, meta, buckets, false))
        .buffer_unordered(READS_AT_ONCE);
    while let Some(proved) = reads.next().await {
        let Proved { digests, part } = proved?;
        through = through.max(digests.meta.position);
        for (bucket, stored) in part.buckets {
            let count = stored.len();
            let entries = verifier
                .believed(digests.open_bucket(verifier.trust(), bucket, stored))
                .ok_or_else(differs)?;
            if entries.len() < count {
                verifier.doubt(&Error::Unverified(Kind::Entry));
            }
            let entries = entries
                .into_iter()
                .map(|it| (it.key, it.revision, decode_secret(&it.bytes)))
                .collect();
            let position = Revision {
                generation: digests.meta.generation,
                rev: digests.meta.position,
            };
            table.replace_bucket(bucket, position, entries);
        }
    }
    match table.sweep(revision) {
        Swept::Dropped(0) => {}
        Swept::Dropped(count) => {
            tracing::info!(count, "dropped secrets that the region no longer holds");
        }
        Swept::TooMany(count) => tracing::error!(
            count,
            entries = table.len(),
            "the region lacks more than half of the table; nothing was dropped"
        ),
    }
    Ok(through)
}

/// Reads a part of the region that is of the same history and build as `meta` and not older.
async fn read(
    source: &dyn RegionSource,
    verifier: &Verifier,
    meta: &Meta,
    buckets: Range<u16>,
    policies: bool,
) -> Result<Proved, SourceError> {
    let part = within(source.read(meta.epoch, buckets, policies)).await?;
    let digests = verifier.digests(&part).ok_or_else(differs)?;
    let now = &digests.meta;
    let is_same =
        (now.lineage, now.generation, now.epoch) == (meta.lineage, meta.generation, meta.epoch);
    if is_same && now.position >= meta.position {
        Ok(Proved { digests, part })
    } else {
        Err(SourceError::malformed(
            DOING,
            "the region changed its build meanwhile",
        ))
    }
}

fn merge_policies(
    verifier: &Verifier,
    table: &KeyTable,
    digests: &Digests,
    part: Part,
    through: Revision,
) -> Result<(), SourceError> {
    let stored = part.policies.unwrap_or_default();
    let entries = verifier
        .believed(digests.open_policies(verifier.trust(), stored))
        .ok_or_else(differs)?;
    let entries = entries
        .into_iter()
        .map(|it| (it.key, it.revision, decode_policy(&it.bytes)))
        .collect();
    table.replace_policies(entries, through);
    Ok(())
}

/// The buckets in which the table is not what the region signed.
fn differing(table: &KeyTable, digests: &Digests) -> Vec<u16> {
    (0..BUCKETS)
        .filter(|bucket| table.bucket_digest(*bucket) != digests.buckets[usize::from(*bucket)])
        .collect()
}

const DOING: &str = "reading a snapshot";

fn differs() -> SourceError {
    SourceError::malformed(DOING, "what it holds is not what its control plane signed")
}
