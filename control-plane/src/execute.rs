//! The only write path: commands in, events in the log, views in the same transaction.
//!
//! One task owns one connection and takes whatever queued while its last commit ran into
//! the next transaction. Commands are decided in order under the lock of the head row, each
//! seeing the ones before it; one that is refused drops out alone. A handler only waits
//! for the answer, so a client that goes away cannot leave half a change behind.

mod rules;

use std::collections::HashMap;
use std::time::Duration;

use events::codec::{self, Hash};
use events::{Aggregate, Command, Event, Recorded, Refusal, SecretLook, Stream};
use schemas::api::Actor;
use schemas::{EventId, Position, Timestamp, WorkspaceId};
use sqlx::{AnyConnection, Executor, Row as _};
use tokio::sync::{mpsc, oneshot, watch};

use crate::chain::Chain;
use crate::store::log::{self, Head, to_i64};
use crate::store::{self, Backend, Store, failed};
use crate::{fresh, view};

/// The most commands that share one commit.
const BATCH_MAX: usize = 64;

/// Commands that may wait before new ones are turned away.
const QUEUE_MAX: usize = 4_096;

/// How long a commit whose answer was lost is looked for.
const LOST_COMMIT_WAIT: Duration = Duration::from_secs(5);

/// The channel on which Postgres tells other control planes of new events.
pub const NOTIFY_CHANNEL: &str = "throttleproxy_log";

/// What is asked of the log, atomically.
#[derive(Debug, Clone)]
pub struct Request {
    /// The commands, each to a stream of its own; all are carried out or none.
    pub steps: Vec<Step>,
    /// Who asks.
    pub actor: Actor,
    /// The request it came with.
    pub request_id: Option<String>,
    /// The first step's aggregate must be at one of these versions.
    pub expected_versions: Option<Vec<u64>>,
    /// Makes a repetition harmless.
    pub idempotency: Option<Idempotency>,
    /// Rows beside the log that must appear together with the events.
    pub rows: Vec<SideRow>,
}

/// A command and the workspace that its events belong to.
#[derive(Debug, Clone)]
pub struct Step {
    /// The command.
    pub command: Command,
    /// The workspace; `None` for the installation.
    pub workspace_id: Option<WorkspaceId>,
}

/// A repeated request is known by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Workspace, method and path.
    pub scope: String,
    /// What the client sent.
    pub key: String,
    /// SHA-256 of the body in hex.
    pub fingerprint: String,
}

/// A row that is not in the log but belongs to a change.
#[derive(Debug, Clone)]
pub enum SideRow {
    /// A verified account.
    Account {
        /// Its id.
        id: schemas::AccountId,
        /// Where it is reached; kept out of the log.
        email: String,
    },
    /// A control token.
    Token(crate::token::NewToken),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first step's aggregate afterwards.
    pub aggregate: Aggregate,
    /// Where the aggregate last changed: now, or earlier where nothing had to change.
    pub position: Position,
    /// When it was decided.
    pub at: Timestamp,
    /// The answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// Why a request changed nothing, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The idempotency key belongs to another body.
    #[error("the idempotency key was used with another body")]
    IdempotencyConflict,
    /// The change is too large for an event.
    #[error("the change is too large")]
    TooLarge(#[source] codec::Error),
    /// The database is away; nothing was changed.
    #[error("the database is away; nothing was changed")]
    Unavailable(#[source] Option<store::Error>),
    /// The connection broke during the commit and cannot be made again.
    #[error("the connection broke during the commit; whether it holds is not known")]
    OutcomeUnknown,
}

/// Hands requests to the append task; clones share it.
#[derive(Debug, Clone)]
pub struct Execute {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    request: Request,
    reply: oneshot::Sender<Result<Outcome, Error>>,
}

// === impl Execute ===

impl Execute {
    /// Starts the append task. It tells `head` of every commit and ends when the last
    /// handle is gone.
    pub fn start(store: Store, head: watch::Sender<Position>) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let task = Append {
            store,
            head,
            jobs,
            connection: None,
            look: SecretLook::default(),
        };
        tokio::spawn(task.run());
        Self { jobs: sender }
    }

    /// The answer that a request with this idempotency key was given before.
    ///
    /// # Errors
    /// [`Error::IdempotencyConflict`], [`Error::Unavailable`].
    pub async fn answered_before(
        &self,
        store: &Store,
        idempotency: &Idempotency,
    ) -> Result<Option<Outcome>, Error> {
        let unavailable = |error| Error::Unavailable(Some(error));
        let connection = store
            .pool()
            .acquire()
            .await
            .map_err(failed("get a connection"));
        let mut connection = connection.map_err(unavailable)?;
        let first = first_answer(&mut connection, idempotency)
            .await
            .map_err(unavailable)?;
        first.transpose()
    }

    /// Carries out a request.
    ///
    /// # Errors
    /// [`Error`]; only [`Error::OutcomeUnknown`] leaves open whether something changed.
    pub async fn run(&self, request: Request) -> Result<Outcome, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job { request, reply };
        self.jobs
            .try_send(job)
            .map_err(|_| Error::Unavailable(None))?;
        answer.await.unwrap_or(Err(Error::OutcomeUnknown))
    }
}

// === the task ===

struct Append {
    store: Store,
    head: watch::Sender<Position>,
    jobs: mpsc::Receiver<Job>,
    connection: Option<AnyConnection>,
    look: SecretLook,
}

type Reply = oneshot::Sender<Result<Outcome, Error>>;

/// What a batch has done so far, inside its transaction.
struct Batch {
    head: Head,
    /// The first event written, by which a lost commit is looked for.
    first: Option<(Position, EventId)>,
    aggregates: HashMap<Stream, Option<Aggregate>>,
}

impl Append {
    async fn run(mut self) {
        while let Some(job) = self.jobs.recv().await {
            let mut batch = vec![job];
            while batch.len() < BATCH_MAX {
                match self.jobs.try_recv() {
                    Ok(job) => batch.push(job),
                    Err(_) => break,
                }
            }
            self.commit(batch).await;
        }
    }

    async fn commit(&mut self, jobs: Vec<Job>) {
        // A job that finds the connection dead from before gets one more try on a new one.
        let had_connection = self.connection.is_some();
        let (requests, replies): (Vec<Request>, Vec<Reply>) =
            jobs.into_iter().map(|job| (job.request, job.reply)).unzip();
        let mut result = self.transact(&requests).await;
        if had_connection && matches!(result, Err(Failure::Before(_))) {
            result = self.transact(&requests).await;
        }
        match result {
            Ok((outcomes, head)) => {
                self.head.send_if_modified(|seen| {
                    let moved = head > *seen;
                    *seen = head.max(*seen);
                    moved
                });
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    drop(reply.send(outcome));
                }
            }
            Err(Failure::Before(error)) => {
                tracing::error!(
                    error = %Chain(&error),
                    "a commit failed; nothing was changed"
                );
                for reply in replies {
                    drop(reply.send(Err(Error::Unavailable(None))));
                }
            }
            Err(Failure::Unknown) => {
                tracing::error!("a commit was sent and its outcome cannot be found out");
                for reply in replies {
                    drop(reply.send(Err(Error::OutcomeUnknown)));
                }
            }
        }
    }

    async fn transact(
        &mut self,
        requests: &[Request],
    ) -> Result<(Vec<Result<Outcome, Error>>, Position), Failure> {
        let backend = self.store.backend();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.connect().await.map_err(Failure::Before)?,
        };
        let (outcomes, batch) = decide_all(&mut connection, backend, &self.look, requests)
            .await
            .map_err(Failure::Before)?;
        let head = batch.head.position;
        match (connection.execute("COMMIT").await, batch.first) {
            (Ok(_), _) => {
                self.connection = Some(connection);
                Ok((outcomes, head))
            }
            (Err(source), None) => Err(Failure::Before(store::Error::Query {
                operation: "commit",
                source,
            })),
            (Err(source), Some((position, id))) => {
                drop(connection);
                match was_committed(&self.store, position, id).await {
                    Some(true) => Ok((outcomes, head)),
                    Some(false) => Err(Failure::Before(store::Error::Query {
                        operation: "commit",
                        source,
                    })),
                    None => Err(Failure::Unknown),
                }
            }
        }
    }
}

/// Looks for the first event of a batch whose commit was not answered. Taking the head's
/// lock first waits for a commit that the server may still be working on.
async fn was_committed(store: &Store, position: Position, id: EventId) -> Option<bool> {
    let look = async {
        let mut connection = store.connect().await?;
        let backend = store.backend();
        connection
            .execute(backend.begin_append())
            .await
            .map_err(failed("begin"))?;
        log::lock_head(&mut connection, backend).await?;
        let held = log::holds(&mut connection, position, &id.to_string()).await?;
        connection
            .execute("ROLLBACK")
            .await
            .map_err(failed("roll back"))?;
        Ok::<_, store::Error>(held)
    };
    tokio::time::timeout(LOST_COMMIT_WAIT, look)
        .await
        .ok()?
        .ok()
}

/// Why a batch has no outcomes.
enum Failure {
    /// It failed before the commit, or is known not to have been committed.
    Before(store::Error),
    /// Nobody knows.
    Unknown,
}

/// Everything between begin and commit.
async fn decide_all(
    connection: &mut AnyConnection,
    backend: Backend,
    look: &SecretLook,
    requests: &[Request],
) -> Result<(Vec<Result<Outcome, Error>>, Batch), store::Error> {
    connection
        .execute(backend.begin_append())
        .await
        .map_err(failed("begin"))?;
    let head = log::lock_head(connection, backend).await?;
    let before = head.position;
    let mut batch = Batch {
        head,
        first: None,
        aggregates: HashMap::new(),
    };
    let mut outcomes = Vec::with_capacity(requests.len());
    for request in requests {
        outcomes.push(batch.carry_out(connection, look, request).await?);
    }
    if batch.head.position > before {
        log::move_head(connection, &batch.head).await?;
        if backend == Backend::Postgres {
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(NOTIFY_CHANNEL)
                .bind(batch.head.position.to_string())
                .execute(&mut *connection)
                .await
                .map_err(failed("notify"))?;
        }
    }
    Ok((outcomes, batch))
}

// === impl Batch ===

impl Batch {
    /// Carries out one request; the outer error is the database's and ends the batch.
    async fn carry_out(
        &mut self,
        connection: &mut AnyConnection,
        look: &SecretLook,
        request: &Request,
    ) -> Result<Result<Outcome, Error>, store::Error> {
        if let Some(idempotency) = &request.idempotency
            && let Some(first) = first_answer(connection, idempotency).await?
        {
            return Ok(first);
        }
        let now = fresh::now();
        // All steps are decided before any is written, so that a refusal undoes nothing.
        let mut decided = Vec::with_capacity(request.steps.len());
        for (number, step) in request.steps.iter().enumerate() {
            let stream = step.command.stream();
            let aggregate = self.load(connection, stream).await?;
            if number == 0
                && let Some(expected) = &request.expected_versions
                && let Some(actual) = aggregate.as_ref().map(Aggregate::version)
                && !expected.contains(&actual)
            {
                return Ok(Err(Refusal::VersionMismatch { actual }.into()));
            }
            let events = match events::decide(aggregate.as_ref(), &step.command, now, look) {
                Ok(events) => events,
                Err(refusal) => return Ok(Err(refusal.into())),
            };
            if let Err(refusal) = rules::check(
                connection,
                stream,
                step.workspace_id,
                &events,
                aggregate.as_ref(),
            )
            .await?
            {
                return Ok(Err(refusal.into()));
            }
            decided.push((step, stream, aggregate, events));
        }

        let mut rows = Vec::new();
        let mut place = self.head.clone();
        let mut afterwards = Vec::new();
        for (step, stream, aggregate, events) in decided {
            let mut aggregate = aggregate;
            for event in events {
                let row = match next_row(&mut place, request, step, stream, &aggregate, event, now)
                {
                    Ok(row) => row,
                    Err(error) => return Ok(Err(Error::TooLarge(error))),
                };
                aggregate = events::evolve(aggregate, &row.recorded);
                rows.push(row);
            }
            afterwards.push((stream, aggregate));
        }

        for row in &rows {
            log::insert(connection, row).await?;
        }
        if let Some(first) = rows.first() {
            self.first
                .get_or_insert((first.recorded.position, first.recorded.id));
        }
        self.head = place;
        let changed = !rows.is_empty();
        for (stream, aggregate) in &afterwards {
            if changed && let Some(aggregate) = aggregate {
                view::save(connection, *stream, aggregate).await?;
            }
            self.aggregates.insert(*stream, aggregate.clone());
        }
        for row in &request.rows {
            insert_side_row(connection, row, now).await?;
        }
        let Some((stream, Some(aggregate))) = afterwards.into_iter().next() else {
            return Ok(Err(Refusal::NotFound("resource").into()));
        };
        let outcome = Outcome {
            position: aggregate.position(),
            aggregate,
            at: now,
            replayed: false,
        };
        if let Some(idempotency) = &request.idempotency {
            remember(connection, idempotency, stream, &outcome).await?;
        }
        Ok(Ok(outcome))
    }

    async fn load(
        &mut self,
        connection: &mut AnyConnection,
        stream: Stream,
    ) -> Result<Option<Aggregate>, store::Error> {
        if let Some(known) = self.aggregates.get(&stream) {
            return Ok(known.clone());
        }
        let loaded = view::load(connection, stream).await?;
        self.aggregates.insert(stream, loaded.clone());
        Ok(loaded)
    }
}

/// Gives an event the next place in the log.
fn next_row(
    place: &mut Head,
    request: &Request,
    step: &Step,
    stream: Stream,
    aggregate: &Option<Aggregate>,
    event: Event,
    at: Timestamp,
) -> Result<log::Row, codec::Error> {
    let recorded = Recorded {
        position: place.position + 1,
        lineage: place.lineage,
        generation: place.generation,
        stream,
        stream_version: aggregate.as_ref().map_or(0, Aggregate::version) + 1,
        id: fresh::id(EventId::from_parts),
        at,
        workspace_id: step.workspace_id,
        actor: request.actor.clone(),
        request_id: request.request_id.clone(),
        causation_id: None,
        event,
    };
    let canonical = codec::encode(&recorded)?;
    let leaf_hash: Hash = codec::leaf_hash(&canonical);
    let chain_hash = codec::chain_hash(&place.chain_hash, recorded.position, &leaf_hash);
    place.position = recorded.position;
    place.chain_hash = chain_hash;
    Ok(log::Row {
        recorded,
        canonical,
        leaf_hash,
        chain_hash,
    })
}

// === idempotency ===

async fn first_answer(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
) -> Result<Option<Result<Outcome, Error>>, store::Error> {
    let row = sqlx::query(
        "SELECT fingerprint, state, position, created_at_ms FROM idempotency \
         WHERE scope = $1 AND key = $2",
    )
    .bind(idempotency.scope.clone())
    .bind(idempotency.key.clone())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for an idempotency key"))?;
    let Some(row) = row else { return Ok(None) };
    if log::column::<String>(&row, "fingerprint")? != idempotency.fingerprint {
        return Ok(Some(Err(Error::IdempotencyConflict)));
    }
    Ok(Some(Ok(Outcome {
        aggregate: view::decode(row.try_get("state").map_err(|_| log::corrupt("state"))?)?,
        position: log::position_column(&row, "position")?,
        at: Timestamp::from_unix_ms(log::column(&row, "created_at_ms")?),
        replayed: true,
    })))
}

async fn remember(
    connection: &mut AnyConnection,
    idempotency: &Idempotency,
    stream: Stream,
    outcome: &Outcome,
) -> Result<(), store::Error> {
    sqlx::query(
        "INSERT INTO idempotency (scope, key, fingerprint, stream, state, position, \
         created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(idempotency.scope.clone())
    .bind(idempotency.key.clone())
    .bind(idempotency.fingerprint.clone())
    .bind(stream.to_string())
    .bind(view::encode(&outcome.aggregate)?)
    .bind(to_i64(outcome.position))
    .bind(outcome.at.unix_ms())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("remember an idempotency key"))
}

async fn insert_side_row(
    connection: &mut AnyConnection,
    row: &SideRow,
    now: Timestamp,
) -> Result<(), store::Error> {
    match row {
        SideRow::Account { id, email } => sqlx::query(
            "INSERT INTO accounts (id, email, email_verified, created_at_ms) \
             VALUES ($1, $2, 1, $3)",
        )
        .bind(id.to_string())
        .bind(email.clone())
        .bind(now.unix_ms())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("write an account")),
        SideRow::Token(token) => crate::token::insert(connection, token, now).await,
    }
}
