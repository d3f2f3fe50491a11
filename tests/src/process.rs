//! Real processes that never outlive the test binary.
//!
//! Each child is started through `setpriv --pdeathsig`, so that the kernel ends it when
//! we end, however we end. The kernel watches the *thread* that forked, and a test's
//! threads end with the test; therefore one thread of its own starts all children and
//! lives as long as the binary.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::wait::eventually;

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The one thing that all tests of the binary must share: the thread that forks.
static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever asked may have gone; the child then dies with its handle.
                let _ = answer.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    orders
});

/// What to run, and what becomes of it when the test binary ends.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    user: Option<String>,
    death: &'static str,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// The program at `path`, which is killed when the test binary ends.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            envs: Vec::new(),
            user: None,
            death: "KILL",
        }
    }

    /// Adds arguments.
    pub fn args<T: ToString>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(|it| it.to_string()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.envs.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs it as another user.
    pub fn user(mut self, user: Option<String>) -> Self {
        self.user = user;
        self
    }

    /// Ends it with another signal than KILL when the test binary ends.
    pub fn death(mut self, signal: &'static str) -> Self {
        self.death = signal;
        self
    }

    /// Starts it; standard output and error are appended to `<log>` (error) and
    /// `<log>.out` (output).
    pub fn start(&self, log: &Path) -> Result<Process> {
        let open = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening {}", path.display()))
        };
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(open(&log.with_added_extension("out"))?)
            .stderr(open(log)?);
        let child = spawn(command).with_context(|| format!("starting {}", self.path.display()))?;
        Ok(Process {
            child,
            log: log.to_owned(),
        })
    }

    /// Runs it to its end, away from the caller's runtime threads.
    pub async fn run(&self) -> Result<Output> {
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawn(command).with_context(|| format!("starting {}", self.path.display()))?;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", self.death]);
        if let Some(user) = &self.user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.arg("--").arg(&self.path).args(&self.args);
        // A developer's own settings must not leak into the system under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("THROTTLEPROXY_") {
                command.env_remove(name);
            }
        }
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What a program that ran to its end left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Its exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Its standard output, once it is sure that it succeeded.
    pub fn success(self) -> String {
        assert!(
            self.status.success(),
            "exit code {}, stderr:\n{}\nstdout:\n{}",
            self.code(),
            self.stderr,
            self.stdout
        );
        self.stdout
    }
}

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The bytes of memory that are its alone and in use now.
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).expect("a process that runs has a page there");
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))
            .and_then(|it| it.trim().parse::<u64>().ok())
            .expect("the page says how much");
        kib << 10
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child has a process id");
        // It may have ended by itself; then there is nobody to tell.
        let _ = kill_process(pid, signal);
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub async fn kill(self) {
        self.end(Signal::KILL).await;
    }

    /// Asks it to end with SIGTERM and waits until it is gone.
    pub async fn stop(self) -> ExitStatus {
        self.end(Signal::TERM).await
    }

    async fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let log = self.log.clone();
        eventually(
            &format!("the process of {} ends", log.display()),
            Duration::from_secs(30),
            async || self.exited().context("it still runs"),
        )
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: Command) -> Result<Child> {
    let (answer, spawned) = mpsc::channel();
    SPAWNER
        .send((command, answer))
        .context("the spawner has gone")?;
    Ok(spawned.recv().context("the spawner has gone")??)
}
