//! Processes of the product: the planes, and commands that run to their end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http::{Ask, Reply};
use crate::process::{Process, Program, Signal};
use crate::wait::eventually;

/// The binary under test: where the build that made this test put it.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("THROTTLEPROXY_BIN") {
        return path.into();
    }
    let tests = std::env::current_exe().expect("a test knows its own path");
    let path = tests
        .parent()
        .and_then(Path::parent)
        .expect("tests are built into target/<profile>/deps")
        .join("throttleproxy");
    assert!(
        path.is_file(),
        "{} is missing: cargo build -p ops makes it",
        path.display()
    );
    path
}

/// A command of the binary.
pub fn command<T: ToString>(args: impl IntoIterator<Item = T>) -> Program {
    Program::new(binary()).args(args)
}

/// A running plane.
#[derive(Debug)]
pub struct Plane {
    name: String,
    program: Program,
    dir: PathBuf,
    listeners: &'static [&'static str],
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    starts: u32,
    process: Option<Process>,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Plane {
    /// Starts `program` and waits until it has said where each of `listeners` listens.
    /// Its log goes to `<dir>/<name>.<start>.log`.
    pub async fn start(
        name: &str,
        program: Program,
        dir: &Path,
        listeners: &'static [&'static str],
    ) -> Self {
        let plane = Self {
            name: name.to_owned(),
            program,
            dir: dir.to_owned(),
            listeners,
            now: Mutex::default(),
        };
        plane.restart().await;
        plane
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where one of its listeners listens, or listened last.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let now = self.now.lock().expect("no holder panics");
        *now.addresses
            .get(listener)
            .unwrap_or_else(|| panic!("{} has no listener {listener}", self.name))
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.take().kill().await;
    }

    /// Ends it with SIGTERM; it must end well.
    pub async fn stop(&self) {
        let status = self.take().stop().await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let now = self.now.lock().expect("no holder panics");
        now.process.as_ref().expect("it runs").signal(signal);
    }

    /// The bytes of memory that are its alone and in use now.
    pub fn memory_bytes(&self) -> u64 {
        let now = self.now.lock().expect("no holder panics");
        now.process.as_ref().expect("it runs").memory_bytes()
    }

    /// Starts it again, on new ports where the old were chosen by the system.
    pub async fn restart(&self) {
        let log = {
            let mut now = self.now.lock().expect("no holder panics");
            assert!(now.process.is_none(), "{} runs already", self.name);
            now.starts += 1;
            let log = self.dir.join(format!("{}.{}.log", self.name, now.starts));
            now.process = Some(self.program.start(&log).expect("the binary starts"));
            log
        };
        let addresses = eventually(
            &format!("{} listens", self.name),
            Duration::from_secs(30),
            async || self.read_addresses(&log),
        )
        .await;
        self.now.lock().expect("no holder panics").addresses = addresses;
    }

    /// Waits until its `/readyz` says that it can serve.
    pub async fn ready(&self) {
        eventually(
            &format!("{} is ready", self.name),
            Duration::from_secs(30),
            async || self.admin("/readyz").await?.check(200),
        )
        .await;
    }

    /// Asks the listener for operators, or for a control plane the only one.
    pub async fn admin(&self, path: &str) -> Result<Reply> {
        let listener = match self.listeners.contains(&"admin") {
            true => "admin",
            false => "control",
        };
        Ask::get(path).send(self.address(listener)).await
    }

    /// A proxy's word on its table.
    pub async fn table(&self) -> Result<Value> {
        Ok(self.admin("/table").await?.check(200)?.json())
    }

    /// Whatever this start of it has logged so far.
    pub fn log(&self) -> String {
        let now = self.now.lock().expect("no holder panics");
        now.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn take(&self) -> Process {
        let process = self.now.lock().expect("no holder panics").process.take();
        process.unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    fn read_addresses(&self, log: &Path) -> Result<BTreeMap<String, SocketAddr>> {
        let text = std::fs::read_to_string(log)?;
        let addresses: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["message"] == "listening")
            .filter_map(|line| {
                let listener = line["listener"].as_str()?.to_owned();
                Some((listener, line["address"].as_str()?.parse().ok()?))
            })
            .collect();
        if let Some(missing) = self
            .listeners
            .iter()
            .find(|it| !addresses.contains_key(**it))
        {
            let mut now = self.now.lock().expect("no holder panics");
            let process = now.process.as_mut().context("it was ended")?;
            match process.exited() {
                Some(status) => panic!("{} ended with {status}:\n{text}", self.name),
                None => bail!("no line for {missing} yet:\n{text}"),
            }
        }
        Ok(addresses)
    }
}
