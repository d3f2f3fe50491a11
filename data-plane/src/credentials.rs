//! What upstreams are given: values that live on this host, by reference.
//!
//! The table holds where a value is and how it is written into a header; the value itself
//! is read here, from a variable of the process or a file, and is in nothing that is sent,
//! stored or logged. A value in use is read again once a second, so a file that is changed
//! counts at once and needs no restart. A request whose target has a credential without a
//! value is refused: it is never sent without.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use schemas::WorkspaceId;
use schemas::entry::{PLACEHOLDER, SecretSource, UpstreamCredential};

/// How long a value counts before it is read again.
const READ_EVERY_MS: u64 = 1_000;
/// How often a missing value is told of.
const TELL_EVERY_MS: u64 = 60_000;
/// The longest value.
const VALUE_BYTES_MAX: usize = 8 << 10;
/// Values that are kept before those that nobody uses any more are dropped.
const KEPT_MAX: usize = 1_024;
/// How long nobody used such a value.
const UNUSED_MS: u64 = 600_000;

/// A credential, compiled.
#[derive(Debug)]
pub struct Injection {
    /// The header that requests get.
    header: HeaderName,
    before: Box<str>,
    after: Box<str>,
    place: Place,
}

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// The variable of this name.
    Env(Box<str>),
    /// The file below the directory of credentials.
    File(PathBuf),
}

/// The values that were read.
#[derive(Debug)]
pub struct Credentials {
    dir: PathBuf,
    held: papaya::HashMap<Place, Arc<Held>>,
}

/// A value as it was read last.
#[derive(Debug)]
struct Held {
    /// `None`: there is none. It is not shown by `Debug`.
    value: Option<Value>,
    /// When it was read, or when somebody began to read it anew.
    read_ms: AtomicU64,
    /// When the operator was told that there is none.
    told_ms: Option<u64>,
}

/// A value that may stand in a header.
#[derive(Clone, PartialEq, Eq)]
struct Value(Arc<str>);

/// A credential has no value on this host.
#[derive(Debug, thiserror::Error)]
#[error("the target's credential has no value here")]
pub struct Missing;

/// Why a place holds no value.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the variable is not set")]
    NotSet,
    #[error("the file cannot be read")]
    Unreadable(#[source] std::io::Error),
    #[error("it is not a file")]
    NoFile,
    #[error("it is empty")]
    Empty,
    #[error("it has more than {VALUE_BYTES_MAX} bytes")]
    TooLong,
    #[error("it has characters that cannot stand in a header")]
    BadCharacters,
}

// === impl Injection ===

impl Injection {
    /// `None` for a credential that no control plane of ours accepts.
    pub(crate) fn compile(workspace: WorkspaceId, credential: &UpstreamCredential) -> Option<Self> {
        let (before, after) = credential.format.split_once(PLACEHOLDER)?;
        let is_plain = |text: &str| text.bytes().all(|it| (b' '..=b'~').contains(&it));
        let reference = credential.reference.as_str();
        let is_reference = !reference.is_empty()
            && reference
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'_');
        if !is_plain(before) || !is_plain(after) || !is_reference {
            return None;
        }
        let place = match credential.source {
            SecretSource::Env => {
                Place::Env(format!("THROTTLEPROXY_CREDENTIAL_{workspace}_{reference}").into())
            }
            SecretSource::File => Place::File(Path::new(&workspace.to_string()).join(reference)),
        };
        Some(Self {
            header: HeaderName::from_bytes(credential.header.as_bytes()).ok()?,
            before: before.into(),
            after: after.into(),
            place,
        })
    }

    /// Gives a request the header. Nothing of this name that the client sent goes along,
    /// nor what some servers would take for it, reading `_` as `-`.
    pub fn put(&self, headers: &mut HeaderMap, value: HeaderValue) {
        let read = self.header.as_str().replace('_', "-");
        let twins: Vec<HeaderName> = headers
            .keys()
            .filter(|it| it.as_str().len() == read.len() && it.as_str().replace('_', "-") == read)
            .cloned()
            .collect();
        for twin in twins {
            headers.remove(twin);
        }
        headers.insert(self.header.clone(), value);
    }

    fn write(&self, value: &Value) -> Option<HeaderValue> {
        let text = format!("{}{}{}", self.before, value.0, self.after);
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

// === impl Credentials ===

impl Credentials {
    /// Values in the process's variables and in files below `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            held: papaya::HashMap::new(),
        }
    }

    /// The header's value, which is at most a second old.
    ///
    /// # Errors
    /// [`Missing`]; the operator finds a line in the log that tells where it should be.
    pub async fn header(
        &self,
        injection: &Injection,
        steady_ms: u64,
    ) -> Result<HeaderValue, Missing> {
        let held = self.held.pin().get(&injection.place).cloned();
        let held = match held {
            Some(held) if !held.claims_reading(steady_ms) => held,
            before => self.read(&injection.place, before, steady_ms).await,
        };
        held.value
            .as_ref()
            .and_then(|value| injection.write(value))
            .ok_or(Missing)
    }

    async fn read(&self, place: &Place, before: Option<Arc<Held>>, steady_ms: u64) -> Arc<Held> {
        let found = match place {
            Place::Env(name) => of_variable(name),
            Place::File(path) => {
                let path = self.dir.join(path);
                // A file system may hang; a worker must not.
                let reading = tokio::task::spawn_blocking(move || of_file(&path));
                let gone = |err| Err(Unusable::Unreadable(std::io::Error::other(err)));
                reading.await.unwrap_or_else(gone)
            }
        };
        let (value, told_ms) = match found {
            Ok(value) => (Some(value), None),
            Err(err) => {
                let told_ms = before.and_then(|it| it.told_ms);
                let is_due = told_ms.is_none_or(|at| steady_ms.saturating_sub(at) >= TELL_EVERY_MS);
                if is_due {
                    self.tell(place, &err);
                }
                (None, if is_due { Some(steady_ms) } else { told_ms })
            }
        };
        let held = Arc::new(Held {
            value,
            read_ms: AtomicU64::new(steady_ms),
            told_ms,
        });
        let all = self.held.pin();
        if all.len() >= KEPT_MAX {
            all.retain(|_, it| {
                it.read_ms.load(Ordering::Relaxed).saturating_add(UNUSED_MS) > steady_ms
            });
        }
        all.insert(place.clone(), Arc::clone(&held));
        held
    }

    fn tell(&self, place: &Place, err: &Unusable) {
        let cause = std::error::Error::source(err).map(ToString::to_string);
        let (variable, file) = match place {
            Place::Env(name) => (Some(&**name), None),
            Place::File(path) => (None, Some(self.dir.join(path).display().to_string())),
        };
        tracing::error!(
            variable,
            file,
            error = %err,
            cause,
            "the credential of an upstream has no value; requests for its targets get 503"
        );
    }
}

// === impl Held ===

impl Held {
    /// Whether it is time to read the value anew, and the caller is the one who does;
    /// others go on with what there is.
    fn claims_reading(&self, steady_ms: u64) -> bool {
        let read_ms = self.read_ms.load(Ordering::Relaxed);
        steady_ms.saturating_sub(read_ms) >= READ_EVERY_MS
            && self
                .read_ms
                .compare_exchange(read_ms, steady_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

// === impl Value ===

impl Value {
    /// A value as it stands in its place, without the line end that editors leave.
    fn of(bytes: &[u8]) -> Result<Self, Unusable> {
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() {
            return Err(Unusable::Empty);
        }
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(Unusable::TooLong);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if text.bytes().all(|it| (b' '..=b'~').contains(&it)) => Ok(Self(text.into())),
            _ => Err(Unusable::BadCharacters),
        }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value(…)")
    }
}

fn of_variable(name: &str) -> Result<Value, Unusable> {
    use std::os::unix::ffi::OsStrExt as _;
    let value = std::env::var_os(name).ok_or(Unusable::NotSet)?;
    Value::of(value.as_bytes())
}

fn of_file(path: &Path) -> Result<Value, Unusable> {
    // Asked before it is opened: opening a pipe would wait for somebody to write.
    let kind = std::fs::metadata(path).map_err(Unusable::Unreadable)?;
    if !kind.is_file() {
        return Err(Unusable::NoFile);
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|it| it.take(VALUE_BYTES_MAX as u64 + 2).read_to_end(&mut bytes))
        .map_err(Unusable::Unreadable)?;
    Value::of(&bytes)
}

#[cfg(test)]
mod tests;
