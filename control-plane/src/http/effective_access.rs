//! `/api-keys/{id}/effective-access`: what a key may call, and why.
//!
//! It is worked out from the same entries that proxies hold: the workspace's targets, the
//! access of the key's team and the key's own, each level narrowing the one above.

use axum::response::Response;
use events::access::reasons;
use events::key::Key;
use events::target::Target;
use schemas::TargetId;
use schemas::api::{AccessLevel, AccessOfLevel, EffectiveAccess, EffectiveTarget};
use schemas::entry::Access;

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use crate::{fresh, view};

pub(super) async fn show(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = super::keys::find(&call, &id).await?;
    super::keys::permit_read(&call, &key)?;
    let limit = call.params.limit();
    let after: Option<TargetId> = call.params.cursor()?;
    call.finish_params()?;
    let levels = Levels::of(&call, &key).await?;
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

/// The levels that a key's requests must pass, the widest first.
pub(super) struct Levels(Vec<AccessOfLevel>);

// === impl Levels ===

impl Levels {
    /// The levels of a key, as they are now.
    pub(super) async fn of(call: &Call, key: &Key) -> Result<Self, Failure> {
        let mut levels = vec![AccessOfLevel {
            level: AccessLevel::Workspace,
            id: key.workspace_id.to_string(),
            access: Access::default(),
        }];
        if let Some(id) = key.team_id {
            let team = view::team::get(call.app.store(), key.workspace_id, id).await?;
            levels.extend(team.map(|team| AccessOfLevel {
                level: AccessLevel::Team,
                id: id.to_string(),
                access: team.fields.access,
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
    pub(super) fn judge(&self, target: &Target) -> EffectiveTarget {
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
