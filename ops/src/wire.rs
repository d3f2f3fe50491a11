//! The one place that names adapters: which database, which region, which settings go
//! to which plane.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use control_plane::OwnPlaces;
use control_plane::execute::Execute;
use control_plane::region::{self, Led, Region};
use control_plane::store::{self, Store, log};
use data_plane::follow::{self, RegionSource};
use schemas::seal::Trust;
use tokio::sync::watch;

use crate::config::{self, Config};
use crate::embedded::Embedded;
use crate::identity::Identity;
use crate::keys;
use crate::sqlite::SqliteFile;

/// The regions of `up`, those without a Redis inside the process.
pub struct Regions {
    /// All of them, for the control plane.
    pub all: Vec<Led>,
    /// The one that the proxy of this process serves.
    pub own: Arc<dyn RegionSource>,
    /// What that proxy believes of it.
    pub trust: Trust,
    /// Those inside the process: nobody else can look into them.
    pub embedded: Vec<Embedded>,
}

/// The event log's database. It is reached when it is first needed; a SQLite file that is
/// missing is made, with its directory, for this user only.
pub fn store(config: &Config) -> anyhow::Result<Store> {
    let url = &config.control.database_url;
    let Some(file) = SqliteFile::of_url(url) else {
        return Ok(Store::open(url)?);
    };
    file.make()
        .with_context(|| format!("cannot make the database {}", file.path().display()))?;
    Ok(Store::open(&file.url()?)?)
}

/// The event log's database for a command that only reads. Nothing is made: a database
/// that holds no log is an error, most likely a mistyped place.
pub async fn existing_store(config: &Config) -> anyhow::Result<Store> {
    let url = &config.control.database_url;
    let (store, place) = match SqliteFile::of_url(url) {
        Some(file) => {
            let place = format!("at {}", file.path().display());
            if !file.is_written().with_context(|| no_log(&place))? {
                bail!(no_log(&place));
            }
            (Store::open(&file.url()?)?, place)
        }
        None => {
            let place = "in the database of `control.database_url`".to_owned();
            (Store::open(url)?, place)
        }
    };
    match log::head(&store).await {
        Err(err) if is_missing_table(&err) => bail!(no_log(&place)),
        head => head?,
    };
    Ok(store)
}

/// The write path without a control plane around it, for commands that change the log
/// beside a running one: that one sees the change in the log.
pub fn execute(store: &Store) -> Execute {
    let (head, _) = watch::channel(0);
    Execute::start(store.clone(), head)
}

/// The control plane's settings.
pub fn control_plane(config: &Config) -> control_plane::Config {
    control_plane::Config {
        listen: config.control.listen,
        public_url: config.control.public_url.clone(),
        sign_up: config.accounts.sign_up,
        mail: control_plane::plane::Mail {
            smtp_url: config.mail.smtp_url.clone(),
            from: config.mail.from.clone(),
            directory: config.mail.directory.clone(),
        },
        oidc: config.oidc.iter().map(provider).collect(),
        allow_private_upstreams: config.security.allow_private_upstreams,
        own_places: OwnPlaces {
            hosts: own_hosts(config),
            listeners: own_listeners(config),
        },
    }
}

fn provider(oidc: &config::Oidc) -> control_plane::oidc::Settings {
    control_plane::oidc::Settings {
        name: oidc.name.clone(),
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret: oidc.client_secret.clone(),
    }
}

/// The proxy's settings. `exempt_upstream` is the one private address that it may
/// connect to without being configured to.
pub fn data_plane(
    config: &Config,
    identity: &Identity,
    trust: Trust,
    exempt_upstream: Option<SocketAddr>,
) -> data_plane::Config {
    data_plane::Config {
        listen: config.data.listen,
        admin_listen: config.data.admin_listen,
        authz_listen: config.data.authz_listen,
        certificate: config
            .data
            .tls_cert_file
            .clone()
            .zip(config.data.tls_key_file.clone())
            .map(|(cert, key)| data_plane::CertificateFiles { cert, key }),
        region: config.data.region.clone(),
        trust,
        proxy_id: identity.proxy_id.clone(),
        workers: config.data.workers,
        allow_private_upstreams: config.security.allow_private_upstreams,
        exempt_upstream,
        trusted_proxies: config.data.trusted_proxies.clone(),
        drain_delay_ms: config.data.drain_delay_ms,
        upstreams: data_plane::UpstreamConfig {
            dns_server: config.data.dns_server,
            credentials_dir: config.data.credentials_dir.clone(),
            own_hosts: own_hosts(config),
            own_listeners: own_listeners(config),
        },
        bounds: data_plane::Bounds::default(),
    }
}

/// A region of its own Redis, as a control plane writes to it.
pub async fn region(region: &config::Region) -> anyhow::Result<Arc<dyn Region>> {
    let redis_url = redis_url(region)?;
    let nats_url = region.nats_url.as_deref();
    let opened = region::redis_nats::RedisNats::open(&region.name, redis_url, nats_url).await;
    Ok(Arc::new(opened.with_context(|| in_region(region))?))
}

/// All regions, each of its own Redis, with their seals.
pub async fn regions(config: &Config) -> anyhow::Result<Vec<Led>> {
    let mut all = Vec::with_capacity(config.regions.len());
    for entry in &config.regions {
        all.push(led(entry, region(entry).await?)?);
    }
    Ok(all)
}

/// The proxy's own region, of its own Redis.
pub fn source(config: &Config) -> anyhow::Result<Arc<dyn RegionSource>> {
    let region = config.own_region()?;
    let redis_url = redis_url(region)?;
    let nats_url = region.nats_url.clone();
    let source = follow::redis_nats::RedisNats::connect(&region.name, redis_url, nats_url);
    Ok(Arc::new(source.with_context(|| in_region(region))?))
}

/// The regions of `up`.
pub async fn regions_of_up(config: &Config) -> anyhow::Result<Regions> {
    let mut all = Vec::with_capacity(config.regions.len());
    let mut embedded = Vec::new();
    for entry in &config.regions {
        if entry.redis_url.is_some() {
            all.push(led(entry, region(entry).await?)?);
        } else {
            let region = Embedded::new(&entry.name);
            all.push(led(entry, Arc::new(region.clone()))?);
            embedded.push(region);
        }
    }
    let own_region = config.own_region()?;
    let own_name = &own_region.name;
    let own: Arc<dyn RegionSource> = match embedded.iter().find(|it| it.name() == own_name) {
        Some(region) => Arc::new(region.clone()),
        None => source(config)?,
    };
    // The keys of a region inside the process are those of this process, whatever another
    // process's configuration in the same file says.
    let inside = all
        .iter()
        .find(|it| own_region.redis_url.is_none() && it.region.name() == own_name);
    let trust = match inside {
        Some(led) => led.seal.trust().clone(),
        None => keys::trust(config, own_region)?,
    };
    Ok(Regions {
        all,
        own,
        trust,
        embedded,
    })
}

/// What the proxy believes of its region.
pub fn trust(config: &Config) -> anyhow::Result<Trust> {
    Ok(keys::trust(config, config.own_region()?)?)
}

fn led(entry: &config::Region, region: Arc<dyn Region>) -> anyhow::Result<Led> {
    let seal = Arc::new(keys::seal(entry)?);
    Ok(Led { region, seal })
}

/// The names by which the installation is reached. One of a single label, such as
/// `localhost`, says nothing: other things are reached by it as well.
fn own_hosts(config: &Config) -> Vec<String> {
    let public_url = config.control.public_url.as_deref();
    let host = public_url.and_then(config::host_of);
    host.filter(|it| it.contains('.') && it.parse::<IpAddr>().is_err())
        .into_iter()
        .collect()
}

/// What the configuration says of listeners; a port that the system chooses is not known.
fn own_listeners(config: &Config) -> Vec<SocketAddr> {
    let data = &config.data;
    let all = [config.control.listen, data.listen, data.admin_listen];
    all.into_iter().filter(|it| it.port() != 0).collect()
}

fn no_log(place: &str) -> String {
    format!(
        "there is no event log {place}: `up`, `control-plane` and `migrate` make one, and \
         `--data-dir` and `control.database_url` say where it is"
    )
}

fn is_missing_table(err: &store::Error) -> bool {
    let store::Error::Query { source, .. } = err else {
        return false;
    };
    let Some(err) = source.as_database_error() else {
        return false;
    };
    // Postgres has a code for it; SQLite has one code for every mistake in a statement.
    err.code().as_deref() == Some("42P01") || err.message().starts_with("no such table")
}

fn redis_url(region: &config::Region) -> anyhow::Result<&str> {
    match &region.redis_url {
        Some(url) => Ok(url),
        None => bail!(
            "`regions.redis_url` of region `{}` is left out: a region without a Redis exists \
             only inside `up`",
            region.name
        ),
    }
}

fn in_region(region: &config::Region) -> String {
    format!("region `{}`", region.name)
}
