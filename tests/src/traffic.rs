//! Constant traffic, and what may never be seen in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::plane::Plane;
use crate::proxy::{Verdict, verdict};

/// Requests with some keys to some proxies, one after the other for each pair.
#[derive(Debug)]
pub struct Traffic {
    lanes: Vec<Lane>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Lane {
    proxy: String,
    key: String,
    moments: Arc<Mutex<Vec<Moment>>>,
    task: JoinHandle<()>,
}

/// One request of the traffic.
#[derive(Debug, Clone)]
pub struct Moment {
    /// When it was sent.
    pub sent: Instant,
    /// When the answer was there.
    pub answered: Instant,
    /// What came of it; `None` when the proxy was not there.
    pub verdict: Option<Verdict>,
}

/// All that the traffic saw.
#[derive(Debug)]
pub struct Record {
    lanes: Vec<(String, String, Vec<Moment>)>,
}

impl Traffic {
    /// Starts it: for each proxy and each `(name, secret)` a request, and `pause` after
    /// its answer the next.
    pub fn start(proxies: &[Arc<Plane>], keys: &[(&str, &str)], pause: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let lanes = proxies
            .iter()
            .flat_map(|proxy| keys.iter().map(move |key| (proxy.clone(), *key)))
            .map(|(proxy, (key, secret))| {
                let moments = Arc::<Mutex<Vec<Moment>>>::default();
                Lane {
                    proxy: proxy.name().to_owned(),
                    key: key.to_owned(),
                    moments: moments.clone(),
                    task: tokio::spawn(drive(
                        proxy,
                        secret.to_owned(),
                        pause,
                        moments,
                        stop.clone(),
                    )),
                }
            })
            .collect();
        Self { lanes, stop }
    }

    /// Ends it and returns what it saw.
    pub async fn stop(self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        let mut lanes = Vec::new();
        for lane in self.lanes {
            lane.task.await.expect("traffic does not panic");
            let moments = std::mem::take(&mut *lane.moments.lock().expect("no holder panics"));
            lanes.push((lane.proxy, lane.key, moments));
        }
        Record { lanes }
    }
}

impl Record {
    /// Asserts that every proxy refused `key` at some time after `since`, and that none
    /// admitted a request that was sent after that proxy's first refusal.
    pub fn refused_for_good(&self, key: &str, since: Instant) {
        for (proxy, moments) in self.of(key) {
            let first = moments
                .iter()
                .filter(|it| it.sent >= since)
                .find(|it| it.verdict.as_ref().is_some_and(Verdict::is_key_refused))
                .unwrap_or_else(|| panic!("{proxy} never refused {key}"));
            let late: Vec<_> = moments
                .iter()
                .filter(|it| it.sent >= first.answered && it.verdict == Some(Verdict::Admitted))
                .map(|it| it.sent - first.answered)
                .collect();
            assert!(
                late.is_empty(),
                "{proxy} admitted {key} again after it had refused it: {late:?} later"
            );
        }
    }

    /// Asserts that nothing but admissions came back for `key`, and that they did. Only
    /// a proxy that was not `untouched` may have been away, or have said with a 503 that
    /// it cannot judge yet.
    pub fn admitted(&self, key: &str, untouched: impl Fn(&str) -> bool) {
        for (proxy, moments) in self.of(key) {
            let is_admitted = |it: &&Moment| it.verdict == Some(Verdict::Admitted);
            assert!(
                moments.iter().any(|it| is_admitted(&it)),
                "{proxy} admitted nothing"
            );
            for moment in moments {
                match &moment.verdict {
                    Some(Verdict::Admitted) => {}
                    Some(Verdict::Refused { status: 503, .. }) | None if !untouched(proxy) => {}
                    Some(other) => panic!("{proxy}: {key} was {other}"),
                    None => panic!("{proxy} was not there"),
                }
            }
        }
    }

    /// How many requests with `key` there were.
    pub fn count(&self, key: &str) -> usize {
        self.of(key).map(|(_, moments)| moments.len()).sum()
    }

    fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a str, &'a [Moment])> {
        self.lanes
            .iter()
            .filter(move |(_, it, _)| it == key)
            .map(|(proxy, _, moments)| (proxy.as_str(), moments.as_slice()))
    }
}

async fn drive(
    proxy: Arc<Plane>,
    secret: String,
    pause: Duration,
    moments: Arc<Mutex<Vec<Moment>>>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let verdict = verdict(&proxy, &secret).await.ok();
        let moment = Moment {
            sent,
            answered: Instant::now(),
            verdict,
        };
        moments.lock().expect("no holder panics").push(moment);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One lane in which a request a millisecond was answered as told.
    fn record(verdicts: &[Option<Verdict>]) -> (Record, Instant) {
        let start = Instant::now();
        let at = |ms: usize| start + Duration::from_millis(ms as u64);
        let moments = verdicts
            .iter()
            .enumerate()
            .map(|(ms, verdict)| Moment {
                sent: at(ms),
                answered: at(ms),
                verdict: verdict.clone(),
            })
            .collect();
        let lanes = vec![("proxy".to_owned(), "key".to_owned(), moments)];
        (Record { lanes }, start)
    }

    fn refused(status: u16) -> Option<Verdict> {
        let code = "some_code".to_owned();
        Some(Verdict::Refused { status, code })
    }

    const ADMITTED: Option<Verdict> = Some(Verdict::Admitted);

    #[test]
    fn a_refusal_that_lasts_is_for_good() {
        let (record, start) = record(&[ADMITTED, refused(401), refused(503), None, refused(401)]);
        record.refused_for_good("key", start);
    }

    #[test]
    #[should_panic(expected = "admitted key again")]
    fn an_admission_after_a_refusal_is_found() {
        let (record, start) = record(&[ADMITTED, refused(401), None, ADMITTED, refused(401)]);
        record.refused_for_good("key", start);
    }

    #[test]
    #[should_panic(expected = "never refused")]
    fn a_refusal_that_never_came_is_found() {
        let (record, start) = record(&[ADMITTED, refused(503), None]);
        record.refused_for_good("key", start);
    }

    #[test]
    fn a_proxy_that_was_away_may_be_away_and_a_touched_one_may_not_know_yet() {
        let (record, _) = record(&[ADMITTED, None, refused(503), ADMITTED]);
        record.admitted("key", |_| false);
    }

    #[test]
    #[should_panic(expected = "proxy: key was refused with 503")]
    fn an_untouched_proxy_must_know() {
        let (record, _) = record(&[ADMITTED, refused(503)]);
        record.admitted("key", |_| true);
    }

    #[test]
    #[should_panic(expected = "proxy: key was refused with 401")]
    fn nobody_may_refuse_a_good_key() {
        let (record, _) = record(&[ADMITTED, refused(401), ADMITTED]);
        record.admitted("key", |_| false);
    }
}
