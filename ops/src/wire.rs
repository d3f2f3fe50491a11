//! The one place that names adapters: which database, which region, which settings go
//! to which plane.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use control_plane::execute::Execute;
use control_plane::region::{self, Region};
use control_plane::store::Store;
use data_plane::follow::{self, RegionSource};
use tokio::sync::watch;

use crate::config::{self, Config};
use crate::embedded::Embedded;
use crate::identity::Identity;

/// The regions of `up`, those without a Redis inside the process.
pub struct Regions {
    /// All of them, for the control plane.
    pub all: Vec<Arc<dyn Region>>,
    /// The one that the proxy of this process serves.
    pub own: Arc<dyn RegionSource>,
    /// Those inside the process: nobody else can look into them.
    pub embedded: Vec<Embedded>,
}

/// The event log's database. It is reached when it is first needed; the directory of a
/// SQLite file is made.
pub fn store(config: &Config) -> anyhow::Result<Store> {
    let url = &config.control.database_url;
    if let Some(path) = url.strip_prefix("sqlite://") {
        let path = path.split('?').next().unwrap_or(path);
        if let Some(dir) = Path::new(path).parent() {
            make_private_dir(dir).context("`control.database_url`")?;
        }
    }
    Ok(Store::open(url)?)
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
        allow_private_upstreams: config.security.allow_private_upstreams,
    }
}

/// The proxy's settings. `exempt_upstream` is the one private address that it may
/// connect to without being configured to.
pub fn data_plane(
    config: &Config,
    identity: &Identity,
    exempt_upstream: Option<SocketAddr>,
) -> data_plane::Config {
    data_plane::Config {
        listen: config.data.listen,
        admin_listen: config.data.admin_listen,
        region: config.data.region.clone(),
        proxy_id: identity.proxy_id.clone(),
        workers: config.data.workers,
        allow_private_upstreams: config.security.allow_private_upstreams,
        exempt_upstream,
        trusted_proxies: config.data.trusted_proxies.clone(),
        drain_delay_ms: config.data.drain_delay_ms,
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

/// All regions, each of its own Redis.
pub async fn regions(config: &Config) -> anyhow::Result<Vec<Arc<dyn Region>>> {
    let mut all = Vec::with_capacity(config.regions.len());
    for entry in &config.regions {
        all.push(region(entry).await?);
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
    let mut all = Vec::<Arc<dyn Region>>::with_capacity(config.regions.len());
    let mut embedded = Vec::new();
    for entry in &config.regions {
        if entry.redis_url.is_some() {
            all.push(region(entry).await?);
        } else {
            let region = Embedded::new(&entry.name);
            all.push(Arc::new(region.clone()));
            embedded.push(region);
        }
    }
    let own_name = &config.own_region()?.name;
    let own: Arc<dyn RegionSource> = match embedded.iter().find(|it| it.name() == own_name) {
        Some(region) => Arc::new(region.clone()),
        None => source(config)?,
    };
    Ok(Regions { all, own, embedded })
}

/// Makes a directory, and those above it, for this user only.
pub fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))
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
