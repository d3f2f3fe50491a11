//! Who wrote it: signatures and MACs over what travels between the planes.
//!
//! Redis and NATS carry bytes and vouch for nothing. So everything that a proxy believes is
//! signed by its region's control plane (Ed25519, RFC 8032), and everything that the control
//! plane believes of a proxy carries an HMAC-SHA-256 (RFC 2104) under the region's fleet
//! secret; so do the answers, and each stored entry.
//!
//! | what | proof | why |
//! |---|---|---|
//! | frame, heartbeat, meta | signature | a proxy, which only verifies, cannot make one |
//! | entry in Redis | MAC, the member `mac` | a million of them are read at a start: 1 µs each instead of 50 |
//! | renewal, answer | MAC, both ways | each side knows the other by the secret they share |
//!
//! **What is signed.** The raw bytes as sent, not an object that would have to be written
//! again in a canonical form first, so that there is one reading. They stand behind the
//! kind of message and the region's name: a frame cannot pass for a heartbeat, nor one
//! region's for another's. Of an entry the name of its field is covered too, so that it
//! cannot be moved to another secret.
//!
//! **What a proof does not say** is that the bytes are the newest. Positions, revisions,
//! counters and the root over all revisions ([`digest`](crate::digest)) do.
//!
//! **Rotation.** A proxy accepts any of its verify keys. MACs do not depend on the signing
//! key, so entries stay good when it changes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fleet::{Renewal, RenewalAnswer};
use crate::name::SIGNATURE_FIELD;
use crate::stream::{Frame, Heartbeat, Meta, MetaFields};

/// Bytes of a signing key's seed, of a public key and of a fleet secret.
pub const KEY_BYTES: usize = 32;

/// Bytes of an entry's MAC: half of the HMAC, as RFC 2104 allows.
const ENTRY_MAC_BYTES: usize = 16;

/// What everything that is signed begins with.
const DOMAIN: &str = "throttleproxy.v1";

/// What stands between an entry's last member and its MAC.
const MAC_MEMBER: &str = ",\"mac\":\"";

/// What can be signed or authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A frame, on NATS or in the feed.
    Frame,
    /// A heartbeat.
    Heartbeat,
    /// The region's record of itself.
    Meta,
    /// An entry in Redis.
    Entry,
    /// A proxy's report.
    Renewal,
    /// The answer to it.
    Answer,
}

/// Bytes, and what proves who wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The bytes, exactly as they travel.
    pub bytes: Vec<u8>,
    /// A signature or a MAC in hex; empty where none came along.
    pub proof: String,
}

/// Something is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not come from whom it should.
    #[error("a {kind} was not written by this region's {writer}", writer = writer_of(.0), kind = .0)]
    Unverified(Kind),
    /// It comes from there, and this build cannot read it.
    #[error("a {kind} cannot be read: {detail}")]
    Malformed {
        /// What it is.
        kind: Kind,
        /// What is wrong with it.
        detail: String,
    },
}

/// A public key that a region may be signed with; as text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyKey([u8; KEY_BYTES]);

/// The secret that a region's proxies and control planes share.
#[derive(Clone)]
pub struct FleetSecret(hmac::Key);

/// What a control plane proves itself with in one region.
pub struct Seal {
    key: Ed25519KeyPair,
    trust: Trust,
}

/// What a proxy proves itself with, and by which it knows its region.
#[derive(Clone)]
pub struct Trust {
    region: String,
    keys: Vec<VerifyKey>,
    fleet: FleetSecret,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Frame,
        Self::Heartbeat,
        Self::Meta,
        Self::Entry,
        Self::Renewal,
        Self::Answer,
    ];

    /// The name, as it stands in what is signed and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Heartbeat => "heartbeat",
            Self::Meta => "meta",
            Self::Entry => "entry",
            Self::Renewal => "renewal",
            Self::Answer => "answer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn writer_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Renewal => "proxies (is `fleet_secret_file` the same on both sides?)",
        Kind::Entry | Kind::Answer => {
            "control plane (is `fleet_secret_file` the same on both sides?)"
        }
        _ => "control plane (does `data.verify_keys` hold its key?)",
    }
}

// === impl VerifyKey ===

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hex digits")]
pub struct BadKey;

impl FromStr for VerifyKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        key_bytes(text).map(Self).ok_or(BadKey)
    }
}

impl Serialize for VerifyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for VerifyKey {
    fn schema_name() -> Cow<'static, str> {
        "VerifyKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

/// The 32 bytes that a key or secret file holds as 64 lower-case hex digits.
pub fn key_bytes(text: &str) -> Option<[u8; KEY_BYTES]> {
    let is_lower = !text.bytes().any(|it| it.is_ascii_uppercase());
    let mut bytes = [0; KEY_BYTES];
    let is_hex = hex::decode_to_slice(text, &mut bytes).is_ok();
    (is_lower && is_hex).then_some(bytes)
}

// === impl FleetSecret ===

impl FleetSecret {
    /// The secret with these bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret(…)")
    }
}

// === impl Seal ===

impl Seal {
    /// The seal of a region: the seed of its signing key, and its fleet secret.
    pub fn new(region: &str, seed: &[u8; KEY_BYTES], fleet: FleetSecret) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(seed)
            .expect("every 32 bytes are the seed of an Ed25519 key");
        let mut public = [0; KEY_BYTES];
        public.copy_from_slice(key.public_key().as_ref());
        Self {
            key,
            trust: Trust::new(region, vec![VerifyKey(public)], fleet),
        }
    }

    /// What a proxy needs to believe what is sealed with this.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The public key.
    pub fn verify_key(&self) -> VerifyKey {
        self.trust.keys[0]
    }

    /// Signs a frame.
    pub fn frame(&self, frame: &Frame) -> Signed {
        self.signed(Kind::Frame, json(frame))
    }

    /// Signs a heartbeat.
    pub fn heartbeat(&self, heartbeat: &Heartbeat) -> Signed {
        self.signed(Kind::Heartbeat, json(heartbeat))
    }

    /// Signs the region's record of itself.
    pub fn meta(&self, meta: &Meta) -> MetaFields {
        let mut fields = meta.to_fields();
        let signed = self.signed(Kind::Meta, bytes_of(&fields));
        fields.insert(SIGNATURE_FIELD.to_owned(), signed.proof);
        fields
    }

    /// The entry as it is stored under `field`, with its MAC as the last member.
    pub fn entry(&self, field: &str, text: &str) -> String {
        let Some(open) = text.strip_suffix('}') else {
            return text.to_owned();
        };
        let tag = self.trust.entry_tag(field, open.as_bytes());
        let mac = hex::encode(&tag.as_ref()[..ENTRY_MAC_BYTES]);
        format!("{open}{MAC_MEMBER}{mac}\"}}")
    }

    /// Answers a renewal.
    pub fn answer(&self, answer: &RenewalAnswer) -> Signed {
        self.trust.tagged(Kind::Answer, json(answer))
    }

    /// Reads a renewal.
    ///
    /// # Errors
    /// [`Error`].
    pub fn renewal(&self, renewal: &Signed) -> Result<Renewal, Error> {
        self.trust.open_tagged(Kind::Renewal, renewal)
    }

    fn signed(&self, kind: Kind, bytes: Vec<u8>) -> Signed {
        let message = self.trust.message(kind, &bytes);
        let proof = hex::encode(self.key.sign(&message));
        Signed { bytes, proof }
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

// === impl Trust ===

impl Trust {
    /// Trust in a region whose control planes sign with any of `keys`.
    pub fn new(region: &str, keys: Vec<VerifyKey>, fleet: FleetSecret) -> Self {
        Self {
            region: region.to_owned(),
            keys,
            fleet,
        }
    }

    /// Reads a frame. One that is signed and has an entry that this build cannot read comes
    /// without its entries: the follower then reads those themselves, where one bad entry is
    /// set aside alone.
    ///
    /// # Errors
    /// [`Error`].
    pub fn frame(&self, frame: &Signed) -> Result<Frame, Error> {
        self.verify(Kind::Frame, &frame.bytes, &frame.proof)?;
        read(Kind::Frame, &frame.bytes).or_else(|err| {
            let head: FrameHead = read(Kind::Frame, &frame.bytes).map_err(|_| err)?;
            Ok(head.into())
        })
    }

    /// Reads a heartbeat.
    ///
    /// # Errors
    /// [`Error`].
    pub fn heartbeat(&self, heartbeat: &Signed) -> Result<Heartbeat, Error> {
        self.verify(Kind::Heartbeat, &heartbeat.bytes, &heartbeat.proof)?;
        read(Kind::Heartbeat, &heartbeat.bytes)
    }

    /// Reads the region's record of itself.
    ///
    /// # Errors
    /// [`Error`].
    pub fn meta(&self, fields: &MetaFields) -> Result<Meta, Error> {
        let proof = fields.get(SIGNATURE_FIELD).map_or("", String::as_str);
        self.verify(Kind::Meta, &bytes_of(fields), proof)?;
        Meta::of_fields(fields).map_err(|detail| Error::Malformed {
            kind: Kind::Meta,
            detail,
        })
    }

    /// The entry that is stored under `field`, as it was before its MAC was put in.
    ///
    /// # Errors
    /// [`Error::Unverified`].
    pub fn entry(&self, field: &str, mut stored: Vec<u8>) -> Result<Vec<u8>, Error> {
        const TAIL: usize = MAC_MEMBER.len() + 2 * ENTRY_MAC_BYTES + "\"}".len();
        let unverified = Error::Unverified(Kind::Entry);
        let open = stored.len().checked_sub(TAIL).ok_or(unverified.clone())?;
        let (text, tail) = stored.split_at(open);
        let mac = tail
            .strip_prefix(MAC_MEMBER.as_bytes())
            .and_then(|it| it.strip_suffix(b"\"}"))
            .ok_or(unverified.clone())?;
        let mut given = [0; ENTRY_MAC_BYTES];
        hex::decode_to_slice(mac, &mut given).map_err(|_| unverified.clone())?;
        let tag = self.entry_tag(field, text);
        // Both sides are MACs of what the attacker knows; still, no time is told.
        if !is_same(&given, &tag.as_ref()[..ENTRY_MAC_BYTES]) {
            return Err(unverified);
        }
        stored.truncate(open);
        stored.push(b'}');
        Ok(stored)
    }

    /// Authenticates a report.
    pub fn renewal(&self, renewal: &Renewal) -> Signed {
        self.tagged(Kind::Renewal, json(renewal))
    }

    /// Reads the answer to a report.
    ///
    /// # Errors
    /// [`Error`].
    pub fn answer(&self, answer: &Signed) -> Result<RenewalAnswer, Error> {
        self.open_tagged(Kind::Answer, answer)
    }

    fn verify(&self, kind: Kind, bytes: &[u8], proof: &str) -> Result<(), Error> {
        let unverified = Error::Unverified(kind);
        let mut signature = [0; 64];
        hex::decode_to_slice(proof, &mut signature).map_err(|_| unverified.clone())?;
        let message = self.message(kind, bytes);
        let is_good = |key: &VerifyKey| {
            let key = UnparsedPublicKey::new(&ED25519, key.0);
            key.verify(&message, &signature).is_ok()
        };
        self.keys
            .iter()
            .any(is_good)
            .then_some(())
            .ok_or(unverified)
    }

    fn tagged(&self, kind: Kind, bytes: Vec<u8>) -> Signed {
        let tag = hmac::sign(&self.fleet.0, &self.message(kind, &bytes));
        let proof = hex::encode(tag);
        Signed { bytes, proof }
    }

    fn open_tagged<T: DeserializeOwned>(&self, kind: Kind, message: &Signed) -> Result<T, Error> {
        let tag = hex::decode(&message.proof).map_err(|_| Error::Unverified(kind))?;
        hmac::verify(&self.fleet.0, &self.message(kind, &message.bytes), &tag)
            .map_err(|_| Error::Unverified(kind))?;
        read(kind, &message.bytes)
    }

    /// The MAC of an entry, given without its closing brace.
    fn entry_tag(&self, field: &str, open: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.fleet.0);
        // A table is a million of these: no copy is made of any part.
        for part in [DOMAIN, Kind::Entry.as_str(), &self.region, field] {
            context.update(part.as_bytes());
            context.update(b"\0");
        }
        context.update(open);
        context.update(b"}");
        context.sign()
    }

    /// What is really signed. Neither kinds nor names of regions hold a zero byte.
    fn message(&self, kind: Kind, bytes: &[u8]) -> Vec<u8> {
        let head = [DOMAIN, kind.as_str(), &self.region, ""].join("\0");
        [head.as_bytes(), bytes].concat()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("region", &self.region)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// A frame without its changes, for when those cannot be read.
#[derive(Deserialize)]
struct FrameHead {
    lineage: crate::LineageId,
    generation: u32,
    epoch: u64,
    from: crate::Position,
    to: crate::Position,
    as_of_ms: i64,
}

impl From<FrameHead> for Frame {
    fn from(head: FrameHead) -> Self {
        Self {
            lineage: head.lineage,
            generation: head.generation,
            epoch: head.epoch,
            from: head.from,
            to: head.to,
            changes: None,
            as_of_ms: head.as_of_ms,
        }
    }
}

/// The bytes of meta that are signed: every field but the signature, in the order of the
/// names, each text behind its length. A field that this build does not know is covered too.
fn bytes_of(fields: &MetaFields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| *name != SIGNATURE_FIELD) {
        for text in [name, value] {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

fn json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages are structs of texts and numbers")
}

fn read<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|err| Error::Malformed {
        kind,
        detail: err.to_string(),
    })
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differs = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differs == 0
}

#[cfg(test)]
mod tests;
