//! `<data-dir>/control.sock`: how another process looks into the regions inside `up`.
//!
//! One question a connection, one line of JSON each way. Who may open the file may ask;
//! it is made for this user only.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
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
    /// What does it say of itself?
    Meta {
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
    pub async fn open(data_dir: &Path, regions: Vec<Embedded>) -> io::Result<Self> {
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
        serving.spawn(accept(listener, regions));
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

async fn accept(listener: UnixListener, regions: Vec<Embedded>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(timeout(PATIENCE, serve(stream, regions.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, regions: Vec<Embedded>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).await?;
    let answer = match answer(&line, &regions).await {
        Ok(value) => Answer::Ok(value),
        Err(err) => Answer::Error(format!("{err:#}")),
    };
    write_line(stream.get_mut(), &answer).await
}

async fn answer(line: &str, regions: &[Embedded]) -> anyhow::Result<Value> {
    let question: Question = serde_json::from_str(line).context("the question is unknown")?;
    let (Question::Meta { region: name } | Question::Entries { region: name, .. }) = &question;
    let region = regions
        .iter()
        .find(|region| region.name() == name)
        .with_context(|| format!("`up` has no in-process region `{name}`"))?;
    Ok(match &question {
        Question::Meta { .. } => serde_json::to_value(inspect::meta(region).await?)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::stream::Meta;

    use crate::inspect::Entries;

    fn meta_of(region: &str) -> Question {
        Question::Meta {
            region: region.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_running_up_tells_of_its_regions_and_of_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let regions = vec![Embedded::new("local")];
        let socket = Socket::open(dir.path(), regions).await;
        let socket = socket.unwrap();

        let meta: Option<Meta> = ask(dir.path(), &meta_of("local")).await.unwrap();
        assert_eq!(meta, None);

        let hash = CredentialHash::of(b"a key");
        let question = Question::Entries {
            region: "local".to_owned(),
            key_id: KeyId::from_parts(1, 1),
            hashes: vec![hash],
        };
        let entries: Entries = ask(dir.path(), &question).await.unwrap();
        assert_eq!(entries.entries, [inspect::Stored { hash, entry: None }]);

        let error = ask::<Option<Meta>>(dir.path(), &meta_of("eu"))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "`up` has no in-process region `eu`");

        drop(socket);
        let error = ask::<Option<Meta>>(dir.path(), &meta_of("local"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("running `up`"), "{error}");
    }

    #[tokio::test]
    async fn the_file_is_for_one_user_and_for_one_process() {
        let dir = tempfile::tempdir().unwrap();
        // What a killed process left behind.
        drop(std::os::unix::net::UnixListener::bind(path_in(dir.path())).unwrap());

        let socket = Socket::open(dir.path(), Vec::new()).await.unwrap();
        let mode = std::fs::metadata(path_in(dir.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        let second = Socket::open(dir.path(), Vec::new()).await;
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
    }
}
