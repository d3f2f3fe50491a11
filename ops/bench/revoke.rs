//! From a decision to the last proxy that refuses.
//!
//! For each deactivation a key is made, every proxy is called with it at short, fixed
//! intervals until it is refused, and meanwhile the key is switched off. The interval
//! leaves the processors room for what is measured; a figure is at most that much too
//! high. What counts is the proxy
//! that refuses last; the clock starts when the call is sent, and again when its answer
//! is there. A proxy that admits again after it refused ends the run with an error.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Measures how long a switched-off key is still admitted.
#[derive(Debug, Parser)]
struct Args {
    /// The control API.
    #[arg(long)]
    control: SocketAddr,
    /// A control token that may make keys and switch them off.
    #[arg(long)]
    token: String,
    /// The proxies; given once for each.
    #[arg(long = "proxy", required = true)]
    proxies: Vec<SocketAddr>,
    /// The path of every request to a proxy.
    #[arg(long)]
    path: String,
    /// How many keys to switch off.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// How often each proxy is called with the key, in microseconds.
    #[arg(long, default_value_t = 250)]
    probe_every_us: u64,
}

/// One HTTP connection.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

/// How long a proxy may take to learn of a new key, and to refuse one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that must be refused after the first refusal.
const REFUSALS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (tick, ticks) = watch::channel(());
    let every = Duration::from_micros(args.probe_every_us);
    std::thread::spawn(move || pace(every, &tick));
    let mut control = Connection::open(args.control).await?;
    let mut since_sent_us = Vec::new();
    let mut since_answered_us = Vec::new();
    let mut call_us = Vec::new();

    for number in 0..args.count {
        let made = control
            .json(
                &args.token,
                "/v1/api-keys?wait=applied",
                &json!({ "name": format!("revoke {number}") }),
            )
            .await?;
        let id = text(&made, "id")?;
        let key = text(&made, "secret")?;

        let mut probes = JoinSet::new();
        let (admitted, mut all_admitted) = mpsc::channel(args.proxies.len());
        for proxy in &args.proxies {
            let connection = Connection::open(*proxy).await?;
            let (key, path) = (key.to_owned(), args.path.clone());
            probes.spawn(probe(
                connection,
                key,
                path,
                ticks.clone(),
                admitted.clone(),
            ));
        }
        drop(admitted);
        for _ in &args.proxies {
            all_admitted
                .recv()
                .await
                .context("a proxy did not admit the new key")?;
        }

        let sent = Instant::now();
        control
            .json(
                &args.token,
                &format!("/v1/api-keys/{id}/deactivate"),
                &json!({}),
            )
            .await?;
        let answered = Instant::now();
        let mut last = sent;
        while let Some(refused) = probes.join_next().await {
            last = last.max(refused??);
        }
        call_us.push(micros_between(sent, answered));
        since_sent_us.push(micros_between(sent, last));
        since_answered_us.push(micros_between(answered, last));
    }

    let result = json!({
        "deactivations": args.count,
        "proxies": args.proxies.len(),
        "call_us": quantiles(call_us),
        "sent_to_refused_by_all_us": quantiles(since_sent_us),
        "answered_to_refused_by_all_us": quantiles(since_answered_us),
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}

/// Ticks until nobody listens. A thread of its own: the timers of the runtime are coarser
/// than what is measured.
fn pace(every: Duration, tick: &watch::Sender<()>) {
    let mut next = Instant::now();
    while !tick.is_closed() {
        tick.send_replace(());
        next = (next + every).max(Instant::now());
        while let Some(rest) = next.checked_duration_since(Instant::now()) {
            if rest.is_zero() {
                break;
            }
            std::thread::park_timeout(rest);
        }
    }
}

/// Calls a proxy at each tick. Says once that the key is admitted, and returns when
/// the answer of the first refusal was there.
async fn probe(
    mut proxy: Connection,
    key: String,
    path: String,
    mut ticks: watch::Receiver<()>,
    admitted: mpsc::Sender<()>,
) -> anyhow::Result<Instant> {
    let start = Instant::now();
    while !proxy.is_admitted(&key, &path).await? {
        ensure!(
            start.elapsed() < PATIENCE,
            "{} never admitted the key",
            proxy.host
        );
        ticks.changed().await?;
    }
    admitted.send(()).await?;

    let start = Instant::now();
    while proxy.is_admitted(&key, &path).await? {
        ensure!(
            start.elapsed() < PATIENCE,
            "{} never refused the key",
            proxy.host
        );
        ticks.changed().await?;
    }
    let refused = Instant::now();
    for _ in 0..REFUSALS {
        ensure!(
            !proxy.is_admitted(&key, &path).await?,
            "{} admitted the key again after it refused it",
            proxy.host
        );
    }
    Ok(refused)
}

// === impl Connection ===

impl Connection {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: addr.to_string(),
        })
    }

    async fn is_admitted(&mut self, key: &str, path: &str) -> anyhow::Result<bool> {
        let request = Request::get(path)
            .header("host", &self.host)
            .header("x-api-key", key)
            .body(Full::default())?;
        match self.send(request).await? {
            (StatusCode::OK, _) => Ok(true),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Ok(false),
            (status, body) => bail!("{} answered {status}: {body}", self.host),
        }
    }

    /// A POST to the control API.
    async fn json(&mut self, token: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))?;
        let (status, body) = self.send(request).await?;
        ensure!(status.is_success(), "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, String)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name]
        .as_str()
        .with_context(|| format!("the answer has no `{name}`"))
}

/// Negative when `to` came first.
fn micros_between(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1e6
}

fn quantiles(mut values: Vec<f64>) -> Value {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() as f64 * share) as usize).min(values.len() - 1)];
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}
