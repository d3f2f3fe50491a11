//! What the regions are sealed with: key and secret files.
//!
//! A file holds 32 bytes as 64 lower-case hex digits and is for this user only. `up` and
//! `control-plane` make those that they lack; where a file is given by hand, all control
//! planes of a region need the same two, and its proxies the secret and the public key.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use schemas::seal::{FleetSecret, KEY_BYTES, Seal, Trust, VerifyKey, key_bytes};

use crate::config::{Config, Region};
use crate::private;

/// Why a region has no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be used.
    #[error("`regions.{setting}` of region `{region}`: cannot use {path}")]
    Io {
        /// The key of the configuration that names it.
        setting: &'static str,
        /// The region.
        region: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error(
        "`regions.{setting}` of region `{region}`: {path} must hold 32 bytes as 64 lower-case \
         hex digits, and does not"
    )]
    Malformed {
        /// The key of the configuration that names it.
        setting: &'static str,
        /// The region.
        region: String,
        /// The file.
        path: PathBuf,
    },
    /// A proxy does not know by whom its region is signed.
    #[error(
        "`data.verify_keys` is left out, and there is no signing key at {path} to take the \
         public key from: a proxy needs the public keys of its region; where the control \
         plane runs, `throttleproxy region key {region}` prints it"
    )]
    NoVerifyKeys {
        /// The region.
        region: String,
        /// Where the signing key would be.
        path: PathBuf,
    },
    /// A proxy has nothing to prove itself with.
    #[error(
        "`regions.fleet_secret_file` of region `{region}`: there is no {path}; a proxy needs \
         the file that the region's control plane has, which made it on its first start"
    )]
    NoFleetSecret {
        /// The region.
        region: String,
        /// Where the secret would be.
        path: PathBuf,
    },
}

const SIGNING_KEY: &str = "signing_key_file";
const FLEET_SECRET: &str = "fleet_secret_file";

/// The seal of a region; files that are missing are made.
///
/// # Errors
/// [`Error`].
pub fn seal(region: &Region) -> Result<Seal, Error> {
    let seed = read_or_make(region, SIGNING_KEY, &region.signing_key_file)?;
    let fleet = read_or_make(region, FLEET_SECRET, &region.fleet_secret_file)?;
    let fleet = FleetSecret::from_bytes(&fleet);
    Ok(Seal::new(&region.name, &seed, fleet))
}

/// The public key of a region, whose signing key is made if it is missing: so the proxies can
/// be configured before the first start.
///
/// # Errors
/// [`Error`].
pub fn verify_key(region: &Region) -> Result<VerifyKey, Error> {
    let seed = read_or_make(region, SIGNING_KEY, &region.signing_key_file)?;
    let none = FleetSecret::from_bytes(&[0; KEY_BYTES]);
    Ok(Seal::new(&region.name, &seed, none).verify_key())
}

/// What the proxy of this configuration trusts. Nothing is made: a key that nobody signs
/// with would be believed in vain.
///
/// # Errors
/// [`Error`].
pub fn trust(config: &Config, region: &Region) -> Result<Trust, Error> {
    let keys = match &config.data.verify_keys {
        keys if !keys.is_empty() => keys.clone(),
        _ => {
            let path = &region.signing_key_file;
            if read(region, SIGNING_KEY, path)?.is_none() {
                return Err(Error::NoVerifyKeys {
                    region: region.name.clone(),
                    path: path.clone(),
                });
            }
            vec![verify_key(region)?]
        }
    };
    let path = &region.fleet_secret_file;
    let fleet = read(region, FLEET_SECRET, path)?.ok_or_else(|| Error::NoFleetSecret {
        region: region.name.clone(),
        path: path.clone(),
    })?;
    Ok(Trust::new(
        &region.name,
        keys,
        FleetSecret::from_bytes(&fleet),
    ))
}

fn read_or_make(
    region: &Region,
    setting: &'static str,
    path: &Path,
) -> Result<[u8; KEY_BYTES], Error> {
    if let Some(bytes) = read(region, setting, path)? {
        return Ok(bytes);
    }
    let failed = |source| io_error(region, setting, path, source);
    make(path).map_err(failed)?;
    let made = read(region, setting, path)?;
    made.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// The bytes that a file holds; `None` when it is not there.
fn read(
    region: &Region,
    setting: &'static str,
    path: &Path,
) -> Result<Option<[u8; KEY_BYTES]>, Error> {
    let text = match std::fs::read_to_string(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| io_error(region, setting, path, source))?,
    };
    let mode = std::fs::metadata(path).map(|it| it.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others can read this key file; chmod 600 it");
    }
    let bytes = key_bytes(text.trim()).ok_or_else(|| Error::Malformed {
        setting,
        region: region.name.clone(),
        path: path.to_owned(),
    })?;
    Ok(Some(bytes))
}

/// Makes a file with random bytes. Of several processes that do so at the same time one
/// wins, and all read what it wrote: the file appears whole or not at all.
fn make(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), private::make_dir)?;
    let mut bytes = [0; KEY_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let whole = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&whole)?;
    for byte in bytes {
        write!(file, "{byte:02x}")?;
    }
    writeln!(file)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&whole, path);
    std::fs::remove_file(&whole)?;
    match linked {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

fn io_error(region: &Region, setting: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        setting,
        region: region.name.clone(),
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> Config {
        Config::default_in(dir)
    }

    #[test]
    fn a_key_is_made_once_and_for_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        let region = &config.regions[0];
        let key = verify_key(region).unwrap();
        assert_eq!(seal(region).unwrap().verify_key(), key);
        for path in [&region.signing_key_file, &region.fleet_secret_file] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(key_bytes(std::fs::read_to_string(path).unwrap().trim()).is_some());
        }
        assert_ne!(
            std::fs::read(&region.signing_key_file).unwrap(),
            std::fs::read(&region.fleet_secret_file).unwrap()
        );
    }

    #[test]
    fn a_proxy_finds_its_keys_or_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let region = config.regions[0].clone();
        let message = |config: &Config| trust(config, &region).unwrap_err().to_string();
        let lacks = message(&config);
        assert!(lacks.contains("data.verify_keys") && lacks.contains("region key local"));
        assert!(!region.signing_key_file.exists(), "nothing is made");

        let key = verify_key(&region).unwrap();
        let lacks = message(&config);
        assert!(lacks.contains("fleet_secret_file"), "{lacks}");
        seal(&region).unwrap();
        assert!(trust(&config, &region).is_ok());

        // Given keys are taken as they are; the file need not be there.
        std::fs::remove_file(&region.signing_key_file).unwrap();
        config.data.verify_keys = vec![key];
        assert!(trust(&config, &region).is_ok());

        std::fs::write(&region.fleet_secret_file, "secret").unwrap();
        let lacks = message(&config);
        assert!(lacks.contains("64 lower-case hex digits"), "{lacks}");
        assert!(!lacks.contains("`secret`"), "{lacks}");
    }
}
