//! `data-plane`: one proxy.

use super::{Common, Outcome};
use crate::identity::Identity;
use crate::shutdown::Signals;
use crate::wire;

pub(super) async fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let mut signals = Signals::install()?;
    let source = wire::source(&config)?;
    let trust = wire::trust(&config)?;
    let identity = Identity::of(&config.data)?;
    let proxy_config = wire::data_plane(&config, &identity, trust, None);
    let proxy = data_plane::start(proxy_config, source).await?;

    signals.asked_to_stop().await;
    signals.or_at_once(proxy.shutdown()).await;
    Ok(Outcome::Good)
}
