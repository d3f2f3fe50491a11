//! `replay`: the state as it was, folded from the log alone.

use control_plane::fresh;
use control_plane::replay::{At, fold};
use schemas::{KeyId, Position, Timestamp};

use super::{Common, Outcome};
use crate::wire;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Up to and with a position of the log or a time such as 2026-01-31T09:30:00Z; left
    /// out: up to now.
    #[arg(long, value_name = "TIME or POSITION", value_parser = parse_at)]
    at: Option<At>,
    /// Only this key.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
}

pub(super) async fn run(common: &Common, args: Args) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let store = wire::store(&config)?;
    let past = fold(&store, args.at.unwrap_or(At::Head), fresh::now()).await?;
    common.print(&past.state(None, args.key))?;
    Ok(Outcome::Good)
}

fn parse_at(text: &str) -> Result<At, String> {
    if let Ok(position) = text.parse::<Position>() {
        return Ok(At::Position(position));
    }
    text.parse::<Timestamp>()
        .map(At::Time)
        .map_err(|err| format!("{err}, or a position of the log"))
}
