//! A private mail server that keeps every mail it is given: aiosmtpd, which speaks the
//! whole of SMTP and writes a Maildir.

use std::path::{Path, PathBuf};

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::Program;

/// An SMTP server of our own.
#[derive(Debug)]
pub struct Smtp {
    server: Server,
    mails: PathBuf,
}

impl Smtp {
    /// Starts one in a directory `smtp-<name>` under `parent`.
    pub async fn start(parent: &Path, name: &str) -> Self {
        let dir = fresh_dir(parent, &format!("smtp-{name}"));
        let mails = dir.join("maildir");
        let port = free_port();
        let program = Program::new(find_program("aiosmtpd")).args([
            "--nosetuid",
            "--smtputf8",
            "--class",
            "aiosmtpd.handlers.Mailbox",
            "--listen",
            &format!("127.0.0.1:{port}"),
            &mails.display().to_string(),
        ]);
        let smtp = Self {
            server: Server::new(program, port, dir.join("smtp.log")),
            mails,
        };
        smtp.server.start().await;
        smtp
    }

    /// How the product reaches it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.server.port())
    }

    /// Where the mails are, one file each.
    pub fn mails(&self) -> PathBuf {
        self.mails.join("new")
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.server.kill().await;
    }

    /// Starts it again on the same port.
    pub async fn restart(&self) {
        self.server.start().await;
    }
}
