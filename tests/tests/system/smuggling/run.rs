//! Sends the corpus through a real proxy, with a canary behind every case.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::World;
use tests::wire::{Answer, Arrived, Event, Happened, Recorder, read_answers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::case::{BASE, Case, Outcome, Setting, Then};

/// How long an answer or the end of a connection may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Where canaries arrive, without their number.
pub const CANARY: &str = "/base/canary/";

/// A world whose target `wire` records every byte.
pub struct Stage {
    /// It lives as long as the stage.
    _world: World,
    /// What the target `wire` leads to.
    pub recorder: Recorder,
    /// What the corpus names.
    pub setting: Setting,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
}

impl Stage {
    /// One proxy of one worker, so that all requests share its upstream connections.
    pub async fn set(name: &'static str, recorder: Recorder) -> Self {
        let world = World::builder(name).workers(1).start().await;
        let port = recorder.address().port();
        world
            .owner
            .target("wire", port, json!({ "base_path": BASE }))
            .await;
        let setting = Setting {
            key: world.owner.key("smuggler").await.secret,
            other: world.owner.key("another").await.secret,
            port,
        };
        world.all_admit(&setting.key).await;
        world.all_admit(&setting.other).await;
        Self {
            proxy: world.proxy().address("proxy"),
            _world: world,
            recorder,
            setting,
        }
    }

    /// Runs one case. The canary is sent at once behind it and must be a request of its
    /// own where the connection goes on, and nothing where it closes; then one more comes
    /// over another connection and must arrive unharmed.
    pub async fn run(&self, number: usize, case: &Case) -> Result<()> {
        self.recorder.take();
        let canary = self.canary(number);
        let (answers, rest) = match case.then {
            Then::Waits => ask(self.proxy, &case.sent, End::Waiting).await?,
            _ => {
                let sent = [&case.sent[..], &canary].concat();
                ask(self.proxy, &sent, End::Closed).await?
            }
        };
        ensure!(rest.is_empty(), "half an answer: {rest:?}");
        // What the proxy still had to say to the upstream it has said before this.
        let (after, _) = ask(self.proxy, &canary, End::Closed).await?;
        let [after] = &after[..] else {
            bail!("the canary afterwards got {after:?}");
        };
        ensure!(after.status == 200, "the canary afterwards got {after:?}");

        let mut answers = answers.iter();
        let mut arrived = whole(self.recorder.take())?.into_iter();
        let mut last_connection = None;
        for outcome in &case.answers {
            let answer = answers.next().context("an answer is missing")?;
            check_answer(answer, outcome)?;
            if let Outcome::Passes(passed) = outcome {
                let (connection, request) =
                    arrived.next().context("the upstream got no request")?;
                if let Some(wrong) = passed.differs(&request, &self.host()) {
                    bail!(wrong);
                }
                last_connection = Some(connection);
            }
        }
        if case.then == Then::GoesOn {
            let answer = answers.next().context("the canary got no answer")?;
            ensure!(answer.status == 200, "the canary got {answer:?}");
            let (connection, request) = arrived.next().context("the canary did not arrive")?;
            self.check_canary(number, &request)?;
            // It shares the connection with what came before: whatever was left over of
            // that would stand in front of it.
            ensure!(
                last_connection.is_none_or(|it| it == connection),
                "the canary came over another connection"
            );
        }
        let (_, request) = arrived
            .next()
            .context("the canary afterwards did not arrive")?;
        self.check_canary(number, &request)?;
        if case.then != Then::Waits {
            let more: Vec<_> = answers.collect();
            ensure!(more.is_empty(), "answers too many: {more:?}");
        }
        let more: Vec<_> = arrived.collect();
        ensure!(
            more.is_empty(),
            "the upstream got requests of nobody: {more:?}"
        );
        Ok(())
    }

    /// A request that is nobody's trick.
    pub fn canary(&self, number: usize) -> Vec<u8> {
        let line = format!("GET /t/wire/canary/{number} HTTP/1.1");
        self.setting.line(line, "connection: close")
    }

    /// Whether a canary arrived unharmed.
    pub fn check_canary(&self, number: usize, request: &Arrived) -> Result<()> {
        let headers = [("host".to_owned(), self.host())];
        ensure!(
            request.method == "GET"
                && request.target == format!("{CANARY}{number}")
                && request.headers == headers
                && request.body.is_empty(),
            "the canary arrived as {request:?}"
        );
        Ok(())
    }

    /// The upstream's `Host`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.setting.port)
    }
}

/// How the exchange ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The proxy closes.
    Closed,
    /// The proxy waits for more, and we close.
    Waiting,
    /// Either; the proxy has so long to say something.
    Silent(Duration),
}

/// Sends bytes over a new connection and reads the answers, and what is left of half a one.
pub async fn ask(to: SocketAddr, bytes: &[u8], end: End) -> Result<(Vec<Answer>, String)> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // The proxy may refuse and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    if end == End::Waiting {
        stream.shutdown().await?;
    }
    let mut came = Vec::new();
    let patience = match end {
        End::Silent(patience) => patience,
        End::Closed | End::Waiting => WITHIN,
    };
    loop {
        match timeout(patience, stream.read_buf(&mut came)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => break,
            Err(_) if matches!(end, End::Silent(_)) => break,
            Err(_) => bail!("it stays open after {:?}", String::from_utf8_lossy(&came)),
        }
    }
    let (answers, rest) = read_answers(&came);
    Ok((answers, String::from_utf8_lossy(rest).into_owned()))
}

/// The requests among the events; anything unclear is a failure.
pub fn whole(events: Vec<Event>) -> Result<Vec<(u16, Arrived)>> {
    let mut whole = Vec::new();
    for event in events {
        match event.what {
            Happened::Whole(arrived) => whole.push((event.connection, *arrived)),
            Happened::Unclear(why) => bail!("the upstream got {why}"),
            // It got no answer, so nothing became of it.
            Happened::CutShort(_) => {}
        }
    }
    Ok(whole)
}

fn check_answer(answer: &Answer, outcome: &Outcome) -> Result<()> {
    let code = answer.header("x-throttleproxy-error");
    let is_named = answer.header("x-request-id").is_some();
    let is_right = match *outcome {
        Outcome::Library(status) => answer.status == status && code.is_none() && !is_named,
        Outcome::Refused(status, expected) => {
            answer.status == status && code == Some(expected) && is_named
        }
        Outcome::Passes(_) => answer.status == 200 && code.is_none() && is_named,
    };
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(
        is_right,
        "{} {code:?} {text} instead of {outcome:?}",
        answer.status
    );
    Ok(())
}
