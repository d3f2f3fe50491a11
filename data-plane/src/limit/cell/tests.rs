use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use schemas::{KeyId, SecretId};

use super::{Cells, IDLE_S, Rates};

fn key(n: u128) -> KeyId {
    KeyId::from_u128(n)
}

fn secret(n: u128) -> SecretId {
    SecretId::from_u128(n)
}

#[test]
fn secrets_of_a_key_share_its_counts() {
    let cells = Cells::new();
    let rates = Rates {
        rps: None,
        rpm: Some(3),
    };
    let old = cells.secret(key(1), secret(1), 1_000);
    let new = cells.secret(key(1), secret(2), 1_000);
    let other = cells.secret(key(2), secret(3), 1_000);
    assert!(old.pool().take(1_000, rates).is_ok());
    assert!(new.pool().take(1_000, rates).is_ok());
    assert!(old.pool().take(1_000, rates).is_ok());
    assert!(new.pool().take(1_000, rates).is_err());
    assert!(other.pool().take(1_000, rates).is_ok());
}

#[test]
fn an_idle_cell_is_let_go_and_a_used_one_stays() {
    let cells = Cells::new();
    cells.secret(key(1), secret(1), 0);
    cells.secret(key(2), secret(2), 0);
    let later_ms = (IDLE_S + 10) * 1_000;
    cells.secret(key(2), secret(2), later_ms);
    cells.sweep(later_ms);
    assert_eq!(cells.len(), 1);
}

#[test]
fn whoever_holds_a_cell_that_was_let_go_gets_a_fresh_one() {
    let cells = Cells::new();
    let old = cells.secret(key(1), secret(1), 0);
    let later_ms = (IDLE_S + 10) * 1_000;
    cells.sweep(later_ms);
    assert!(!old.touch(later_ms / 1_000));
    let fresh = cells.secret(key(1), secret(1), later_ms);
    assert!(!std::sync::Arc::ptr_eq(&old, &fresh));
}

#[test]
fn each_use_is_collected_once() {
    let cells = Cells::new();
    let cell = cells.secret(key(1), secret(1), 0);
    for at in [100, 200, 150] {
        cells.mark_used(&cell, at);
    }
    let uses = cells.collect();
    assert_eq!(uses.len(), 1);
    let spent = uses[0].spent;
    assert_eq!(
        (spent.first_at_ms, spent.last_at_ms, spent.requests),
        (100, 200, 3)
    );
    assert!(uses[0].is_first);
    assert!(cells.collect().is_empty());

    uses[0].acknowledge();
    cells.mark_used(&cell, 300);
    assert!(!cells.collect()[0].is_first);
}

/// The order that a purge relies on: a use that was admitted by the old table is in what
/// is collected after the swap.
#[test]
fn a_collection_after_a_swap_holds_every_use_that_the_old_table_admitted() {
    for round in 0..200 {
        let cells = Cells::new();
        let swapped = AtomicBool::new(false);
        let admitted = AtomicU64::new(0);
        let collected = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let cell = cells.secret(key(1), secret(1), 0);
                    loop {
                        cells.mark_used(&cell, 1);
                        if swapped.load(Ordering::SeqCst) {
                            break;
                        }
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let mut collected = 0;
            for _ in 0..round % 7 {
                collected += cells
                    .collect()
                    .iter()
                    .map(|it| it.spent.requests)
                    .sum::<u64>();
            }
            swapped.store(true, Ordering::SeqCst);
            let admitted_before = admitted.load(Ordering::SeqCst);
            collected += cells
                .collect()
                .iter()
                .map(|it| it.spent.requests)
                .sum::<u64>();
            assert!(
                collected >= admitted_before,
                "{collected} collected, {admitted_before} admitted before the swap"
            );
            collected
        });
        let rest: u64 = cells
            .collect()
            .iter()
            .chain(&cells.collect())
            .map(|it| it.spent.requests)
            .sum();
        // Three marks found the table swapped: marked, not admitted.
        assert_eq!(collected + rest, admitted.load(Ordering::SeqCst) + 3);
    }
}
