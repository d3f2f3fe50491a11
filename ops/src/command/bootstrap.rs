//! `bootstrap`: the first owner, beside a running control plane or without one.

use control_plane::bootstrap::bootstrap;

use super::{Common, Outcome};
use crate::wire;

/// The workspace's first name; its owner may change it.
const WORKSPACE: &str = "Default";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The owner's address.
    #[arg(long)]
    email: String,
}

pub(super) async fn run(common: &Common, args: Args) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let store = wire::store(&config)?;
    store.migrate().await?;
    let execute = wire::execute(&store);
    let made = bootstrap(
        &store,
        &execute,
        &args.email,
        WORKSPACE,
        &config.control.public_url(),
    )
    .await?;
    common.print(&made)?;
    Ok(Outcome::Good)
}
