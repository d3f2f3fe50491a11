//! `account suspend` and `account reinstate`: a whole account, in every workspace. What
//! somebody may do in one workspace is the business of its owners, over the API.

use anyhow::bail;
use control_plane::account::{self, Address};
use serde_json::json;

use super::{Common, Outcome};
use crate::wire;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account's address.
    #[arg(long)]
    email: String,
}

/// Works beside a running control plane: it asks the database for each request.
pub(super) async fn suspend(
    common: &Common,
    args: &Args,
    is_suspended: bool,
) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let Some(address) = Address::parse(&args.email) else {
        bail!("--email: expected an address such as jane@example.com");
    };
    let store = wire::existing_store(&config).await?;
    match account::suspend(&store, &address, is_suspended).await? {
        Some(id) => common.print(&json!({ "account_id": id, "suspended": is_suspended }))?,
        None => bail!("--email: no account has this address"),
    }
    Ok(Outcome::Good)
}
