//! What is known of proxies, and what is not.

use schemas::fleet::FollowerState;

use super::*;

const REGION: &str = "eu";

fn history(lineage: u128) -> History {
    (LineageId::from_u128(lineage), 1)
}

fn renewal(boot: u128, counter: u64, lineage: u128, position: Position) -> Renewal {
    Renewal {
        region: REGION.to_owned(),
        proxy_id: "a".to_owned(),
        boot_id: BootId::from_u128(boot),
        counter,
        version: "0".to_owned(),
        reader: 1,
        lineage: Some(history(lineage).0),
        generation: 1,
        position,
        state: FollowerState::Follow,
        freshness_ms: 0,
        uses: Vec::new(),
        uses_complete: true,
        goodbye: false,
    }
}

fn fleet() -> Fleet {
    let fleet = Fleet::new([REGION]);
    fleet.leads(REGION, history(1), 9);
    fleet.hears(REGION, true);
    fleet
}

fn positions(fleet: &Fleet) -> Vec<Position> {
    fleet.standings()[0]
        .proxies
        .iter()
        .map(|it| it.position)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_newest_report_of_a_boot_counts() {
    let fleet = fleet();
    fleet.hear(REGION, &renewal(1, 2, 1, 8));
    fleet.hear(REGION, &renewal(1, 1, 1, 5));
    assert_eq!(positions(&fleet), [8]);
    fleet.hear(REGION, &renewal(2, 1, 1, 3));
    assert_eq!(positions(&fleet), [3], "a new boot begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_history_counts_as_nothing() {
    let fleet = fleet();
    fleet.hear(REGION, &renewal(1, 1, 2, 100));
    assert_eq!(positions(&fleet), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_that_of_its_own_boot() {
    let fleet = fleet();
    let goodbye = |boot| Renewal {
        goodbye: true,
        ..renewal(boot, 9, 1, 9)
    };
    fleet.hear(REGION, &renewal(2, 1, 1, 9));
    fleet.hear(REGION, &goodbye(1));
    assert_eq!(positions(&fleet), [9]);
    fleet.hear(REGION, &goodbye(2));
    assert!(positions(&fleet).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_is_silent_for_2_s_does_not_count() {
    let fleet = fleet();
    fleet.hear(REGION, &renewal(1, 1, 1, 9));
    tokio::time::advance(LIVE).await;
    assert_eq!(positions(&fleet), [9]);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(positions(&fleet).is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_live_proxies_are_known_only_after_listening_for_2_s_without_a_break() {
    let fleet = fleet();
    let is_complete = || fleet.standings()[0].is_complete;
    assert!(!is_complete());
    tokio::time::advance(LIVE * 2).await;
    assert!(is_complete());
    fleet.hears(REGION, false);
    fleet.hears(REGION, true);
    assert!(!is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_sent_again_is_no_news() {
    let fleet = fleet();
    let is_of_old = |boot, counter| fleet.is_of_old(REGION, &renewal(boot, counter, 1, 9));
    fleet.remembers(REGION, "a", BootId::from_u128(1));
    assert!(is_of_old(1, 0));
    assert!(!is_of_old(1, 1));
    fleet.hear(REGION, &renewal(2, 5, 1, 3));
    for (boot, counter, expected) in [
        (2, 5, true),
        (2, 4, true),
        (2, 6, false),
        // A boot before that one, however far it was.
        (1, 900, true),
        (3, 1, false),
    ] {
        assert_eq!(is_of_old(boot, counter), expected, "{boot} {counter}");
    }
}
