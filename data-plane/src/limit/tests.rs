use super::*;

fn rates(rps: Option<u64>, rpm: Option<u64>) -> Rates {
    Rates { rps, rpm }
}

#[test]
fn a_refusal_leaves_nothing_counted_anywhere() {
    let (key, workspace) = (Arc::new(Pool::default()), Arc::new(Pool::default()));
    let demands = || {
        [
            Demand {
                scope: Scope::Key,
                pool: &key,
                rates: rates(None, Some(10)),
            },
            Demand {
                scope: Scope::Workspace,
                pool: &workspace,
                rates: rates(Some(2), None),
            },
        ]
        .into_iter()
    };
    decide(demands(), 1_000).unwrap();
    decide(demands(), 1_000).unwrap();
    let refusal = decide(demands(), 1_000).unwrap_err();
    assert_eq!(refusal.refused.scope, Scope::Workspace);
    assert_eq!(refusal.refused.span, Span::Second);
    assert_eq!(key.used(1_000), (2, 2), "the key's count was put back");
    assert_eq!(workspace.used(1_000), (2, 2));
}

#[test]
fn a_permit_given_back_makes_room() {
    let pool = Arc::new(Pool::default());
    let demand = Demand {
        scope: Scope::Key,
        pool: &pool,
        rates: rates(Some(1), Some(1)),
    };
    let permit = decide([demand].into_iter(), 0).unwrap();
    assert!(decide([demand].into_iter(), 0).is_err());
    permit.give_back();
    assert!(decide([demand].into_iter(), 0).is_ok());
}

#[test]
fn standings_count_the_request_itself_and_name_the_tightest() {
    let pool = Arc::new(Pool::default());
    let demand = Demand {
        scope: Scope::Key,
        pool: &pool,
        rates: rates(Some(5), Some(100)),
    };
    let permit = decide([demand].into_iter(), 60_000).unwrap();
    let rows: Vec<_> = permit
        .standings
        .iter()
        .map(|it| (it.span, it.remaining))
        .collect();
    assert_eq!(rows, [(Span::Second, 4), (Span::Minute, 99)]);
    assert_eq!(permit.standings.tightest().unwrap().span, Span::Second);
    assert_eq!(
        look([demand].into_iter(), 60_000)
            .tightest()
            .unwrap()
            .remaining,
        4
    );
}

#[test]
fn a_changed_limit_keeps_its_count() {
    let pool = Arc::new(Pool::default());
    let demand = |rpm| Demand {
        scope: Scope::Key,
        pool: &pool,
        rates: rates(None, rpm),
    };
    for _ in 0..4 {
        decide([demand(None)].into_iter(), 0).unwrap();
    }
    assert!(decide([demand(Some(4))].into_iter(), 0).is_err());
    assert!(decide([demand(Some(5))].into_iter(), 0).is_ok());
}
