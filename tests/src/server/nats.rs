//! A private NATS.

use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::{Program, Signal};

/// A NATS server of our own.
#[derive(Debug)]
pub struct Nats {
    server: Server,
}

/// Everything that NATS carried since the listener began.
#[derive(Debug, Clone, Default)]
pub struct Overheard(Arc<Mutex<Vec<String>>>);

impl Nats {
    /// Starts one in a directory `nats-<name>` under `parent`.
    pub async fn start(parent: &Path, name: &str) -> Self {
        let dir = fresh_dir(parent, &format!("nats-{name}"));
        let port = free_port();
        let program = Program::new(find_program("nats-server")).args([
            "--addr",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ]);
        let nats = Self {
            server: Server::new(program, port, dir.join("nats.log")),
        };
        nats.server.start().await;
        nats
    }

    /// How a client reaches it.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.server.kill().await;
    }

    /// Starts it again on the same port.
    pub async fn restart(&self) {
        self.server.start().await;
    }

    /// Stops it without ending it: connections stay open and nothing is carried.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Lets it go on after [`Nats::freeze`].
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    /// Listens to every subject from now on.
    pub async fn overhear(&self) -> Overheard {
        let client = async_nats::connect(self.url())
            .await
            .expect("NATS can be connected to");
        let mut messages = client.subscribe(">").await.expect("all can be heard");
        client.flush().await.expect("the subscription arrives");
        let overheard = Overheard::default();
        let notes = overheard.clone();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let text = format!(
                    "{} {:?} {}",
                    message.subject,
                    message.headers,
                    String::from_utf8_lossy(&message.payload)
                );
                notes.0.lock().expect("no holder panics").push(text);
            }
        });
        overheard
    }
}

impl Overheard {
    /// The messages so far: subject, headers and payload.
    pub fn messages(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").clone()
    }
}
