//! The log on both databases, from inside: one suite, run over each.
//!
//! It works on the write path itself rather than over HTTP, because what it asks for
//! (several writers that race, a reader that never looks back) happens below any API.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use control_plane::execute::{Error, Execute, Idempotency, Request, Step};
use control_plane::store::{Store, log};
use control_plane::{audit, fresh, replay};
use events::command::{CreateKey, KeyCommand, WorkspaceCommand};
use events::{Aggregate, Command, Refusal};
use schemas::api::{Actor, ActorKind, Source};
use schemas::{AccountId, Environment, KeyId, Limits, Position, WorkspaceId};
use sqlx::{Connection, Executor};
use tempfile::TempDir;
use tests::world::shared_servers;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Events that the race writes; the figure that the promise is made for.
const RACE_EVENTS: u64 = 50_000;
const WRITERS: usize = 3;
/// Commands under way at once, per writer.
const IN_FLIGHT: usize = 64;

/// A log with one workspace in it.
pub(crate) struct Log {
    pub(crate) store: Store,
    pub(crate) execute: Execute,
    workspace_id: WorkspaceId,
    /// The owner of the workspace.
    pub(crate) owner: AccountId,
    url: String,
    _dir: Option<TempDir>,
}

impl Log {
    pub(crate) async fn postgres(name: &str) -> Self {
        let (postgres, _, _) = shared_servers().await;
        let database = postgres.create(name).await;
        Self::open(database.url().to_owned(), None).await
    }

    pub(crate) async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}", dir.path().join("log.db").display());
        Self::open(url, Some(dir)).await
    }

    async fn open(url: String, dir: Option<TempDir>) -> Self {
        let store = Store::open(&url).unwrap();
        store.migrate().await.unwrap();
        let execute = Execute::start(store.clone(), watch::channel(0).0);
        let workspace_id = fresh::id(WorkspaceId::from_parts);
        let owner = fresh::id(AccountId::from_parts);
        let create = WorkspaceCommand::Create {
            name: "race".to_owned(),
            owner,
        };
        let log = Self {
            store,
            execute,
            workspace_id,
            owner,
            url,
            _dir: dir,
        };
        log.run(Command::Workspace(workspace_id, create))
            .await
            .unwrap();
        log
    }

    pub(crate) fn request(&self, command: Command) -> Request {
        Request {
            steps: vec![Step {
                command,
                workspace_id: Some(self.workspace_id),
            }],
            actor: Actor {
                kind: ActorKind::User,
                id: "acc_test".to_owned(),
            },
            request_id: None,
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        }
    }

    pub(crate) async fn run(&self, command: Command) -> Result<Position, Error> {
        self.execute
            .run(self.request(command))
            .await
            .map(|outcome| outcome.position)
    }

    async fn key(&self, name: &str) -> KeyId {
        let id = fresh::id(KeyId::from_parts);
        self.run(Command::Key(id, create(name))).await.unwrap();
        id
    }

    /// Changes the log behind the product's back.
    async fn tamper(&self, sql: &'static str) {
        let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
        connection.execute(sql).await.unwrap();
    }
}

fn create(name: &str) -> KeyCommand {
    KeyCommand::Create(Box::new(CreateKey {
        name: name.to_owned(),
        category: None,
        environment: Environment::Test,
        team_id: None,
        owner: None,
        expires_at: None,
        limits: Limits::default(),
        access: Default::default(),
        metadata: Default::default(),
        replaces: None,
        rotation_due_at: None,
        source: Source::Api,
        secret: fresh::secret(Environment::Test).1,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_a_reader_that_never_looks_back_misses_nothing() {
    race(Log::postgres("race").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_reader_that_never_looks_back_misses_nothing() {
    race(Log::sqlite().await).await;
}

/// Several writers, one that always rolls back, and a reader that only remembers the last
/// position it saw.
async fn race(log: Log) {
    let log = Arc::new(log);
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_along(log.store.clone(), done.clone()));
    let rollbacks = tokio::spawn(roll_back_until(log.url.clone(), done.clone()));

    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        // Each writer is a control plane of its own, with a connection of its own.
        let execute = Execute::start(log.store.clone(), watch::channel(0).0);
        for lane in 0..IN_FLIGHT {
            let (log, execute) = (log.clone(), execute.clone());
            writers.spawn(async move {
                let key = log.key(&format!("key {writer} {lane}")).await;
                let lanes = (WRITERS * IN_FLIGHT) as u64;
                for turn in 0..RACE_EVENTS.div_ceil(lanes) {
                    let command = match turn % 2 {
                        0 => KeyCommand::Deactivate,
                        _ => KeyCommand::Reactivate,
                    };
                    execute
                        .run(log.request(Command::Key(key, command)))
                        .await
                        .unwrap();
                    // A refused command drops out alone and leaves no gap.
                    if turn % 16 == 0 {
                        let refused = execute.run(log.request(Command::Key(key, create("again"))));
                        let error = refused.await.unwrap_err();
                        assert!(matches!(error, Error::Refused(Refusal::Exists("key"))));
                    }
                }
            });
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let seen = reader.await.unwrap();
    let rolled_back = rollbacks.await.unwrap();

    let head = log::head(&log.store).await.unwrap();
    assert!(head.position >= RACE_EVENTS, "{}", head.position);
    assert!(rolled_back > 0, "nothing was rolled back");
    assert_eq!(seen, head.position, "the reader saw the last event");
    let report = audit::verify(&log.store).await.unwrap();
    assert!(report.ok && report.checked == head.position, "{report:?}");
    assert_eq!(
        replay::compare_views(&log.store).await.unwrap(),
        Vec::<String>::new()
    );
}

/// Follows the log by position alone and checks that what comes is the next event, always.
async fn read_along(store: Store, done: Arc<AtomicBool>) -> Position {
    let mut position = 0;
    let mut versions = HashMap::new();
    loop {
        let finished = done.load(Ordering::SeqCst);
        let rows = log::after(&store, position, 500).await.unwrap();
        for row in &rows {
            assert_eq!(row.recorded.position, position + 1, "an event was missed");
            position += 1;
            let version = versions.entry(row.recorded.stream).or_insert(0);
            assert_eq!(
                row.recorded.stream_version,
                *version + 1,
                "out of order in its stream"
            );
            *version += 1;
        }
        if rows.is_empty() {
            if finished {
                return position;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Takes the head's lock, writes an event, and takes it back.
async fn roll_back_until(url: String, done: Arc<AtomicBool>) -> u64 {
    let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
    let sqlite = url.starts_with("sqlite");
    if sqlite {
        connection
            .execute("PRAGMA busy_timeout = 10000")
            .await
            .unwrap();
    }
    let begin = if sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let mut rolled_back = 0;
    while !done.load(Ordering::SeqCst) {
        // SQLite hands its lock to whoever asks at the right moment; this one may have to
        // ask again.
        if connection.execute(begin).await.is_err() {
            continue;
        }
        connection
            .execute("UPDATE head SET position = position + 1")
            .await
            .unwrap();
        connection
            .execute(
                "INSERT INTO events SELECT position, lineage, generation, 'key/rolled-back', 1, \
                 'x', 'x', 1, NULL, 0, chain_hash, chain_hash, chain_hash FROM head",
            )
            .await
            .unwrap();
        connection.execute("ROLLBACK").await.unwrap();
        rolled_back += 1;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    rolled_back
}

/// Runs a check over both databases.
macro_rules! on_both {
    ($name:ident, $check:ident) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgres() {
                super::$check(super::Log::postgres(stringify!($name)).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                super::$check(super::Log::sqlite().await).await;
            }
        }
    };
}

on_both!(one_of_many_gets_a_name, check_names);
on_both!(a_repetition_is_answered_and_not_repeated, check_idempotency);
on_both!(an_expected_version_is_held_to, check_versions);
on_both!(an_altered_row_is_found, check_tampering);
on_both!(views_are_rebuilt_from_the_log, check_rebuild);

async fn check_names(log: Log) {
    let log = Arc::new(log);
    let mut creations = JoinSet::new();
    for writer in 0..50 {
        let log = log.clone();
        creations.spawn(async move {
            // Case and composition do not make another name.
            let name = if writer % 2 == 0 {
                "Café"
            } else {
                "CAFE\u{301}"
            };
            let id = fresh::id(KeyId::from_parts);
            (id, log.run(Command::Key(id, create(name))).await)
        });
    }
    let results = creations.join_all().await;
    let made: Vec<KeyId> = results
        .iter()
        .filter(|(_, it)| it.is_ok())
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(made.len(), 1);
    for (_, result) in &results {
        assert!(
            matches!(
                result,
                Ok(_) | Err(Error::Refused(Refusal::NameTaken("name")))
            ),
            "{result:?}"
        );
    }
    log.run(Command::Key(made[0], KeyCommand::Revoke))
        .await
        .unwrap();
    log.key("café").await;
}

async fn check_idempotency(log: Log) {
    let ask = |fingerprint: &str| Request {
        idempotency: Some(Idempotency {
            scope: "ws POST /v1/api-keys".to_owned(),
            key: "once".to_owned(),
            fingerprint: fingerprint.to_owned(),
        }),
        ..log.request(Command::Key(
            fresh::id(KeyId::from_parts),
            create("idempotent"),
        ))
    };
    let first = log.execute.run(ask("a")).await.unwrap();
    let again = log.execute.run(ask("a")).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.aggregate, again.aggregate);
    assert_eq!(first.position, again.position);
    let other = log.execute.run(ask("b")).await.unwrap_err();
    assert!(matches!(other, Error::IdempotencyConflict));
    assert_eq!(log::head(&log.store).await.unwrap().position, 2);
}

async fn check_versions(log: Log) {
    let key = log.key("versioned").await;
    let at = |expected_version| Request {
        expected_versions: Some(vec![expected_version]),
        ..log.request(Command::Key(key, KeyCommand::Deactivate))
    };
    let refused = log.execute.run(at(7)).await.unwrap_err();
    let expected = Refusal::VersionMismatch { actual: 1 };
    assert!(matches!(refused, Error::Refused(it) if it == expected));
    let outcome = log.execute.run(at(1)).await.unwrap();
    assert!(matches!(outcome.aggregate, Aggregate::Key(key) if key.version == 2));
}

async fn check_tampering(log: Log) {
    for name in ["one", "two", "three", "four"] {
        log.key(name).await;
    }
    let cases: [(&str, &'static str, &'static str, Position); 5] = [
        (
            "a column that repeats the bytes",
            "UPDATE events SET type = 'key.revoked' WHERE position = 3",
            "UPDATE events SET type = 'key.created' WHERE position = 3",
            3,
        ),
        (
            "a time",
            "UPDATE events SET at_ms = at_ms + 1 WHERE position = 2",
            "UPDATE events SET at_ms = at_ms - 1 WHERE position = 2",
            2,
        ),
        (
            "the head",
            "UPDATE head SET position = 6",
            "UPDATE head SET position = 5",
            6,
        ),
        (
            "a hash",
            "UPDATE events SET leaf_hash = chain_hash WHERE position = 4",
            "SELECT 1",
            4,
        ),
        (
            "a missing event",
            "DELETE FROM events WHERE position = 2",
            "SELECT 1",
            2,
        ),
    ];
    assert!(audit::verify(&log.store).await.unwrap().ok);
    for (what, break_it, mend_it, position) in cases {
        log.tamper(break_it).await;
        let report = audit::verify(&log.store).await.unwrap();
        assert!(!report.ok, "{what}");
        assert_eq!(
            report.first_bad_position,
            Some(position),
            "{what}: {report:?}"
        );
        log.tamper(mend_it).await;
    }
}

async fn check_rebuild(log: Log) {
    let key = log.key("kept").await;
    log.run(Command::Key(key, KeyCommand::Deactivate))
        .await
        .unwrap();
    assert!(replay::compare_views(&log.store).await.unwrap().is_empty());
    log.tamper("UPDATE keys SET state = REPLACE(state, 'kept', 'lost')")
        .await;
    assert_eq!(replay::compare_views(&log.store).await.unwrap().len(), 1);
    log.tamper("DELETE FROM workspaces").await;
    assert_eq!(replay::compare_views(&log.store).await.unwrap().len(), 3);
    replay::rebuild_views(&log.store).await.unwrap();
    assert!(replay::compare_views(&log.store).await.unwrap().is_empty());
    log.run(Command::Key(key, KeyCommand::Reactivate))
        .await
        .unwrap();
}

/// `up` and `bootstrap` may begin on the same new file at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_make_one_schema() {
    const ROUNDS: usize = 20;
    const AT_ONCE: usize = 4;
    for _ in 0..ROUNDS {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}", dir.path().join("log.db").display());
        let mut starting = JoinSet::new();
        for _ in 0..AT_ONCE {
            let store = Store::open(&url).unwrap();
            starting.spawn(async move { store.migrate().await });
        }
        for started in starting.join_all().await {
            started.unwrap();
        }
    }
}
