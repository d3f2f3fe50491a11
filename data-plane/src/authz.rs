//! Envoy asks over gRPC whether a request that it holds may pass: ext_authz,
//! `envoy.service.auth.v3.Authorization/Check`.
//!
//! The verdict is that of `/.throttleproxy/verify`, by the same stages over the same table
//! and counts ([`crate::pipeline::verify`]); here it is only translated ([`message`]).
//! Envoy can do more with an answer than other proxies: it takes credentials out of the
//! request, a key in the query among them, and passes our refusals on as they are.
//!
//! It listens on an address of its own, and one thread answers: a verdict takes
//! microseconds and waits for nothing but, rarely, a look-up of 50 ms. The connection is
//! not encrypted and nobody logs in on it, so it belongs on the loopback or a private
//! network. Who reaches it can only spend the limits of keys that he knows.

mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse,
};
use futures_util::Stream;
use futures_util::stream;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::metrics::Counters;
use crate::pipeline::identify::identify_told;
use crate::pipeline::verify;
use crate::server::Shared;

/// The largest question, in bytes. Envoy keeps heads below 96 KiB, and sends bodies only
/// if it is told to; we do not look at them.
const QUESTION_BYTES_MAX: usize = 1 << 20;
/// Questions on one connection at a time.
const QUESTIONS_MAX: u32 = 1_024;
/// How often a silent connection is asked whether anybody is there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Answers Envoy until `stop` is there, and then until every connection has ended.
pub async fn serve(
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    listener: StdListener,
    stop: impl Future<Output = ()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => {
            tracing::error!(error = %err, "the listener for Envoy cannot be used");
            return;
        }
    };
    let service = AuthorizationServer::new(Service { shared, counters })
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    let served = Server::builder()
        .max_concurrent_streams(QUESTIONS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .serve_with_incoming_shutdown(service, connections(listener), stop)
        .await;
    if let Err(err) = served {
        tracing::error!(error = %err, "Envoy is not answered any more");
    }
}

/// Connections as they come.
fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(stream), listener));
                }
                // Usually no more file descriptors: others must end first.
                Err(err) => {
                    tracing::warn!(error = %err, "a connection of Envoy could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

struct Service {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
}

// === impl Service ===

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let peer = request
            .remote_addr()
            .map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |it| {
                it.ip().to_canonical()
            });
        let question = message::read(request.into_inner());
        let arrival = identify_told(&self.shared, peer, question.client);
        let (answer, outcome) = verify::verdict(&self.shared, &arrival, question.original).await;
        self.counters.count(outcome);
        Ok(Response::new(message::write(answer, question.removed)))
    }
}

#[cfg(test)]
mod tests;
