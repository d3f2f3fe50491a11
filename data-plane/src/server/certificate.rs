//! What clients see when TLS is spoken with them: a certificate and its key, from two files
//! that may be replaced while the proxy runs.
//!
//! The files are read every second and compared with what was read before. That sees every
//! way of replacing them (writing, renaming, swapping the link of a mounted secret), and
//! costs a millionth of a core. A pair that does not fit, most likely because only one of
//! the two has been replaced so far, changes nothing but the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::CertificateFiles;

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    files: CertificateFiles,
    /// What was read from the files when the certificate in use was made.
    first: Pair,
    current: ArcSwap<ServerConfig>,
}

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of them cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no certificate, or no key, in it.
    #[error("{} is not what it should be, in PEM", path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// The certificate and the key cannot be used together.
    #[error("the certificate and the key cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// The bytes of both files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

// === impl Certificate ===

impl Certificate {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(files: CertificateFiles) -> Result<Self, Error> {
        let first = Pair::read(&files)?;
        let current = ArcSwap::from_pointee(first.to_config(&files)?);
        Ok(Self {
            files,
            first,
            current,
        })
    }

    /// What greets the next client.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Follows the files for ever.
    pub async fn follow(&self, every: Duration) {
        let mut seen = self.first.clone();
        let mut was_readable = true;
        loop {
            tokio::time::sleep(every).await;
            let files = self.files.clone();
            // A disk may hang; the thread that waits here has other things to do.
            let reading = tokio::task::spawn_blocking(move || Pair::read(&files));
            let outcome = match reading.await {
                Ok(Ok(pair)) if pair == seen => continue,
                Ok(Ok(pair)) => {
                    was_readable = true;
                    let config = pair.to_config(&self.files);
                    seen = pair;
                    config
                }
                Ok(Err(_)) if !was_readable => continue,
                Ok(Err(err)) => {
                    was_readable = false;
                    Err(err)
                }
                Err(_) => return,
            };
            match outcome {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!(file = %self.files.cert.display(), "a new certificate is in use");
                }
                Err(err) => tracing::warn!(
                    error = %err,
                    cause = ?std::error::Error::source(&err),
                    "a new certificate cannot be used; the old one stays"
                ),
            }
        }
    }
}

// === impl Pair ===

impl Pair {
    fn read(files: &CertificateFiles) -> Result<Self, Error> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
        })
    }

    fn to_config(&self, files: &CertificateFiles) -> Result<ServerConfig, Error> {
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Pem { path, source }
        };
        let chain = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| match chain.is_empty() {
                true => Err(pem::Error::NoItemsFound),
                false => Ok(chain),
            })
            .map_err(wrong(&files.cert))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(wrong(&files.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(Error::Pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("tp-cert-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn files(&self) -> CertificateFiles {
            CertificateFiles {
                cert: self.0.join("cert.pem"),
                key: self.0.join("key.pem"),
            }
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_that_cannot_be_used_says_which_file_is_wrong() {
        let dir = Dir::new("wrong");
        let files = dir.files();
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let check = |cert: &str, key: &str, expected: &str| {
            std::fs::write(&files.cert, cert).unwrap();
            std::fs::write(&files.key, key).unwrap();
            let found = Certificate::load(files.clone())
                .map_or_else(|it| it.to_string(), |_| String::new());
            assert!(
                found.contains(expected) && found.is_empty() == expected.is_empty(),
                "{found}"
            );
        };
        check(&cert, &key, "");
        check("", &key, "cert.pem is not what it should be");
        check(&cert, "rubbish", "key.pem is not what it should be");
        check(&cert, &other_key, "cannot be used together");
        std::fs::remove_file(&files.key).unwrap();
        let missing = Certificate::load(files.clone()).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
    }
}
