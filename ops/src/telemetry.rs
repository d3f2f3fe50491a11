//! Logging: one subscriber for the process, lines on standard error.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;

use crate::config::log::{Format, Level, Log};

/// Starts logging. Called once, before anything else runs; a second call changes
/// nothing.
pub fn start(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
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
