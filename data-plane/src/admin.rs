//! What operators and machines ask the proxy itself: health, metrics, the table's state.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use schemas::fleet::FollowerState;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::metrics::{Page, write_requests, write_unverified};
use crate::server::Shared;

/// What `/table` shows.
#[derive(Debug, Serialize)]
struct TableState<'a> {
    region: &'a str,
    proxy_id: &'a str,
    state: FollowerState,
    generation: u32,
    position: u64,
    epoch: u64,
    entries: usize,
    freshness_ms: u64,
    /// Leases come with confirmed revocation; until then there is none to show.
    lease_ms: Option<u64>,
    ready: bool,
}

/// Serves the admin page until its thread ends.
pub async fn serve(shared: Arc<Shared>, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => {
            tracing::error!(error = %err, "the admin page cannot use its listener");
            return;
        }
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = respond(&shared, request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(err) = served {
                tracing::debug!(error = %err, "a connection to the admin page ended");
            }
        });
    }
}

fn respond(shared: &Shared, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, media_type, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match readiness(shared) {
            Ok(()) => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => (
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics(shared),
        ),
        (&Method::GET | &Method::HEAD, "/table") => {
            let text = serde_json::to_string(&table_state(shared))
                .expect("the state of the table is strings and numbers, which are always JSON");
            (StatusCode::OK, "application/json", text)
        }
        (_, "/healthz" | "/readyz" | "/metrics" | "/table") => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "method not allowed\n".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn readiness(shared: &Shared) -> Result<(), &'static str> {
    if shared.is_leaving.load(Ordering::Acquire) {
        Err("shutting down")
    } else if !shared.status.is_ready() {
        Err("no usable table yet")
    } else {
        Ok(())
    }
}

fn table_state(shared: &Shared) -> TableState<'_> {
    let place = shared.status.place();
    TableState {
        region: &shared.config.region,
        proxy_id: &shared.config.proxy_id,
        state: shared.status.state(),
        generation: place.generation,
        position: place.position,
        epoch: place.epoch,
        entries: shared.table.len(),
        freshness_ms: freshness_ms(shared),
        lease_ms: None,
        ready: readiness(shared).is_ok(),
    }
}

fn freshness_ms(shared: &Shared) -> u64 {
    shared.status.freshness_ms(shared.clock.now().steady_ms)
}

fn metrics(shared: &Shared) -> String {
    let mut page = Page::default();
    write_requests(&mut page, &shared.workers);
    let place = shared.status.place();
    let follow = &shared.follow;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    page.gauge(
        "throttleproxy_ready",
        "Whether requests are admitted.",
        u64::from(readiness(shared).is_ok()),
    );
    page.gauge(
        "throttleproxy_table_entries",
        "Secrets in the table.",
        shared.table.len() as u64,
    );
    page.gauge(
        "throttleproxy_table_position",
        "The position of the table in the log.",
        place.position,
    );
    page.gauge(
        "throttleproxy_table_generation",
        "The generation of the log that the table follows.",
        u64::from(place.generation),
    );
    page.gauge(
        "throttleproxy_table_current",
        "Whether the table is current.",
        u64::from(shared.status.state() == FollowerState::Follow),
    );
    page.gauge(
        "throttleproxy_freshness_milliseconds",
        "Age of the newest word from the region.",
        freshness_ms(shared),
    );
    page.counter(
        "throttleproxy_entries_quarantined_total",
        "Entries that could not be read; their secrets are denied.",
        shared.table.quarantined_total(),
    );
    page.counter(
        "throttleproxy_frames_applied_total",
        "Frames merged into the table.",
        count(&follow.frames_applied),
    );
    page.counter(
        "throttleproxy_gaps_total",
        "Times that a message of the region was missing.",
        count(&follow.gaps),
    );
    page.counter(
        "throttleproxy_snapshots_total",
        "Snapshots of the region read.",
        count(&follow.snapshots),
    );
    page.counter(
        "throttleproxy_region_alarms_total",
        "Words of the region that contradict the table.",
        count(&follow.alarms),
    );
    page.counter(
        "throttleproxy_table_mismatch_total",
        "Times that the table differed from the region's signed digest and was repaired.",
        count(&follow.table_mismatch),
    );
    write_unverified(&mut page, follow);
    page.counter(
        "throttleproxy_renewals_total",
        "Renewals that were answered.",
        count(&follow.renewals),
    );
    page.counter(
        "throttleproxy_renewals_failed_total",
        "Renewals without an answer.",
        count(&follow.renewals_failed),
    );
    page.counter(
        "throttleproxy_lookups_total",
        "Exact look-ups of one secret.",
        count(&follow.lookups),
    );
    page.counter(
        "throttleproxy_lookups_failed_total",
        "Exact look-ups without an answer.",
        count(&follow.lookups_failed),
    );
    page.counter(
        "throttleproxy_shadow_denied_requests_total",
        "Requests that a restriction in shadow would have refused.",
        shared.shadow.denied(),
    );
    page.gauge(
        "throttleproxy_uses_unacknowledged",
        "Secrets whose last use the control plane has not acknowledged.",
        count(&shared.backlog),
    );
    page.gauge(
        "throttleproxy_limiter_cells",
        "Secrets with a limiter cell.",
        shared.cells.len() as u64,
    );
    page.into_text()
}
