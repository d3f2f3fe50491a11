//! Waiting for a fact, with a deadline.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

/// How long one look waits for the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `check` succeeds and returns what it found. After `within` it panics with
/// `what` was waited for and why the last look was not enough.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(err) if Instant::now() >= deadline => {
                panic!("not within {within:?}: {what}: {err:#}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Looks all the time for the length of `during` and panics as soon as `check` fails:
/// for what must stay true.
pub async fn throughout(what: &str, during: Duration, mut check: impl AsyncFnMut() -> Result<()>) {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        if let Err(err) = check().await {
            panic!("did not stay true: {what}: {err:#}");
        }
        sleep(LOOK_EVERY).await;
    }
}
