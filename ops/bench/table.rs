//! The key table by itself: what a key costs, a look-up, and an update.
//!
//! The number of keys is the only argument. All keys are active and have one of
//! eight sets of limits. One line of JSON tells what was measured.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use data_plane::table::KeyTable;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use schemas::entry::{Access, BadEntry, Change, Revision, SecretEntry, SecretStatus};
use schemas::name::{BUCKETS, bucket_of};
use schemas::{CredentialHash, KeyId, Limits, Position, SecretId, WorkspaceId};
use serde_json::json;

type Random = rand::rngs::SmallRng;
type Entry = (CredentialHash, Result<SecretEntry, BadEntry>);

/// Keys that are looked up; enough that a processor's caches do not hold them all.
const SAMPLE_MAX: usize = 1_000_000;
const UPDATES: usize = 5_000;

fn main() -> anyhow::Result<()> {
    let keys: usize = std::env::args().nth(1).context("how many keys?")?.parse()?;
    ensure!(keys >= usize::from(BUCKETS), "at least one key a bucket");
    let mut random = Random::seed_from_u64(1);
    let mut sample = Vec::with_capacity(SAMPLE_MAX.min(keys));

    let before = resident_bytes()?;
    let sample_bytes = sample.capacity() * size_of::<CredentialHash>();
    let table = KeyTable::new();
    for bucket in 0..BUCKETS {
        table.merge_bucket(bucket, fill(bucket, keys, &mut random, &mut sample));
    }
    let table_bytes = resident_bytes()? - before - sample_bytes as f64;

    shuffle(&mut sample, &mut random);
    let look_up_ns = measure_look_ups(&table, &sample);
    let mut updates_us = measure_updates(&table, &sample);
    updates_us.sort_unstable_by(f64::total_cmp);

    let result = json!({
        "keys": table.len(),
        "bytes_per_key": table_bytes / table.len() as f64,
        "look_up_ns": look_up_ns,
        "update_p50_us": updates_us[updates_us.len() / 2],
        "update_p99_us": updates_us[updates_us.len() * 99 / 100],
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}

/// The keys of one bucket. Those that will be looked up are added to `sample`, spread
/// evenly over all.
fn fill(
    bucket: u16,
    keys: usize,
    random: &mut Random,
    sample: &mut Vec<CredentialHash>,
) -> Vec<Entry> {
    let first = keys * usize::from(bucket) / usize::from(BUCKETS);
    let next = keys * (usize::from(bucket) + 1) / usize::from(BUCKETS);
    let every = keys.div_ceil(SAMPLE_MAX);
    (first..next)
        .map(|number| {
            let hash = hash_in(bucket, random);
            if number % every == 0 {
                sample.push(hash);
            }
            (hash, Ok(entry(&hash, 1, SecretStatus::Active)))
        })
        .collect()
}

fn hash_in(bucket: u16, random: &mut Random) -> CredentialHash {
    let mut bytes = [0; 32];
    random.fill_bytes(&mut bytes);
    let rest = u16::from_be_bytes([bytes[0], bytes[1]]) & 0b11_1111;
    bytes[..2].copy_from_slice(&(bucket << 6 | rest).to_be_bytes());
    let hash = CredentialHash::from_bytes(bytes);
    debug_assert_eq!(bucket_of(&hash), bucket);
    hash
}

/// The entry of a key; all of it follows from the hash.
fn entry(hash: &CredentialHash, rev: Position, status: SecretStatus) -> SecretEntry {
    let bytes = hash.as_bytes();
    let id = u128::from_be_bytes(bytes[..16].try_into().expect("half of 32 bytes"));
    SecretEntry {
        min_reader: 1,
        revision: Revision { generation: 1, rev },
        key_id: KeyId::from_u128(id),
        secret_id: SecretId::from_u128(!id),
        status,
        ends_at_ms: None,
        expires_at_ms: None,
        workspace_id: WorkspaceId::from_parts(1, 1),
        team_id: None,
        owner: None,
        name: "bench".to_owned(),
        limits: Limits {
            rps: Some(10 + u64::from(bytes[31] % 8)),
            rpm: Some(100 + u64::from(bytes[31] % 8)),
            ..Limits::default()
        },
        access: Access::default(),
    }
}

fn shuffle(sample: &mut [CredentialHash], random: &mut Random) {
    for at in (1..sample.len()).rev() {
        sample.swap(at, random.random_range(0..=at));
    }
}

fn measure_look_ups(table: &KeyTable, sample: &[CredentialHash]) -> f64 {
    let rounds = SAMPLE_MAX.div_ceil(sample.len());
    let start = Instant::now();
    for _ in 0..rounds {
        for hash in sample {
            assert!(black_box(table.get(hash)).is_some(), "every key is there");
        }
    }
    start.elapsed().as_nanos() as f64 / (rounds * sample.len()) as f64
}

/// Microseconds from a changed entry to the table that shows it.
fn measure_updates(table: &KeyTable, sample: &[CredentialHash]) -> Vec<f64> {
    sample
        .iter()
        .cycle()
        .take(UPDATES)
        .zip(2..)
        .map(|(hash, rev)| {
            let secret = entry(hash, rev, SecretStatus::Inactive);
            let change = [Change::Secret {
                hash: *hash,
                secret,
            }];
            let start = Instant::now();
            table.apply(&change);
            start.elapsed().as_nanos() as f64 / 1_000.0
        })
        .collect()
}

fn resident_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("the kernel does not tell the memory of a process")?;
    Ok(kib.parse::<f64>()? * 1024.0)
}
