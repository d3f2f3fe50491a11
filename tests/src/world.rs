//! The whole system for one test: servers, planes, an upstream and an owner's token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::control::Control;
use crate::link::Link;
use crate::person::People;
use crate::plane::{Plane, command};
use crate::process::Program;
use crate::proxy::{Verdict, check_verdict};
use crate::server::nats::Nats;
use crate::server::postgres::{Database, Postgres};
use crate::server::redis::Redis;
use crate::server::smtp::Smtp;
use crate::upstream::Upstream;
use crate::wait::eventually;

/// The servers of tests that break none: `initdb` alone takes seconds.
static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// Numbers the worlds of this binary, so that their databases and regions differ.
static WORLDS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    postgres: Postgres,
    redis: Arc<Redis>,
    nats: Arc<Nats>,
}

/// What a world shall have. [`World::builder`] makes one.
#[derive(Debug, Clone)]
pub struct Builder {
    name: &'static str,
    regions: usize,
    proxies: usize,
    workers: usize,
    own_servers: bool,
    own_database: bool,
    links: bool,
    log_level: &'static str,
    proxy_private_upstreams: bool,
    authz: bool,
    smtp: bool,
    control: String,
    control_config: String,
    proxy_settings: Vec<(String, String)>,
}

/// A running system: one control plane, regions with proxies, and an upstream that is
/// the target `echo`.
#[derive(Debug)]
pub struct World {
    /// Where everything of this world lives.
    pub dir: PathBuf,
    /// The log's database.
    pub database: Database,
    /// Its server, where the world has one of its own.
    pub own_postgres: Option<Postgres>,
    /// From the control plane to the database, where the world has links.
    pub database_link: Option<Link>,
    /// The control plane.
    pub control_plane: Arc<Plane>,
    /// The owner, with a control token.
    pub owner: Control,
    /// What `bootstrap` printed.
    pub bootstrap: Value,
    /// The regions.
    pub regions: Vec<Region>,
    /// What the target `echo` leads to.
    pub upstream: Upstream,
    /// The mail server, where the world was given one.
    pub smtp: Option<Smtp>,
}

/// A region of a world.
#[derive(Debug)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its Redis.
    pub redis: Arc<Redis>,
    /// Its NATS.
    pub nats: Arc<Nats>,
    /// Its proxies.
    pub proxies: Vec<Arc<Plane>>,
    /// The links of each proxy, where the world has any.
    pub links: Vec<ProxyLinks>,
}

/// From one proxy to what it follows.
#[derive(Debug)]
pub struct ProxyLinks {
    /// To its Redis.
    pub redis: Link,
    /// To its NATS.
    pub nats: Link,
}

impl Builder {
    /// How many regions; one where it is not said.
    pub fn regions(mut self, regions: usize) -> Self {
        self.regions = regions;
        self
    }

    /// How many proxies in each region; one where it is not said.
    pub fn proxies(mut self, proxies: usize) -> Self {
        self.proxies = proxies;
        self
    }

    /// How many threads serve in each proxy; two where it is not said. With one, all
    /// requests share its connections to upstreams.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Gives each region a Redis and a NATS of its own: for tests that break them.
    pub fn own_servers(mut self) -> Self {
        self.own_servers = true;
        self
    }

    /// Gives the world a Postgres of its own: for tests that break it.
    pub fn own_database(mut self) -> Self {
        self.own_database = true;
        self
    }

    /// Puts a link between the control plane and its database, and between each proxy and
    /// its Redis and NATS.
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// The `[log] level` of the planes.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Sets a key of `[data]` for all proxies.
    pub fn data(self, key: &'static str, value: impl ToString) -> Self {
        let variable = format!("THROTTLEPROXY__DATA__{}", key.to_uppercase());
        self.proxy_env(&variable, value)
    }

    /// Sets a variable in the environment of all proxies.
    pub fn proxy_env(mut self, name: &str, value: impl ToString) -> Self {
        self.proxy_settings
            .push((name.to_owned(), value.to_string()));
        self
    }

    /// Lets the control plane accept private targets and the proxies refuse them.
    pub fn proxies_without_private_upstreams(mut self) -> Self {
        self.proxy_private_upstreams = false;
        self
    }

    /// Lets the proxies answer Envoy, at their listener `authz`.
    pub fn authz(mut self) -> Self {
        self.authz = true;
        self
    }

    /// Gives the world a mail server; without one, mail is written to files.
    pub fn smtp(mut self) -> Self {
        self.smtp = true;
        self
    }

    /// More of the control plane's configuration: whole sections.
    pub fn control_config(mut self, text: &str) -> Self {
        self.control_config += text;
        self
    }

    /// Where the control plane listens: for whom a free port is not enough.
    pub fn control_listen(mut self, port: u16) -> Self {
        self.control = self
            .control
            .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        self
    }

    /// What the control plane calls itself in links.
    pub fn control_public_url(mut self, url: &str) -> Self {
        self.control += &format!("public_url = \"{url}\"\n");
        self
    }

    /// Starts everything, and returns when the proxies are ready and know `echo`.
    pub async fn start(self) -> World {
        let world = self.start_without_target().await;
        world
            .owner
            .target("echo", world.upstream.port(), json!({}))
            .await;
        world
    }

    /// Starts everything, and returns when the proxies are ready; there is no `echo`.
    pub async fn start_without_target(self) -> World {
        let shared = shared().await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.name);
        let dir = shared.dir.join(&name);
        std::fs::create_dir(&dir).expect("worlds have names of their own");
        let own_postgres = match self.own_database {
            true => Some(Postgres::start(&dir, &name).await),
            false => None,
        };
        let postgres = own_postgres.as_ref().unwrap_or(&shared.postgres);
        let database = postgres
            .create(&format!("w_{}", name.replace('-', "_")))
            .await;
        let database_link = self.link_to(database.port()).await;

        let mut servers = Vec::new();
        for region in 0..self.regions {
            let region_name = format!("{name}-r{region}");
            servers.push(match self.own_servers {
                true => (
                    Arc::new(Redis::start(&dir, &region_name).await),
                    Arc::new(Nats::start(&dir, &region_name).await),
                    region_name,
                ),
                false => (shared.redis.clone(), shared.nats.clone(), region_name),
            });
        }

        let smtp = match self.smtp {
            true => Some(Smtp::start(&dir, &name).await),
            false => None,
        };
        let mut tables = String::new();
        if let Some(smtp) = &smtp {
            tables += &format!("[mail]\nsmtp_url = \"{}\"\n\n", smtp.url());
        }
        for (redis, nats, region_name) in &servers {
            tables += &region_table(region_name, redis.port(), nats.port(), &dir);
            tables += &format!(
                "signing_key_file = \"{}\"\n\n",
                dir.join(format!("{region_name}.signing_key")).display()
            );
        }
        let control_config = write_config(
            &dir,
            "control",
            &format!(
                "[control]\n{}database_url = \"{}\"\n\n{tables}{}{}",
                self.control,
                match &database_link {
                    Some(link) => database.behind(link.port()).url(),
                    None => database.url(),
                },
                self.common(true),
                self.control_config,
            ),
        );
        let control_plane = Arc::new(
            Plane::start(
                "control",
                plane_program("control-plane", &control_config, &dir.join("control-data")),
                &dir,
                &["control"],
            )
            .await,
        );
        control_plane.ready().await;
        let printed = command(["bootstrap", "--email", "owner@example.com"])
            .args(["--config", &control_config.display().to_string()])
            .args([
                "--data-dir",
                &dir.join("control-data").display().to_string(),
            ])
            .run()
            .await
            .expect("the binary runs")
            .success();
        let bootstrap: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|err| panic!("bootstrap prints JSON ({err}): {printed}"));
        let owner = Control::new(
            control_plane.clone(),
            bootstrap["control_token"].as_str().expect("a token"),
        );

        let printed = |args: &[&str]| {
            command(args.iter().map(ToString::to_string))
                .args(["--config", &control_config.display().to_string()])
                .args([
                    "--data-dir",
                    &dir.join("control-data").display().to_string(),
                ])
        };
        let mut regions = Vec::new();
        for (index, (redis, nats, region_name)) in servers.into_iter().enumerate() {
            let mut proxies = Vec::new();
            let verify_key = printed(&["region", "key", &region_name])
                .run()
                .await
                .expect("the binary runs")
                .success();
            let mut links = Vec::new();
            for proxy in 0..self.proxies {
                let id = format!("proxy-{}{}", char::from(b'a' + index as u8), proxy + 1);
                let data_dir = dir.join(format!("{id}-data"));
                let to_redis = self.link_to(redis.port()).await;
                let to_nats = self.link_to(nats.port()).await;
                let port = |link: &Option<Link>, port| link.as_ref().map_or(port, Link::port);
                let config = write_config(
                    &dir,
                    &id,
                    &format!(
                        "[data]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
                         region = \"{region_name}\"\nproxy_id = \"{id}\"\n\
                         drain_delay_ms = 0\nworkers = {}\nverify_keys = [\"{}\"]\n{}\n{}{}",
                        self.workers,
                        verify_key.trim(),
                        match self.authz {
                            true => "authz_listen = \"127.0.0.1:0\"\n",
                            false => "",
                        },
                        region_table(
                            &region_name,
                            port(&to_redis, redis.port()),
                            port(&to_nats, nats.port()),
                            &dir,
                        ),
                        self.common(self.proxy_private_upstreams),
                    ),
                );
                let mut program = plane_program("data-plane", &config, &data_dir);
                for (name, value) in &self.proxy_settings {
                    program = program.env(name, value);
                }
                let listeners: &[&str] = match self.authz {
                    true => &["proxy", "admin", "authz"],
                    false => &["proxy", "admin"],
                };
                let plane = Plane::start(&id, program, &dir, listeners).await;
                proxies.push(Arc::new(plane));
                if let (Some(redis), Some(nats)) = (to_redis, to_nats) {
                    links.push(ProxyLinks { redis, nats });
                }
            }
            regions.push(Region {
                name: region_name,
                redis,
                nats,
                proxies,
                links,
            });
        }
        let world = World {
            dir,
            database,
            own_postgres,
            database_link,
            control_plane,
            owner,
            bootstrap,
            regions,
            upstream: Upstream::start().await,
            smtp,
        };
        for proxy in world.proxies() {
            proxy.ready().await;
        }
        world
    }

    async fn link_to(&self, port: u16) -> Option<Link> {
        match self.links {
            true => Some(Link::to(port).await),
            false => None,
        }
    }

    fn common(&self, private_upstreams: bool) -> String {
        format!(
            "[log]\nformat = \"json\"\nlevel = \"{}\"\n\n\
             [security]\nallow_private_upstreams = {private_upstreams}\n",
            self.log_level
        )
    }
}

impl World {
    /// One region with one proxy, on the servers that tests share. `name` is part of
    /// region names: short, `a-z`, `0-9` and `-`.
    pub async fn start(name: &'static str) -> Self {
        Self::builder(name).start().await
    }

    /// A world to be described further.
    pub fn builder(name: &'static str) -> Builder {
        Builder {
            name,
            regions: 1,
            proxies: 1,
            workers: 2,
            own_servers: false,
            own_database: false,
            links: false,
            log_level: "info",
            proxy_private_upstreams: true,
            authz: false,
            smtp: false,
            control: "listen = \"127.0.0.1:0\"\n".to_owned(),
            control_config: String::new(),
            proxy_settings: Vec::new(),
        }
    }

    /// Starts one more control plane with the same configuration.
    pub async fn another_control_plane(&self, name: &str) -> Arc<Plane> {
        let program = plane_program(
            "control-plane",
            &self.dir.join("control.toml"),
            &self.dir.join("control-data"),
        );
        let plane = Arc::new(Plane::start(name, program, &self.dir, &["control"]).await);
        plane.ready().await;
        plane
    }

    /// The people of its control plane, with their mail.
    pub fn people(&self) -> People {
        let files = || self.dir.join("control-data/mail");
        let mails = self.smtp.as_ref().map_or_else(files, Smtp::mails);
        People::new(self.control_plane.clone(), mails)
    }

    /// All proxies of all regions.
    pub fn proxies(&self) -> Vec<Arc<Plane>> {
        self.regions
            .iter()
            .flat_map(|region| region.proxies.iter().cloned())
            .collect()
    }

    /// The first proxy of the first region.
    pub fn proxy(&self) -> &Arc<Plane> {
        &self.regions[0].proxies[0]
    }

    /// Waits until every proxy makes this of a key.
    pub async fn all_say(&self, key: &str, verdict: Verdict, within: Duration) {
        eventually(&format!("every proxy says {verdict}"), within, async || {
            for proxy in self.proxies() {
                check_verdict(&proxy, key, &verdict).await?;
            }
            Ok(())
        })
        .await;
    }

    /// Waits at most 2 s until every proxy admits a key.
    pub async fn all_admit(&self, key: &str) {
        self.all_say(key, Verdict::Admitted, Duration::from_secs(2))
            .await;
    }

    /// Waits at most 2 s until every proxy refuses a key with a code of status 401.
    pub async fn all_refuse(&self, key: &str, code: &str) {
        let verdict = Verdict::Refused {
            status: 401,
            code: code.to_owned(),
        };
        self.all_say(key, verdict, Duration::from_secs(2)).await;
    }

    /// A command of the binary, with the control plane's configuration.
    pub fn command<T: ToString>(&self, args: impl IntoIterator<Item = T>) -> Program {
        command(args)
            .args([
                "--config",
                &self.dir.join("control.toml").display().to_string(),
            ])
            .args([
                "--data-dir",
                &self.dir.join("control-data").display().to_string(),
            ])
    }

    /// Runs such a command, which must succeed and print JSON.
    pub async fn json<T: ToString>(&self, args: impl IntoIterator<Item = T>) -> Value {
        let printed = self
            .command(args)
            .run()
            .await
            .expect("the binary runs")
            .success();
        serde_json::from_str(&printed)
            .unwrap_or_else(|err| panic!("the command prints JSON ({err}): {printed}"))
    }

    /// Every file of this world with its content: logs of all starts, configuration, and
    /// whatever the product wrote.
    pub fn files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        collect_files(&self.dir, &mut files)?;
        Ok(files)
    }
}

impl Drop for World {
    /// A failed test shows how the logs of its planes end; a passed one leaves nothing.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A file that cannot be removed goes with the directory of the binary.
            let _ = std::fs::remove_dir_all(&self.dir);
            return;
        }
        for plane in self.proxies().iter().chain([&self.control_plane]) {
            let log = plane.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            eprintln!("--- {} ends with\n{}", plane.name(), tail.join("\n"));
        }
        eprintln!("--- all of it is in {}", self.dir.display());
    }
}

/// The servers of a test that needs no planes.
pub async fn shared_servers() -> (&'static Postgres, Arc<Redis>, Arc<Nats>) {
    let shared = shared().await;
    (&shared.postgres, shared.redis.clone(), shared.nats.clone())
}

/// A directory of this test binary; the next binary removes it.
pub fn binary_dir() -> PathBuf {
    const PREFIX: &str = "throttleproxy-tests-";
    let temp = std::env::temp_dir();
    // A binary that was killed could not clean up after itself, so the next one does.
    for entry in std::fs::read_dir(&temp).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix(PREFIX)
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = temp.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory can be made");
    dir
}

async fn shared() -> &'static Shared {
    SHARED
        .get_or_init(|| async {
            let dir = binary_dir();
            Shared {
                postgres: Postgres::start(&dir, "shared").await,
                redis: Arc::new(Redis::start(&dir, "shared").await),
                nats: Arc::new(Nats::start(&dir, "shared").await),
                dir,
            }
        })
        .await
}

fn plane_program(subcommand: &str, config: &Path, data_dir: &Path) -> Program {
    command([subcommand])
        .args(["--config", &config.display().to_string()])
        .args(["--data-dir", &data_dir.display().to_string()])
}

/// What control planes and proxies of a region both need. The control plane has the signing
/// key too; the proxies only know its public half.
fn region_table(name: &str, redis_port: u16, nats_port: u16, dir: &Path) -> String {
    format!(
        "[[regions]]\nname = \"{name}\"\nredis_url = \"redis://127.0.0.1:{redis_port}\"\n\
         nats_url = \"nats://127.0.0.1:{nats_port}\"\n\
         fleet_secret_file = \"{}\"\n",
        dir.join(format!("{name}.fleet_secret")).display()
    )
}

fn write_config(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("a file can be written");
    path
}

fn collect_files(dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push((entry.path(), std::fs::read(entry.path())?));
        }
    }
    Ok(())
}
