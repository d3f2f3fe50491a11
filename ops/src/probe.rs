//! Looking at a proxy from outside, by its admin address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use schemas::Position;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a proxy may take to reach a position.
const PATIENCE: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(20);

/// What is looked at of `GET /table`.
#[derive(Deserialize)]
struct Table {
    ready: bool,
    position: Position,
}

/// Waits until the proxy is ready and its table holds `position`.
///
/// # Errors
/// When it takes longer than 20 s.
pub async fn wait_for_proxy(admin: SocketAddr, position: Position) -> anyhow::Result<()> {
    let reached = async {
        loop {
            if let Ok(table) = table(admin).await
                && table.ready
                && table.position >= position
            {
                return;
            }
            sleep(EVERY).await;
        }
    };
    timeout(PATIENCE, reached)
        .await
        .with_context(|| format!("the proxy did not reach position {position} in time"))
}

async fn table(admin: SocketAddr) -> anyhow::Result<Table> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/table")
        .header("host", admin.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(answer.into_body().collect().await?.to_bytes())
    };
    let (body, _) = tokio::join!(answer, connection);
    Ok(serde_json::from_slice(&body?)?)
}
