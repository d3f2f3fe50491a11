//! Instants: whole milliseconds since 1970 inside, RFC 3339 text in UTC outside.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::civil::{DateTime, datetime};
use jiff::fmt::temporal::Pieces;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const EPOCH: DateTime = datetime(1970, 1, 1, 0, 0, 0, 0);

/// An instant in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 time with a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an RFC 3339 time with a zone, such as 2026-01-31T09:30:00.000Z")]
pub struct BadTimestamp;

impl Timestamp {
    /// The last instant that has four digits of year: 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The instant `unix_ms` milliseconds after 1970; clamped to years 1970 to 9999.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms.clamp(0, Self::MAX.0))
    }

    /// Milliseconds since 1970.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// This instant `ms` milliseconds later (earlier when negative).
    pub fn plus_ms(self, ms: i64) -> Self {
        Self::from_unix_ms(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_1970 = SignedDuration::from_millis(self.0);
        let utc = EPOCH.checked_add(since_1970).map_err(|_| fmt::Error)?;
        write!(f, "{utc:.3}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        // Not through an instant of jiff's own: those end a day before year 9999 does, and
        // the last second of 9999 is what many write for "never".
        let pieces = Pieces::parse(text).map_err(|_| BadTimestamp)?;
        let (time, offset) = (pieces.time(), pieces.to_numeric_offset());
        let (time, offset) = time.zip(offset).ok_or(BadTimestamp)?;
        let local = pieces.date().to_datetime(time).duration_since(EPOCH);
        let unix_ms = local.as_millis() - i128::from(offset.seconds()) * 1_000;
        match i64::try_from(unix_ms) {
            Ok(unix_ms) if (0..=Self::MAX.0).contains(&unix_ms) => Ok(Self(unix_ms)),
            _ => Err(BadTimestamp),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_decimals_in_utc() {
        assert_eq!(
            Timestamp::from_unix_ms(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(
            "2026-01-31T10:30:00.1+01:00"
                .parse::<Timestamp>()
                .unwrap()
                .to_string(),
            "2026-01-31T09:30:00.100Z"
        );
    }

    #[test]
    fn the_last_second_of_9999_is_a_time() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T22:59:59-01:00",
        ] {
            assert!(text.parse::<Timestamp>().is_ok(), "{text}");
        }
        assert!("9999-12-31T23:59:59-01:00".parse::<Timestamp>().is_err());
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        for text in [
            "2026-01-31T09:30:00",
            "2026-01-31",
            "tomorrow",
            "",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(BadTimestamp), "{text}");
        }
    }
}
