//! `[control]`: the control plane.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::Error;
use super::source::Values;
use crate::sqlite;

/// The control plane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Control {
    /// Where the REST API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that links for people are made with; `None` is `http://` and the
    /// address that it really listens on.
    pub public_url: Option<String>,
    /// The event log: `sqlite://` and a path, or `postgres://`. May hold a password.
    pub database_url: String,
}

// === impl Control ===

impl Control {
    /// The section when nothing is configured.
    pub fn default_in(data_dir: &Path) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            public_url: None,
            database_url: sqlite::url_of(&data_dir.join("throttleproxy.db")),
        }
    }

    /// Where people reach it, as far as the configuration tells: with port 0, only the
    /// running process knows the port.
    pub fn public_url(&self) -> String {
        let url = self.public_url.clone();
        url.unwrap_or_else(|| format!("http://{}", self.listen))
    }

    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        let database_url = values.secret("control.database_url", DATABASE_URL, |url| {
            ["sqlite://", "postgres://", "postgresql://"]
                .iter()
                .any(|scheme| url.starts_with(scheme))
        })?;
        let public_url = values.parsed("control.public_url", PUBLIC_URL, |text| {
            let host = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"))?;
            (!host.is_empty()).then(|| text.trim_end_matches('/').to_owned())
        })?;
        Ok(Self {
            listen: values.address("control.listen")?.unwrap_or(default.listen),
            public_url: public_url.or(default.public_url),
            database_url: database_url.unwrap_or(default.database_url),
        })
    }
}

/// The host in an `http://` or `https://` address, lower case.
pub fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

const DATABASE_URL: &str = "a sqlite:// or postgres:// address";
const PUBLIC_URL: &str = "an http:// or https:// address";
