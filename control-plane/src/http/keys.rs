//! `/api-keys`: a key's life.

mod whose;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use events::command::{CreateKey, KeyCommand, LimitsPatch, MetadataPatch, PatchKey, RotateKey};
use events::key::Key;
use events::{Aggregate, Command, Refusal, SecretLook, Stream};
use schemas::api::{KeyStatus, Page, Source};
use schemas::entry::Owner;
use schemas::problem::Code;
use schemas::{Environment, KeyId, Limits, Position, TeamId};
use serde_json::Value;

use self::whose::Right;
use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use super::fields::Fields;
use super::permission::Permission;
use super::teams;
use super::{App, effective_access};
use crate::execute::Outcome;
use crate::store::log;
use crate::view::{self, key::Filter};
use crate::{fresh, purge};

/// Fields whose enforcement does not exist yet.
const NOT_AVAILABLE: [&str; 5] = ["quotas", "budget", "concurrency", "queue", "staleness"];
const OWNER: &str = "null, or {type: user or service_account, id}";
const TIME: &str = "null or an RFC 3339 time with a zone";
const TEXT: &str = "null or a text";

pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    whose::permit_create_somewhere(&call)?;
    let mut fields = call.required_fields()?;
    // What a key is made of may be gone when the request is repeated.
    let is_repeated = call.answered_before().await?.is_some();
    let team: Option<String> = fields
        .optional("team_id", "null or the id of a team")
        .flatten();
    let team_id = match &team {
        Some(id) if is_repeated => id.parse::<TeamId>().ok(),
        Some(id) => Some(teams::find(&call, id).await?.id),
        None => None,
    };
    let right = whose::permit_create(&call, team_id, &mut fields)?;
    if !is_repeated {
        whose::permit_self_service(&call, right, team_id).await?;
    }
    let owner: Option<Owner> = match right {
        // Whatever the body says: the key is the caller's.
        Right::SelfService => {
            fields.ignored("owner");
            Some(whose::own(&call))
        }
        Right::Full => match fields.optional("owner", OWNER).flatten() {
            Some(named) if !is_repeated => Some(whose::find_owner(&call, &named).await?.owner()),
            _ => None,
        },
    };
    let wait = call.wait(true);
    call.finish_params()?;
    let name = fields.required_text("name");
    let category = fields.optional("category", TEXT).flatten();
    let environment = fields
        .optional("environment", "live or test")
        .flatten()
        .unwrap_or(Environment::Live);
    let expires_at = fields.optional("expires_at", TIME).flatten();
    let limits = created_limits(&mut fields);
    let access = super::access::created(&mut fields);
    let metadata = match fields.metadata("metadata") {
        Some(MetadataPatch::Merge(pairs)) => pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
        _ => Default::default(),
    };
    let replaces: Option<String> = fields
        .optional("replaces", "null or the id of a key")
        .flatten();
    let rotation_due_at = fields.optional("rotation_due_at", TIME).flatten();
    fields.not_available(&NOT_AVAILABLE);
    let (credential, secret) = fresh::secret(environment);
    let mut create = CreateKey {
        name,
        category,
        environment,
        team_id,
        owner,
        expires_at,
        limits,
        access,
        metadata,
        replaces: None,
        rotation_due_at,
        source: match right {
            Right::SelfService => Source::SelfService,
            Right::Full => Source::Api,
        },
        secret,
    };
    fields.finish_with(|| {
        let command = KeyCommand::Create(Box::new(create.clone()));
        events::key::decide(None, &command, fresh::now(), &SecretLook::default()).err()
    })?;
    if let Some(id) = replaces
        && !is_repeated
    {
        let replaced = find(&call, &id).await?;
        whose::permit(&call, Permission::KeyRead, &replaced)?;
        create.replaces = Some(replaced.id);
    }
    let id = fresh::id(KeyId::from_parts);
    let command = KeyCommand::Create(Box::new(create));
    let outcome = call.execute(Command::Key(id, command)).await?;
    // The answer to a repetition shows what was made then, without the secret.
    let secret = (!outcome.replayed).then(|| credential.reveal().to_owned());
    let body = shown(&call, &outcome, secret).await?;
    answer::change(&call, &outcome, wait, StatusCode::CREATED, Some(body)).await
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
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
        Some(id) => Some(super::targets::find(&call, id).await?),
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
    let mut keys = match &target {
        Some(target) => effective_access::keys_that_may(&call, target, filter, now).await?,
        None => view::key::list(call.app.store(), call.caller.workspace_id, &filter, now).await?,
    };
    let more = keys.len() > limit as usize;
    keys.truncate(limit as usize);
    let next_cursor = keys.last().filter(|_| more).map(|key| key.id.to_string());
    let data = whose::shown(&call, &keys, now).await?;
    answer::ok(&Page { data, next_cursor })
}

pub(super) async fn show(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    whose::permit(&call, Permission::KeyRead, &key)?;
    call.finish_params()?;
    let shown = whose::shown(&call, std::slice::from_ref(&key), fresh::now()).await?;
    let shown = shown.first().ok_or_else(|| Failure::not_found("key"))?;
    answer::resource(shown, key.version)
}

pub(super) async fn patch(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    whose::permit(&call, Permission::KeyUpdate, &key)?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a field",
        ));
    }
    let patch = PatchKey {
        name: fields.value("name", "a text, not null"),
        category: fields.optional("category", TEXT),
        expires_at: fields.optional("expires_at", TIME),
        limits: fields.limits("limits"),
        access: super::access::patched(&mut fields),
        metadata: fields.metadata("metadata"),
        rotation_due_at: fields.optional("rotation_due_at", TIME),
    };
    fields.fixed(&["owner", "team_id", "environment", "replaces"]);
    fields.not_available(&NOT_AVAILABLE);
    fields.finish()?;
    let command = KeyCommand::Patch(Box::new(patch));
    let outcome = call.execute(Command::Key(key.id, command)).await?;
    let body = shown(&call, &outcome, None).await?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn revoke(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    whose::permit_own(&call, Permission::KeyRevoke, &key)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let outcome = call
        .execute(Command::Key(key.id, KeyCommand::Revoke))
        .await?;
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

pub(super) async fn deactivate(id: Id, call: Call) -> Result<Response, Failure> {
    switch(id, call, KeyCommand::Deactivate).await
}

pub(super) async fn reactivate(id: Id, call: Call) -> Result<Response, Failure> {
    switch(id, call, KeyCommand::Reactivate).await
}

async fn switch(Id(id): Id, mut call: Call, command: KeyCommand) -> Result<Response, Failure> {
    let key = find(&call, &id).await?;
    whose::permit_own(&call, Permission::KeyRevoke, &key)?;
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let outcome = call.execute(Command::Key(key.id, command)).await?;
    let body = shown(&call, &outcome, None).await?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn rotate(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    let right = whose::permit_own(&call, Permission::KeyRotate, &key)?;
    whose::permit_self_service(&call, right, key.team_id).await?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    let overlap_seconds = fields
        .optional("overlap_seconds", "a number of seconds")
        .flatten();
    let reason = fields.optional("reason", TEXT).flatten();
    fields.finish()?;
    let workspace = view::workspace::get(call.app.store(), call.caller.workspace_id)
        .await?
        .ok_or_else(|| Failure::not_found("workspace"))?;
    let (credential, secret) = fresh::secret(key.environment);
    let command = KeyCommand::Rotate(RotateKey {
        overlap_seconds,
        overlap_max_seconds: workspace.settings.rotation_overlap_max_seconds,
        reason,
        self_service: right == Right::SelfService,
        secret,
    });
    let outcome = call.execute(Command::Key(key.id, command)).await?;
    let secret = (!outcome.replayed).then(|| credential.reveal().to_owned());
    let body = shown(&call, &outcome, secret).await?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn rotation(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    whose::permit(&call, Permission::KeyRead, &key)?;
    call.finish_params()?;
    answer::ok(&view::key::rotation(call.app.store(), &key, fresh::now()).await?)
}

pub(super) async fn transfer(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let key = find(&call, &id).await?;
    whose::permit(&call, Permission::KeyUpdate, &key)?;
    let mut fields = call.required_fields()?;
    let named = fields.optional("owner", OWNER);
    let found = match &named {
        Some(Some(named)) => Some(whose::find_owner(&call, named).await?),
        Some(None) => None,
        None => {
            fields.refuse_missing("owner", OWNER);
            None
        }
    };
    // A key without a team goes to the service account's: that is the caller's to give.
    let team_id = found.as_ref().map_or(key.team_id, |it| it.team_of(&key));
    if team_id != key.team_id {
        let rights = &call.caller.rights;
        rights.permit_in(Permission::KeyUpdate, team_id, false)?;
    }
    let wait = call.wait(false);
    call.finish_params()?;
    fields.finish()?;
    let owner = found.map(|it| it.owner());
    let command = KeyCommand::Transfer { owner, team_id };
    let outcome = call.execute(Command::Key(key.id, command)).await?;
    let body = shown(&call, &outcome, None).await?;
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

pub(super) async fn purge(Id(id): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    // A repetition is answered before the look-up, which would find nothing any more.
    let before = call.answered_before().await?;
    let key = match before {
        Some(_) => None,
        None => Some(find(&call, &id).await?),
    };
    match (&key, &before) {
        (Some(key), _) => whose::permit(&call, Permission::KeyRevoke, key)?,
        (None, Some(outcome)) => match &outcome.aggregate {
            Aggregate::Key(key) => whose::permit(&call, Permission::KeyRevoke, key)?,
            _ => call.permit(Permission::KeyRevoke)?,
        },
        (None, None) => call.permit(Permission::KeyRevoke)?,
    }
    let wait = call.wait(false);
    call.finish_params()?;
    call.no_fields()?;
    let outcome = match key {
        Some(key) => purge_now(&call, &key, wait.timeout).await?,
        None => before.ok_or_else(|| Failure::not_found("key"))?,
    };
    answer::change(&call, &outcome, wait, StatusCode::NO_CONTENT, None).await
}

async fn purge_now(call: &Call, key: &Key, timeout: Duration) -> Result<Outcome, Failure> {
    if call
        .if_match()
        .is_some_and(|versions| !versions.contains(&key.version))
    {
        return Err(Refusal::VersionMismatch {
            actual: key.version,
        }
        .into());
    }
    let idempotency = call.idempotency()?;
    let _running = call.run_once(idempotency.as_ref())?;
    let request = |step| call.request(step);
    let app = &call.app;
    let (store, execute, fleet) = (app.store(), app.execute(), app.fleet());
    Ok(purge::purge(store, execute, fleet, key, timeout, request, idempotency).await?)
}

pub(super) async fn history(
    State(app): State<App>,
    Id(id): Id,
    call: Call,
) -> Result<Response, Failure> {
    let mut call = call;
    let id: KeyId = id.parse().map_err(|_| Failure::not_found("key"))?;
    // The history of a purged key stays, for those who may read the audit.
    let key = view::key::get_even_purged(app.store(), call.caller.workspace_id, id)
        .await?
        .ok_or_else(|| Failure::not_found("key"))?;
    if key.purged || whose::permit(&call, Permission::KeyRead, &key).is_err() {
        call.permit(Permission::AuditRead)?;
    }
    let limit = call.params.limit();
    let after: Position = call.params.cursor()?.unwrap_or(0);
    call.finish_params()?;
    let mut rows = log::page_of_stream(app.store(), Stream::Key(id), after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = rows
        .last()
        .filter(|_| more)
        .map(|row| row.recorded.position.to_string());
    let rows = rows
        .iter()
        .map(event_row)
        .collect::<Result<Vec<Value>, _>>()?;
    let data: Vec<Value> = if whose::sees_owner(&call, &key) {
        rows
    } else {
        rows.into_iter().map(whose::without_owner).collect()
    };
    answer::ok(&Page { data, next_cursor })
}

/// An event as a reader may check it: without the two hashes, canonicalised, it hashes to
/// its leaf hash.
pub(super) fn event_row(row: &log::Row) -> Result<Value, Failure> {
    let mut event: Value =
        serde_json::from_slice(&row.canonical).map_err(|_| log::corrupt("events.canonical"))?;
    if let Some(members) = event.as_object_mut() {
        members.insert("leaf_hash".to_owned(), hex::encode(row.leaf_hash).into());
        members.insert("chain_hash".to_owned(), hex::encode(row.chain_hash).into());
    }
    Ok(event)
}

/// A key that the caller may read.
pub(super) async fn find_readable(call: &Call, id: &str) -> Result<Key, Failure> {
    let key = find(call, id).await?;
    whose::permit(call, Permission::KeyRead, &key)?;
    Ok(key)
}

/// A key of the caller's workspace; another's is not found.
async fn find(call: &Call, id: &str) -> Result<Key, Failure> {
    let not_found = || Failure::not_found("key");
    let id: KeyId = id.parse().map_err(|_| not_found())?;
    view::key::get(call.app.store(), call.caller.workspace_id, id)
        .await?
        .ok_or_else(not_found)
}

/// The key after a change, with its secret if this answer is the one that shows it.
async fn shown(call: &Call, outcome: &Outcome, secret: Option<String>) -> Result<Value, Failure> {
    let Aggregate::Key(key) = &outcome.aggregate else {
        return Err(Failure::not_found("key"));
    };
    // A repetition shows what was made then, to those who may see it.
    if outcome.replayed {
        whose::permit(call, Permission::KeyRead, key)?;
    }
    let shown = whose::shown(call, std::slice::from_ref(&**key), outcome.at).await?;
    let mut shown = shown
        .into_iter()
        .next()
        .ok_or_else(|| Failure::not_found("key"))?;
    shown.secret = secret;
    serde_json::to_value(&shown).map_err(|_| log::corrupt("a key").into())
}

fn created_limits(fields: &mut Fields) -> Limits {
    let mut limits = Limits::default();
    let Some(LimitsPatch::Merge(members)) = fields.limits("limits") else {
        return limits;
    };
    for (name, value) in members {
        match limits.get_mut(&name) {
            Some(place) => *place = value,
            None => fields.refuse(
                &format!("limits.{name}"),
                "one of rps, rpm, rph, rpd, tpm, tph and tpd",
            ),
        }
    }
    limits
}
