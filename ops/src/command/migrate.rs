//! `migrate`: the schema, brought up to date.

use serde_json::json;

use super::{Common, Outcome};
use crate::wire;

pub(super) async fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    wire::store(&config)?.migrate().await?;
    common.print(&json!({ "schema": "up to date" }))?;
    Ok(Outcome::Good)
}
