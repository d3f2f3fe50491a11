//! `/api-keys/{id}/effective-access`: what a key may call, and why.
//!
//! It is worked out from the same entries that proxies hold: the workspace's targets, the
//! access of the key's team and the key's own, each level narrowing the one above.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use axum::response::Response;
use events::access::reasons;
use events::key::Key;
use events::target::Target;
use schemas::api::{AccessLevel, AccessOfLevel, EffectiveAccess, EffectiveTarget};
use schemas::entry::Access;
use schemas::{TargetId, TeamId, Timestamp};

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use crate::view::key::Filter;
use crate::{fresh, view};

pub(super) async fn show(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = super::keys::find_readable(&call, &id).await?;
    let limit = call.params.limit();
    let after: Option<TargetId> = call.params.cursor()?;
    call.finish_params()?;
    let levels = Levels::of(&call, &key, &mut Teams::new()).await?;
    let store = call.app.store();
    let mut targets = view::target::list(store, key.workspace_id, after, limit + 1).await?;
    let more = targets.len() > limit as usize;
    targets.truncate(limit as usize);
    let next_cursor = targets
        .last()
        .filter(|_| more)
        .map(|target| target.id.to_string());
    answer::ok(&EffectiveAccess {
        key_id: key.id,
        status: key.status(fresh::now()),
        targets: targets.iter().map(|it| levels.judge(it)).collect(),
        levels: levels.0,
        next_cursor,
    })
}

/// The keys of a list that may call a target, in the list's order.
pub(super) async fn keys_that_may(
    call: &Call,
    target: &Target,
    mut filter: Filter,
    now: Timestamp,
) -> Result<Vec<Key>, Failure> {
    let wanted = filter.limit as usize;
    filter.limit = CHUNK;
    let mut teams = Teams::new();
    let mut found = Vec::new();
    loop {
        let chunk =
            view::key::list(call.app.store(), call.caller.workspace_id, &filter, now).await?;
        let is_last = chunk.len() < CHUNK as usize;
        filter.after = chunk.last().map(|key| key.id);
        for key in chunk {
            let levels = Levels::of(call, &key, &mut teams).await?;
            if levels.judge(target).allowed {
                found.push(key);
            }
            if found.len() == wanted {
                return Ok(found);
            }
        }
        if is_last {
            return Ok(found);
        }
    }
}

/// Keys that are looked at together.
const CHUNK: u32 = 500;

/// The access of the teams that were asked for so far.
type Teams = HashMap<TeamId, Option<Access>>;

/// The levels that a key's requests must pass, the widest first.
struct Levels(Vec<AccessOfLevel>);

// === impl Levels ===

impl Levels {
    /// The levels of a key, as they are now.
    async fn of(call: &Call, key: &Key, teams: &mut Teams) -> Result<Self, Failure> {
        let mut levels = vec![AccessOfLevel {
            level: AccessLevel::Workspace,
            id: key.workspace_id.to_string(),
            access: Access::default(),
        }];
        if let Some(id) = key.team_id {
            if let Entry::Vacant(place) = teams.entry(id) {
                let team = view::team::get(call.app.store(), key.workspace_id, id).await?;
                place.insert(team.map(|it| it.fields.access));
            }
            let access = teams.get(&id).cloned().flatten();
            levels.extend(access.map(|access| AccessOfLevel {
                level: AccessLevel::Team,
                id: id.to_string(),
                access,
            }));
        }
        levels.push(AccessOfLevel {
            level: AccessLevel::Key,
            id: key.id.to_string(),
            access: key.access.clone(),
        });
        Ok(Self(levels))
    }

    /// What they make of a target.
    fn judge(&self, target: &Target) -> EffectiveTarget {
        let levels = self.0.iter().map(|it| (it.level, &it.access));
        let reasons = reasons(levels, target.id, &target.fields.groups);
        let allowed = reasons.iter().all(|it| it.allowed || it.shadow);
        EffectiveTarget {
            id: target.id,
            name: target.fields.name.clone(),
            allowed,
            shadow_denied: allowed && reasons.iter().any(|it| !it.allowed),
            reasons,
        }
    }
}
