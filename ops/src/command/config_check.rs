//! `config check`: the effective configuration, secrets redacted.

use super::{Common, Outcome, say};

pub(super) fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.load()?.redacted();
    if common.json {
        common.print(&config)?;
    } else {
        // For people it looks like the file that they would write.
        say(&toml::to_string(&config)?)?;
    }
    Ok(Outcome::Good)
}
