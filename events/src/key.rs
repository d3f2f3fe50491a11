//! A key: what can be asked of it, what is refused, and what follows from its events.
//!
//! States: `active ⇄ inactive → revoked`; expired is derived from the time. Revoked is
//! absorbing. A key's id is not its secret: secrets are children with a hash and an end
//! of their own, so that limits and history survive a rotation.

use std::collections::BTreeMap;

use schemas::api::{Actor, KeyStatus, Source};
use schemas::entry::{Access, Owner};
use schemas::{
    CredentialHash, Environment, KeyId, Limits, Position, SecretId, TeamId, Timestamp, WorkspaceId,
};
use serde::{Deserialize, Serialize};

use crate::access::{self, AccessPatch};
use crate::command::{CreateKey, KeyCommand, LimitsPatch, MetadataPatch, PatchKey, RotateKey};
use crate::event::{
    Event, KeyChanges, KeyRotated, KeyTransfer, Recorded, SecretEnding, SecretMade,
};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::text::{NAME_CHARS_MAX, SecretLook};

/// The largest integer that JSON carries without loss, 2^53 - 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

const CATEGORY_CHARS_MAX: usize = 64;
const METADATA_PAIRS_MAX: usize = 32;
const METADATA_BYTES_MAX: usize = 2_048;

/// A key, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The key's id.
    pub id: KeyId,
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// A label with no effect on behaviour.
    pub category: Option<String>,
    /// The marker in its secrets.
    pub environment: Environment,
    /// The team that it belongs to.
    pub team_id: Option<TeamId>,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// When it stops by itself.
    pub expires_at: Option<Timestamp>,
    /// Rates.
    pub limits: Limits,
    /// Where it may go, within what its team and workspace allow.
    #[serde(default)]
    pub access: Access,
    /// Labels for programs.
    pub metadata: BTreeMap<String, String>,
    /// The key that this one takes the place of.
    pub replaces: Option<KeyId>,
    /// When its secret should be replaced; a reminder.
    pub rotation_due_at: Option<Timestamp>,
    /// Who made it.
    pub created_by: Actor,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it was made.
    pub source: Source,
    /// Whether it is switched on, off, or off for good.
    pub state: State,
    /// Removed after it was proven never used; kept only so that its tombstone stays.
    pub purged: bool,
    /// Its secrets, oldest first; ended ones stay.
    pub secrets: Vec<Secret>,
    /// When a proxy first admitted a request with it.
    pub first_used_at: Option<Timestamp>,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// Whether a key is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// On.
    Active,
    /// Off, can be switched on again.
    Inactive,
    /// Off for good.
    Revoked,
}

/// One secret of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// What proxies look up.
    pub hash: CredentialHash,
    /// The first 16 characters of the key string.
    pub prefix: String,
    /// The last 4 characters of the key string.
    pub last4: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by time, or when it was ended.
    pub ends_at: Option<Timestamp>,
    /// Ended by state: no clock brings it back.
    pub ended: bool,
}

// === impl Key ===

impl Key {
    /// What the key can be used for at `now`: the first that holds of revoked, inactive,
    /// expired, active.
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        match self.state {
            State::Revoked => KeyStatus::Revoked,
            State::Inactive => KeyStatus::Inactive,
            State::Active if self.expires_at.is_some_and(|at| now >= at) => KeyStatus::Expired,
            State::Active => KeyStatus::Active,
        }
    }

    /// The secrets that have not ended at `now`.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |it| it.is_live(now))
    }
}

impl Secret {
    /// Whether it has not ended at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.ended && self.ends_at.is_none_or(|at| now < at)
    }

    fn made(secret: &SecretMade, created_at: Timestamp) -> Self {
        Self {
            id: secret.id,
            hash: secret.hash,
            prefix: secret.prefix.clone(),
            last4: secret.last4.clone(),
            created_at,
            ends_at: None,
            ended: false,
        }
    }
}

/// What follows from a command, or why nothing does. An empty list means that the key
/// is already as asked.
///
/// # Errors
/// [`Refusal`]; uniqueness of names is not decided here, since one key does not know the
/// others.
pub fn decide(
    key: Option<&Key>,
    command: &KeyCommand,
    now: Timestamp,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    let key = key.filter(|key| !key.purged);
    if let KeyCommand::Create(create) = command {
        return match key {
            Some(_) => Err(Refusal::Exists("key")),
            None => create_key(create, now, look).map(|event| vec![event]),
        };
    }
    let key = key.ok_or(Refusal::NotFound("key"))?;
    let revoked = key.state == State::Revoked;
    match command {
        KeyCommand::Create(_) => unreachable!("handled above"),
        KeyCommand::Revoke => Ok(if revoked {
            vec![]
        } else {
            vec![Event::KeyRevoked {}]
        }),
        KeyCommand::Purge => match key.first_used_at {
            Some(_) => Err(Refusal::KeyHasHistory),
            // While it is on, a proxy may admit it at any moment: nothing is proven.
            None if key.state == State::Active => Err(Refusal::KeyActive),
            None => Ok(vec![Event::KeyPurged {}]),
        },
        KeyCommand::RecordFirstUse { secret_id, used_at } => Ok(match key.first_used_at {
            Some(_) => vec![],
            None => vec![Event::KeyFirstUsed {
                secret_id: *secret_id,
                used_at: *used_at,
            }],
        }),
        _ if revoked => Err(Refusal::KeyRevoked),
        KeyCommand::Deactivate => Ok(match key.state {
            State::Active => vec![Event::KeyDeactivated {}],
            _ => vec![],
        }),
        KeyCommand::Reactivate => Ok(match key.state {
            State::Inactive => vec![Event::KeyReactivated {}],
            _ => vec![],
        }),
        KeyCommand::Patch(patch) => patch_key(key, patch, now, look),
        KeyCommand::Transfer { owner, team_id } => Ok(transfer_key(key, *owner, *team_id)),
        KeyCommand::Rotate(rotate) => rotate_key(key, rotate, now, look).map(|event| vec![event]),
    }
}

/// The key after an event. It cannot fail: what is in the log has happened.
pub fn evolve(key: Option<Key>, recorded: &Recorded) -> Option<Key> {
    let mut key = match (&recorded.event, recorded.stream) {
        (Event::KeyCreated(created), crate::Stream::Key(id)) => new_key(id, created, recorded)?,
        _ => key?,
    };
    match &recorded.event {
        Event::KeyUpdated { changes } => changes.apply(&mut key),
        Event::KeyTransferred { changes } => changes.apply(&mut key),
        // Revoked is absorbing here too, whatever a log may hold.
        Event::KeyDeactivated {} if key.state == State::Active => key.state = State::Inactive,
        Event::KeyReactivated {} if key.state == State::Inactive => key.state = State::Active,
        Event::KeyRevoked {} => key.state = State::Revoked,
        Event::KeyRotated(rotated) => apply_rotation(&mut key, rotated, recorded.at),
        Event::KeyFirstUsed { used_at, .. } => {
            key.first_used_at.get_or_insert(*used_at);
        }
        Event::KeyPurged {} => key.purged = true,
        _ => {}
    }
    key.version = recorded.stream_version;
    key.position = recorded.position;
    Some(key)
}

fn new_key(id: KeyId, created: &crate::event::KeyCreated, recorded: &Recorded) -> Option<Key> {
    Some(Key {
        id,
        workspace_id: recorded.workspace_id?,
        name: created.name.clone(),
        category: created.category.clone(),
        environment: created.environment,
        team_id: created.team_id,
        owner: created.owner,
        expires_at: created.expires_at,
        limits: created.limits,
        access: created.access.clone(),
        metadata: created.metadata.clone(),
        replaces: created.replaces,
        rotation_due_at: created.rotation_due_at,
        created_by: recorded.actor.clone(),
        created_at: recorded.at,
        source: created.source,
        state: State::Active,
        purged: false,
        secrets: vec![Secret::made(&created.secret, recorded.at)],
        first_used_at: None,
        version: recorded.stream_version,
        position: recorded.position,
    })
}

fn apply_rotation(key: &mut Key, rotated: &KeyRotated, at: Timestamp) {
    for secret in &mut key.secrets {
        if rotated.ended.contains(&secret.id) {
            secret.ended = true;
            secret.ends_at = Some(secret.ends_at.map_or(at, |ends_at| ends_at.min(at)));
        } else if let Some(ending) = rotated.ending.iter().find(|it| it.id == secret.id) {
            secret.ends_at = Some(ending.ends_at);
        }
    }
    key.secrets.push(Secret::made(&rotated.secret, at));
}

// === decisions ===

fn create_key(create: &CreateKey, now: Timestamp, look: &SecretLook) -> Result<Event, Refusal> {
    let mut refusals = Vec::new();
    let name = look.check("name", &create.name, NAME_CHARS_MAX, &mut refusals);
    let category = check_category(create.category.as_deref(), look, &mut refusals);
    check_future("expires_at", create.expires_at, now, &mut refusals);
    check_limits(&create.limits, &mut refusals);
    let access = access::merged(
        &Access::default(),
        &AccessPatch::of(&create.access),
        &mut refusals,
    );
    check_metadata(&create.metadata, look, &mut refusals);
    refusal::none(refusals)?;
    Ok(Event::KeyCreated(Box::new(crate::event::KeyCreated {
        name,
        category,
        environment: create.environment,
        team_id: create.team_id,
        owner: create.owner,
        expires_at: create.expires_at,
        limits: create.limits,
        access,
        metadata: create.metadata.clone(),
        replaces: create.replaces,
        rotation_due_at: create.rotation_due_at,
        source: create.source,
        secret: create.secret.clone(),
    })))
}

fn patch_key(
    key: &Key,
    patch: &PatchKey,
    now: Timestamp,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    let mut refusals = Vec::new();
    let mut after = key.clone();
    if let Some(name) = &patch.name {
        after.name = look.check("name", name, NAME_CHARS_MAX, &mut refusals);
    }
    if let Some(category) = &patch.category {
        after.category = check_category(category.as_deref(), look, &mut refusals);
    }
    if let Some(expires_at) = patch.expires_at {
        check_future("expires_at", expires_at, now, &mut refusals);
        after.expires_at = expires_at;
    }
    if let Some(limits) = &patch.limits {
        after.limits = merge_limits(key.limits, limits, &mut refusals);
        check_limits(&after.limits, &mut refusals);
    }
    if let Some(access) = &patch.access {
        after.access = access::merged(&key.access, access, &mut refusals);
    }
    match &patch.metadata {
        None => {}
        Some(MetadataPatch::Clear) => after.metadata.clear(),
        Some(MetadataPatch::Merge(members)) => {
            for (name, value) in members {
                match value {
                    Some(value) => after.metadata.insert(name.clone(), value.clone()),
                    None => after.metadata.remove(name),
                };
            }
            check_metadata(&after.metadata, look, &mut refusals);
        }
    }
    if let Some(rotation_due_at) = patch.rotation_due_at {
        after.rotation_due_at = rotation_due_at;
    }
    refusal::none(refusals)?;
    let changes = KeyChanges::between(key, &after);
    Ok(if changes.is_empty() {
        vec![]
    } else {
        vec![Event::KeyUpdated {
            changes: Box::new(changes),
        }]
    })
}

fn transfer_key(key: &Key, owner: Option<Owner>, team_id: Option<TeamId>) -> Vec<Event> {
    let after = Key {
        owner,
        team_id,
        ..key.clone()
    };
    let changes = KeyTransfer::between(key, &after);
    if changes.is_empty() {
        vec![]
    } else {
        vec![Event::KeyTransferred { changes }]
    }
}

fn rotate_key(
    key: &Key,
    rotate: &RotateKey,
    now: Timestamp,
    look: &SecretLook,
) -> Result<Event, Refusal> {
    let mut refusals = Vec::new();
    let reason = rotate
        .reason
        .as_deref()
        .map(|reason| look.check("reason", reason, NAME_CHARS_MAX, &mut refusals));
    let leaked = reason.as_deref() == Some("leaked");
    let overlap_seconds = match rotate.overlap_seconds {
        Some(0) => 0,
        None if leaked => 0,
        Some(_) if leaked => {
            refusals.push(FieldRefusal::invalid(
                "overlap_seconds",
                "absent or 0 when the reason is leaked: a leaked secret ends at once",
            ));
            0
        }
        Some(seconds) if seconds <= rotate.overlap_max_seconds => seconds,
        _ => {
            refusals.push(FieldRefusal::invalid(
                "overlap_seconds",
                format!("0 to {} seconds", rotate.overlap_max_seconds),
            ));
            0
        }
    };
    refusal::none(refusals)?;

    let live: Vec<SecretId> = key.live_secrets(now).map(|it| it.id).collect();
    if overlap_seconds > 0 && live.len() >= 2 {
        return Err(Refusal::RotationInProgress);
    }
    let (ended, ending) = if overlap_seconds == 0 {
        let not_ended = key.secrets.iter().filter(|it| !it.ended).map(|it| it.id);
        (not_ended.collect(), vec![])
    } else {
        let overlap_ms = i64::try_from(overlap_seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        let ends_at = now.plus_ms(overlap_ms);
        (
            vec![],
            live.into_iter()
                .map(|id| SecretEnding { id, ends_at })
                .collect(),
        )
    };
    Ok(Event::KeyRotated(KeyRotated {
        secret: rotate.secret.clone(),
        ended,
        ending,
        reason,
    }))
}

// === rules for fields ===

fn check_category(
    category: Option<&str>,
    look: &SecretLook,
    refusals: &mut Vec<FieldRefusal>,
) -> Option<String> {
    category.map(|text| look.check("category", text, CATEGORY_CHARS_MAX, refusals))
}

fn check_future(
    field: &str,
    at: Option<Timestamp>,
    now: Timestamp,
    refusals: &mut Vec<FieldRefusal>,
) {
    if at.is_some_and(|at| at <= now) {
        refusals.push(FieldRefusal::invalid(field, format!("a time after {now}")));
    }
}

/// Limits after their named members were set.
pub(crate) fn merge_limits(
    before: Limits,
    patch: &LimitsPatch,
    refusals: &mut Vec<FieldRefusal>,
) -> Limits {
    let mut after = before;
    match patch {
        LimitsPatch::Clear => after = Limits::default(),
        LimitsPatch::Merge(members) => {
            for (name, value) in members {
                match after.get_mut(name) {
                    Some(place) => *place = *value,
                    None => refusals.push(FieldRefusal::invalid(
                        format!("limits.{name}"),
                        "one of rps, rpm, rph, rpd, tpm, tph and tpd",
                    )),
                }
            }
        }
    }
    after
}

/// Limits must be integers that JSON carries, and only those that are enforced.
pub(crate) fn check_limits(limits: &Limits, refusals: &mut Vec<FieldRefusal>) {
    for name in ["rps", "rpm"] {
        if limits
            .get(name)
            .flatten()
            .is_some_and(|value| value > INTEGER_MAX)
        {
            refusals.push(FieldRefusal::invalid(
                format!("limits.{name}"),
                format!("null or 0 to {INTEGER_MAX}"),
            ));
        }
    }
    // Windows longer than a minute, and tokens, need counters that all proxies share.
    for name in ["rph", "rpd", "tpm", "tph", "tpd"] {
        if limits.get(name).flatten().is_some() {
            refusals.push(FieldRefusal {
                field: format!("limits.{name}"),
                code: crate::refusal::FieldCode::NotAvailable,
                detail: "not enforced yet, so it cannot be set".to_owned(),
            });
        }
    }
}

fn check_metadata(
    metadata: &BTreeMap<String, String>,
    look: &SecretLook,
    refusals: &mut Vec<FieldRefusal>,
) {
    let bytes: usize = metadata
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if metadata.len() > METADATA_PAIRS_MAX || bytes > METADATA_BYTES_MAX {
        refusals.push(FieldRefusal::invalid(
            "metadata",
            format!("at most {METADATA_PAIRS_MAX} pairs and {METADATA_BYTES_MAX} bytes in all"),
        ));
    }
    for (name, value) in metadata {
        let field = format!("metadata.{name}");
        look.check(&field, name, METADATA_BYTES_MAX, refusals);
        if !value.is_empty() {
            look.check(&field, value, METADATA_BYTES_MAX, refusals);
        }
    }
}

#[cfg(test)]
mod tests;
