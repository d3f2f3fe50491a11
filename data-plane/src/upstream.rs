//! Connections to upstreams: one pool per worker, straight on hyper's connections, so
//! that a request and its connection never leave their core.
//!
//! A connection is made to exactly the address that was judged (see
//! [`address`](crate::address)), while TLS is verified against the target's name. It goes
//! back to the pool only after a whole exchange. Whether private addresses were allowed
//! is part of a pool's key: a connection that one target may use is never lent to another
//! that may not.
//!
//! A connection of HTTP/1.1 serves one request at a time and has no task of its own: see
//! [`link`]. Where an upstream chooses HTTP/2 (TLS with ALPN), its requests share one: see
//! [`multiplexed`].

pub mod lease;
pub mod link;
mod multiplexed;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use schemas::entry::Scheme;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Allowance;
use crate::config::Bounds;
use crate::gather::Gather;
use crate::metrics::{Counters, add};
use crate::pipeline::body::RequestBody;
use crate::reach::{self, Reach};
use lease::Way;
pub use lease::{Lease, SendError};
pub use link::Link;
use multiplexed::Multiplexed;

/// The most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most bytes that one connection buffers.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Where a connection leads, and what it took to be allowed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// The host as the target names it.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Which addresses beside public ones were allowed.
    pub allowance: Allowance,
}

/// The connections of one worker.
pub struct Upstreams {
    idle: RefCell<HashMap<Origin, VecDeque<Idle>, DefaultHashBuilder>>,
    /// Connections of HTTP/2, idle or not.
    multiplexed: RefCell<HashMap<Origin, Vec<Multiplexed>, DefaultHashBuilder>>,
    /// Offers HTTP/2 and HTTP/1.1.
    tls: TlsConnector,
    /// Offers HTTP/1.1 alone.
    tls_http1: TlsConnector,
    reach: Arc<Reach>,
    idle_max: usize,
    idle_for: Duration,
    counters: Arc<Counters>,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    link: Rc<Link>,
    since: Instant,
}

/// No connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// One of its addresses is not public, and nothing allows it.
    #[error("an address of the host is not allowed")]
    Unsafe,
    /// The name has no address, or none answers.
    #[error("no address of the host could be connected to")]
    Unreachable(#[source] std::io::Error),
    /// TLS could not be agreed on, or the certificate is not for this name.
    #[error("the upstream's TLS could not be verified")]
    Tls(#[source] std::io::Error),
    /// It took too long.
    #[error("connecting took too long")]
    Timeout,
}

/// The versions of HTTP that a request can go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Whichever the upstream likes best.
    Any,
    /// HTTP/1.1 alone: only there a connection can become something else.
    Http1,
}

/// The TLS settings of all workers: the machine's roots.
pub fn tls_config() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a root certificate of this machine cannot be read");
    }
    let (added, _) = roots.add_parsable_certificates(native.certs);
    if added == 0 {
        tracing::warn!("this machine has no root certificates: no https upstream can be verified");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// These settings with the protocols that are offered (ALPN), best first.
fn offering(tls: &rustls::ClientConfig, protocols: &[&str]) -> TlsConnector {
    let mut config = tls.clone();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

// === impl Upstreams ===

impl Upstreams {
    /// An empty pool.
    pub fn new(
        tls: &rustls::ClientConfig,
        reach: Arc<Reach>,
        bounds: &Bounds,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            idle: RefCell::new(HashMap::default()),
            multiplexed: RefCell::new(HashMap::default()),
            tls: offering(tls, &["h2", "http/1.1"]),
            tls_http1: offering(tls, &["http/1.1"]),
            reach,
            idle_max: bounds.upstream_idle_per_host_max,
            idle_for: Duration::from_millis(bounds.upstream_idle_ms),
            counters,
        }
    }

    /// A place on a connection of HTTP/2, or an idle connection of HTTP/1.1: the one used
    /// last, so that the others may grow old and go.
    pub fn reuse(&self, origin: &Origin, versions: Versions) -> Option<Lease> {
        if origin.scheme == Scheme::Https
            && versions == Versions::Any
            && let Some(lease) = self.share(origin)
        {
            return Some(lease);
        }
        let mut pools = self.idle.borrow_mut();
        let pool = pools.get_mut(origin)?;
        let mut at = pool.len();
        while at > 0 {
            at -= 1;
            pool[at].look();
            // One whose last exchange is not wound up is neither closed nor ready yet: it
            // is left where it is.
            if pool[at].sender.is_closed() {
                pool.remove(at);
            } else if pool[at].sender.is_ready()
                && let Some(idle) = pool.remove(at)
            {
                add(&self.counters.upstream_reuses, 1);
                return Some(Lease {
                    way: Way::Http1 {
                        sender: idle.sender,
                        link: idle.link,
                    },
                    origin: origin.clone(),
                    is_reused: true,
                });
            }
        }
        None
    }

    /// A new connection. Every address of the name is judged before the first is tried.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        origin: &Origin,
        literal: Option<IpAddr>,
        versions: Versions,
        within: Duration,
    ) -> Result<Lease, ConnectError> {
        tokio::time::timeout(within, self.connect_to_any(origin, literal, versions))
            .await
            .map_err(|_| ConnectError::Timeout)?
    }

    /// Takes a connection back after a whole exchange.
    pub fn give_back(&self, lease: Lease, now: Instant) {
        let Way::Http1 { sender, link } = lease.way else {
            // Its place is free from here on.
            return;
        };
        link.let_go();
        let idle = Idle {
            sender,
            link,
            since: now,
        };
        idle.look();
        if idle.sender.is_closed() {
            return;
        }
        let mut pools = self.idle.borrow_mut();
        let pool = pools.entry(lease.origin).or_default();
        if pool.len() >= self.idle_max {
            pool.pop_front();
        }
        pool.push_back(idle);
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, pool| {
            pool.retain(|idle| {
                idle.look();
                !idle.sender.is_closed() && now.duration_since(idle.since) < self.idle_for
            });
            !pool.is_empty()
        });
        self.multiplexed.borrow_mut().retain(|_, pool| {
            pool.retain(|it| it.is_wanted(now, self.idle_for));
            !pool.is_empty()
        });
    }

    /// A place on a connection of HTTP/2 that is there.
    fn share(&self, origin: &Origin) -> Option<Lease> {
        let pools = self.multiplexed.borrow();
        let (sender, place) = pools.get(origin)?.iter().find_map(Multiplexed::enter)?;
        add(&self.counters.upstream_reuses, 1);
        Some(Lease {
            way: Way::Http2 { sender, place },
            origin: origin.clone(),
            is_reused: true,
        })
    }

    async fn connect_to_any(
        &self,
        origin: &Origin,
        literal: Option<IpAddr>,
        versions: Versions,
    ) -> Result<Lease, ConnectError> {
        let addresses = self
            .reach
            .addresses(&origin.host, literal, origin.port, origin.allowance)
            .await
            .map_err(|err| match err {
                reach::Error::Unsafe => ConnectError::Unsafe,
                reach::Error::Unresolved(err) => ConnectError::Unreachable(err),
            })?;
        let mut failure =
            std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return self.greet(origin, stream, versions).await,
                Err(err) => failure = err,
            }
        }
        Err(ConnectError::Unreachable(failure))
    }

    async fn greet(
        &self,
        origin: &Origin,
        stream: TcpStream,
        versions: Versions,
    ) -> Result<Lease, ConnectError> {
        add(&self.counters.upstream_connects, 1);
        // Small writes go out at once; a request is written in one piece anyway.
        let _ = stream.set_nodelay(true);
        let (sender, link) = match origin.scheme {
            Scheme::Http => speak(stream).await,
            Scheme::Https => {
                let name = origin.host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|err| ConnectError::Tls(std::io::Error::other(err)))?;
                let tls = match versions {
                    Versions::Any => &self.tls,
                    Versions::Http1 => &self.tls_http1,
                };
                let stream = tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return self.multiplex(origin, stream).await;
                }
                speak(stream).await
            }
        }?;
        Ok(Lease {
            way: Way::Http1 {
                sender,
                link: Rc::new(link),
            },
            origin: origin.clone(),
            is_reused: false,
        })
    }

    async fn multiplex(
        &self,
        origin: &Origin,
        stream: TlsStream<TcpStream>,
    ) -> Result<Lease, ConnectError> {
        // Others may have connected meanwhile; then theirs serves all.
        if let Some(lease) = self.share(origin) {
            return Ok(lease);
        }
        let opened = Multiplexed::open(stream).await?;
        let Some((sender, place)) = opened.enter() else {
            let closed = std::io::ErrorKind::ConnectionAborted.into();
            return Err(ConnectError::Unreachable(closed));
        };
        let mut pools = self.multiplexed.borrow_mut();
        pools.entry(origin.clone()).or_default().push(opened);
        Ok(Lease {
            way: Way::Http2 { sender, place },
            origin: origin.clone(),
            is_reused: false,
        })
    }
}

// === impl Idle ===

impl Idle {
    /// Lets the connection notice what happened meanwhile, above all its end.
    fn look(&self) {
        if self.link.rang() || !self.sender.is_ready() {
            self.link.turn();
        }
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<(SendRequest<RequestBody>, Link), ConnectError> {
    let (sender, connection) = Builder::new()
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(Gather(stream)))
        .await
        .map_err(|err| ConnectError::Unreachable(std::io::Error::other(err)))?;
    Ok((sender, Link::new(connection)))
}

#[cfg(test)]
mod tests;
