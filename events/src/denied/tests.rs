//! Given attempts, when another one, then an event or none.

use schemas::api::{Actor, ActorKind};
use schemas::{EventId, LineageId};

use super::*;
use crate::Stream;
use crate::event::AccessDenied;

const NOW: i64 = 1_800_000_000_000;

fn attempt(caller: &str) -> RecordDenied {
    RecordDenied {
        caller: caller.to_owned(),
        denied: AccessDenied {
            method: "GET".to_owned(),
            route: "/v1/members".to_owned(),
            code: "forbidden".to_owned(),
        },
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(NOW + ms)
}

/// Attempts of a caller at these milliseconds, those that were kept folded.
fn given(attempts: &[(&str, i64)]) -> Option<Denied> {
    let mut denied = None;
    for (caller, ms) in attempts {
        for event in decide(denied.as_ref(), &attempt(caller), at(*ms)) {
            let version = denied.as_ref().map_or(1, |it: &Denied| it.version + 1);
            let recorded = Recorded {
                position: version,
                lineage: LineageId::from_u128(1),
                generation: 1,
                stream: Stream::Access(WorkspaceId::from_u128(1)),
                stream_version: version,
                id: EventId::from_u128(1),
                at: at(*ms),
                workspace_id: Some(WorkspaceId::from_u128(1)),
                actor: Actor {
                    kind: ActorKind::User,
                    id: (*caller).to_owned(),
                },
                request_id: None,
                causation_id: None,
                event,
            };
            denied = evolve(denied, &recorded);
        }
    }
    denied
}

#[test]
fn ten_attempts_a_minute_are_kept_of_each_caller() {
    let many: Vec<(&str, i64)> = (0..25).map(|ms| ("acc_1", ms)).collect();
    let denied = given(&many).unwrap();
    assert_eq!(denied.version, 10);
    assert!(decide(Some(&denied), &attempt("acc_1"), at(59_999)).is_empty());
    assert_eq!(decide(Some(&denied), &attempt("acc_2"), at(30)).len(), 1);
    assert_eq!(
        decide(Some(&denied), &attempt("acc_1"), at(60_000)).len(),
        1
    );
}

/// The window rolls: no minute, wherever it begins, holds more than ten.
#[test]
fn no_stretch_of_a_minute_holds_more() {
    let steady: Vec<(&str, i64)> = (0..600).map(|n| ("acc_1", n * 1_000)).collect();
    let denied = given(&steady).unwrap();
    assert_eq!(denied.version, 100);
}

#[test]
fn callers_who_went_away_are_forgotten() {
    let denied = given(&[("acc_1", 0), ("acc_2", 1), ("acc_3", 70_000)]).unwrap();
    assert_eq!(denied.recent.keys().collect::<Vec<_>>(), ["acc_3"]);
}
