//! From a host's name to its addresses: one resolver for all workers, on a thread of its
//! own, so that a slow name server holds up nobody who does not wait for it.
//!
//! It asks the system's name servers (or the configured one) itself, because the library
//! of the system gives neither a bounded cache nor a say in search lists: a name is always
//! whole, `api.example.com` never becomes `api.example.com.corp`. Answers are kept as long
//! as their time to live says. The system's `hosts` file comes first. When either of the
//! system's files changes, both are read anew and the cache is empty.
//!
//! What a name resolves to is somebody else's word, and it is judged in
//! [`reach`](crate::reach).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{mpsc, oneshot};

/// Names that may wait for an answer.
const ASKED_MAX: usize = 1_024;
/// Answers that are kept.
const KEPT_MAX: u64 = 4_096;
/// Addresses of one answer that are looked at; no honest host has more.
const ADDRESSES_MAX: usize = 64;
/// How long one name server has for an answer.
const SERVER_WAIT: Duration = Duration::from_secs(2);
/// The longest that an answer is kept, and that there is none.
const KEPT_FOR_MAX: Duration = Duration::from_secs(3_600);
const NONE_KEPT_FOR_MAX: Duration = Duration::from_secs(30);
/// How often the system's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The files that the system's resolution goes by.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The addresses of a name, or why there are none.
type Answer = Result<Arc<[IpAddr]>, Arc<io::Error>>;

/// Where workers ask; clones share it.
#[derive(Debug, Clone)]
pub struct Resolver {
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Ask {
    host: Arc<str>,
    reply: oneshot::Sender<Answer>,
}

/// What answers. It runs until the last [`Resolver`] is gone.
pub struct Service {
    asks: mpsc::Receiver<Ask>,
    server: Option<SocketAddr>,
}

/// A resolver that asks `server`, or those of the system.
pub fn new(server: Option<SocketAddr>) -> (Resolver, Service) {
    let (sender, asks) = mpsc::channel(ASKED_MAX);
    (Resolver { asks: sender }, Service { asks, server })
}

// === impl Resolver ===

impl Resolver {
    /// The addresses of a host.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn addresses(&self, host: &Arc<str>) -> io::Result<Arc<[IpAddr]>> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            host: Arc::clone(host),
            reply,
        };
        self.asks
            .try_send(ask)
            .map_err(|_| io::Error::other("too many names wait for an answer"))?;
        answer
            .await
            .map_err(|_| io::Error::other("the resolver has ended"))?
            .map_err(|err| io::Error::new(err.kind(), err))
    }
}

// === impl Service ===

impl Service {
    /// Answers until nobody can ask any more.
    pub async fn run(mut self) {
        let mut system = System::look(self.server);
        // Who asks for a name that is being asked for waits for the same answer.
        let mut waiting: HashMap<Arc<str>, Vec<oneshot::Sender<Answer>>> = HashMap::new();
        let mut running = FuturesUnordered::<Pin<Box<dyn Future<Output = _>>>>::new();
        loop {
            tokio::select! {
                ask = self.asks.recv() => {
                    let Some(Ask { host, reply }) = ask else { return };
                    if let Some(others) = waiting.get_mut(&host) {
                        others.push(reply);
                        continue;
                    }
                    system.look_again();
                    let resolver = system.resolver.clone();
                    waiting.insert(Arc::clone(&host), vec![reply]);
                    running.push(Box::pin(async move {
                        let answer = look_up(resolver, &host).await;
                        (host, answer.map_err(Arc::new))
                    }));
                }
                Some((host, answer)) = running.next() => {
                    for reply in waiting.remove(&host).into_iter().flatten() {
                        // Who asked may have gone.
                        let _ = reply.send(answer.clone());
                    }
                }
            }
        }
    }
}

async fn look_up(resolver: Option<TokioResolver>, host: &str) -> io::Result<Arc<[IpAddr]>> {
    let resolver = resolver.ok_or_else(|| io::Error::other("there is no name server"))?;
    let mut name = Name::from_ascii(host).map_err(io::Error::other)?;
    // Whole: no search list is gone through.
    name.set_fqdn(true);
    let found = resolver.lookup_ip(name).await.map_err(io::Error::other)?;
    let addresses: Arc<[IpAddr]> = found.iter().take(ADDRESSES_MAX + 1).collect();
    match addresses.len() {
        0 => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )),
        1..=ADDRESSES_MAX => Ok(addresses),
        _ => Err(io::Error::other("the name has too many addresses")),
    }
}

/// The resolver as the system's files have it.
struct System {
    server: Option<SocketAddr>,
    /// `None` while nobody can be asked.
    resolver: Option<TokioResolver>,
    files: [Option<SystemTime>; 2],
    looked: Instant,
}

// === impl System ===

impl System {
    fn look(server: Option<SocketAddr>) -> Self {
        let files = SYSTEM_FILES.map(changed_at);
        let resolver = resolver(server)
            .inspect_err(|err| {
                tracing::error!(error = %err, "no name can be resolved: there is no name server");
            })
            .ok();
        Self {
            server,
            resolver,
            files,
            looked: Instant::now(),
        }
    }

    fn look_again(&mut self) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        if SYSTEM_FILES.map(changed_at) != self.files {
            *self = Self::look(self.server);
        }
    }
}

fn changed_at(file: &str) -> Option<SystemTime> {
    fs::metadata(file).and_then(|it| it.modified()).ok()
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let (config, system) = match server {
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
                it.port = server.port();
                it
            });
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            name_server.connections = connections.into();
            let config = ResolverConfig::from_name_servers(vec![name_server]);
            (config, ResolverOpts::default())
        }
        None => read_system_conf()?,
    };
    let mut options = system;
    options.timeout = options.timeout.min(SERVER_WAIT);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = KEPT_MAX;
    options.use_hosts_file = ResolveHosts::Always;
    options.positive_max_ttl = Some(KEPT_FOR_MAX);
    options.negative_max_ttl = Some(NONE_KEPT_FOR_MAX);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}
