//! `replay`: the state as it was, folded from the log alone.

use anyhow::bail;
use control_plane::fresh;
use control_plane::replay::{At, fold};
use control_plane::view;
use schemas::{KeyId, Position, Timestamp};

use super::{Common, Outcome};
use crate::wire;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Up to and with a position of the log, or a time with its zone, such as
    /// 2026-01-31T09:30:00Z; left out, or a time to come: up to now.
    #[arg(long, value_name = "TIME or POSITION", value_parser = parse_when)]
    at: Option<When>,
    /// Of the keys only this one.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
}

/// What `--at` says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Position(Position),
    Time(Timestamp),
    /// A time that is another instant in each zone.
    AnyZone(String),
}

pub(super) async fn run(common: &Common, args: Args) -> anyhow::Result<Outcome> {
    let config = common.start()?;
    let now = fresh::now();
    let at = match args.at {
        None => At::Head,
        Some(When::Position(position)) => At::Position(position),
        Some(When::Time(time)) => At::Time(time.min(now)),
        Some(When::AnyZone(text)) => bail!(
            "--at: the time `{text}` has no zone; end it with `Z` for UTC, or with an offset \
             such as `+02:00`"
        ),
    };
    let store = wire::existing_store(&config).await?;
    let past = fold(&store, at, now).await?;
    if let At::Position(position) = at
        && position > past.position
    {
        bail!(
            "--at: the position {position} is beyond the head of the log, which is {}",
            past.position
        );
    }
    if let Some(key_id) = args.key
        && view::key::find_anywhere(&store, key_id).await?.is_none()
    {
        bail!("--key: the log does not know the key {key_id}");
    }
    common.print(&past.state(None, args.key))?;
    Ok(Outcome::Good)
}

fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(position) = text.parse() {
        return Ok(When::Position(position));
    }
    let is_time = |text: String| text.parse::<Timestamp>().is_ok();
    match text.parse() {
        Ok(time) => Ok(When::Time(time)),
        Err(_) if is_time(format!("{text}Z")) || is_time(format!("{text}T00:00:00Z")) => {
            Ok(When::AnyZone(text.to_owned()))
        }
        Err(err) => Err(format!("{err}, or a position of the log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_zone() {
        let any_zone = |text: &str| Some(When::AnyZone(text.to_owned()));
        let instant = Some(When::Time(Timestamp::from_unix_ms(1_769_851_800_000)));
        for (text, when) in [
            ("0", Some(When::Position(0))),
            ("222", Some(When::Position(222))),
            ("2026-01-31T09:30:00Z", instant.clone()),
            ("2026-01-31T11:30:00+02:00", instant),
            ("2026-01-31T09:30:00", any_zone("2026-01-31T09:30:00")),
            ("2026-01-31 09:30", any_zone("2026-01-31 09:30")),
            ("2026-01-31", any_zone("2026-01-31")),
            ("yesterday", None),
            ("-1", None),
        ] {
            assert_eq!(parse_when(text).ok(), when, "{text}");
        }
    }
}
