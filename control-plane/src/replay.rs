//! The past, folded from the log alone.

use std::collections::{BTreeMap, HashMap};

use events::self_service::{self, Asked};
use events::{Aggregate, Stream};
use schemas::api::SelfServiceRule;
use schemas::entry::Owner;
use schemas::{KeyId, Position, TeamId, Timestamp, WorkspaceId, api};
use serde::Serialize;
use serde_json::Value;

use crate::store::{Backend, Error, Store, log};
use crate::view;

/// Rows read from the log at a time.
const CHUNK: u32 = 1_000;

/// Up to where the log is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Everything there is.
    Head,
    /// Up to and with this position.
    Position(Position),
    /// Up to and with this time.
    Time(Timestamp),
}

/// Every aggregate as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The position that was reached.
    pub position: Position,
    /// The time it is shown for.
    pub at: Timestamp,
    /// What there was.
    pub aggregates: BTreeMap<Stream, Aggregate>,
}

/// The state of a workspace, or of all of them, as `replay` prints it. What the log does
/// not hold (last uses) is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// The time it is shown for.
    pub at: Timestamp,
    /// The position that was reached.
    pub position: Position,
    /// The keys, in the order they were made.
    pub keys: Vec<Value>,
    /// The members.
    pub members: Vec<api::Member>,
    /// The targets, in the order they were made.
    pub targets: Vec<api::Target>,
    /// The teams, in the order they were made.
    pub teams: Vec<api::Team>,
}

/// Folds the log.
///
/// # Errors
/// [`Error`].
pub async fn fold(store: &Store, at: At, now: Timestamp) -> Result<Past, Error> {
    let mut past = Past {
        position: 0,
        at: now,
        aggregates: BTreeMap::new(),
    };
    if let At::Time(time) = at {
        past.at = time;
    }
    loop {
        let rows = log::after(store, past.position, CHUNK).await?;
        let full = rows.len() == CHUNK as usize;
        for row in rows {
            let recorded = row.recorded;
            let beyond = match at {
                At::Head => false,
                At::Position(position) => recorded.position > position,
                At::Time(time) => recorded.at > time,
            };
            if beyond {
                return Ok(past);
            }
            past.position = recorded.position;
            if matches!(at, At::Position(_)) {
                past.at = recorded.at;
            }
            let before = past.aggregates.remove(&recorded.stream);
            if let Some(after) = events::evolve(before, &recorded) {
                past.aggregates.insert(recorded.stream, after);
            }
        }
        if !full {
            return Ok(past);
        }
    }
}

// === impl Past ===

impl Past {
    /// What people would have seen, of one workspace or of all, of one key or of all.
    pub fn state(&self, workspace_id: Option<WorkspaceId>, key_id: Option<KeyId>) -> State {
        let here = |id: Option<WorkspaceId>| workspace_id.is_none() || workspace_id == id;
        let mut state = State {
            at: self.at,
            position: self.position,
            keys: Vec::new(),
            members: Vec::new(),
            targets: Vec::new(),
            teams: Vec::new(),
        };
        let broken = self.out_of_policy();
        for aggregate in self
            .aggregates
            .values()
            .filter(|it| here(it.workspace_id()))
        {
            match aggregate {
                Aggregate::Key(key) if !key.purged && key_id.is_none_or(|id| id == key.id) => {
                    let mut shown = view::key::to_api(key, &view::key::Uses::new(), self.at);
                    if let Some(rules) = broken.get(&key.id) {
                        shown.out_of_policy.clone_from(rules);
                    }
                    state.keys.push(without_uses(&shown));
                }
                Aggregate::Target(target) if !target.deleted => {
                    state.targets.push(view::target::to_api(target));
                }
                Aggregate::Team(team) if !team.deleted => {
                    state.teams.push(view::team::to_api(team, true));
                }
                Aggregate::Workspace(workspace) => {
                    let members = workspace.members.iter();
                    let shown = members.map(|(id, it)| view::workspace::member_to_api(*id, it));
                    state.members.extend(shown);
                }
                _ => {}
            }
        }
        state
    }

    /// The rules of self-service that keys broke then, as lists of keys show them.
    fn out_of_policy(&self) -> HashMap<KeyId, Vec<SelfServiceRule>> {
        let mut live: HashMap<(TeamId, Owner), u64> = HashMap::new();
        let mut broken = HashMap::new();
        // In the order of ids, which is the order in which they were made.
        for aggregate in self.aggregates.values() {
            let Aggregate::Key(key) = aggregate else {
                continue;
            };
            let (Some(team_id), Some(owner)) = (key.team_id, key.owner) else {
                continue;
            };
            if !self_service::is_live(key, self.at) {
                continue;
            }
            let others = live.entry((team_id, owner)).or_default();
            let asked = Asked::of_key(key, Some(*others));
            *others += 1;
            if self_service::bound_by(key, self.at).is_some()
                && let Some(Aggregate::Team(team)) = self.aggregates.get(&Stream::Team(team_id))
            {
                let rules = self_service::broken(team, &asked, self.at);
                if !rules.is_empty() {
                    broken.insert(key.id, rules);
                }
            }
        }
        broken
    }
}

/// Compares the views with what the log says they must be; each line names one that
/// differs.
///
/// # Errors
/// [`Error`].
pub async fn compare_views(store: &Store) -> Result<Vec<String>, Error> {
    let past = fold(store, At::Head, crate::fresh::now()).await?;
    let mut connection = store
        .pool()
        .acquire()
        .await
        .map_err(crate::store::failed("get a connection"))?;
    let mut differences = Vec::new();
    for (stream, folded) in &past.aggregates {
        match view::load(&mut connection, *stream).await? {
            Some(viewed) if viewed == *folded => {}
            Some(_) => differences.push(format!("the view of {stream} differs from the log")),
            None => differences.push(format!("{stream} has no view")),
        }
    }
    let rows = view::count(&mut connection).await?;
    let expected = past.aggregates.len() as u64;
    if rows != expected {
        differences.push(format!("there are {rows} views for {expected} streams"));
    }
    Ok(differences)
}

/// Writes all views anew where they are in the form of another version of this program.
pub(crate) async fn renew_views(store: &Store) -> Result<(), Error> {
    if log::view_form(store).await? == view::FORM {
        return Ok(());
    }
    tracing::info!("the views are in another form and are built anew from the log");
    rebuild_views(store).await
}

/// Writes all views anew from the log, in one transaction under the lock of the head.
///
/// # Errors
/// [`Error`].
pub async fn rebuild_views(store: &Store) -> Result<(), Error> {
    use crate::store::failed;
    use sqlx::Executor;
    let _turn = store.turn().await;
    let mut connection = store.connect().await?;
    connection
        .execute(store.backend().begin_append())
        .await
        .map_err(failed("begin"))?;
    if store.backend() == Backend::Postgres {
        // A long log takes longer than a statement may otherwise.
        connection
            .execute("SET LOCAL statement_timeout = 0")
            .await
            .map_err(failed("begin"))?;
        let no_idle_end = "SET LOCAL idle_in_transaction_session_timeout = 0";
        connection
            .execute(no_idle_end)
            .await
            .map_err(failed("begin"))?;
    }
    log::lock_head(&mut connection, store.backend()).await?;
    let past = fold(store, At::Head, crate::fresh::now()).await?;
    view::clear(&mut connection).await?;
    for (stream, aggregate) in &past.aggregates {
        view::save(&mut connection, *stream, aggregate).await?;
    }
    log::set_view_form(&mut connection, view::FORM).await?;
    connection
        .execute("COMMIT")
        .await
        .map(drop)
        .map_err(failed("commit the views"))
}

/// When a key was last used is not in the log.
fn without_uses(key: &api::Key) -> Value {
    let mut key = serde_json::to_value(key).unwrap_or_default();
    if let Some(members) = key.as_object_mut() {
        members.remove("last_used_at");
        let secrets = members.get_mut("secrets").and_then(Value::as_array_mut);
        for secret in secrets.into_iter().flatten() {
            secret.as_object_mut().map(|it| it.remove("last_used_at"));
        }
    }
    key
}
