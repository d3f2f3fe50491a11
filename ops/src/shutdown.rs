//! The wish to stop: SIGTERM or SIGINT.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears the signals that ask the process to stop. Made before the work starts, so that
/// a signal during the start is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening; from here on the signals no longer end the process by
    /// themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until somebody asks the process to stop.
    pub async fn asked_to_stop(&mut self) {
        let signal = self.next().await;
        tracing::info!(signal, "stopping");
    }

    /// Carries out `work`, but gives it up when a signal comes meanwhile: whoever asks
    /// twice does not want to wait.
    pub async fn or_at_once(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            signal = self.next() => tracing::info!(signal, "stopping at once"),
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
