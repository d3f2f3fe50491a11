//! `[log]`: what is logged, and how.

use serde::Serialize;

use super::Error;
use super::source::Values;

/// What is logged, and how. Logs go to standard error.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Log {
    /// How a line is written.
    pub format: Format,
    /// The least important level that is still written.
    pub level: Level,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, its fields flat.
    Json,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something was not served.
    Error,
    /// Something went wrong and was recovered from.
    Warn,
    /// Start, stop, change.
    #[default]
    Info,
    /// What is needed to follow one case.
    Debug,
    /// Everything.
    Trace,
}

// === impl Log ===

impl Log {
    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        let format = values.parsed("log.format", "`text` or `json`", |text| {
            Some(match text {
                "text" => Format::Text,
                "json" => Format::Json,
                _ => return None,
            })
        })?;
        let level = values.parsed("log.level", LEVELS, |text| {
            Some(match text {
                "error" => Level::Error,
                "warn" => Level::Warn,
                "info" => Level::Info,
                "debug" => Level::Debug,
                "trace" => Level::Trace,
                _ => return None,
            })
        })?;
        Ok(Self {
            format: format.unwrap_or(default.format),
            level: level.unwrap_or(default.level),
        })
    }
}

const LEVELS: &str = "`error`, `warn`, `info`, `debug` or `trace`";
