//! `audit verify`: whether the log is as it was written.

use super::{Common, Outcome};
use crate::wire;

pub(super) async fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let report = control_plane::audit::verify(&wire::existing_store(&config).await?).await?;
    common.print(&report)?;
    Ok(if report.ok {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}
