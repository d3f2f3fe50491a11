//! `up`: everything in one process, on SQLite and a region inside the process.

use std::path::Path;

use anyhow::Context as _;
use control_plane::store::{Store, log};
use control_plane::{Plane, demo};
use data_plane::Running;
use serde_json::json;

use super::control_plane::GRACE;
use super::{Common, DATA_DIR, Outcome, say};
use crate::config::Config;
use crate::demo::echo::Echo;
use crate::demo::file::DemoFile;
use crate::identity::Identity;
use crate::shutdown::Signals;
use crate::socket::Socket;
use crate::{private, probe, wire};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start an upstream to call too, and make a key for it.
    #[arg(long)]
    demo: bool,
}

/// Where the three listeners can be reached.
struct Urls {
    control: String,
    proxy: String,
    admin: String,
}

pub(super) async fn run(common: &Common, args: Args) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let mut signals = Signals::install()?;
    config.own_region()?;
    private::make_dir(&common.data_dir)
        .with_context(|| format!("cannot make {}", common.data_dir.display()))?;
    let identity = Identity::of(&config.data)?;
    let store = wire::store(&config)?;
    store.migrate().await?;

    let regions = wire::regions_of_up(&config).await?;
    let echo = match args.demo {
        true => Some(Echo::start().await.context("the demo's upstream")?),
        false => None,
    };
    let plane = Plane::start(
        wire::control_plane(&config),
        store.clone(),
        regions.all.clone(),
    )
    .await?;
    let upstream = echo.as_ref().map(Echo::addr);
    let mut proxy_config = data_plane::Config {
        // No load balancer stands before `up` that would have to see it leave.
        drain_delay_ms: 0,
        ..wire::data_plane(&config, &identity, regions.trust, upstream)
    };
    proxy_config.upstreams.own_listeners.push(plane.address());
    let proxy = data_plane::start(proxy_config, regions.own).await?;
    let socket = Socket::open(&common.data_dir, regions.embedded).await;
    if let Err(error) = &socket {
        tracing::warn!(%error, "`region status` and `region entry` cannot ask this process");
    }

    let urls = Urls::of(&config, &plane, &proxy);
    let said = match upstream {
        Some(upstream) => {
            let path = common.data_dir.join("demo.json");
            let before = DemoFile::read(&path).context("demo.json")?;
            let demo = demo::prepare(
                &store,
                plane.app().execute(),
                before.map(DemoFile::into_before),
                upstream.port(),
            )
            .await?;
            probe::wait_for_proxy(proxy.admin_addr(), demo.position).await?;
            let file = DemoFile::of(demo, urls.control, urls.proxy, urls.admin);
            file.write(&path).context("demo.json")?;
            show_demo(common, &file)
        }
        None => show(common, &store, &urls).await,
    };

    // The servers run all the same, also when the disk under the output is full.
    if let Err(error) = said {
        tracing::warn!(%error, "the start could not be told");
    }
    signals.asked_to_stop().await;
    signals.or_at_once(proxy.shutdown()).await;
    signals.or_at_once(plane.shutdown(GRACE)).await;
    drop(socket);
    Ok(Outcome::Good)
}

// === impl Urls ===

impl Urls {
    fn of(config: &Config, plane: &Plane, proxy: &Running) -> Self {
        let public = config.control.public_url.clone();
        Self {
            control: public.unwrap_or_else(|| format!("http://{}", plane.address())),
            proxy: format!("http://{}", proxy.proxy_addr()),
            admin: format!("http://{}", proxy.admin_addr()),
        }
    }
}

fn show_demo(common: &Common, file: &DemoFile) -> anyhow::Result<()> {
    if common.json {
        return common.print(file);
    }
    Ok(say(&file.curl_lines())?)
}

async fn show(common: &Common, store: &Store, urls: &Urls) -> anyhow::Result<()> {
    let is_empty = log::head(store).await?.position == 0;
    let bootstrap = is_empty.then(|| bootstrap_line(common));
    if common.json {
        return common.print(&json!({
            "control_url": urls.control,
            "proxy_url": urls.proxy,
            "admin_url": urls.admin,
            "bootstrap": bootstrap,
        }));
    }
    let mut text = format!(
        "control API  {}\nproxy        {}\nadmin        {}\n",
        urls.control, urls.proxy, urls.admin
    );
    if let Some(line) = bootstrap {
        text.push_str(&format!(
            "\nThe store is empty. Make the first owner with:\n{line}\n"
        ));
    }
    Ok(say(&text)?)
}

/// The command that makes the first owner of this store, as it would be typed where this
/// one was.
fn bootstrap_line(common: &Common) -> String {
    let program = std::env::args().next();
    let mut line = program.unwrap_or_else(|| "throttleproxy".to_owned());
    line.push_str(" bootstrap --email you@example.com");
    if let Some(config) = &common.config {
        line.push_str(&format!(" --config {}", config.display()));
    }
    if common.data_dir != Path::new(DATA_DIR) {
        line.push_str(&format!(" --data-dir {}", common.data_dir.display()));
    }
    line
}
