//! Typed ids: a prefix that says what it is, and a ULID that sorts by time.
//!
//! An id is sixteen bytes inside the program, so that a table can hold it inline,
//! and text such as `key_01JD3ZK8Q6N4V6M2W0T5R7X9YB` outside.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} followed by a ULID of 26 upper-case characters")]
pub struct BadId {
    /// The prefix that the id should have had.
    pub expected: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// An id made at `unix_ms` (milliseconds since 1970) with 80 bits of
            /// `entropy`; higher bits are ignored.
            pub const fn from_parts(unix_ms: u64, entropy: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, entropy))
            }

            /// The id from its sixteen bytes.
            pub const fn from_u128(bits: u128) -> Self {
                Self(Ulid(bits))
            }

            /// The sixteen bytes of the id.
            pub const fn to_u128(self) -> u128 {
                self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_ulid(text.strip_prefix($prefix)).map(Self).ok_or(BadId { expected: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": concat!("^", $prefix, "[0-7][0-9A-HJKMNP-TV-Z]{25}$"),
                })
            }
        }
    )*};
}

ids! {
    /// A key. It outlives its secrets: limits, access and history hang on it.
    KeyId = "key_";
    /// One secret of a key.
    SecretId = "sec_";
    /// A workspace, the boundary nothing crosses.
    WorkspaceId = "ws_";
    /// A team of a workspace.
    TeamId = "team_";
    /// The account of a person.
    AccountId = "acc_";
    /// An owner that cannot log in.
    ServiceAccountId = "sa_";
    /// A target that a workspace approved.
    TargetId = "tgt_";
    /// A token that opens the control API.
    ControlTokenId = "ctk_";
    /// A log-in of a person.
    SessionId = "ses_";
    /// A mail that waits to be sent.
    MailId = "mail_";
    /// An invitation into a workspace.
    InvitationId = "inv_";
    /// An event of the log.
    EventId = "";
    /// A history of the log; a restore opens a new one.
    LineageId = "";
    /// One start of one process.
    BootId = "";
}

/// Only the form that we write ourselves is read: a lower-case ULID would be a
/// second name for the same thing.
fn parse_ulid(text: Option<&str>) -> Option<Ulid> {
    let text = text?;
    let ulid = Ulid::from_string(text).ok()?;
    (ulid.to_string() == text).then_some(ulid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = KeyId::from_parts(1_700_000_000_000, 42);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("key_01"));
        assert_eq!(KeyId::from_u128(id.to_u128()), id);
    }

    #[test]
    fn another_kind_or_another_spelling_is_refused() {
        let id = KeyId::from_parts(1_700_000_000_000, u128::MAX);
        let text = id.to_string();
        assert!(text.parse::<TargetId>().is_err());
        assert!(text.to_lowercase().parse::<KeyId>().is_err());
        assert!(text[..29].parse::<KeyId>().is_err());
        assert!("key_".parse::<KeyId>().is_err());
        assert!("key_8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<KeyId>().is_err());
    }
}
