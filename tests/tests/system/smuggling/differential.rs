//! The corpus, over HTTP/1 and HTTP/2, and mutations of it, through our proxy to servers
//! that others wrote.
//!
//! ```text
//! client ─▶ proxy ─▶ tee ─▶ nginx or HAProxy ─▶ recorder
//! ```
//!
//! The tee reads what the proxy sends as strictly as anybody can and so knows where each
//! request ends; the server's log and what it hands on to the recorder say where the
//! server believes they end. The two must be the same, request by request and byte by
//! byte, on every connection.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use futures_util::stream;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tests::server::front::{CONNECTION, Front, Logged, PATH};
use tests::wait::eventually;
use tests::wire::{Arrived, Happened, Reading, Recorder, h2, read_request};
use tests::world::binary_dir;

use super::case::BASE;
use super::mutate::mutate;
use super::run::{End, Stage, ask, whole};
use super::{corpus, run, streams};

/// How many mutations; each is the same in every run.
const MUTATIONS: u64 = 3_000;
/// How many connections at a time.
const AT_ONCE: usize = 8;
/// How long a client waits for a word about a request that may have no end.
const SILENCE: Duration = Duration::from_millis(60);

/// A server behind a tee and before a recorder.
struct Line {
    stage: Stage,
    front: Front,
    behind: Recorder,
}

/// What happened on one connection to the server.
#[derive(Debug, Default)]
struct Lane {
    /// By the tee.
    sent: Vec<Arrived>,
    /// Whether it ended inside a request.
    is_cut: bool,
    /// By the server's log.
    logged: Vec<Logged>,
    /// By what the server handed on.
    handed_on: Vec<Arrived>,
}

#[tokio::test]
async fn nginx_sees_requests_end_where_we_do() {
    let behind = Recorder::start().await;
    let front = Front::nginx(&binary_dir(), "differ", behind.address()).await;
    agree("nginx", front, behind).await;
}

#[tokio::test]
async fn haproxy_sees_requests_end_where_we_do() {
    let behind = Recorder::start().await;
    let front = Front::haproxy(&binary_dir(), "differ", behind.address()).await;
    agree("haproxy", front, behind).await;
}

async fn agree(name: &'static str, front: Front, behind: Recorder) {
    let tee = Recorder::before(front.address()).await;
    let stage = Stage::set(name, tee).await;
    let line = Line {
        stage,
        front,
        behind,
    };
    line.send_all().await;
    let lanes = line.lanes().await.expect("all that arrived can be read");
    let requests: usize = lanes.values().map(|lane| lane.sent.len()).sum();
    // Of most mutations nothing is left to pass on, but the canaries and the corpus are.
    assert!(requests > 1_500, "only {requests} requests arrived");
    let mut wrong = Vec::new();
    let mut refused = 0;
    for (connection, lane) in &lanes {
        match lane.check() {
            Ok(refusals) => refused += refusals,
            Err(err) => wrong.push(format!("{connection}: {err:#}\n{}", lane.story())),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} connections:\n{}",
        wrong.len(),
        lanes.len(),
        wrong.join("\n")
    );
    // It would say nothing about ends if the server refused most of it for other reasons.
    assert!(refused * 20 < requests, "{refused} of {requests} refused");
}

// === impl Line ===

impl Line {
    /// Everything, and at the end one request that must get through.
    async fn send_all(&self) {
        let cases = corpus::cases(&self.stage.setting);
        let mut random = SmallRng::seed_from_u64(0x7470);
        let mut all: Vec<Vec<u8>> = cases.iter().map(|case| case.sent.clone()).collect();
        let short: Vec<_> = all.iter().filter(|it| it.len() < 4_096).cloned().collect();
        for number in 0..MUTATIONS {
            let at = number as usize % short.len();
            let other = &short[(at * 31 + 7) % short.len()];
            all.push(mutate(&short[at], other, &mut random));
        }
        stream::iter(all.iter().enumerate())
            .for_each_concurrent(AT_ONCE, |(number, sent)| async move {
                let canary = self.stage.canary(number);
                let sent = [&sent[..], &canary].concat();
                let (answers, _) = ask(self.stage.proxy, &sent, End::Silent(SILENCE))
                    .await
                    .expect("the proxy accepts connections");
                for answer in answers.iter().filter(|it| it.status == 200) {
                    let path = String::from_utf8_lossy(&answer.body);
                    if let Some(of) = path.strip_prefix(run::CANARY) {
                        assert_eq!(of, number.to_string(), "an answer to another request");
                    }
                }
            })
            .await;
        stream::iter(streams::frames(&self.stage.setting))
            .for_each_concurrent(AT_ONCE, |frames| async move {
                h2::ask(self.stage.proxy, &frames, &[1])
                    .await
                    .expect("every stream comes to an end");
            })
            .await;
        let last = self.stage.canary(all.len());
        let (answers, _) = ask(self.stage.proxy, &last, End::Closed)
            .await
            .expect("the proxy accepts connections");
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].status, 200, "{answers:?}");
    }

    /// What all saw, by connection.
    async fn lanes(&self) -> Result<BTreeMap<u16, Lane>> {
        // A request stands in the log when its answer has gone, a little after it.
        eventually("the log is complete", Duration::from_secs(10), async || {
            let sent = whole(self.stage.recorder.events())?.len();
            let logged = self.front.logged().len();
            ensure!(logged >= sent, "{logged} of {sent} requests are logged");
            Ok(())
        })
        .await;
        let mut lanes = BTreeMap::<u16, Lane>::new();
        let sent = self.stage.recorder.take();
        for event in &sent {
            if let Happened::CutShort(_) = event.what {
                lanes.entry(event.connection).or_default().is_cut = true;
            }
        }
        for (connection, arrived) in whole(sent)? {
            lanes.entry(connection).or_default().sent.push(arrived);
        }
        for logged in self.front.logged() {
            let lane = lanes.entry(logged.connection).or_default();
            lane.logged.push(logged);
        }
        for (_, arrived) in whole(self.behind.take())? {
            let connection = arrived.all(CONNECTION).next().unwrap_or("0").parse()?;
            lanes.entry(connection).or_default().handed_on.push(arrived);
        }
        Ok(lanes)
    }
}

// === impl Lane ===

impl Lane {
    /// All of it, for a message.
    fn story(&self) -> String {
        let rows = self.sent.iter().map(|it| format!("  sent {it:?}\n"));
        let logged = self.logged.iter().map(|it| format!("  {it:?}\n"));
        let cut = self
            .is_cut
            .then(|| "  and ended inside a request\n".to_owned());
        rows.chain(cut).chain(logged).collect()
    }

    /// Whether all saw the same requests; how many of them the server refused.
    fn check(&self) -> Result<usize> {
        for request in &self.sent {
            check_clean(request)?;
        }
        let mut logged = &self.logged[..];
        if self.is_cut
            && let [all @ .., last] = logged
            && logged.len() == self.sent.len() + 1
        {
            ensure!(last.status != 200, "half a request was answered");
            logged = all;
        }
        ensure!(
            logged.len() == self.sent.len(),
            "{} requests were sent and {} logged",
            self.sent.len(),
            logged.len()
        );
        let mut handed_on = self.handed_on.iter().peekable();
        let mut refused = 0;
        for (at, (sent, logged)) in self.sent.iter().zip(logged).enumerate() {
            let is_last = at + 1 == self.sent.len();
            match logged.status {
                200 => {
                    ensure!(
                        logged.bytes.is_none_or(|bytes| bytes == sent.bytes),
                        "request {at} has another end: {logged:?}"
                    );
                    let same = handed_on.next().is_some_and(|it| is_same(it, sent));
                    ensure!(same, "request {at} was handed on as another");
                }
                // The client left; it may have been handed on before that.
                499 | 0 => {
                    handed_on.next_if(|it| is_same(it, sent));
                }
                // It refuses what we pass. Then it has to end the connection, and it may
                // do so only for what has nothing to do with ends.
                _ => {
                    refused += 1;
                    ensure!(is_odd(sent), "request {at} was refused: {logged:?}");
                    ensure!(is_last, "request {at} was refused and others followed");
                }
            }
        }
        ensure!(
            handed_on.next().is_none(),
            "requests of nobody: {handed_on:?}"
        );
        Ok(refused)
    }
}

/// What the server handed on is what was sent, and its path is below the target's.
fn is_same(handed_on: &Arrived, sent: &Arrived) -> bool {
    let is_below = handed_on
        .all(PATH)
        .all(|path| path == BASE || path.starts_with(&format!("{BASE}/")));
    is_below
        && handed_on.method == sent.method
        && handed_on.target == sent.target
        && handed_on.body == sent.body
}

/// A method in small letters or with odd characters, an escape that is none, two
/// expectations, half a handshake: others may refuse it, and there is still one reading of where it ends.
fn is_odd(sent: &Arrived) -> bool {
    let is_plain = |method: &str| {
        method
            .bytes()
            .all(|it| it.is_ascii_uppercase() || it == b'-' || it == b'_')
    };
    let path = sent.target.split('?').next().unwrap_or_default();
    let has_bad_escape = path.split('%').skip(1).any(|behind| {
        let digits = behind.as_bytes().get(..2);
        !digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit))
    });
    !is_plain(&sent.method)
        || has_bad_escape
        || !sent.target.is_ascii()
        || sent.all("expect").count() > 1
        || sent.all("upgrade").count() > 0
}

/// Nothing in it may have been removed, and it goes where the target is.
fn check_clean(sent: &Arrived) -> Result<()> {
    let path = sent.target.split('?').next().unwrap_or_default();
    ensure!(
        path == BASE || path.starts_with(&format!("{BASE}/")),
        "the path {path} is not the target's"
    );
    for (name, value) in sent.headers.iter().chain(&sent.trailers) {
        let read = name.replace('_', "-");
        let is_private = matches!(
            &*read,
            "authorization"
                | "proxy-authorization"
                | "x-api-key"
                | "cookie"
                | "via"
                | "forwarded"
                | "x-real-ip"
                | "keep-alive"
                | "proxy-connection"
                | "http2-settings"
        ) || read.starts_with("x-forwarded-")
            || read.starts_with("x-throttleproxy-");
        let is_framing = matches!(&*read, "content-length" | "transfer-encoding" | "host");
        // Made anew for an upgrade, and for nothing else.
        let is_private = is_private || read == "connection" && value != "upgrade";
        ensure!(!is_private, "{name}: {value} was sent");
        ensure!(!is_framing || read == *name, "{name}: {value} was sent");
    }
    Ok(())
}

/// A comparison that notices nothing would agree with everything.
#[test]
fn a_difference_is_noticed() {
    let sent = b"POST /base/a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let Reading::Whole(sent) = read_request(sent) else {
        panic!("it is a request");
    };
    let lane = |change: &dyn Fn(&mut Lane)| {
        let mut lane = Lane {
            sent: vec![*sent.clone()],
            is_cut: false,
            logged: vec![Logged {
                connection: 1,
                status: 200,
                bytes: Some(sent.bytes),
                request: "POST /base/a HTTP/1.1".into(),
            }],
            handed_on: vec![*sent.clone()],
        };
        change(&mut lane);
        lane.check()
    };
    assert_eq!(lane(&|_| {}).unwrap(), 0);
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Lane));
    let changes: [Change<'_>; 9] = [
        ("a longer request", &|it| it.logged[0].bytes = Some(99)),
        ("a request more", &|it| {
            it.logged.push(it.logged[0].clone());
        }),
        ("a request less", &|it| it.logged.clear()),
        ("half a request answered", &|it| {
            it.is_cut = true;
            it.logged.push(it.logged[0].clone());
        }),
        ("a refusal", &|it| it.logged[0].status = 400),
        ("another body", &|it| {
            it.handed_on[0].body = "hell".into();
        }),
        ("another path", &|it| {
            it.handed_on[0].target = "/base".into()
        }),
        ("a request of nobody", &|it| {
            it.handed_on.push(it.handed_on[0].clone());
        }),
        ("a key", &|it| {
            it.sent[0].headers.push(("x_api_key".into(), "k".into()));
        }),
    ];
    for (name, change) in changes {
        assert!(lane(change).is_err(), "{name}");
    }
}
