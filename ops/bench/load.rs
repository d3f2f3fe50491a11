//! The load of the benchmarks.
//!
//! Closed loop (the default): each connection sends its next request when the answer to
//! the one before is there. Open loop (`--rate`): requests are due at fixed times whether
//! or not the ones before were answered, and a latency counts from when its request was
//! due.
//!
//! Every request carries a key drawn at random, half of them as `x-api-key` and half as
//! a bearer token, and four plain headers of which one is a cookie. One line of JSON
//! tells what was seen.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// Sends requests and says how long they took.
#[derive(Debug, Parser)]
struct Args {
    /// Where to send to.
    #[arg(long)]
    addr: SocketAddr,
    /// The path of every request.
    #[arg(long, default_value = "/")]
    path: String,
    /// A file with one key a line.
    #[arg(long)]
    keys: PathBuf,
    /// Bytes in the body of every request; 0 is a GET without one.
    #[arg(long, default_value_t = 0)]
    body_bytes: usize,
    /// Connections that are kept open.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests a second, in an open loop; left out: a closed loop.
    #[arg(long)]
    rate: Option<u32>,
    /// How long to measure.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long to run before.
    #[arg(long, default_value_t = 0.5)]
    warm_up_seconds: f64,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies_ns: Vec<u64>,
    /// Answers other than 200.
    refused: u64,
}

type Random = rand::rngs::SmallRng;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let requests = Arc::new(prepare(&args)?);
    let started = Instant::now();
    let counted_from = started + Duration::from_secs_f64(args.warm_up_seconds);
    let until = counted_from + Duration::from_secs_f64(args.seconds);

    let mut connections = JoinSet::new();
    let due = args.rate.map(|rate| {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || pace(rate, started, until, &sender));
        Arc::new(Mutex::new(receiver))
    });
    for number in 0..args.connections {
        let sender = connect(args.addr).await?;
        let requests = Arc::clone(&requests);
        let random = Random::seed_from_u64(number as u64);
        match &due {
            None => connections.spawn(closed(sender, requests, random, counted_from, until)),
            Some(due) => {
                let due = Arc::clone(due);
                connections.spawn(open(sender, requests, random, counted_from, due))
            }
        };
    }

    let mut all = Seen::default();
    while let Some(seen) = connections.join_next().await {
        let seen = seen??;
        all.latencies_ns.extend(seen.latencies_ns);
        all.refused += seen.refused;
    }
    report(&args, all)
}

/// Every request that may be sent: two for each key.
fn prepare(args: &Args) -> anyhow::Result<Vec<Request<Full<Bytes>>>> {
    let keys = read_keys(&args.keys)?;
    let body = Bytes::from(vec![b'x'; args.body_bytes]);
    let method = if body.is_empty() { "GET" } else { "POST" };
    let plain = || {
        Request::builder()
            .method(method)
            .uri(&args.path)
            .header("host", args.addr.to_string())
            .header("accept", "*/*")
            .header("user-agent", "bench/1.0")
            .header("accept-language", "en")
            .header("cookie", "session=0123456789abcdef")
    };
    keys.iter()
        .flat_map(|key| {
            [
                plain().header("x-api-key", key),
                plain().header("authorization", format!("Bearer {key}")),
            ]
        })
        .map(|request| Ok(request.body(Full::new(body.clone()))?))
        .collect()
}

fn read_keys(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let keys: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(!keys.is_empty(), "{} holds no key", path.display());
    Ok(keys)
}

async fn connect(addr: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Says when requests are due. A thread of its own: the timers of the runtime are
/// coarser than the times between requests.
fn pace(rate: u32, started: Instant, until: Instant, due: &mpsc::UnboundedSender<Instant>) {
    let step = Duration::from_secs(1) / rate;
    let mut next = started;
    while next < until {
        while let Some(rest) = next.checked_duration_since(Instant::now()) {
            if rest.is_zero() {
                break;
            }
            std::thread::park_timeout(rest);
        }
        // The sleep itself ends some microseconds late, which is not the proxy's doing;
        // a whole step late is a backlog and counts.
        let now = Instant::now();
        let stamp = if now - next < step { now } else { next };
        if due.send(stamp).is_err() {
            return;
        }
        next += step;
    }
}

async fn closed(
    mut sender: SendRequest<Full<Bytes>>,
    requests: Arc<Vec<Request<Full<Bytes>>>>,
    mut random: Random,
    counted_from: Instant,
    until: Instant,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let start = Instant::now();
        if start >= until {
            return Ok(seen);
        }
        let request = draw(&requests, &mut random);
        send(&mut sender, request, start, counted_from, &mut seen).await?;
    }
}

async fn open(
    mut sender: SendRequest<Full<Bytes>>,
    requests: Arc<Vec<Request<Full<Bytes>>>>,
    mut random: Random,
    counted_from: Instant,
    due: Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let Some(start) = due.lock().await.recv().await else {
            return Ok(seen);
        };
        let request = draw(&requests, &mut random);
        send(&mut sender, request, start, counted_from, &mut seen).await?;
    }
}

fn draw(requests: &[Request<Full<Bytes>>], random: &mut Random) -> Request<Full<Bytes>> {
    requests[random.random_range(0..requests.len())].clone()
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    start: Instant,
    counted_from: Instant,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    if start >= counted_from {
        seen.latencies_ns.push(start.elapsed().as_nanos() as u64);
        seen.refused += u64::from(status != 200);
    }
    Ok(())
}

fn report(args: &Args, mut seen: Seen) -> anyhow::Result<()> {
    seen.latencies_ns.sort_unstable();
    let count = seen.latencies_ns.len();
    ensure!(count > 0, "not one request was answered");
    let micros = |share: f64| {
        let at = ((count as f64 * share) as usize).min(count - 1);
        seen.latencies_ns[at] as f64 / 1_000.0
    };
    let result = json!({
        "requests": count,
        "refused": seen.refused,
        "per_second": count as f64 / args.seconds,
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "max_us": micros(1.0),
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
