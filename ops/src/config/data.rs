//! `[data]`: the data plane.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use schemas::seal::VerifyKey;
use serde::Serialize;

use super::Error;
use super::source::Values;

/// The data plane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// Where clients are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where operators look: health, metrics, the state of the table.
    pub admin_listen: SocketAddr,
    /// Where Envoy asks over gRPC whether a request may pass (ext_authz); `None` is
    /// nowhere.
    pub authz_listen: Option<SocketAddr>,
    /// The region that the proxy serves, a name of `[[regions]]`.
    pub region: String,
    /// The proxy's name among those of its region; `None` is one that is made on the
    /// first start and kept in `snapshot_dir/proxy_id`.
    pub proxy_id: Option<String>,
    /// Where the proxy keeps what must outlive a restart.
    pub snapshot_dir: PathBuf,
    /// Where the values of upstream credentials are: `<workspace_id>/<ref>`.
    pub credentials_dir: PathBuf,
    /// Who is asked for the addresses of upstreams; `None` asks the name servers of the
    /// system.
    pub dns_server: Option<SocketAddr>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS for clients: the certificate and those between it and a root, in PEM; `None`
    /// is plain text.
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's key; there exactly when the certificate is.
    pub tls_key_file: Option<PathBuf>,
    /// Threads that serve requests, each with a runtime of its own; 0 is one per core.
    pub workers: usize,
    /// The public keys that the region may be signed with; empty takes the one of
    /// `regions.signing_key_file`.
    pub verify_keys: Vec<VerifyKey>,
    /// After a signal to stop: how long new connections are still taken, while
    /// `/readyz` already says no, in milliseconds.
    pub drain_delay_ms: u64,
}

// === impl Data ===

impl Data {
    /// The section when nothing is configured.
    pub fn default_in(data_dir: &Path) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7090)),
            authz_listen: None,
            region: "local".to_owned(),
            proxy_id: None,
            snapshot_dir: data_dir.join("proxy"),
            credentials_dir: data_dir.join("credentials"),
            dns_server: None,
            trusted_proxies: Vec::new(),
            tls_cert_file: None,
            tls_key_file: None,
            workers: 0,
            verify_keys: Vec::new(),
            drain_delay_ms: 5_000,
        }
    }

    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        let region = values.parsed("data.region", super::region::NAME, |text| {
            schemas::name::is_region(text).then(|| text.to_owned())
        })?;
        let proxy_id = values.parsed("data.proxy_id", PROXY_ID, |text| {
            is_proxy_id(text).then(|| text.to_owned())
        })?;
        let workers = values.count("data.workers", WORKERS, u64::from(WORKERS_MAX))?;
        let tls_cert_file = values.path("data.tls_cert_file")?;
        let tls_key_file = values.path("data.tls_key_file")?;
        // One alone would mean plain text where TLS was meant.
        if tls_cert_file.is_some() != tls_key_file.is_some() {
            return Err(missing(values, tls_cert_file.is_some()));
        }
        let drain_delay_ms = values.count("data.drain_delay_ms", DRAIN, DRAIN_DELAY_MS_MAX)?;
        Ok(Self {
            listen: values.address("data.listen")?.unwrap_or(default.listen),
            admin_listen: values
                .address("data.admin_listen")?
                .unwrap_or(default.admin_listen),
            authz_listen: values
                .address("data.authz_listen")?
                .or(default.authz_listen),
            region: region.unwrap_or(default.region),
            proxy_id: proxy_id.or(default.proxy_id),
            snapshot_dir: values
                .path("data.snapshot_dir")?
                .unwrap_or(default.snapshot_dir),
            credentials_dir: values
                .path("data.credentials_dir")?
                .unwrap_or(default.credentials_dir),
            dns_server: values.address("data.dns_server")?.or(default.dns_server),
            trusted_proxies: values
                .list("data.trusted_proxies", NETWORKS, network)?
                .unwrap_or(default.trusted_proxies),
            tls_cert_file: tls_cert_file.or(default.tls_cert_file),
            tls_key_file: tls_key_file.or(default.tls_key_file),
            workers: workers.map_or(default.workers, |count| count as usize),
            verify_keys: values
                .list("data.verify_keys", KEYS, |text| text.parse().ok())?
                .unwrap_or(default.verify_keys),
            drain_delay_ms: drain_delay_ms.unwrap_or(default.drain_delay_ms),
        })
    }
}

/// Whether `text` may name a proxy: 1 to 64 letters, digits, `.`, `_` and `-`. It
/// stands in messages and metrics, so it stays plain.
pub fn is_proxy_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// One of the two files of TLS is there without the other.
fn missing(values: &Values, is_key: bool) -> Error {
    let (given, missing, expected) = match is_key {
        true => ("data.tls_cert_file", "data.tls_key_file", TLS_KEY),
        false => ("data.tls_key_file", "data.tls_cert_file", TLS_CERT),
    };
    Error::Wrong {
        origin: values.origin_of(given),
        key: missing.to_owned(),
        expected,
        found: "left out".to_owned(),
    }
}

const TLS_CERT: &str = "the file of the certificate whose key `data.tls_key_file` is";
const TLS_KEY: &str = "the file of the key of `data.tls_cert_file`";
const WORKERS_MAX: u16 = 1_024;
const DRAIN_DELAY_MS_MAX: u64 = 3_600_000;
const PROXY_ID: &str = "1 to 64 letters, digits, `.`, `_` and `-`";
const WORKERS: &str = "a whole number from 0 (one per core) to 1024";
const DRAIN: &str = "a whole number of milliseconds from 0 to 3600000";
const KEYS: &str = "a list of Ed25519 public keys, each 64 lower-case hex digits";
const NETWORKS: &str = "a list of addresses or networks such as [\"10.0.0.0/8\"]";

/// A network, or one address as a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
