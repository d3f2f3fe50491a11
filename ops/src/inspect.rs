//! What `region status` and `region entry` show.

use anyhow::Context as _;
use control_plane::fleet::{self, Member};
use control_plane::region::Region;
use control_plane::store::{Store, log};
use control_plane::view;
use schemas::stream::Meta;
use schemas::{CredentialHash, KeyId, LineageId, Position, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far a region is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The region's name.
    pub region: String,
    /// The position of the log's head.
    pub head: Position,
    /// Every event up to here is in the region; `None` when it is empty.
    pub position: Option<Position>,
    /// Events that the region does not hold yet.
    pub lag: u64,
    /// The history that the entries were folded from.
    pub lineage: Option<LineageId>,
    /// The generation of that history.
    pub generation: Option<u32>,
    /// The build of the table.
    pub epoch: Option<u64>,
    /// The term of the projector that wrote last.
    pub fence: Option<u64>,
    /// When the projector last wrote.
    pub as_of: Option<Timestamp>,
    /// The proxies that ever reported, by id, with what they last said.
    pub members: Vec<Member>,
}

/// The entries of a key in a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entries {
    /// The region's name.
    pub region: String,
    /// The key.
    pub key_id: KeyId,
    /// The build of the table; `None` when the region is empty.
    pub epoch: Option<u64>,
    /// Every event up to here is in the region; `None` when it is empty.
    pub position: Option<Position>,
    /// One for each secret that the log knows, oldest first.
    pub entries: Vec<Stored>,
}

/// The entry of one secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The lookup hash.
    pub hash: CredentialHash,
    /// The entry as stored; `None` when the region does not hold it.
    pub entry: Option<Value>,
}

/// What a region says of itself, whoever wrote it.
///
/// # Errors
/// When the region cannot be asked, or says something else.
pub async fn meta(region: &dyn Region) -> anyhow::Result<Option<Meta>> {
    let fields = region.meta().await?;
    let meta = fields.map(|fields| Meta::of_fields(&fields)).transpose();
    meta.map_err(|what| anyhow::anyhow!("what the region says of itself cannot be read: {what}"))
}

/// How far a region is that says `meta` of itself. Ask it before this is called: asked
/// the other way round it could seem ahead of the log.
///
/// # Errors
/// When the database cannot be asked.
pub async fn status(store: &Store, region: &str, meta: Option<Meta>) -> anyhow::Result<Status> {
    let meta = meta.as_ref();
    let head = log::head(store).await?.position;
    let position = meta.map(|meta| meta.position);
    Ok(Status {
        region: region.to_owned(),
        head,
        position,
        lag: head.saturating_sub(position.unwrap_or(0)),
        lineage: meta.map(|meta| meta.lineage),
        generation: meta.map(|meta| meta.generation),
        epoch: meta.map(|meta| meta.epoch),
        fence: meta.map(|meta| meta.fence),
        as_of: meta.map(|meta| Timestamp::from_unix_ms(meta.as_of_ms)),
        members: fleet::members(store, region).await?,
    })
}

/// The lookup hashes of a key's secrets, oldest first; `None` when the log does not know
/// the key.
///
/// # Errors
/// When the database cannot be asked.
pub async fn hashes(store: &Store, key_id: KeyId) -> anyhow::Result<Option<Vec<CredentialHash>>> {
    let key = view::key::find_anywhere(store, key_id).await?;
    Ok(key.map(|key| view::key::hashes(&key)))
}

/// What `region` holds of the secrets with these hashes.
///
/// # Errors
/// When the region cannot be asked.
pub async fn entries(
    region: &dyn Region,
    key_id: KeyId,
    hashes: &[CredentialHash],
) -> anyhow::Result<Entries> {
    let meta = meta(region).await?;
    let mut stored = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let entry = match &meta {
            Some(Meta { epoch, .. }) => region.entry(*epoch, hash).await?,
            None => None,
        };
        let entry = entry
            .map(|text| serde_json::from_str(&text).context("a stored entry is not JSON"))
            .transpose()?;
        stored.push(Stored { hash: *hash, entry });
    }
    Ok(Entries {
        region: region.name().to_owned(),
        key_id,
        epoch: meta.as_ref().map(|meta| meta.epoch),
        position: meta.as_ref().map(|meta| meta.position),
        entries: stored,
    })
}
