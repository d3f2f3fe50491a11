//! A private Postgres. `initdb` takes seconds, so a test binary makes one and each test
//! gets a database of its own in it.

use std::path::{Path, PathBuf};

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::{Program, Signal};

/// A Postgres server of our own.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
}

/// One database of it.
#[derive(Debug, Clone)]
pub struct Database {
    name: String,
    port: u16,
}

impl Postgres {
    /// Starts one in a directory `postgres-<name>` under `parent`.
    pub async fn start(parent: &Path, name: &str) -> Self {
        let dir = fresh_dir(parent, &format!("postgres-{name}"));
        // Postgres refuses to run as root.
        let user = unprivileged_user().await;
        if let Some(user) = &user {
            Program::new("/bin/chown")
                .args(["-R", user, &dir.display().to_string()])
                .run()
                .await
                .expect("chown runs")
                .success();
        }
        let data = dir.join("data");
        Program::new(find_program("initdb"))
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
            .args([data.display()])
            .user(user.clone())
            .run()
            .await
            .expect("initdb runs")
            .success();
        let port = free_port();
        // Nothing here outlives the test, so nothing is synced; what a crash of the
        // product's processes may lose does not depend on it.
        let settings = [
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
            "max_connections=300".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", dir.display()),
        ];
        let program = Program::new(find_program("postgres"))
            .args(["-D".to_owned(), data.display().to_string()])
            .args(settings.iter().flat_map(|it| ["-c", it.as_str()]))
            .user(user)
            // An immediate shutdown gives shared memory back, SIGKILL would not.
            .death("QUIT");
        let postgres = Self {
            server: Server::new(program, port, dir.join("postgres.log")),
        };
        postgres.run().await;
        postgres
    }

    /// Makes an empty database.
    pub async fn create(&self, name: &str) -> Database {
        let server = Database {
            name: "postgres".into(),
            port: self.server.port(),
        };
        server.query(&format!("CREATE DATABASE {name}")).await;
        Database {
            name: name.into(),
            port: self.server.port(),
        }
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&self) {
        self.server.signal(Signal::QUIT);
        self.server.kill().await;
    }

    /// Starts it again on the same port.
    pub async fn restart(&self) {
        self.run().await;
    }

    async fn run(&self) {
        self.server.start().await;
        let server = Database {
            name: "postgres".into(),
            port: self.server.port(),
        };
        crate::wait::eventually(
            "Postgres answers",
            std::time::Duration::from_secs(30),
            async || {
                let output = server.psql("SELECT 1").await;
                anyhow::ensure!(output.status.success(), "{}", output.stderr);
                Ok(())
            },
        )
        .await;
    }
}

impl Database {
    /// How a client reaches it.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// The same database behind another port, such as that of a link.
    #[must_use]
    pub fn behind(&self, port: u16) -> Self {
        Self {
            name: self.name.clone(),
            port,
        }
    }

    /// The port of its server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL and returns the rows, one a line, columns parted by `|`.
    pub async fn query(&self, sql: &str) -> String {
        self.psql(sql).await.success()
    }

    /// All of it as SQL text.
    pub async fn dump(&self) -> String {
        Program::new(find_program("pg_dump"))
            .args(["--inserts", "--dbname", &self.url()])
            .run()
            .await
            .expect("pg_dump runs")
            .success()
    }

    async fn psql(&self, sql: &str) -> crate::process::Output {
        Program::new(find_program("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname", &self.url()])
            .args(["--command", sql])
            .run()
            .await
            .expect("psql runs")
    }
}

/// Whom to run Postgres as: nobody in particular, unless we are root.
async fn unprivileged_user() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    for user in ["postgres", "nobody"] {
        let known = Program::new(PathBuf::from("/usr/bin/id"))
            .args(["-u", user])
            .run()
            .await
            .is_ok_and(|output| output.status.success());
        if known {
            return Some(user.to_owned());
        }
    }
    panic!("Postgres needs a user other than root: neither postgres nor nobody exists")
}
