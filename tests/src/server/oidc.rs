//! A private OpenID Connect provider: `oidc-provider` of npm, which is certified, with its
//! own pages for logging in. The script is `tests/oidc/provider.mjs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Server, find_program, free_port, fresh_dir};
use crate::http::{Ask, Reply};
use crate::process::Program;

/// A provider of our own, with one client.
#[derive(Debug)]
pub struct Oidc {
    server: Server,
}

/// What a person uses: it keeps cookies and follows redirects.
#[derive(Debug, Default)]
pub struct Browser {
    /// By place and name; paths do not matter here.
    cookies: BTreeMap<(SocketAddr, String), String>,
}

impl Oidc {
    /// The id of the client.
    pub const CLIENT_ID: &'static str = "throttleproxy";
    /// What proves the client.
    pub const CLIENT_SECRET: &'static str = "the-client-secret-of-the-tests";

    /// Starts one in a directory `oidc-<name>` under `parent`, for a client at
    /// `redirect_url`.
    pub async fn start(parent: &Path, name: &str, redirect_url: &str) -> Self {
        let dir = fresh_dir(parent, &format!("oidc-{name}"));
        let port = free_port();
        let program = Program::new(find_program("node")).args([
            &here("provider.mjs").display().to_string(),
            &port.to_string(),
            redirect_url,
            Self::CLIENT_ID,
            Self::CLIENT_SECRET,
            &modules().display().to_string(),
        ]);
        let oidc = Self {
            server: Server::new(program, port, dir.join("oidc.log")),
        };
        oidc.server.start().await;
        oidc
    }

    /// What the provider calls itself.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.server.kill().await;
    }
}

impl Browser {
    /// Goes to a page, and from there wherever it is sent, but not beyond `until`: a
    /// redirect to an address that begins so is the answer.
    pub async fn go(&mut self, url: &str, until: &str) -> Reply {
        self.follow(Ask::get(path_of(url)), place_of(url), until)
            .await
    }

    /// Asks one thing and follows nothing.
    pub async fn ask(&mut self, ask: Ask, place: SocketAddr) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((at, _), _)| *at == place)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let ask = match cookies.is_empty() {
            true => ask,
            false => ask.header("cookie", cookies.join("; ")),
        };
        let reply = ask.send(place).await.expect("the place answers");
        for value in reply.headers.get_all("set-cookie") {
            let value = value.to_str().expect("cookies are text");
            let pair = value.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie has a name");
            self.cookies
                .insert((place, name.to_owned()), value.to_owned());
        }
        reply
    }

    /// The value of a cookie of a place.
    pub fn cookie(&self, place: SocketAddr, name: &str) -> Option<&str> {
        self.cookies
            .get(&(place, name.to_owned()))
            .map(String::as_str)
    }

    /// Logs in on the provider's pages, consents, and returns the address that the provider
    /// then sends the browser to: one that begins with `until`.
    pub async fn sign_in(&mut self, started: &str, login: &str, until: &str) -> String {
        let mut reply = self.go(started, until).await;
        // A page to log in, then one to consent; the form says which.
        for _page in 0..3 {
            if let Some(location) = reply.header("location").filter(|it| it.starts_with(until)) {
                return location.to_owned();
            }
            let text = reply.text();
            let action = between(&text, "action=\"", "\"").expect("the page has a form");
            let body = match text.contains("value=\"login\"") {
                true => format!("prompt=login&login={}&password=x", escaped(login)),
                false => "prompt=consent".to_owned(),
            };
            let form = Ask::post(path_of(action), body)
                .header("content-type", "application/x-www-form-urlencoded");
            let place = place_of(match action.starts_with("http") {
                true => action,
                false => started,
            });
            reply = self.follow(form, place, until).await;
        }
        panic!(
            "the provider did not send the browser back: {}",
            reply.text()
        )
    }

    async fn follow(&mut self, ask: Ask, place: SocketAddr, until: &str) -> Reply {
        let (mut ask, mut place) = (ask, place);
        for _redirect in 0..10 {
            let reply = self.ask(ask, place).await;
            let Some(location) = reply.header("location").map(str::to_owned) else {
                return reply;
            };
            if location.starts_with(until) {
                return reply;
            }
            if location.starts_with("http") {
                place = place_of(&location);
            }
            ask = Ask::get(path_of(&location));
        }
        panic!("redirects without end");
    }
}

/// The provider's modules, where `ops/test` installs them.
fn modules() -> PathBuf {
    let modules = here("../../target/tools/oidc");
    assert!(
        modules.join("node_modules/oidc-provider").is_dir(),
        "the OpenID Connect provider is not installed; ops/test installs it"
    );
    modules
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("oidc")
        .join(path)
}

fn path_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.find('/') {
        Some(at) => rest[at..].to_owned(),
        None => "/".to_owned(),
    }
}

fn place_of(url: &str) -> SocketAddr {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    place.parse().expect("an address and a port")
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.get(..rest.find(after)?)
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
