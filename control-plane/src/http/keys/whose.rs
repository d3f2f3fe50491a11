//! Whose a key is: who may do what with it, and who sees it how.
//!
//! Rights come from the role in the workspace or in the key's team. Beside them stands
//! self-service: who may only make keys for themselves may read, rotate, switch and revoke
//! those, and nothing else; making and rotating then is under the team's policy.

use events::Refusal;
use events::key::Key;
use events::service_account::ServiceAccount;
use schemas::api::{self, SelfServiceRule};
use schemas::entry::Owner;
use schemas::problem::Code;
use schemas::{AccountId, ServiceAccountId, TeamId, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::http::call::Call;
use crate::http::failure::Failure;
use crate::http::fields::Fields;
use crate::http::permission::Permission;
use crate::http::rights::Visible;
use crate::store::Store;
use crate::view::{self, key::Scope};

/// What a right rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// A permission over keys.
    Full,
    /// Only that over one's own, under the policy of the team.
    SelfService,
}

/// The caller, as an owner of keys: whoever the token acts as.
pub(super) fn own(call: &Call) -> Owner {
    match call.caller.service_account_id {
        Some(id) => Owner::ServiceAccount(id),
        None => Owner::User(call.caller.account_id),
    }
}

fn is_own(call: &Call, key: &Key) -> bool {
    key.owner == Some(own(call))
}

/// Whether the caller may with a key.
pub(super) fn permit(call: &Call, permission: Permission, key: &Key) -> Result<(), Failure> {
    let rights = &call.caller.rights;
    rights.permit_in(permission, key.team_id, is_own(call, key))
}

/// Whether the caller may with a key, by a permission over keys or because it is their own.
pub(super) fn permit_own(call: &Call, permission: Permission, key: &Key) -> Result<Right, Failure> {
    let rights = &call.caller.rights;
    let is_own = is_own(call, key);
    if is_own
        && !rights.holds_in(permission, key.team_id, true)
        && rights.holds_in(Permission::KeyCreateSelf, key.team_id, true)
    {
        return Ok(Right::SelfService);
    }
    rights
        .permit_in(permission, key.team_id, is_own)
        .map(|()| Right::Full)
}

/// Whether the caller may make any key anywhere.
pub(super) fn permit_create_somewhere(call: &Call) -> Result<(), Failure> {
    let rights = &call.caller.rights;
    if rights.holds_somewhere(Permission::KeyCreate)
        || rights.holds_somewhere(Permission::KeyCreateSelf)
    {
        Ok(())
    } else {
        call.permit(Permission::KeyCreate)
    }
}

/// Whether the caller may make a key of this team, or of none. Who may only make keys in
/// teams has to name one.
pub(super) fn permit_create(
    call: &Call,
    team_id: Option<TeamId>,
    fields: &mut Fields,
) -> Result<Right, Failure> {
    let rights = &call.caller.rights;
    if rights.holds_in(Permission::KeyCreate, team_id, false) {
        return Ok(Right::Full);
    }
    if team_id.is_some() {
        rights.permit_in(Permission::KeyCreateSelf, team_id, true)?;
    } else {
        fields.refuse_missing("team_id", "the id of a team in which you may make keys");
    }
    Ok(Right::SelfService)
}

/// Whether developers of a team may make and rotate keys at all: judged before the body is,
/// and again, with all other rules of the policy, under the lock.
pub(super) async fn permit_self_service(
    call: &Call,
    right: Right,
    team_id: Option<TeamId>,
) -> Result<(), Failure> {
    let (Right::SelfService, Some(team_id)) = (right, team_id) else {
        return Ok(());
    };
    let workspace_id = call.caller.workspace_id;
    match view::team::get(call.app.store(), workspace_id, team_id).await? {
        Some(team) if !team.fields.self_service.enabled => {
            Err(Refusal::SelfService(SelfServiceRule::Disabled).into())
        }
        _ => Ok(()),
    }
}

/// An owner as a body names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    #[serde(rename = "type")]
    kind: Kind,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    User,
    ServiceAccount,
}

/// The owner that a body names.
pub(super) async fn find_owner(call: &Call, named: &Named) -> Result<Found, Failure> {
    let not_found = || Failure::not_found("owner");
    match named.kind {
        Kind::User => {
            let id: AccountId = named.id.parse().map_err(|_| not_found())?;
            let workspace = find_workspace(call).await?;
            let found = workspace.members.contains_key(&id);
            found.then_some(Found::User(id)).ok_or_else(not_found)
        }
        Kind::ServiceAccount => {
            let id: ServiceAccountId = named.id.parse().map_err(|_| not_found())?;
            let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
            view::service_account::get(store, workspace_id, id)
                .await?
                .map(Found::ServiceAccount)
                .ok_or_else(not_found)
        }
    }
}

/// An owner that there is.
#[derive(Debug)]
pub(super) enum Found {
    User(AccountId),
    ServiceAccount(ServiceAccount),
}

impl Found {
    pub(super) fn owner(&self) -> Owner {
        match self {
            Self::User(id) => Owner::User(*id),
            Self::ServiceAccount(it) => Owner::ServiceAccount(it.id),
        }
    }

    /// The team that a key goes to when it gets this owner: a key without one goes to the
    /// service account's.
    pub(super) fn team_of(&self, key: &Key) -> Option<TeamId> {
        match self {
            Self::ServiceAccount(it) => key.team_id.or(Some(it.team_id)),
            Self::User(_) => key.team_id,
        }
    }
}

/// The owner that a filter names. One that is no member any more is known by its keys.
pub(super) async fn find_filtered(call: &Call, id: &str) -> Result<Owner, Failure> {
    let not_found = || Failure::not_found("owner");
    let user = id.parse().map(Owner::User);
    let owner = user.or_else(|_| id.parse().map(Owner::ServiceAccount));
    let owner = owner.map_err(|_| not_found())?;
    let (store, workspace_id) = (call.app.store(), call.caller.workspace_id);
    let is_known = match owner {
        Owner::User(id) => find_workspace(call).await?.members.contains_key(&id),
        Owner::ServiceAccount(id) => view::service_account::get(store, workspace_id, id)
            .await?
            .is_some(),
    };
    if is_known || view::key::has_owner(store, workspace_id, owner).await? {
        Ok(owner)
    } else {
        Err(not_found())
    }
}

/// Which keys a list shows the caller.
pub(super) fn visible(call: &Call) -> Result<Scope, Failure> {
    match call.caller.rights.reach(Permission::KeyRead) {
        Visible::All => Ok(Scope::All),
        Visible::Some { teams, own_in } if teams.is_empty() && own_in.is_empty() => {
            call.permit(Permission::KeyRead).map(|()| Scope::All)
        }
        Visible::Some { teams, own_in } => Ok(Scope::Some {
            teams,
            own_in,
            own: own(call),
        }),
    }
}

/// Whether the caller may ask whose keys are.
pub(super) fn permit_owner_filter(call: &Call, owner: Owner) -> Result<(), Failure> {
    if owner == own(call) || call.caller.rights.sees_owners(None, false) {
        Ok(())
    } else {
        Err(Failure::new(
            Code::Forbidden,
            "viewers do not see whose keys are",
        ))
    }
}

/// Whether the caller sees whose this key is and who made it.
pub(super) fn sees_owner(call: &Call, key: &Key) -> bool {
    let rights = &call.caller.rights;
    rights.sees_owners(key.team_id, is_own(call, key))
}

/// Keys as the caller sees them.
pub(super) async fn shown(
    call: &Call,
    keys: &[Key],
    now: Timestamp,
) -> Result<Vec<api::Key>, Failure> {
    let store: &Store = call.app.store();
    let uses = view::key::last_uses(store, keys).await?;
    let out_of_policy = view::key::out_of_policy(store, keys, now).await?;
    let show = |key: &Key| {
        let mut shown = view::key::to_api(key, &uses, now);
        if let Some(rules) = out_of_policy.get(&key.id) {
            shown.out_of_policy.clone_from(rules);
        }
        if !sees_owner(call, key) {
            shown.owner = None;
            shown.created_by = None;
        }
        shown
    };
    Ok(keys.iter().map(show).collect())
}

/// An event without whose the key is and who acted. It has no hashes: they are of the whole
/// event, which is for others to see.
pub(super) fn without_owner(mut row: Value) -> Value {
    fn forget(value: &mut Value, name: &str) {
        if let Some(place) = value.get_mut(name) {
            *place = Value::Null;
        }
    }
    forget(&mut row, "actor");
    if let Some(data) = row.get_mut("data") {
        forget(data, "owner");
        if let Some(changes) = data.get_mut("changes") {
            forget(changes, "owner");
        }
    }
    if let Some(members) = row.as_object_mut() {
        members.remove("leaf_hash");
        members.remove("chain_hash");
    }
    row
}

async fn find_workspace(call: &Call) -> Result<events::workspace::Workspace, Failure> {
    view::workspace::get(call.app.store(), call.caller.workspace_id)
        .await?
        .ok_or_else(|| Failure::not_found("workspace"))
}
