//! The running proxy: its threads, its listeners, its end.
//!
//! Each worker is one thread with one single-threaded runtime and its own listener on the
//! shared port, so that a connection stays on the core that accepted it. One more thread
//! follows the region, renews and answers the admin page; workers do none of that.

pub mod certificate;
pub mod connection;
mod farewell;
mod frames;
pub mod heads;
mod http2;
pub mod lane;
mod listener;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::SmallRng;
use schemas::BootId;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::admin;
use crate::authz;
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::follow::driver::Driver;
use crate::follow::lookup::{self, Lookups};
use crate::follow::renewer::Renewer;
use crate::follow::source::RegionSource;
use crate::follow::status::Status;
use crate::follow::trust::Verifier;
use crate::limit::cell::Cells;
use crate::limit::failures::Failures;
use crate::metrics::{Counters, FollowCounters, add};
use crate::pipeline::access::Shadow;
use crate::reach::Reach;
use crate::resolve;
use crate::table::KeyTable;
use crate::upstream::{self, Upstreams};
use certificate::Certificate;
use heads::Heads;
use lane::Lane;
use listener::{listen, listen_shared};

/// How often a worker tidies its pool of upstream connections.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// How often limiter cells are tidied.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long connections that were about to stand when the door was closed may take to get
/// there: the way to a client and back.
const DOOR_FOR: Duration = Duration::from_millis(200);
/// So many connections of clients are a crowd for one worker.
const CROWD_MIN: usize = 128;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(1_500);

/// What all threads of a proxy share.
pub struct Shared {
    /// What it was told.
    pub config: Config,
    /// This start.
    pub boot_id: BootId,
    /// What it knows.
    pub table: Arc<KeyTable>,
    /// What it counts.
    pub cells: Arc<Cells>,
    /// The time.
    pub clock: Arc<Clock>,
    /// How the follower stands.
    pub status: Arc<Status>,
    /// Where to ask for one secret.
    pub lookups: Lookups,
    /// Addresses with failed keys.
    pub failures: Failures,
    /// What the workers count; the last is of Envoy's questions, where they are answered.
    pub workers: Vec<Arc<Counters>>,
    /// What the follower counts.
    pub follow: Arc<FollowCounters>,
    /// Uses that wait to be acknowledged.
    pub backlog: Arc<AtomicU64>,
    /// A shutdown was asked for.
    pub is_leaving: AtomicBool,
    /// What may be connected to.
    pub reach: Arc<Reach>,
    /// What upstreams are given.
    pub credentials: Credentials,
    /// What restrictions in shadow would have refused.
    pub shadow: Shadow,
    /// What clients see when TLS is spoken with them.
    pub certificate: Option<Certificate>,
}

/// What one worker has for itself.
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Its connections to upstreams.
    pub upstreams: Upstreams,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// For request ids; ids need to differ, not to be secret.
    pub random: RefCell<SmallRng>,
    heads: Rc<Heads>,
    draining: Cell<bool>,
    connections: RefCell<HashMap<u64, Rc<Lane>>>,
}

/// A proxy that runs. Dropped without [`Running::shutdown`] it ends at once.
pub struct Running {
    proxy_addr: SocketAddr,
    admin_addr: SocketAddr,
    authz_addr: Option<SocketAddr>,
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    leaving: Arc<Notify>,
    said_goodbye: oneshot::Receiver<()>,
    workers: Vec<JoinHandle<()>>,
    follower: JoinHandle<()>,
}

/// How far a shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// No new connections; running requests end.
    Draining,
    /// The workers are gone.
    Over,
}

/// A proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken or may not be used.
    #[error("cannot listen on {address}: set `{setting}` or {variable} to another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key in the configuration file.
        setting: &'static str,
        /// The environment variable.
        variable: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system refuses a thread or an event queue.
    #[error("cannot start a thread of the proxy")]
    Thread(#[source] io::Error),
    /// TLS towards upstreams cannot be set up.
    #[error("cannot set up TLS towards upstreams")]
    Tls(#[source] rustls::Error),
    /// TLS towards clients cannot be spoken with the files that were named.
    #[error("cannot speak TLS: mend `[data] tls_cert_file` and `tls_key_file`")]
    Certificate(#[source] certificate::Error),
}

/// Binds, says so, and starts all threads. Serving begins at once; requests are refused
/// (503 `stale`) until the table is ready.
///
/// # Errors
/// [`Error`]; nothing is left running.
pub async fn start(config: Config, source: Arc<dyn RegionSource>) -> Result<Running, Error> {
    let threads = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let (proxy_addr, listeners) =
        listen_shared(config.listen, threads).map_err(|source| Error::Listen {
            address: config.listen,
            setting: "[data] listen",
            variable: "THROTTLEPROXY__DATA__LISTEN",
            source,
        })?;
    let admin = listen(config.admin_listen, false)
        .and_then(|it| Ok((it.local_addr()?, it)))
        .map_err(|source| Error::Listen {
            address: config.admin_listen,
            setting: "[data] admin_listen",
            variable: "THROTTLEPROXY__DATA__ADMIN_LISTEN",
            source,
        })?;
    let (admin_addr, admin) = admin;
    let authz = config
        .authz_listen
        .map(|address| {
            listen(address, false)
                .and_then(|it| Ok((it.local_addr()?, it)))
                .map_err(|source| Error::Listen {
                    address,
                    setting: "[data] authz_listen",
                    variable: "THROTTLEPROXY__DATA__AUTHZ_LISTEN",
                    source,
                })
        })
        .transpose()?;
    let authz_addr = authz.as_ref().map(|(address, _)| *address);
    let tls = upstream::tls_config().map_err(Error::Tls)?;
    let certificate = match &config.certificate {
        None => None,
        Some(files) => Some(Certificate::load(files.clone()).map_err(Error::Certificate)?),
    };

    let clock = Arc::new(Clock::start());
    let follow = Arc::new(FollowCounters::default());
    let status = Arc::new(Status::default());
    let table = Arc::new(KeyTable::new());
    let verifier = Verifier::new(
        config.trust.clone(),
        Arc::clone(&clock),
        Arc::clone(&follow),
    );
    let (lookups, lookup_service) = lookup::new(
        Arc::clone(&source),
        verifier.clone(),
        Arc::clone(&status),
        Arc::clone(&table),
        Arc::clone(&follow),
        Duration::from_millis(config.bounds.lookup_ms),
    );
    let (resolver, resolve_service) = resolve::new(config.upstreams.dns_server);
    let mut own_listeners = config.upstreams.own_listeners.clone();
    own_listeners.extend([proxy_addr, admin_addr]);
    let mut random: SmallRng = rand::make_rng();
    let shared = Arc::new(Shared {
        boot_id: BootId::from_parts(
            u64::try_from(clock.now().unix_ms).unwrap_or(0),
            random.random(),
        ),
        table,
        cells: Arc::new(Cells::new()),
        status,
        failures: Failures::new(
            config.bounds.failures_max,
            config.bounds.failures_window_ms,
            config.bounds.block_ms,
        ),
        workers: (0..threads + usize::from(authz.is_some()))
            .map(|_| Arc::default())
            .collect(),
        backlog: Arc::default(),
        is_leaving: AtomicBool::new(false),
        reach: Arc::new(Reach::new(resolver, own_listeners)),
        credentials: Credentials::new(config.upstreams.credentials_dir.clone()),
        shadow: Shadow::default(),
        certificate,
        clock,
        follow,
        lookups,
        config,
    });

    let (stage, stages) = watch::channel(Stage::Serving);
    let leaving = Arc::new(Notify::new());
    let (goodbye, said_goodbye) = oneshot::channel();
    let follower = {
        let (shared, leaving, stages) = (Arc::clone(&shared), Arc::clone(&leaving), stages.clone());
        spawn("follower", move || {
            follower_thread(
                shared,
                source,
                verifier,
                lookup_service,
                admin,
                leaving,
                goodbye,
                stages,
            )
        })?
    };
    // It ends by itself when nobody can ask any more.
    spawn("resolver", move || {
        if let Some(runtime) = runtime() {
            runtime.block_on(resolve_service.run());
        }
    })?;
    let mut workers = Vec::with_capacity(threads);
    for (at, listener) in listeners.into_iter().enumerate() {
        let (shared, tls, stages) = (Arc::clone(&shared), Arc::clone(&tls), stages.clone());
        workers.push(spawn("worker", move || {
            worker_thread(shared, at, listener, tls, stages)
        })?);
    }
    if let Some((_, listener)) = authz {
        let (shared, stages) = (Arc::clone(&shared), stages.clone());
        workers.push(spawn("authz", move || {
            authz_thread(shared, threads, listener, stages)
        })?);
    }
    tracing::info!(listener = "proxy", address = %proxy_addr, "listening");
    tracing::info!(listener = "admin", address = %admin_addr, "listening");
    if let Some(address) = authz_addr {
        tracing::info!(listener = "authz", %address, "listening");
    }
    Ok(Running {
        proxy_addr,
        admin_addr,
        authz_addr,
        shared,
        stage,
        leaving,
        said_goodbye,
        workers,
        follower,
    })
}

// === impl Running ===

impl Running {
    /// Where clients connect.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy_addr
    }

    /// Where health and metrics are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Where Envoy asks.
    pub fn authz_addr(&self) -> Option<SocketAddr> {
        self.authz_addr
    }

    /// Whether requests are admitted.
    pub fn is_ready(&self) -> bool {
        self.shared.status.is_ready()
    }

    /// What the threads share, for tests that break it.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Turns `/readyz` to 503, goes on accepting for `drain_delay_ms`, then closes the
    /// listeners, lets running requests end, and says goodbye to the control plane.
    pub async fn shutdown(self) {
        self.shared.is_leaving.store(true, Ordering::Release);
        let delay_ms = self.shared.config.drain_delay_ms;
        tracing::info!(delay_ms, "shutting down");
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        self.stage.send_replace(Stage::Draining);
        join(self.workers).await;
        self.leaving.notify_one();
        let _ = tokio::time::timeout(GOODBYE, self.said_goodbye).await;
        self.stage.send_replace(Stage::Over);
        join(vec![self.follower]).await;
    }
}

// === impl Worker ===

impl Worker {
    /// Whether connections should end: the answer to each request is its connection's last.
    pub fn is_leaving(&self) -> bool {
        self.shared.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether nobody else is let in, so that connections that wait for nothing must end.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether so many connections of clients are open that each must do with little.
    pub fn is_crowded(&self) -> bool {
        self.connections.borrow().len() >= CROWD_MIN
    }

    /// Accepts until a shutdown, and then whoever has a connection already: one that is
    /// closed unaccepted would be reset, with a request on it that its client believes to
    /// have been heard.
    async fn accept(self: Rc<Self>, listener: TcpListener, mut stages: watch::Receiver<Stage>) {
        let closing = async {
            // The sender gone means that nobody waits for an orderly end.
            if stages.wait_for(|it| *it != Stage::Serving).await.is_ok() {
                listener::close_door(&listener);
                tokio::time::sleep(DOOR_FOR).await;
            }
        };
        let mut closing = pin!(closing);
        let mut next_id = 0_u64;
        loop {
            let accepted = tokio::select! {
                // Whoever waits is let in before the end is looked at.
                biased;
                accepted = listener.accept() => accepted,
                () = &mut closing => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    next_id += 1;
                    self.serve(next_id, stream, peer);
                }
                Err(err) => {
                    // Usually no more file descriptors: others must end first.
                    tracing::warn!(error = %err, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn serve(self: &Rc<Self>, id: u64, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        add(&self.counters.connections, 1);
        let bounds = &self.shared.config.bounds;
        let lane = Rc::new(Lane::new(
            peer.ip().to_canonical(),
            &self.heads,
            Duration::from_millis(bounds.head_ms),
            Duration::from_millis(bounds.client_idle_ms),
        ));
        self.connections.borrow_mut().insert(id, Rc::clone(&lane));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            connection::serve(Rc::clone(&worker), lane, stream).await;
            worker.connections.borrow_mut().remove(&id);
        });
    }

    /// Lets running requests end, for so long.
    async fn drain(&self) {
        self.draining.set(true);
        for lane in self.connections.borrow().values() {
            lane.wake();
        }
        let until = Instant::now() + Duration::from_millis(self.shared.config.bounds.drain_ms);
        while !self.connections.borrow().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = self.connections.borrow().len();
        if left > 0 {
            tracing::warn!(left, "connections were cut at the end of the drain");
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("connections", &self.connections.borrow().len())
            .finish_non_exhaustive()
    }
}

fn worker_thread(
    shared: Arc<Shared>,
    at: usize,
    listener: StdListener,
    tls: Arc<rustls::ClientConfig>,
    stages: watch::Receiver<Stage>,
) {
    let Some(runtime) = runtime() else { return };
    runtime.block_on(async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(err) => {
                tracing::error!(error = %err, "a worker cannot use its listener");
                return;
            }
        };
        let counters = Arc::clone(&shared.workers[at]);
        let worker = Rc::new(Worker {
            upstreams: Upstreams::new(
                &tls,
                Arc::clone(&shared.reach),
                &shared.config.bounds,
                Arc::clone(&counters),
            ),
            counters,
            random: RefCell::new(rand::make_rng()),
            heads: Rc::new(Heads::new(
                shared.config.bounds.unfinished_heads_bytes_max / shared.workers.len(),
            )),
            draining: Cell::new(false),
            connections: RefCell::new(HashMap::new()),
            shared,
        });
        let tidy = async {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                worker.upstreams.sweep();
            }
        };
        tokio::select! {
            () = Rc::clone(&worker).accept(listener, stages.clone()) => {}
            () = tidy => {}
        }
        // The sender gone means that nobody waits for an orderly end.
        if *stages.borrow() == Stage::Draining {
            worker.drain().await;
        }
    });
}

fn authz_thread(
    shared: Arc<Shared>,
    at: usize,
    listener: StdListener,
    stages: watch::Receiver<Stage>,
) {
    let Some(runtime) = runtime() else { return };
    runtime.block_on(async move {
        let cut_after = Duration::from_millis(shared.config.bounds.drain_ms);
        let counters = Arc::clone(&shared.workers[at]);
        let mut stopping = stages.clone();
        let stop = async move {
            // The sender gone means the same, without an orderly end.
            let _ = stopping.wait_for(|it| *it != Stage::Serving).await;
        };
        let mut leaving = stages.clone();
        tokio::select! {
            () = authz::serve(shared, counters, listener, stop) => {}
            () = async {
                if leaving.wait_for(|it| *it != Stage::Serving).await.is_ok() {
                    tokio::time::sleep(cut_after).await;
                }
            } => {}
        }
    });
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that the thread owns moves into it once"
)]
fn follower_thread(
    shared: Arc<Shared>,
    source: Arc<dyn RegionSource>,
    verifier: Verifier,
    lookup_service: lookup::Service,
    admin: StdListener,
    leaving: Arc<Notify>,
    goodbye: oneshot::Sender<()>,
    mut stages: watch::Receiver<Stage>,
) {
    let Some(runtime) = runtime() else { return };
    runtime.block_on(async move {
        let (answers, answered) = mpsc::unbounded_channel();
        let renew_now = Arc::new(Notify::new());
        let driver = Driver {
            source: Arc::clone(&source),
            verifier: verifier.clone(),
            table: Arc::clone(&shared.table),
            status: Arc::clone(&shared.status),
            clock: Arc::clone(&shared.clock),
            counters: Arc::clone(&shared.follow),
            answers: answered,
            renew_now: Arc::clone(&renew_now),
        };
        let renewer = Renewer {
            source,
            verifier,
            status: Arc::clone(&shared.status),
            clock: Arc::clone(&shared.clock),
            cells: Arc::clone(&shared.cells),
            counters: Arc::clone(&shared.follow),
            region: shared.config.region.clone(),
            proxy_id: shared.config.proxy_id.clone(),
            boot_id: shared.boot_id,
            answers,
            renew_now,
            backlog: Arc::clone(&shared.backlog),
        };
        tokio::task::spawn_local(driver.run());
        tokio::task::spawn_local(lookup_service.run());
        tokio::task::spawn_local(admin::serve(Arc::clone(&shared), admin));
        tokio::task::spawn_local({
            let shared = Arc::clone(&shared);
            async move {
                if let Some(certificate) = &shared.certificate {
                    let every_ms = shared.config.bounds.certificate_check_ms;
                    certificate.follow(Duration::from_millis(every_ms)).await;
                }
            }
        });
        tokio::task::spawn_local(async move {
            renewer.run(leaving).await;
            // Nobody waits for it when the proxy was dropped.
            let _ = goodbye.send(());
        });
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                shared.cells.sweep(shared.clock.now().steady_ms);
            }
        };
        tokio::select! {
            _ = stages.wait_for(|it| *it == Stage::Over) => {}
            () = sweep => {}
        }
    });
}

fn runtime() -> Option<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .inspect_err(|err| tracing::error!(error = %err, "a thread cannot have its event queue"))
        .ok()
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(format!("tp-{name}"))
        .spawn(body)
        .map_err(Error::Thread)
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let joining = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy panicked");
            }
        }
    });
    if joining.await.is_err() {
        tracing::error!("the threads of the proxy could not be waited for");
    }
}
