//! Calls through a proxy with a key.

use std::fmt;

use anyhow::{Result, ensure};

use crate::http::{Ask, Reply};
use crate::plane::Plane;

/// What a proxy made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream answered it.
    Admitted,
    /// The proxy refused it.
    Refused {
        /// With this status.
        status: u16,
        /// And this `x-throttleproxy-error`.
        code: String,
    },
}

impl Verdict {
    /// The verdict in an answer.
    pub fn of(reply: &Reply) -> Self {
        match reply.header("x-throttleproxy-error") {
            Some(code) => Self::Refused {
                status: reply.status,
                code: code.to_owned(),
            },
            None => Self::Admitted,
        }
    }

    /// Whether it is the refusal of a key that was known and is not to be used: the one
    /// after which nothing may be admitted until the key is switched on again.
    pub fn is_key_refused(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("admitted"),
            Self::Refused { status, code } => write!(f, "refused with {status} {code}"),
        }
    }
}

/// Sends a request through a proxy as it is.
pub async fn send(proxy: &Plane, ask: Ask) -> Reply {
    ask.send(proxy.address("proxy"))
        .await
        .unwrap_or_else(|err| panic!("{} answers: {err:#}", proxy.name()))
}

/// `GET`s a path through a proxy with a key.
pub async fn get(proxy: &Plane, key: &str, path: &str) -> Reply {
    send(proxy, Ask::get(path).header("x-api-key", key)).await
}

/// What a proxy makes of a key, asked for the target `echo`.
pub async fn verdict(proxy: &Plane, key: &str) -> Result<Verdict> {
    let reply = Ask::get("/t/echo/verdict")
        .header("x-api-key", key)
        .send(proxy.address("proxy"))
        .await?;
    Ok(Verdict::of(&reply))
}

/// Whether a proxy makes this of a key.
pub async fn check_verdict(proxy: &Plane, key: &str, expected: &Verdict) -> Result<()> {
    let found = verdict(proxy, key).await?;
    ensure!(
        found == *expected,
        "{}: {found} instead of {expected}",
        proxy.name()
    );
    Ok(())
}

/// Asserts a refusal of a proxy in the `standard` profile, and that body and head agree.
pub fn refused(reply: Reply, status: u16, code: &str, text: &str) -> serde_json::Value {
    let reply = reply.expect(status);
    assert_eq!(reply.must("x-throttleproxy-error"), code, "{}", reply.asked);
    let problem = reply.refused(status, code);
    assert_eq!(problem["error"], text, "{problem}");
    problem
}
