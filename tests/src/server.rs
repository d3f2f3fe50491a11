//! The servers that the product stands on, as private processes on free ports.

pub mod front;
pub mod gate;
pub mod nats;
pub mod oidc;
pub mod postgres;
pub mod redis;
pub mod smtp;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use crate::process::{Process, Program, Signal};
use crate::wait::eventually;

/// A server that can be ended and started again on the same port.
#[derive(Debug)]
pub(crate) struct Server {
    program: Program,
    port: u16,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Server {
    pub(crate) fn new(program: Program, port: u16, log: PathBuf) -> Self {
        Self {
            program,
            port,
            log,
            process: Mutex::new(None),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) async fn start(&self) {
        let process = self.program.start(&self.log).expect("the server starts");
        *self.process.lock().expect("no holder panics") = Some(process);
        eventually(
            &format!("the server of {} answers", self.log.display()),
            Duration::from_secs(30),
            async || {
                self.check_running()?;
                TcpStream::connect(("127.0.0.1", self.port)).await?;
                Ok(())
            },
        )
        .await;
    }

    pub(crate) async fn kill(&self) {
        let process = self.process.lock().expect("no holder panics").take();
        process.expect("it runs").kill().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("no holder panics");
        process.as_ref().expect("it runs").signal(signal);
    }

    fn check_running(&self) -> Result<()> {
        let mut process = self.process.lock().expect("no holder panics");
        let process = process.as_mut().context("it was ended")?;
        ensure!(
            process.exited().is_none(),
            "it ended by itself: {}",
            process.log()
        );
        Ok(())
    }
}

/// A port that nobody listens on right now. Another process may take it in between,
/// which shows as a server that does not start.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("the loopback has a free port")
        .port()
}

/// The program `name`, looked for in `PATH` and in the places where Debian hides it.
pub(crate) fn find_program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .chain(debian)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed; ops/test installs it"))
}

/// A fresh directory for one server or one world, below the one of this test binary.
pub(crate) fn fresh_dir(parent: &Path, name: &str) -> PathBuf {
    let dir = parent.join(name);
    std::fs::create_dir_all(&dir).expect("a temporary directory can be made");
    dir
}
