//! `region status` and `region entry`: what the regions hold. `region key`: whom their proxies
//! must trust.
//!
//! A region of its own Redis is asked directly. One inside `up` is asked through the
//! socket of the running process.

use anyhow::bail;
use schemas::{CredentialHash, KeyId};
use serde::Serialize;
use serde_json::json;

use super::{Common, Outcome, say};
use crate::config::{Config, Region};
use crate::inspect::{self, Entries, Status};
use crate::keys;
use crate::socket::{self, Question};
use crate::wire;

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Only this region.
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct EntryArgs {
    /// The key.
    key_id: KeyId,
}

#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The region.
    name: String,
}

/// What is printed of one region.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a, T> {
    /// What it answered.
    Answer(T),
    /// It could not be asked.
    Failed { region: &'a str, error: String },
}

pub(super) async fn status(common: &Common, args: StatusArgs) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let mut all = Vec::new();
    for region in chosen(&config, args.name.as_deref())? {
        all.push((region, status_of(common, &config, region).await));
    }
    print_all(common, all)
}

pub(super) async fn entry(common: &Common, args: EntryArgs) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let store = wire::existing_store(&config).await?;
    let Some(hashes) = inspect::hashes(&store, args.key_id).await? else {
        bail!("the log does not know the key {}", args.key_id);
    };
    let mut all = Vec::new();
    for region in &config.regions {
        let entries = entries_of(common, region, args.key_id, &hashes).await;
        all.push((region, entries));
    }
    print_all(common, all)
}

/// Prints the public key of a region, for `data.verify_keys` of its proxies.
pub(super) fn key(common: &Common, args: KeyArgs) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    for region in chosen(&config, Some(&args.name))? {
        let verify_key = keys::verify_key(region)?;
        if common.json {
            common.print(&json!({ "region": region.name, "verify_key": verify_key }))?;
        } else {
            say(&format!("{verify_key}\n"))?;
        }
    }
    Ok(Outcome::Good)
}

fn chosen<'a>(config: &'a Config, name: Option<&str>) -> anyhow::Result<Vec<&'a Region>> {
    let chosen: Vec<&Region> = config
        .regions
        .iter()
        .filter(|region| name.is_none_or(|name| region.name == name))
        .collect();
    match name {
        Some(name) if chosen.is_empty() => bail!("there is no `[[regions]]` entry `{name}`"),
        _ => Ok(chosen),
    }
}

async fn status_of(common: &Common, config: &Config, region: &Region) -> anyhow::Result<Status> {
    let meta = if region.redis_url.is_none() {
        let region = region.name.clone();
        socket::ask(&common.data_dir, &Question::Meta { region }).await?
    } else {
        inspect::meta(wire::region(region).await?.as_ref()).await?
    };
    // Last, because an `up` that does not run is the better thing to be told.
    let store = wire::existing_store(config).await?;
    inspect::status(&store, &region.name, meta).await
}

async fn entries_of(
    common: &Common,
    region: &Region,
    key_id: KeyId,
    hashes: &[CredentialHash],
) -> anyhow::Result<Entries> {
    if region.redis_url.is_none() {
        let question = Question::Entries {
            region: region.name.clone(),
            key_id,
            hashes: hashes.to_vec(),
        };
        return socket::ask(&common.data_dir, &question).await;
    }
    let region = wire::region(region).await?;
    inspect::entries(region.as_ref(), key_id, hashes).await
}

/// One object per region. One that cannot be asked says why and makes the result bad;
/// the others are shown all the same.
fn print_all<T: Serialize>(
    common: &Common,
    answers: Vec<(&Region, anyhow::Result<T>)>,
) -> anyhow::Result<Outcome> {
    let failed = answers.iter().any(|(_, answer)| answer.is_err());
    let shown: Vec<Shown<'_, T>> = answers
        .into_iter()
        .map(|(region, answer)| match answer {
            Ok(answer) => Shown::Answer(answer),
            Err(err) => Shown::Failed {
                region: &region.name,
                error: format!("{err:#}"),
            },
        })
        .collect();
    common.print(&shown)?;
    Ok(if failed { Outcome::Bad } else { Outcome::Good })
}
