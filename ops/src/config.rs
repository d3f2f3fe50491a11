//! The configuration: defaults, over them a TOML file, over that the environment.
//!
//! ```text
//! defaults  ◀─ --config FILE or THROTTLEPROXY_CONFIG  ◀─ THROTTLEPROXY__SECTION__KEY
//! ```
//!
//! A file per section says what its keys mean and reads them. Each source is checked by
//! itself before they are laid over each other, so that a mistake is reported with the
//! file or the variable in which it stands, also when a later source would hide it.
//! Nothing is ignored: an unknown key is an error, and so is a key whose meaning this
//! version does not enforce.
//!
//! The keys, explained, with their defaults: `ops/config/default.toml`.

use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

pub mod accounts;
pub mod control;
pub mod data;
mod key;
pub mod log;
pub mod mail;
pub mod oidc;
mod redact;
pub mod region;
pub mod security;
mod source;

pub use accounts::Accounts;
pub use control::{Control, host_of};
pub use data::Data;
pub use log::Log;
pub use mail::Mail;
pub use oidc::Oidc;
pub use region::Region;
pub use security::Security;
pub use source::Origin;

use source::{Layer, Values};

/// The effective configuration of a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// The control plane.
    pub control: Control,
    /// The data plane.
    pub data: Data,
    /// The regions that this process knows, at least one, names all different.
    pub regions: Vec<Region>,
    /// Who may make an account.
    pub accounts: Accounts,
    /// How mail leaves.
    pub mail: Mail,
    /// Where people may sign in, names all different.
    pub oidc: Vec<Oidc>,
    /// What is allowed that is refused by default.
    pub security: Security,
    /// What is logged, and how.
    pub log: Log,
}

/// What is wrong with the configuration. Each message names the place and the key, and
/// none shows the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file that a key names cannot be read.
    #[error("{origin}: `{key}`: cannot read {path}")]
    UnreadableValue {
        /// Where the path was given.
        origin: Origin,
        /// The key, dotted, with its `_file`.
        key: String,
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin} is not TOML: {message}")]
    Syntax {
        /// The file.
        origin: Origin,
        /// Line, column and what was expected there.
        message: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key `{key}`; the nearest known one is `{nearest}`")]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// The key, dotted.
        key: String,
        /// The known key that is written most alike.
        nearest: &'static str,
    },
    /// The key is known, but what it promises is not enforced by this version.
    #[error("{origin}: `{key}` is not available yet; leave it out")]
    NotAvailable {
        /// Where it stands.
        origin: Origin,
        /// The key, dotted.
        key: &'static str,
    },
    /// Lists of tables stand in a file only.
    #[error("{origin}: `[[{list}]]` can stand in the configuration file only")]
    FileOnly {
        /// Where it stands.
        origin: Origin,
        /// The list.
        list: &'static str,
    },
    /// The value is of the wrong type or form.
    #[error("{origin}: `{key}` must be {expected}, not {found}")]
    Wrong {
        /// Where it stands.
        origin: Origin,
        /// The key, dotted.
        key: String,
        /// What would be right.
        expected: &'static str,
        /// What stands there: the value, or its type if it may be a secret.
        found: String,
    },
    /// A value and the file with the value were both given.
    #[error("{origin}: give either `{key}` or `{key}_file`, not both")]
    Both {
        /// Where the value stands.
        origin: Origin,
        /// The key without `_file`, dotted.
        key: String,
    },
    /// Two regions have one name.
    #[error("{origin}: two `[[regions]]` are named `{name}`")]
    SameRegion {
        /// The file.
        origin: Origin,
        /// The name.
        name: String,
    },
    /// Two providers have one name.
    #[error("{origin}: two `[[oidc]]` are named `{name}`")]
    SameProvider {
        /// The file.
        origin: Origin,
        /// The name.
        name: String,
    },
    /// `[data] region` names no region.
    #[error(
        "{origin}: `data.region` is `{name}`, but there is no `[[regions]]` entry of that name"
    )]
    NoRegion {
        /// Where it stands.
        origin: Origin,
        /// The name.
        name: String,
    },
}

// === impl Config ===

impl Config {
    /// The configuration without a file and without an environment. Files that no key
    /// places elsewhere stand under `data_dir`.
    pub fn default_in(data_dir: &Path) -> Self {
        Self {
            control: Control::default_in(data_dir),
            data: Data::default_in(data_dir),
            regions: vec![Region::default_in(data_dir)],
            accounts: Accounts::default(),
            mail: Mail::default_in(data_dir),
            oidc: Vec::new(),
            security: Security::default(),
            log: Log::default(),
        }
    }

    /// Reads `file`, if there is one, and those variables of `environment` that begin
    /// with `THROTTLEPROXY__`.
    ///
    /// # Errors
    /// The first [`Error`] that is found.
    pub fn load(
        file: Option<&Path>,
        data_dir: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let file = file.map(Layer::of_file).transpose()?;
        let environment = Layer::of_environment(environment)?;
        let values = Values::new(file.into_iter().chain([environment]));

        let defaults = Self::default_in(data_dir);
        let config = Self {
            control: Control::read(&values, defaults.control)?,
            data: Data::read(&values, defaults.data)?,
            regions: region::read_all(&values, data_dir, defaults.regions)?,
            accounts: Accounts::read(&values, defaults.accounts)?,
            mail: Mail::read(&values, defaults.mail)?,
            oidc: oidc::read_all(&values)?,
            security: Security::read(&values, defaults.security)?,
            log: Log::read(&values, defaults.log)?,
        };
        // Only a proxy needs its region. But who names one means one that is there.
        if values.is_written("data.region") {
            config.find_own_region(values.origin_of("data.region"))?;
        }
        Ok(config)
    }

    /// The region that this process's proxy serves.
    ///
    /// # Errors
    /// [`Error::NoRegion`].
    pub fn own_region(&self) -> Result<&Region, Error> {
        self.find_own_region(Origin::Nowhere)
    }

    /// The same without secrets: every user name and password is taken out of the
    /// addresses.
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        shown.control.database_url = redact::url(&shown.control.database_url);
        for region in &mut shown.regions {
            region.redis_url = region.redis_url.as_deref().map(redact::url);
            region.nats_url = region.nats_url.as_deref().map(redact::url);
        }
        shown.mail.smtp_url = shown.mail.smtp_url.as_deref().map(redact::url);
        for provider in &mut shown.oidc {
            provider.client_secret = "redacted".to_owned();
        }
        shown
    }

    fn find_own_region(&self, origin: Origin) -> Result<&Region, Error> {
        let name = &self.data.region;
        self.regions
            .iter()
            .find(|region| region.name == *name)
            .ok_or_else(|| Error::NoRegion {
                origin,
                name: name.clone(),
            })
    }
}

#[cfg(test)]
mod tests;
