//! Events as bytes: canonical JSON, versions, and the hashes that make history hold
//! together.
//!
//! The canonical bytes (RFC 8785) of the envelope are what is stored, hashed, exported
//! and proved. `leaf = SHA-256(0x00 ‖ bytes)` is a Merkle leaf as in RFC 6962, and
//! `chain = SHA-256(previous chain ‖ position, 8 bytes big-endian ‖ leaf)` ties it to all
//! that came before.

use schemas::api::Actor;
use schemas::entry::Access;
use schemas::{EventId, LineageId, Position, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::event::{Event, Recorded};

/// The most canonical bytes that one event may have.
pub const EVENT_BYTES_MAX: usize = 60_000;

/// A step that turns the data of an event type from one version into the next.
#[derive(Debug, Clone, Copy)]
pub struct Upcast {
    /// The event type.
    pub kind: &'static str,
    /// The version that is turned into the next one.
    pub from: u32,
    /// Changes the data in place.
    pub step: fn(&mut Value),
}

/// All steps there are. A type gets a new version also where only a field was added that
/// older builds would ignore, if what they would make of the event without it lets more
/// through than it should.
pub const UPCASTS: &[Upcast] = &[
    Upcast {
        kind: "key.created",
        from: 1,
        step: inherit_access,
    },
    Upcast {
        kind: "key.updated",
        from: 1,
        step: keep,
    },
    Upcast {
        kind: "target.created",
        from: 1,
        step: without_groups_and_credential,
    },
    Upcast {
        kind: "target.updated",
        from: 1,
        step: keep,
    },
];

/// A SHA-256.
pub type Hash = [u8; 32];

/// The chain hash before the first event.
pub const CHAIN_START: Hash = [0; 32];

/// Why bytes are not an event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They are not of the format, or of a type or version that this build does not know.
    #[error("not an event that this build can read")]
    Malformed(#[source] serde_json::Error),
    /// It would have more than [`EVENT_BYTES_MAX`] bytes.
    #[error("the event would have {0} bytes, the most is {EVENT_BYTES_MAX}")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    position: Position,
    lineage: LineageId,
    generation: u32,
    stream: String,
    stream_version: u64,
    id: EventId,
    #[serde(rename = "type")]
    kind: String,
    schema_version: u32,
    at: Timestamp,
    workspace_id: Option<WorkspaceId>,
    actor: Actor,
    request_id: Option<String>,
    causation_id: Option<EventId>,
    data: Value,
}

/// The canonical bytes of an event.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn encode(recorded: &Recorded) -> Result<Vec<u8>, Error> {
    let (kind, data) = kind_and_data(&recorded.event)?;
    let schema_version = version_of(&kind);
    let envelope = Envelope {
        position: recorded.position,
        lineage: recorded.lineage,
        generation: recorded.generation,
        stream: recorded.stream.to_string(),
        stream_version: recorded.stream_version,
        id: recorded.id,
        kind,
        schema_version,
        at: recorded.at,
        workspace_id: recorded.workspace_id,
        actor: recorded.actor.clone(),
        request_id: recorded.request_id.clone(),
        causation_id: recorded.causation_id,
        data,
    };
    let bytes = serde_json_canonicalizer::to_vec(&envelope).map_err(Error::Malformed)?;
    if bytes.len() > EVENT_BYTES_MAX {
        Err(Error::TooLarge(bytes.len()))
    } else {
        Ok(bytes)
    }
}

/// Reads an event of any version that was ever written.
///
/// # Errors
/// [`Error::Malformed`].
pub fn decode(bytes: &[u8]) -> Result<Recorded, Error> {
    decode_with(bytes, UPCASTS)
}

/// The name of an event's type, as it stands in the log.
///
/// # Errors
/// [`Error::Malformed`], which no event of this build is.
pub fn kind(event: &Event) -> Result<String, Error> {
    kind_and_data(event).map(|(kind, _)| kind)
}

/// The version that events of a type are written in: one above its last step, 1 without.
pub fn version_of(kind: &str) -> u32 {
    newest(kind, UPCASTS)
}

/// The hash of an event by itself.
pub fn leaf_hash(canonical: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(canonical)
        .finalize()
        .into()
}

/// The hash of an event and all before it.
pub fn chain_hash(previous: &Hash, position: Position, leaf: &Hash) -> Hash {
    Sha256::new()
        .chain_update(previous)
        .chain_update(position.to_be_bytes())
        .chain_update(leaf)
        .finalize()
        .into()
}

fn kind_and_data(event: &Event) -> Result<(String, Value), Error> {
    #[derive(Deserialize)]
    struct Tagged {
        #[serde(rename = "type")]
        kind: String,
        data: Value,
    }
    let tagged = serde_json::to_value(event).and_then(serde_json::from_value::<Tagged>);
    tagged
        .map(|it| (it.kind, it.data))
        .map_err(Error::Malformed)
}

/// Before there was access, every key could go to all targets of its workspace.
fn inherit_access(data: &mut Value) {
    set_where_absent(data, "access", serde_json::json!(Access::default()));
}

fn without_groups_and_credential(data: &mut Value) {
    set_where_absent(data, "groups", serde_json::json!([]));
    set_where_absent(data, "credential", Value::Null);
}

/// Nothing that was written before changes its meaning.
fn keep(_: &mut Value) {}

fn set_where_absent(data: &mut Value, member: &str, value: Value) {
    if let Some(members) = data.as_object_mut() {
        members.entry(member).or_insert(value);
    }
}

fn newest(kind: &str, upcasts: &[Upcast]) -> u32 {
    upcasts
        .iter()
        .filter(|it| it.kind == kind)
        .map(|it| it.from + 1)
        .max()
        .unwrap_or(1)
}

fn decode_with(bytes: &[u8], upcasts: &[Upcast]) -> Result<Recorded, Error> {
    use serde::de::Error as _;
    let mut envelope: Envelope = serde_json::from_slice(bytes).map_err(Error::Malformed)?;
    let mut version = envelope.schema_version;
    while let Some(upcast) = upcasts
        .iter()
        .find(|it| it.kind == envelope.kind && it.from == version)
    {
        (upcast.step)(&mut envelope.data);
        version += 1;
    }
    let newest = newest(&envelope.kind, upcasts);
    if version != newest {
        return Err(Error::Malformed(serde_json::Error::custom(format!(
            "{} has version {version}, this build reads up to {newest}",
            envelope.kind
        ))));
    }
    let tagged = serde_json::json!({ "type": envelope.kind, "data": envelope.data });
    let event = serde_json::from_value(tagged).map_err(Error::Malformed)?;
    let stream = envelope
        .stream
        .parse()
        .map_err(|err| Error::Malformed(serde_json::Error::custom(err)))?;
    Ok(Recorded {
        position: envelope.position,
        lineage: envelope.lineage,
        generation: envelope.generation,
        stream,
        stream_version: envelope.stream_version,
        id: envelope.id,
        at: envelope.at,
        workspace_id: envelope.workspace_id,
        actor: envelope.actor,
        request_id: envelope.request_id,
        causation_id: envelope.causation_id,
        event,
    })
}

#[cfg(test)]
mod tests;
