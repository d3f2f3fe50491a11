use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::{MinuteWindow, SecondWindow};

#[test]
fn the_full_cap_may_be_used_at_once_and_comes_back_a_window_later() {
    let window = SecondWindow::new();
    for used in 1..=5 {
        assert_eq!(window.take(5_000, Some(5)).unwrap().total, used);
    }
    let full = window.take(5_000, Some(5)).unwrap_err();
    assert_eq!(full.free_in_ms, 1_100);
    assert!(window.take(6_099, Some(5)).is_err());
    assert_eq!(window.take(6_100, Some(5)).unwrap().total, 1);
}

#[test]
fn a_cap_of_nought_refuses_all() {
    assert!(MinuteWindow::new().take(0, Some(0)).is_err());
}

#[test]
fn a_window_counts_while_there_is_no_cap() {
    let window = MinuteWindow::new();
    for _ in 0..7 {
        window.take(1_000, None).unwrap();
    }
    assert!(window.take(2_000, Some(7)).is_err());
    assert_eq!(window.take(2_000, Some(8)).unwrap().total, 8);
}

#[test]
fn what_is_put_back_may_be_taken_again() {
    let window = SecondWindow::new();
    let taken = window.take(50, Some(1)).unwrap();
    window.give_back(taken);
    assert_eq!(window.used(50), 0);
    let taken = window.take(50, Some(1)).unwrap();
    // A window later the event has left by itself; putting it back then must not make
    // room for a second one.
    window.take(2_000, Some(1)).unwrap();
    window.give_back(taken);
    assert!(window.take(2_000, Some(1)).is_err());
}

proptest! {
    #[test]
    fn no_interval_of_a_window_holds_more_than_the_cap(
        cap in 1_u64..20,
        steps in proptest::collection::vec((0_u64..700, 0_usize..12), 1..60),
    ) {
        let window = SecondWindow::new();
        let mut admitted: Vec<u64> = Vec::new();
        let mut now_ms = 1_000;
        for (wait_ms, tries) in steps {
            now_ms += wait_ms;
            for _ in 0..tries {
                let counted = admitted.iter().filter(|&&at| at + 1_000 > now_ms).count() as u64;
                match window.take(now_ms, Some(cap)) {
                    Ok(_) => {
                        prop_assert!(counted < cap, "{counted} already within a second of {now_ms}");
                        admitted.push(now_ms);
                    }
                    Err(_) => {
                        // A refusal is only right while the cap is used up within the
                        // window and the tick that is about to leave it.
                        let near = admitted.iter().filter(|&&at| at + 1_100 > now_ms).count() as u64;
                        prop_assert!(near >= cap, "refused with {near} of {cap} used");
                    }
                }
            }
        }
    }
}

#[test]
fn threads_together_never_pass_the_cap_and_use_all_of_it() {
    const THREADS: usize = 4;
    const CAP: u64 = 50;
    let window = SecondWindow::new();
    let barrier = Barrier::new(THREADS);
    // Admitted events by step; each step is 70 ms of the window's time.
    let steps: Vec<AtomicUsize> = (0..60).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (window, barrier, steps) = (&window, &barrier, &steps);
            scope.spawn(move || {
                for (step, admitted) in steps.iter().enumerate() {
                    barrier.wait();
                    let now_ms = step as u64 * 70;
                    for attempt in 0..40 {
                        let Ok(taken) = window.take(now_ms, Some(CAP)) else {
                            continue;
                        };
                        // Some are put back, as when another limit refuses.
                        if (attempt + thread + step) % 5 == 0 {
                            window.give_back(taken);
                        } else {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let admitted: Vec<usize> = steps.iter().map(|it| it.load(Ordering::Relaxed)).collect();
    for first in 0..admitted.len() {
        // Steps `first` to `first + 14` lie within 980 ms.
        let sum: usize = admitted[first..].iter().take(15).sum();
        assert!(sum as u64 <= CAP, "{sum} from step {first}: {admitted:?}");
    }
    assert_eq!(admitted[0] as u64, CAP, "the whole cap at once");
}
