//! What a proxy is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use schemas::seal::Trust;

/// Everything a proxy needs to know beside its region.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where health, metrics and the table's state are shown; port 0 takes a free one.
    pub admin_listen: SocketAddr,
    /// Where Envoy asks over gRPC whether a request may pass; `None` is nowhere.
    pub authz_listen: Option<SocketAddr>,
    /// TLS towards clients; without it they speak plain text.
    pub certificate: Option<CertificateFiles>,
    /// The region whose table this proxy serves.
    pub region: String,
    /// By whom the region must be signed, and what this proxy proves itself with there.
    pub trust: Trust,
    /// This proxy, stable over restarts.
    pub proxy_id: String,
    /// Threads that serve requests; 0 is one per core.
    pub workers: usize,
    /// Whether targets may ask for addresses that are not public.
    pub allow_private_upstreams: bool,
    /// One address and port that may always be connected to: the demo's own upstream.
    pub exempt_upstream: Option<SocketAddr>,
    /// Peers whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long connections are still accepted after a shutdown was asked for, so that a
    /// load balancer can see `/readyz` turn first.
    pub drain_delay_ms: u64,
    /// How upstreams are found and what they are given.
    pub upstreams: UpstreamConfig,
    /// Caps and deadlines.
    pub bounds: Bounds,
}

/// How upstreams are found and what they are given.
#[derive(Debug, Clone, Default)]
pub struct UpstreamConfig {
    /// Who is asked for the addresses of a name; `None` asks the name servers of the
    /// system.
    pub dns_server: Option<SocketAddr>,
    /// Where the values of upstream credentials are, in a directory per workspace.
    pub credentials_dir: PathBuf,
    /// Names of the installation itself, which no wildcard covers.
    pub own_hosts: Vec<String>,
    /// What this installation listens on beside the proxy's own listeners.
    pub own_listeners: Vec<SocketAddr>,
}

/// Where the chain that clients are shown is kept, and its key, both in PEM.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Caps and deadlines of the proxy itself. A target's own take precedence where it has
/// them. `Default` is what the reference documents; tests shrink them.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The most bytes of a request line and its headers.
    pub head_bytes_max: usize,
    /// The most headers of a request.
    pub headers_max: usize,
    /// From a head's first byte until its last.
    pub head_ms: u64,
    /// What heads that are not whole may take of the memory, all together.
    pub unfinished_heads_bytes_max: usize,
    /// How long a client's connection may stay open without a request.
    pub client_idle_ms: u64,
    /// What a client may send in one body.
    pub request_bytes_max: u64,
    /// What an upstream may answer in one body.
    pub response_bytes_max: u64,
    /// The least a client must send of a body, averaged over `body_rate_window_ms` of
    /// waiting for it.
    pub body_bytes_per_s_min: u64,
    /// What the least rate of a body is averaged over.
    pub body_rate_window_ms: u64,
    /// Until a connection to the upstream stands, name look-up and TLS included.
    pub connect_ms: u64,
    /// From the request's end until the answer's head.
    pub first_byte_ms: u64,
    /// Between two pieces of a body.
    pub idle_ms: u64,
    /// For the whole request.
    pub total_ms: u64,
    /// Idle connections that each worker keeps for one upstream.
    pub upstream_idle_per_host_max: usize,
    /// How long an idle connection to an upstream is kept.
    pub upstream_idle_ms: u64,
    /// How often a running answer looks whether its key is still good.
    pub stream_check_ms: u64,
    /// For an exact look-up of a secret that the table does not hold.
    pub lookup_ms: u64,
    /// Failed keys from one address, within `failures_window_ms`, that block it.
    pub failures_max: usize,
    /// What failures are counted over.
    pub failures_window_ms: u64,
    /// How long an address stays blocked.
    pub block_ms: u64,
    /// How long running requests may take to end during a shutdown.
    pub drain_ms: u64,
    /// How long a client's connection may wait for a request during a shutdown.
    pub drain_idle_ms: u64,
    /// How often it is looked whether the certificate's files have changed.
    pub certificate_check_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 << 10,
            headers_max: 100,
            head_ms: 10_000,
            unfinished_heads_bytes_max: 16 << 20,
            client_idle_ms: 75_000,
            request_bytes_max: 10 << 20,
            response_bytes_max: 100 << 20,
            body_bytes_per_s_min: 1 << 10,
            body_rate_window_ms: 30_000,
            connect_ms: 5_000,
            first_byte_ms: 60_000,
            idle_ms: 60_000,
            total_ms: 300_000,
            upstream_idle_per_host_max: 256,
            upstream_idle_ms: 60_000,
            stream_check_ms: 2_000,
            lookup_ms: 50,
            failures_max: 30,
            failures_window_ms: 60_000,
            block_ms: 300_000,
            drain_ms: 30_000,
            drain_idle_ms: 1_000,
            certificate_check_ms: 1_000,
        }
    }
}
