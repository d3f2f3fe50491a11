//! Lists of keys: what can be asked for, and what of it the caller may see.

use std::collections::{BTreeSet, HashMap};

use axum::response::Response;
use events::key::Key;
use events::target::Target;
use schemas::api::{KeyStatus, Page};
use schemas::entry::{Access, Owner};
use schemas::{TeamId, Timestamp};

use super::whose;
use crate::fresh;
use crate::http::answer;
use crate::http::call::Call;
use crate::http::failure::Failure;
use crate::http::permission::Permission;
use crate::http::{targets, teams};
use crate::view::{self, key::Filter};

/// Keys that are looked at in one step where each has to be judged, and the most steps.
const CHUNK: u32 = 500;
const CHUNKS_MAX: usize = 10;

pub(in crate::http) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let scope = whose::visible(&call)?;
    let limit = call.params.limit();
    let after = call.params.cursor()?;
    let status = match call.params.text("status").as_deref() {
        None | Some("active") => Some(KeyStatus::Active),
        Some("inactive") => Some(KeyStatus::Inactive),
        Some("revoked") => Some(KeyStatus::Revoked),
        Some("expired") => Some(KeyStatus::Expired),
        Some("all") => None,
        Some(_) => {
            call.params
                .refuse("status", "active, inactive, revoked, expired or all");
            None
        }
    };
    let category = call.params.text("category");
    let query = call.params.text("q");
    let target = call.params.text("target");
    let team = call.params.text("team_id");
    let owner = call.params.text("owner");
    let mine: bool = call.params.parsed("mine", "true or false").unwrap_or(false);
    call.finish_params()?;
    let target = match &target {
        Some(id) => Some(targets::find(&call, id).await?),
        None => None,
    };
    let team_id = match &team {
        Some(id) => Some(teams::find(&call, id).await?.id),
        None => None,
    };
    if let Some(id) = team_id
        && !scope.reaches(id)
    {
        call.permit(Permission::KeyRead)?;
    }
    let mut owners: Vec<Owner> = mine.then(|| whose::own(&call)).into_iter().collect();
    if let Some(id) = &owner {
        let owner = whose::find_filtered(&call, id).await?;
        whose::permit_owner_filter(&call, owner)?;
        owners.push(owner);
    }

    let now = fresh::now();
    let filter = Filter {
        status,
        category,
        query,
        team_id,
        owners,
        scope,
        after,
        limit: limit + 1,
    };
    let (keys, next_cursor) = match &target {
        None => page(&call, &filter, limit, now).await?,
        Some(target) => page_that_may_call(&call, filter, target, limit, now).await?,
    };
    let data = whose::shown(&call, &keys, now).await?;
    answer::ok(&Page { data, next_cursor })
}

/// A page of the keys that pass a filter, and where the next one begins.
async fn page(
    call: &Call,
    filter: &Filter,
    limit: u32,
    now: Timestamp,
) -> Result<(Vec<Key>, Option<String>), Failure> {
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let mut keys = view::key::list(store, workspace_id, filter, now).await?;
    let more = keys.len() > limit as usize;
    keys.truncate(limit as usize);
    let next_cursor = keys.last().filter(|_| more).map(|key| key.id.to_string());
    Ok((keys, next_cursor))
}

/// A page of those that may call a target, by their own access and their team's. A page
/// ends early where it has looked at many keys, and the next one goes on from there.
async fn page_that_may_call(
    call: &Call,
    mut filter: Filter,
    target: &Target,
    limit: u32,
    now: Timestamp,
) -> Result<(Vec<Key>, Option<String>), Failure> {
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let mut teams: HashMap<TeamId, Access> = HashMap::new();
    let mut found: Vec<Key> = Vec::new();
    filter.limit = CHUNK;
    for _ in 0..CHUNKS_MAX {
        let keys = view::key::list(store, workspace_id, &filter, now).await?;
        let is_last = keys.len() < CHUNK as usize;
        let new: BTreeSet<TeamId> = keys.iter().filter_map(|key| key.team_id).collect();
        let new: Vec<TeamId> = new
            .into_iter()
            .filter(|id| !teams.contains_key(id))
            .collect();
        let named = view::team::list(store, workspace_id, Some(&new), None, CHUNK).await?;
        teams.extend(named.into_iter().map(|it| (it.id, it.fields.access)));
        for key in keys {
            filter.after = Some(key.id);
            let team = key.team_id.and_then(|id| teams.get(&id));
            let lets = |access: &Access| {
                !access.refuses() || access.lets(target.id, &target.fields.groups)
            };
            if !lets(&key.access) || !team.is_none_or(lets) {
                continue;
            }
            if found.len() == limit as usize {
                let next_cursor = found.last().map(|key| key.id.to_string());
                return Ok((found, next_cursor));
            }
            found.push(key);
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, filter.after.map(|id| id.to_string())))
}
