//! `<data-dir>/control.sock`: how another process looks into the regions inside `up`.
//!
//! One question a connection, one line of JSON each way. Who may open the file may ask;
//! it is made for this user only.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use control_plane::store::Store;
use schemas::{CredentialHash, KeyId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::embedded::Embedded;
use crate::inspect;

/// A question about one region inside the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// How far is it?
    Status {
        /// Its name.
        region: String,
    },
    /// What does it hold of a key?
    Entries {
        /// Its name.
        region: String,
        /// The key.
        key_id: KeyId,
        /// The lookup hashes of the key's secrets.
        hashes: Vec<CredentialHash>,
    },
}

/// What came of a question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// The open socket; dropping it closes it and removes the file.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    _serving: JoinSet<()>,
}

/// The most bytes of a line.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that may wait to be taken.
const BACKLOG: u32 = 16;

/// Where the socket stands.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Asks the running `up`.
///
/// # Errors
/// When it does not run on this data directory, or cannot answer.
pub async fn ask<T: DeserializeOwned>(data_dir: &Path, question: &Question) -> anyhow::Result<T> {
    let path = path_in(data_dir);
    let stream = UnixStream::connect(&path).await.with_context(|| {
        format!(
            "the in-process region lives in a running `up`, and none answers at {}",
            path.display()
        )
    })?;
    let line = timeout(PATIENCE, exchange(stream, question))
        .await
        .context("`up` did not answer in time")??;
    match serde_json::from_str(&line).context("`up` answered something else")? {
        Answer::Ok(value) => Ok(serde_json::from_value(value)?),
        Answer::Error(message) => bail!(message),
    }
}

// === impl Socket ===

impl Socket {
    /// Opens the socket, mode 0600.
    ///
    /// # Errors
    /// When another `up` has it, or the file cannot be made.
    pub async fn open(data_dir: &Path, store: Store, regions: Vec<Embedded>) -> io::Result<Self> {
        let path = path_in(data_dir);
        if UnixStream::connect(&path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another `up` runs on this data directory",
            ));
        }
        // What is there is what a process left that was killed.
        match std::fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(&path)?;
        // Before it listens nobody can connect, so there is no moment of other rights.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let listener = socket.listen(BACKLOG)?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, store, regions));
        Ok(Self {
            path,
            _serving: serving,
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file that stays is taken for a left-over by the next start.
        std::fs::remove_file(&self.path).ok();
    }
}

async fn accept(listener: UnixListener, store: Store, regions: Vec<Embedded>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(timeout(
                    PATIENCE,
                    serve(stream, store.clone(), regions.clone()),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, store: Store, regions: Vec<Embedded>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).await?;
    let answer = match answer(&line, &store, &regions).await {
        Ok(value) => Answer::Ok(value),
        Err(err) => Answer::Error(format!("{err:#}")),
    };
    write_line(stream.get_mut(), &answer).await
}

async fn answer(line: &str, store: &Store, regions: &[Embedded]) -> anyhow::Result<Value> {
    let question: Question = serde_json::from_str(line).context("the question is unknown")?;
    let (Question::Status { region: name } | Question::Entries { region: name, .. }) = &question;
    let region = regions
        .iter()
        .find(|region| region.name() == name)
        .with_context(|| format!("`up` has no in-process region `{name}`"))?;
    Ok(match &question {
        Question::Status { .. } => serde_json::to_value(inspect::status(store, region).await?)?,
        Question::Entries { key_id, hashes, .. } => {
            serde_json::to_value(inspect::entries(region, *key_id, hashes).await?)?
        }
    })
}

async fn exchange(mut stream: UnixStream, question: &Question) -> io::Result<String> {
    write_line(&mut stream, question).await?;
    read_line(&mut BufReader::new(stream)).await
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    Ok(line)
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
