//! `control-plane`: the REST API and a projector for each region.

use std::time::Duration;

use control_plane::Plane;

use super::{Common, Outcome};
use crate::shutdown::Signals;
use crate::wire;

/// How long running requests may take once the process was asked to stop.
pub(super) const GRACE: Duration = Duration::from_secs(10);

pub(super) async fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let mut signals = Signals::install()?;
    let regions = wire::regions(&config).await?;
    let plane = Plane::start(wire::control_plane(&config), wire::store(&config)?, regions).await?;

    signals.asked_to_stop().await;
    signals.or_at_once(plane.shutdown(GRACE)).await;
    Ok(Outcome::Good)
}
