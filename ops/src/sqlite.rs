//! The file behind a `sqlite://` address.
//!
//! SQLite would make a missing file readable by everybody, and a file that is there only
//! because somebody asked what it holds. So the file is made here, before SQLite sees it;
//! SQLite gives the files beside it (`-wal`, `-shm`) the same rights.

use std::io;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::private;

/// A database that is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteFile {
    path: PathBuf,
    /// What stands after the `?`.
    query: Option<String>,
}

/// What may not stand in the path of an address as it is.
const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// The address of the file at `path`.
pub fn url_of(path: &Path) -> String {
    let path = path.to_string_lossy();
    format!("sqlite://{}", utf8_percent_encode(&path, IN_PATH))
}

// === impl SqliteFile ===

impl SqliteFile {
    /// The file that `url` names; `None` when it is another database, or one in memory.
    pub fn of_url(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("sqlite://")?;
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        let file = Self {
            path: PathBuf::from(percent_decode_str(path).decode_utf8_lossy().into_owned()),
            query,
        };
        (path != ":memory:" && file.mode() != Some("memory")).then_some(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, empty, and its directory, for this user only, unless they are there
    /// or the address says that a missing file is a mistake.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make(&self) -> io::Result<()> {
        if self.query.is_some() && self.mode() != Some("rwc") {
            return Ok(());
        }
        self.path.parent().map_or(Ok(()), private::make_dir)?;
        private::make_file(&self.path)
    }

    /// Whether anything was ever written into it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn is_written(&self) -> io::Result<bool> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len() > 0),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The address of exactly this file, which SQLite will not make.
    ///
    /// An address is cut into a host and a path when it is read, and `a/../b` is then
    /// another file; of an absolute path there is one reading.
    ///
    /// # Errors
    /// When the path is relative and nobody knows to what.
    pub fn url(&self) -> io::Result<String> {
        let url = url_of(&std::path::absolute(&self.path)?);
        let query = self.query.as_deref().unwrap_or("mode=rw");
        Ok(format!("{url}?{query}"))
    }

    fn mode(&self) -> Option<&str> {
        let pairs = self.query.as_deref()?.split('&');
        pairs
            .filter_map(|pair| pair.strip_prefix("mode="))
            .next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_or_none() {
        for (url, path) in [
            ("sqlite://data/a.db", Some("data/a.db")),
            ("sqlite:///srv/a%20b%3F.db?mode=rwc", Some("/srv/a b?.db")),
            ("sqlite://:memory:", None),
            ("sqlite://a.db?cache=shared&mode=memory", None),
            ("postgres://h/db", None),
        ] {
            let file = SqliteFile::of_url(url);
            let found = file.as_ref().map(SqliteFile::path);
            assert_eq!(found, path.map(Path::new), "{url}");
        }
    }

    #[test]
    fn a_path_comes_back_out_of_its_address() {
        for path in ["data/a.db", "/srv/50% of ?#.db", "/srv/ä.db"] {
            let file = SqliteFile::of_url(&url_of(Path::new(path))).unwrap();
            assert_eq!(file.path(), Path::new(path));
        }
    }

    #[test]
    fn a_file_is_made_unless_the_address_says_no() {
        let dir = tempfile::tempdir().unwrap();
        for (query, is_made) in [("", true), ("?mode=rwc", true), ("?mode=rw", false)] {
            let path = dir.path().join(format!("made-{is_made}{}", query.len()));
            let file = SqliteFile::of_url(&format!("{}{query}", url_of(&path))).unwrap();
            file.make().unwrap();
            assert_eq!(path.exists(), is_made, "{query}");
            assert!(!file.is_written().unwrap());
        }
    }
}
