use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use schemas::entry::{Policy, SecretStatus};

use super::*;
use crate::testing::{change, credential, policy, revision, secret, target, workspace};

fn at(n: u64, status: SecretStatus, rev: u64) -> Change {
    let mut entry = secret(n, status);
    entry.revision = revision(rev);
    change(n, entry)
}

fn status(table: &KeyTable, n: u64) -> Option<SecretStatus> {
    table.get(&credential(n).hash())?.status
}

fn bucket_of(n: u64) -> u16 {
    schemas::name::bucket_of(&credential(n).hash())
}

#[test]
fn an_older_entry_never_replaces_a_newer_one() {
    let table = KeyTable::new();
    table.apply(&[at(1, SecretStatus::Inactive, 5)]);
    table.apply(&[at(1, SecretStatus::Active, 4)]);
    assert_eq!(status(&table, 1), Some(SecretStatus::Inactive));
    table.apply(&[at(1, SecretStatus::Active, 6)]);
    assert_eq!(status(&table, 1), Some(SecretStatus::Active));
    assert_eq!(status(&table, 2), None);
    assert_eq!(table.len(), 1);
}

#[test]
fn what_is_off_for_good_stays_off_whatever_comes() {
    for gone in [
        SecretStatus::Revoked,
        SecretStatus::Ended,
        SecretStatus::Purged,
    ] {
        let table = KeyTable::new();
        table.apply(&[at(1, gone, 5)]);
        table.apply(&[at(1, SecretStatus::Active, 6)]);
        let mut next_generation = secret(1, SecretStatus::Active);
        next_generation.revision.generation = 2;
        table.apply(&[change(1, next_generation.clone())]);
        table.merge_bucket(
            bucket_of(1),
            vec![(credential(1).hash(), Ok(next_generation))],
        );
        table.merge_bucket(
            bucket_of(1),
            vec![(
                credential(1).hash(),
                Err(BadEntry::Malformed(String::new())),
            )],
        );
        assert_eq!(status(&table, 1), Some(gone));
    }
}

#[test]
fn an_entry_that_is_too_new_denies_until_one_comes_that_can_be_read() {
    let table = KeyTable::new();
    let mut too_new = secret(1, SecretStatus::Active);
    too_new.min_reader = 99;
    too_new.revision = revision(5);
    table.apply(&[at(1, SecretStatus::Active, 4), change(1, too_new)]);
    assert_eq!(status(&table, 1), None);
    assert!(table.get(&credential(1).hash()).is_some());
    table.apply(&[at(1, SecretStatus::Active, 4)]);
    assert_eq!(status(&table, 1), None, "an older one does not undo it");
    table.apply(&[at(1, SecretStatus::Active, 6)]);
    assert_eq!(status(&table, 1), Some(SecretStatus::Active));
    assert_eq!(table.quarantined_total(), 1);
}

#[test]
fn what_a_whole_snapshot_lacks_is_dropped_but_tombstones_and_newer_entries_stay() {
    let table = KeyTable::new();
    for n in 1..=40 {
        table.apply(&[at(n, SecretStatus::Active, n)]);
    }
    table.apply(&[
        at(41, SecretStatus::Revoked, 41),
        at(42, SecretStatus::Active, 60),
    ]);
    let mut entries: HashMap<u16, Vec<_>> = HashMap::new();
    for n in 1..=39 {
        let mut entry = secret(n, SecretStatus::Active);
        entry.revision = revision(n);
        entries
            .entry(bucket_of(n))
            .or_default()
            .push((credential(n).hash(), Ok(entry)));
    }
    for bucket in 0..BUCKETS {
        table.merge_bucket(bucket, entries.remove(&bucket).unwrap_or_default());
    }
    let swept = table.sweep(revision(50));
    assert_eq!(swept, Swept::Dropped(1));
    assert_eq!(status(&table, 40), None, "absent and old");
    assert_eq!(
        status(&table, 41),
        Some(SecretStatus::Revoked),
        "a tombstone"
    );
    assert_eq!(
        status(&table, 42),
        Some(SecretStatus::Active),
        "newer than the snapshot"
    );
    assert_eq!(status(&table, 1), Some(SecretStatus::Active));
    assert_eq!(table.len(), 41);
}

#[test]
fn an_empty_region_never_empties_the_table() {
    let table = KeyTable::new();
    for n in 1..=40 {
        table.apply(&[at(n, SecretStatus::Active, n)]);
    }
    for bucket in 0..BUCKETS {
        table.merge_bucket(bucket, Vec::new());
    }
    let swept = table.sweep(revision(50));
    assert_eq!(swept, Swept::TooMany(40));
    assert_eq!(table.len(), 40);
}

#[test]
fn policies_are_joined_by_workspace_and_keep_their_pools() {
    let table = KeyTable::new();
    let address = "127.0.0.1:80".parse().unwrap();
    let revised = |mut change: Change, rev| {
        if let Change::Policy { policy } = &mut change {
            policy.revision = revision(rev);
        }
        change
    };
    table.apply(&[
        at(1, SecretStatus::Active, 1),
        revised(policy(Policy::Target(target("echo", address))), 1),
    ]);
    let place = table.get(&credential(1).hash()).unwrap().workspace;
    let workspace_now = || Arc::clone(table.policies().workspace(place).unwrap());
    assert!(workspace_now().policy.is_none(), "not known yet: refused");
    table.apply(&[revised(policy(Policy::Workspace(workspace())), 2)]);
    let before = workspace_now();
    assert!(before.policy.is_some());
    assert!(before.target_by_name("echo").is_some());

    let mut gone = target("echo", address);
    gone.deleted = true;
    table.apply(&[revised(policy(Policy::Target(gone)), 3)]);
    let mut suspended = workspace();
    suspended.suspended = true;
    table.apply(&[revised(policy(Policy::Workspace(suspended)), 4)]);
    table.apply(&[revised(policy(Policy::Workspace(workspace())), 3)]);
    let after = workspace_now();
    assert!(
        after.policy.as_ref().unwrap().suspended,
        "the older one came late"
    );
    assert!(after.target_by_name("echo").is_none());
    assert!(Arc::ptr_eq(&before.pool, &after.pool), "counts survive");
}

#[test]
fn readers_see_old_or_new_and_never_less() {
    let table = KeyTable::new();
    for n in 1..=300 {
        table.apply(&[at(n, SecretStatus::Active, 1)]);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let hash = credential(1).hash();
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let rev = table.get(&hash).unwrap().revision.rev;
                assert!(rev >= last, "{rev} after {last}");
                last = rev;
            }
        });
        for rev in 2..2_000 {
            let before = table.version();
            table.apply(&[at(1, SecretStatus::Active, rev)]);
            assert!(table.version() > before);
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the order, the table is the highest revision of each secret, or the
    /// tombstone that was met on the way.
    #[test]
    fn the_order_of_entries_does_not_matter(
        entries in proptest::collection::vec((1_u64..6, 0_usize..3, 1_u64..30), 1..60),
        by_bucket in proptest::collection::vec(any::<bool>(), 60),
    ) {
        const STATUSES: [SecretStatus; 3] = [SecretStatus::Active, SecretStatus::Inactive, SecretStatus::Revoked];
        let table = KeyTable::new();
        let mut model: HashMap<u64, (SecretStatus, u64)> = HashMap::new();
        for (&(n, which, rev), &by_bucket) in entries.iter().zip(&by_bucket) {
            // A log gives one revision one status.
            let status = STATUSES[(which + rev as usize) % 3];
            let mut entry = secret(n, status);
            entry.revision = revision(rev);
            if by_bucket {
                table.merge_bucket(bucket_of(n), vec![(credential(n).hash(), Ok(entry))]);
            } else {
                table.apply(&[change(n, entry)]);
            }
            let held = model.entry(n).or_insert((status, rev));
            let replaces = if held.0.is_absorbing() {
                status.is_absorbing() && rev > held.1
            } else {
                rev > held.1
            };
            if replaces {
                *held = (status, rev);
            }
        }
        prop_assert_eq!(table.len(), model.len());
        for (n, (status, rev)) in model {
            let found = table.get(&credential(n).hash()).unwrap();
            prop_assert_eq!((found.status, found.revision.rev), (Some(status), rev));
            prop_assert_eq!(found.key_id, secret(n, status).key_id);
        }
    }
}

/// The `n`th of many hashes, spread over all buckets; and its bucket.
fn spread(n: u64) -> (u16, CredentialHash) {
    let mut bytes = [0; 32];
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64) << 7;
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    let hash = CredentialHash::from_bytes(bytes);
    (schemas::name::bucket_of(&hash), hash)
}

#[test]
fn a_table_grows_while_it_is_read_and_nobody_is_missed() {
    let few = 1_000;
    let many = GROWS_BEYOND as u64 + few;
    let entry_of = |n: u64| {
        let mut entry = secret(n, SecretStatus::Active);
        entry.revision = revision(1);
        entry.limits.rps = Some(n % 3);
        entry
    };
    let fill = |table: &KeyTable, range: std::ops::Range<u64>| {
        let mut buckets: HashMap<u16, Vec<_>> = HashMap::new();
        for n in range {
            let (bucket, hash) = spread(n);
            buckets
                .entry(bucket)
                .or_default()
                .push((hash, Ok(entry_of(n))));
        }
        for (bucket, entries) in buckets {
            table.merge_bucket(bucket, entries);
        }
    };
    let table = KeyTable::new();
    fill(&table, 0..few);
    let revoked = spread(0).1;
    let revoke = |rev| {
        let mut entry = secret(0, SecretStatus::Revoked);
        entry.revision = revision(rev);
        Change::Secret {
            hash: revoked,
            secret: entry,
        }
    };
    table.apply(&[revoke(2)]);

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0_u64;
            while !is_over.load(Ordering::Acquire) || rounds == 0 {
                for n in 0..few {
                    let found = table.get(&spread(n).1).expect("it was there before");
                    assert_eq!(found.key_id.to_u128(), u128::from(n));
                }
                rounds += 1;
            }
        });
        fill(&table, few..many);
        is_over.store(true, Ordering::Release);
        reader.join().expect("no secret was missed");
    });

    assert!(table.many.get().is_some(), "it should have grown");
    assert_eq!(table.len() as u64, many);
    for n in 1..many {
        let found = table.get(&spread(n).1).unwrap();
        assert_eq!(found.key_id.to_u128(), u128::from(n));
        assert_eq!(found.rates.rps, Some(n % 3));
    }
    assert_eq!(
        table.get(&revoked).unwrap().status,
        Some(SecretStatus::Revoked)
    );
    table.apply(&[revoke(3)]);
    assert_eq!(table.get(&revoked).unwrap().revision, revision(3));
    assert!(table.few.iter().all(|shard| shard.load().len() == 0));
}
