//! Who this proxy is: a name that stays the same over restarts.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use schemas::BootId;

use crate::config::data::{Data, is_proxy_id};
use crate::private;

/// The proxy's name, and the lock that keeps it from being used twice.
#[derive(Debug)]
pub struct Identity {
    /// Names the proxy among those of its region.
    pub proxy_id: String,
    /// Held as long as the process lives. `None` when the name was configured.
    _lock: Option<File>,
}

/// Why the proxy has no name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it cannot be used.
    #[error("`data.snapshot_dir`: cannot use {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process is this proxy.
    #[error(
        "`data.snapshot_dir` {path} is in use by another proxy; give each its own \
         (THROTTLEPROXY__DATA__SNAPSHOT_DIR) or a `data.proxy_id`"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{path} does not hold the name of a proxy; remove it to make a new one")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

// === impl Identity ===

impl Identity {
    /// The configured name, or the one that is kept in the snapshot directory, which is
    /// made on the first start.
    ///
    /// # Errors
    /// [`Error`], when the name must be kept and cannot.
    pub fn of(data: &Data) -> Result<Self, Error> {
        if let Some(proxy_id) = &data.proxy_id {
            return Ok(Self {
                proxy_id: proxy_id.clone(),
                _lock: None,
            });
        }
        let dir = &data.snapshot_dir;
        private::make_dir(dir).map_err(|source| io_error(dir, source))?;
        let lock = lock(dir)?;
        Ok(Self {
            proxy_id: read_or_make(&dir.join("proxy_id"))?,
            _lock: Some(lock),
        })
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error(&path, source)),
    }
}

fn read_or_make(path: &Path) -> Result<String, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) if is_proxy_id(text.trim()) => Ok(text.trim().to_owned()),
        Ok(_) => Err(Error::Foreign {
            path: path.to_owned(),
        }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let proxy_id = new_id();
            write_whole(path, &proxy_id).map_err(|source| io_error(path, source))?;
            Ok(proxy_id)
        }
        Err(source) => Err(io_error(path, source)),
    }
}

fn new_id() -> String {
    let unix_ms = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_millis() as u64);
    let id = BootId::from_parts(unix_ms, rand::random());
    format!("proxy-{}", id.to_string().to_lowercase())
}

/// A crash leaves the whole file or none, never half of one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stays_and_is_used_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = Data::default_in(dir.path());
        let first = Identity::of(&data).unwrap();
        assert!(is_proxy_id(&first.proxy_id));
        assert!(matches!(Identity::of(&data), Err(Error::InUse { .. })));

        let name = first.proxy_id.clone();
        drop(first);
        assert_eq!(Identity::of(&data).unwrap().proxy_id, name);

        std::fs::write(data.snapshot_dir.join("proxy_id"), "not a name\n").unwrap();
        assert!(matches!(Identity::of(&data), Err(Error::Foreign { .. })));

        data.proxy_id = Some("eu-1".to_owned());
        assert_eq!(Identity::of(&data).unwrap().proxy_id, "eu-1");
    }
}
