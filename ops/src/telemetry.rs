//! Logging: one subscriber for the process, lines on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::log::{Format, Level, Log};

/// Starts logging. Called once, before anything else runs; a second call changes
/// nothing.
pub fn start(log: &Log) {
    // Libraries say at `info` what an operator did not ask for: notices of Postgres, each
    // reconnection twice.
    let filter = match log.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info,sqlx=warn,async_nats=warn",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr);
    // An error means that a subscriber is there already, which then keeps its form.
    match log.format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    }
    .ok();
}
