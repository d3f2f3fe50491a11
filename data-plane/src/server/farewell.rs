//! The last words on a connection whose head never became a request: hyper has nothing to
//! answer then, so this says it on the bare socket.

use std::rc::Rc;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Worker;
use super::lane::Lane;
use crate::pipeline::REQUEST_ID;
use crate::pipeline::identify::RequestId;
use crate::rejection::{self, Code, Rejection};

/// Says why the head was given up. The client may not read it, and nobody waits for that:
/// a socket takes as little as this at once or not at all.
pub async fn say(worker: &Rc<Worker>, lane: &Lane, to: &mut (impl AsyncWrite + Unpin)) {
    let rejection = if lane.was_shed() {
        Rejection::new(
            Code::Overloaded,
            "Too many requests have come half and not whole.",
        )
        .retry_after(1)
    } else {
        Rejection::new(Code::RequestTimeout, "The request's head came too slowly.")
    };
    worker
        .counters
        .count(crate::metrics::Outcome::Refused(rejection.code));
    let profile = worker.shared.table.policies().global.error_profile;
    let request_id = RequestId::make(worker, worker.shared.clock.at(lane.now()));
    let answer = rejection::answer(&rejection.and_close(), profile, request_id.as_str());
    let status = answer.status();
    let mut text = format!(
        "HTTP/1.1 {} {}\r\n{REQUEST_ID}: {}\r\ncontent-length: {}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        request_id.as_str(),
        answer.body().len(),
    )
    .into_bytes();
    for (name, value) in answer.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(answer.body());
    let mut saying = std::pin::pin!(async {
        to.write_all(&text).await?;
        to.shutdown().await
    });
    // One try: what cannot be said without waiting is not said.
    std::future::poll_fn(|cx| {
        let _ = saying.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
}
