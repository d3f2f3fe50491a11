//! The same over HTTP/2, where a request cannot end in two places, but what is made of it
//! for an upstream that speaks HTTP/1.1 could.

mod cases;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::wire::Recorder;
use tests::wire::h2::{self, Stream};

use super::case::{Passed, Setting};
use super::run::{End, Stage, ask, whole};

/// Frames on stream 1, and what has to become of it.
#[derive(Debug)]
pub struct Case {
    name: String,
    frames: Vec<u8>,
    outcome: Outcome,
    /// What the upstream may have got before it showed that something was wrong.
    may_pass: Option<Passed>,
}

/// What becomes of a stream.
#[derive(Debug)]
pub enum Outcome {
    /// The upstream gets it, and exactly this of it.
    Passes(Passed),
    /// The proxy refuses it with this code.
    Refused(u16, &'static str),
    /// The library refuses it: the stream is reset. The connection goes on.
    Reset,
    /// The library refuses it with an answer: a bare status.
    Library(u16),
    /// The library refuses the connection.
    Goodbye,
    /// There is no answer: the rest of the request is waited for.
    Waits,
}

#[tokio::test]
async fn every_ambiguous_stream_has_its_one_answer() {
    let stage = Stage::set("streams", Recorder::start().await).await;
    let cases = cases::cases(&stage.setting);
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Err(err) = stage.run_stream(number, case).await {
            failures.push(format!("{}: {err:#}", case.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// The frames of every case that comes to an end.
pub fn frames(at: &Setting) -> Vec<Vec<u8>> {
    cases::cases(at)
        .into_iter()
        .filter(|case| !matches!(case.outcome, Outcome::Waits))
        .map(|case| case.frames)
        .collect()
}

impl Stage {
    /// Runs one case: its stream, a canary on another stream of the connection, and one
    /// more over HTTP/1.1 that finds whatever was left behind at the upstream.
    async fn run_stream(&self, number: usize, case: &Case) -> Result<()> {
        self.recorder.take();
        let path = format!("/t/wire/canary/{number}");
        let canary = h2::headers(3, &cases::request(&self.setting, "GET", &path), true);
        let frames = [&case.frames[..], &canary].concat();
        let streams: &[u32] = match case.outcome {
            Outcome::Waits => &[3],
            _ => &[1, 3],
        };
        let outcome = h2::ask(self.proxy, &frames, streams).await?;
        let (after, _) = ask(self.proxy, &self.canary(number), End::Closed).await?;
        ensure!(
            after.len() == 1 && after[0].status == 200,
            "the canary afterwards got {after:?}"
        );

        let has_gone = outcome.goaway.is_some() || outcome.is_closed;
        let stream = outcome.streams.get(&1).cloned().unwrap_or_default();
        let mut arrived = whole(self.recorder.take())?;
        let host = self.host();
        let targets: Vec<_> = arrived.iter().map(|(_, it)| it.target.clone()).collect();
        if let Outcome::Passes(passed) = &case.outcome {
            ensure!(stream.status == Some(200), "{stream:?} and not 200");
            // The two streams may arrive in any order.
            let at = targets
                .iter()
                .position(|it| !it.starts_with(super::run::CANARY))
                .context("the upstream got no request")?;
            let (_, request) = arrived.remove(at);
            if let Some(wrong) = passed.differs(&request, &host) {
                bail!(wrong);
            }
        } else {
            check_refusal(&case.outcome, &stream, has_gone)?;
            if let Some(passed) = &case.may_pass {
                arrived.retain(|(_, request)| passed.differs(request, &host).is_some());
            }
        }
        let is_goodbye = matches!(case.outcome, Outcome::Goodbye);
        if !is_goodbye {
            let canary = outcome.streams.get(&3).cloned().unwrap_or_default();
            ensure!(canary.status == Some(200), "the canary got {canary:?}");
        }
        // On the connection that is ended the canary may or may not have come in time.
        let expected = if is_goodbye { 1..=2 } else { 2..=2 };
        ensure!(
            expected.contains(&arrived.len()),
            "the upstream got {targets:?}"
        );
        for (_, request) in &arrived {
            self.check_canary(number, request)?;
        }
        Ok(())
    }
}

fn check_refusal(outcome: &Outcome, stream: &Stream, has_gone: bool) -> Result<()> {
    let problem: Value = serde_json::from_slice(&stream.body).unwrap_or_default();
    let is_right = match *outcome {
        Outcome::Refused(status, code) => {
            stream.status == Some(status) && problem["code"] == code && !has_gone
        }
        Outcome::Library(status) => {
            stream.status == Some(status) && stream.body.is_empty() && !has_gone
        }
        Outcome::Reset => stream.reset.is_some() && stream.status.is_none() && !has_gone,
        Outcome::Goodbye => has_gone && stream.status.is_none(),
        Outcome::Waits => stream.status.is_none() && stream.reset.is_none(),
        Outcome::Passes(_) => false,
    };
    ensure!(
        is_right,
        "{:?} {} reset {:?}, gone {has_gone}, instead of {outcome:?}",
        stream.status,
        String::from_utf8_lossy(&stream.body),
        stream.reset
    );
    Ok(())
}
