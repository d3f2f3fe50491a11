//! `config check`: the effective configuration, secrets redacted.

use std::io::{self, Write as _};

use super::{Common, Outcome};

pub(super) fn run(common: &Common) -> anyhow::Result<Outcome> {
    let config = common.load()?.redacted();
    if common.json {
        common.print(&config)?;
    } else {
        // For people it looks like the file that they would write.
        write!(io::stdout(), "{}", toml::to_string(&config)?)?;
    }
    Ok(Outcome::Good)
}
