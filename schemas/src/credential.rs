//! The key string: `tp_live_` or `tp_test_`, 8 public characters, 30 secret ones, and
//! a checksum of 6.
//!
//! All 44 characters after the marker are base62 (`0-9A-Za-z`), so that one regular
//! expression, `\btp_(live|test)_[0-9A-Za-z]{44}\b`, finds a leaked key, and the
//! checksum tells a real one from a look-alike without any look-up.
//! Only the SHA-256 of the whole string is ever kept.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const MARKER_LEN: usize = 8;
const RANDOM_LEN: usize = 38;
const CHECKSUM_LEN: usize = 6;

/// Characters of a key string.
pub const CREDENTIAL_LEN: usize = MARKER_LEN + RANDOM_LEN + CHECKSUM_LEN;
/// Characters of a key string that are not secret: the marker and the public part.
pub const PREFIX_LEN: usize = MARKER_LEN + 8;

/// Whether a key is for real traffic or for trying things out. It changes the marker
/// in the key string and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// `tp_live_…`
    Live,
    /// `tp_test_…`
    Test,
}

impl Environment {
    const fn marker(self) -> &'static [u8; MARKER_LEN] {
        match self {
            Self::Live => b"tp_live_",
            Self::Test => b"tp_test_",
        }
    }

    fn of_marker(text: &[u8]) -> Option<Self> {
        [Self::Live, Self::Test]
            .into_iter()
            .find(|it| text.starts_with(it.marker()))
    }
}

/// What a string that a client presented turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Not one of our keys; it may well be somebody else's.
    Foreign,
    /// Our shape, but the checksum does not fit: mistyped or made up.
    BadChecksum,
    /// Our shape and a checksum that fits: worth a look-up.
    Ours,
}

/// Tells what `text` is, without allocating and without any look-up.
pub fn shape(text: &[u8]) -> Shape {
    if text.len() != CREDENTIAL_LEN
        || Environment::of_marker(text).is_none()
        || !text[MARKER_LEN..].iter().all(u8::is_ascii_alphanumeric)
    {
        return Shape::Foreign;
    }
    let (body, sum) = text.split_at(CREDENTIAL_LEN - CHECKSUM_LEN);
    if checksum(body) == sum {
        Shape::Ours
    } else {
        Shape::BadChecksum
    }
}

/// A whole key string. It exists while it is being made and shown, once.
///
/// `Debug` shows the public prefix only, and there is no `Serialize`: writing the
/// secret out takes a deliberate [`Credential::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// Makes a key string from random bytes, which `random_byte` hands out one at a
    /// time. Bytes that would make some digits likelier than others are thrown away.
    pub fn generate(environment: Environment, mut random_byte: impl FnMut() -> u8) -> Self {
        const FAIR: u8 = 248; // the largest multiple of 62 in a byte
        let mut text = Vec::with_capacity(CREDENTIAL_LEN);
        text.extend_from_slice(environment.marker());
        while text.len() < MARKER_LEN + RANDOM_LEN {
            let byte = random_byte();
            if byte < FAIR {
                text.push(DIGITS[usize::from(byte % 62)]);
            }
        }
        let sum = checksum(&text);
        text.extend_from_slice(&sum);
        Self(String::from_utf8(text).expect("markers and base62 digits are ASCII"))
    }

    /// The whole string, secret included.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown in lists: the first 16 characters.
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX_LEN]
    }

    /// What may be shown in lists: the last 4 characters, part of the checksum.
    pub fn last4(&self) -> &str {
        &self.0[CREDENTIAL_LEN - 4..]
    }

    /// What is kept instead of the string.
    pub fn hash(&self) -> CredentialHash {
        CredentialHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.prefix())
    }
}

/// SHA-256 of a whole key string: the only form of it that is stored, sent or logged.
/// As text it is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialHash([u8; 32]);

impl CredentialHash {
    /// Hashes what a client presented.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The hash from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hex digits")]
pub struct BadHash;

impl FromStr for CredentialHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(BadHash);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadHash)?;
        Ok(Self(bytes))
    }
}

impl Serialize for CredentialHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CredentialHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for CredentialHash {
    fn schema_name() -> Cow<'static, str> {
        "CredentialHash".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

/// CRC-32 (IEEE) of everything before it, in base62, most significant digit first.
fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl FnMut() -> u8 {
        let mut next = 0_u8;
        move || {
            next = next.wrapping_add(41);
            next
        }
    }

    #[test]
    fn a_made_key_has_the_documented_layout() {
        for environment in [Environment::Live, Environment::Test] {
            let key = Credential::generate(environment, counting());
            assert_eq!(key.reveal().len(), 52);
            assert!(key.reveal().as_bytes().starts_with(environment.marker()));
            assert_eq!(key.prefix().len(), 16);
            assert_eq!(shape(key.reveal().as_bytes()), Shape::Ours);
            assert!(!format!("{key:?}").contains(&key.reveal()[16..]));
        }
    }

    #[test]
    fn the_checksum_is_crc_32_ieee_in_base62() {
        // CRC-32 of "123456789" is 0xCBF43926 = 3421780262, the catalogue's check value.
        assert_eq!(checksum(b"123456789"), *b"3jZRME");
        assert_eq!(checksum(b""), *b"000000");
    }

    #[test]
    fn one_changed_character_is_noticed() {
        let key = Credential::generate(Environment::Live, counting());
        for at in MARKER_LEN..CREDENTIAL_LEN {
            let mut text = key.reveal().as_bytes().to_vec();
            text[at] = if text[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(shape(&text), Shape::BadChecksum, "at {at}");
        }
    }

    #[test]
    fn other_shapes_are_foreign() {
        let key = Credential::generate(Environment::Live, counting());
        let text = key.reveal();
        let underscored = text.replace(&text[20..21], "_");
        for foreign in ["", "sk-123", &text[1..], &format!("{text}0"), &underscored] {
            assert_eq!(shape(foreign.as_bytes()), Shape::Foreign, "{foreign}");
        }
    }

    #[test]
    fn hash_as_text_and_back() {
        let hash = CredentialHash::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse(), Ok(hash));
        assert_eq!(text.to_uppercase().parse::<CredentialHash>(), Err(BadHash));
    }
}
