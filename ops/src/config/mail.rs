//! `[mail]`: how mail leaves.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Error;
use super::source::Values;

/// How mail leaves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mail {
    /// The SMTP server; `None` writes mail to files. May hold a password.
    pub smtp_url: Option<String>,
    /// Whom mail is from.
    pub from: String,
    /// Where mail is written to without an SMTP server. No key moves it but `--data-dir`.
    #[serde(skip)]
    pub directory: PathBuf,
}

// === impl Mail ===

impl Mail {
    /// The section when nothing is configured.
    pub fn default_in(data_dir: &Path) -> Self {
        Self {
            smtp_url: None,
            from: "ThrottleProxy <throttleproxy@localhost>".to_owned(),
            directory: data_dir.join("mail"),
        }
    }

    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        let smtp_url = values.secret("mail.smtp_url", SMTP_URL, |url| {
            ["smtp://", "smtps://"]
                .iter()
                .any(|scheme| url.starts_with(scheme))
        })?;
        let from = values.parsed("mail.from", FROM, |text| {
            control_plane::mail::is_sender(text).then(|| text.to_owned())
        })?;
        Ok(Self {
            smtp_url: smtp_url.or(default.smtp_url),
            from: from.unwrap_or(default.from),
            ..default
        })
    }
}

const SMTP_URL: &str = "an smtp:// or smtps:// address";
const FROM: &str = "an address such as `ThrottleProxy <keys@example.com>`";
