//! `[[regions]]`: where each region keeps its entries, and who rings its bell.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Error;
use super::source::Values;

/// One region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Region {
    /// 1 to 32 of `a-z`, `0-9` and `-`; part of Redis keys and NATS subjects.
    pub name: String,
    /// The region's Redis; `None` is the in-process region of `up`. May hold a password.
    pub redis_url: Option<String>,
    /// The region's NATS, several addresses with commas between; `None` is polling. May
    /// hold a password.
    pub nats_url: Option<String>,
    /// The key that control planes sign the region with.
    pub signing_key_file: PathBuf,
    /// The secret that the region's proxies and control planes share.
    pub fleet_secret_file: PathBuf,
}

/// What a region's name must be.
pub(super) const NAME: &str = "a region's name: 1 to 32 of a-z, 0-9 and `-`";

// === impl Region ===

impl Region {
    /// The region that there is where none is configured.
    pub fn default_in(data_dir: &Path) -> Self {
        Self::named("local", data_dir)
    }

    fn named(name: &str, data_dir: &Path) -> Self {
        let dir = data_dir.join("regions").join(name);
        Self {
            name: name.to_owned(),
            redis_url: None,
            nats_url: None,
            signing_key_file: dir.join("signing_key"),
            fleet_secret_file: dir.join("fleet_secret"),
        }
    }
}

/// All regions, or `default` where the file has none.
pub(super) fn read_all(
    values: &Values,
    data_dir: &Path,
    default: Vec<Region>,
) -> Result<Vec<Region>, Error> {
    let entries = values.list_of_tables("regions");
    let mut regions = Vec::<Region>::with_capacity(entries.len());
    for entry in &entries {
        let region = read(entry, data_dir)?;
        if regions.iter().any(|other| other.name == region.name) {
            return Err(Error::SameRegion {
                origin: entry.origin_of("regions.name"),
                name: region.name,
            });
        }
        regions.push(region);
    }
    Ok(if regions.is_empty() { default } else { regions })
}

fn read(values: &Values, data_dir: &Path) -> Result<Region, Error> {
    let name = values.parsed("regions.name", NAME, |text| {
        schemas::name::is_region(text).then(|| text.to_owned())
    })?;
    let name = name.ok_or_else(|| Error::Wrong {
        origin: values.origin_of("regions.name"),
        key: "regions.name".to_owned(),
        expected: NAME,
        found: "left out".to_owned(),
    })?;
    let default = Region::named(&name, data_dir);
    Ok(Region {
        name,
        signing_key_file: values
            .path("regions.signing_key_file")?
            .unwrap_or(default.signing_key_file),
        fleet_secret_file: values
            .path("regions.fleet_secret_file")?
            .unwrap_or(default.fleet_secret_file),
        redis_url: values.secret("regions.redis_url", REDIS_URL, |url| {
            ["redis://", "rediss://", "redis+unix://", "unix://"]
                .iter()
                .any(|scheme| url.starts_with(scheme))
        })?,
        nats_url: values.secret("regions.nats_url", NATS_URL, |urls| {
            urls.split(',').all(|url| {
                ["nats://", "tls://"]
                    .iter()
                    .any(|scheme| url.trim().starts_with(scheme))
            })
        })?,
    })
}

const REDIS_URL: &str = "a redis:// or rediss:// address";
const NATS_URL: &str = "nats:// or tls:// addresses with commas between";
