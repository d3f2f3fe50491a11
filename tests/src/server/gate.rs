//! The proxies that ask ours whether a request may pass, each with the configuration that
//! `ops/deploy` documents: only the ports are put in, so what is documented is what works.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::Program;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nginx, which asks by `auth_request`.
    Nginx,
    /// Caddy, which asks by `forward_auth`.
    Caddy,
    /// Envoy, which asks by ext_authz over gRPC.
    Envoy,
}

/// Whom it asks, and what it protects.
#[derive(Debug, Clone, Copy)]
pub struct Around {
    /// Where our proxy answers clients.
    pub proxy: SocketAddr,
    /// Where our proxy answers Envoy.
    pub authz: SocketAddr,
    /// The port of the service.
    pub service: u16,
}

/// A proxy in front of a service.
#[derive(Debug)]
pub struct Gate {
    server: Server,
}

impl Gate {
    /// Starts one in a directory of its own under `parent`.
    pub async fn start(kind: Kind, parent: &Path, around: Around) -> Self {
        Self::start_without(kind, parent, around, "").await
    }

    /// Starts one whose configuration lacks a line that is documented.
    pub async fn start_without(kind: Kind, parent: &Path, around: Around, line: &str) -> Self {
        let port = free_port();
        let dir = fresh_dir(parent, &format!("gate-{kind:?}-{port}").to_lowercase());
        let config = documented(kind, port, around);
        assert!(config.contains(line), "{kind:?} is not told {line:?}");
        let config = config.replace(line, "");
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a file can be written");
            path.display().to_string()
        };
        let program = match kind {
            Kind::Nginx => {
                let server = file("server.conf", &config);
                // What a distribution's own nginx.conf says, in places of ours.
                let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|it| format!("{it}_temp_path {}/{it};", dir.display()))
                    .join(" ");
                let main = format!(
                    "daemon off; master_process off; error_log stderr;\n\
                     pid {0}/nginx.pid;\nevents {{}}\n\
                     http {{ access_log off; {temp} include {server}; }}\n",
                    dir.display()
                );
                Program::new(find_program("nginx")).args([
                    "-p",
                    &dir.display().to_string(),
                    "-e",
                    "stderr",
                    "-c",
                    &file("nginx.conf", &main),
                ])
            }
            Kind::Caddy => {
                let site = file("site.caddy", &config);
                let main = format!("{{\n\tadmin off\n\tauto_https off\n}}\nimport {site}\n");
                Program::new(find_program("caddy"))
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .args([file("Caddyfile", &main)])
                    .env("HOME", dir.display())
                    .env("XDG_DATA_HOME", dir.display())
                    .env("XDG_CONFIG_HOME", dir.display())
            }
            Kind::Envoy => Program::new(envoy()).args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--log-level",
                "warn",
                "--config-path",
                &file("envoy.yaml", &config),
            ]),
        };
        let gate = Self {
            server: Server::new(program, port, dir.join("gate.log")),
        };
        gate.server.start().await;
        gate
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.server.port()).into()
    }
}

/// The documented configuration of a proxy, or of one that cannot be tested with, as it
/// stands.
pub fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../ops/deploy")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The documented configuration with these ports in it.
fn documented(kind: Kind, listen: u16, around: Around) -> String {
    let name = match kind {
        Kind::Nginx => "nginx.conf",
        Kind::Caddy => "Caddyfile",
        Kind::Envoy => "envoy.yaml",
    };
    let mut text = deployed(name);
    let (asked, answers) = match kind {
        Kind::Envoy => ("7081", around.authz),
        Kind::Nginx | Kind::Caddy => ("7080", around.proxy),
    };
    // By way of words, so that no port that is put in is taken for one to be replaced.
    for (port, word) in [(asked, "ASKED"), ("9000", "SERVICE"), ("8080", "LISTEN")] {
        assert!(text.contains(port), "{name} does not name {port} any more");
        text = text.replace(port, word);
    }
    for (word, port) in [
        ("ASKED", answers.port()),
        ("SERVICE", around.service),
        ("LISTEN", listen),
    ] {
        text = text.replace(word, &port.to_string());
    }
    text
}

/// Debian has no Envoy; its program comes with a package of PyPI, which `ops/test` unpacks.
fn envoy() -> PathBuf {
    let unpacked =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/envoy/envoy/_bin/envoy");
    match unpacked.is_file() {
        true => unpacked,
        false => find_program("envoy"),
    }
}
