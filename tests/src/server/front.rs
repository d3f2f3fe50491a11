//! Servers of other makers, as upstreams: nginx and HAProxy, each in front of a recorder.
//!
//! They read requests with code that is not ours. What they hand on says which body they
//! saw, and their logs say how many requests, and how long each was.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::Program;

/// The header in what such a server hands on: the port of the connection it came over.
pub const CONNECTION: &str = "x-front-connection";

/// The header with the path as the server understood it, where it says so.
pub const PATH: &str = "x-front-path";

/// A server that reads requests and hands them on.
#[derive(Debug)]
pub struct Front {
    server: Server,
    log: PathBuf,
}

/// A request as such a server logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The port of the connection it came over.
    pub connection: u16,
    /// What it was answered with.
    pub status: u16,
    /// How many bytes of the connection it was, where the server counts them.
    pub bytes: Option<usize>,
    /// The rest of the line, for messages.
    pub request: String,
}

impl Front {
    /// An nginx that hands on to `behind`, in a directory `nginx-<name>` under `parent`.
    pub async fn nginx(parent: &Path, name: &str, behind: SocketAddr) -> Self {
        let dir = fresh_dir(parent, &format!("nginx-{name}"));
        let port = free_port();
        let log = dir.join("access.log");
        let at = dir.display();
        // One process, which ends when it is killed. Bodies are read whole before they
        // are handed on, so that a length that is logged is the length of all of it.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               log_format ends '$remote_port $status $request_length $request';\n\
               access_log {at}/access.log ends;\n\
               client_body_temp_path {at}/body;\n  proxy_temp_path {at}/proxy;\n\
               fastcgi_temp_path {at}/fastcgi;\n  uwsgi_temp_path {at}/uwsgi;\n\
               scgi_temp_path {at}/scgi;\n\
               client_max_body_size 0;\n  large_client_header_buffers 8 256k;\n\
               underscores_in_headers on;\n\
               keepalive_requests 1000000;\n  keepalive_timeout 300;\n\
               server {{\n\
                 listen 127.0.0.1:{port};\n\
                 location / {{\n\
                   proxy_pass http://{behind};\n\
                   proxy_http_version 1.1;\n\
                   proxy_set_header connection \"\";\n\
                   proxy_set_header {CONNECTION} $remote_port;\n\
                   proxy_set_header {PATH} $uri;\n\
                 }}\n\
               }}\n\
             }}\n"
        );
        let path = dir.join("nginx.conf");
        std::fs::write(&path, config).expect("a file can be written");
        let program = Program::new(find_program("nginx")).args([
            "-c".into(),
            path.display().to_string(),
            "-p".into(),
            at.to_string(),
            "-e".into(),
            "stderr".into(),
        ]);
        let server = Server::new(program, port, dir.join("nginx.log"));
        server.start().await;
        Self { server, log }
    }

    /// An HAProxy that hands on to `behind`, in a directory `haproxy-<name>` under
    /// `parent`.
    pub async fn haproxy(parent: &Path, name: &str, behind: SocketAddr) -> Self {
        let dir = fresh_dir(parent, &format!("haproxy-{name}"));
        let port = free_port();
        let config = format!(
            "global\n  maxconn 512\n  tune.bufsize 262144\n  tune.http.maxhdr 256\n\
             defaults\n  mode http\n  log stdout format raw local0\n\
               log-format \"%cp %ST - %HM %[capture.req.uri]\"\n\
               option dontlognull\n  option http-ignore-probes\n\
               timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\
             frontend front\n  bind 127.0.0.1:{port}\n\
               http-request set-header {CONNECTION} %[src_port]\n\
               default_backend behind\n\
             backend behind\n  server recorder {behind}\n"
        );
        let path = dir.join("haproxy.cfg");
        std::fs::write(&path, config).expect("a file can be written");
        let log = dir.join("haproxy.log");
        let program = Program::new(find_program("haproxy")).args([
            "-db".into(),
            "-f".into(),
            path.display().to_string(),
        ]);
        let server = Server::new(program, port, log.clone());
        server.start().await;
        Self {
            server,
            log: log.with_added_extension("out"),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.server.port()).into()
    }

    /// Every request that it logged, in the order they ended.
    pub fn logged(&self) -> Vec<Logged> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(Logged::read)
            .collect()
    }
}

impl Logged {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        Some(Self {
            connection: words.next()?.parse().ok()?,
            status: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok(),
            request: words.next()?.to_owned(),
        })
    }
}
