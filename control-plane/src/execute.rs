//! The only write path: commands in, events in the log, views in the same transaction.
//!
//! One task owns one connection and takes whatever queued while its last commit ran into
//! the next transaction. Commands are decided in order under the lock of the head row, each
//! seeing the ones before it; one that is refused drops out alone. A handler only waits
//! for the answer, so a client that goes away cannot leave half a change behind.

mod departure;
mod idempotency;
mod rules;

use std::collections::HashMap;
use std::time::Duration;

use events::codec::{self, Hash};
use events::{Aggregate, Command, Event, Recorded, Refusal, SecretLook, Stream};
use schemas::api::Actor;
use schemas::entry::{self, BadEntry};
use schemas::{AccountId, EventId, Position, Timestamp, WorkspaceId};
use sqlx::{AnyConnection, Executor};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::account::erase;
use crate::chain::Chain;
use crate::store::log::{self, Head};
use crate::store::{self, Backend, Store, failed};
use crate::{fresh, view};

pub use departure::{Departure, Keys};
pub use idempotency::{Idempotency, answered_before};
pub(crate) use idempotency::{
    find as find_remembered, forget_old as forget_old_answers, insert as remember_answer,
};

/// The most commands that share one commit.
const BATCH_MAX: usize = 64;

/// Commands that may wait before new ones are turned away.
const QUEUE_MAX: usize = 4_096;

/// How long a commit whose answer was lost is looked for.
const LOST_COMMIT_WAIT: Duration = Duration::from_secs(5);
const LOST_COMMIT_RETRY: Duration = Duration::from_millis(100);

/// How long one step of a transaction may take.
const STEP_WAIT: Duration = Duration::from_secs(10);

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
    /// Members who stop or go with the steps, and what follows from that.
    pub departures: Vec<Departure>,
    /// The account whose rows go with it; all its memberships end in the same request.
    pub erases: Option<AccountId>,
}

/// A command and the workspace that its events belong to.
#[derive(Debug, Clone)]
pub struct Step {
    /// The command.
    pub command: Command,
    /// The workspace; `None` for the installation.
    pub workspace_id: Option<WorkspaceId>,
}

/// A row that is not in the log but belongs to a change.
#[derive(Debug, Clone)]
pub enum SideRow {
    /// The verified account of a first owner; one that has the address is taken over.
    Owner(crate::account::NewAccount),
    /// A one-time link.
    Link(crate::account::link::NewLink),
    /// A control token.
    Token(crate::token::NewToken),
    /// Where an invitation goes, and its link; a link that it had before is dead.
    Invitation(crate::invitation::NewLink),
    /// The link of an invitation that was used or taken back.
    NoInvitation(schemas::InvitationId),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first step's aggregate afterwards.
    pub aggregate: Aggregate,
    /// Where the last of the changes is, or where the aggregate last changed if nothing had
    /// to change.
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
    /// What proxies would have to hold is too large for an entry.
    #[error("the change is too large for the proxies")]
    EntryTooLarge(#[source] BadEntry),
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

/// Tells of a head that moved; it never goes back.
pub(crate) fn raise(head: &watch::Sender<Position>, position: Position) {
    head.send_if_modified(|seen| {
        let moved = position > *seen;
        *seen = position.max(*seen);
        moved
    });
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
                raise(&self.head, head);
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
        let _turn = self.store.turn().await;
        // A database that does not answer must not hold up everybody behind this batch.
        let decided = timeout(STEP_WAIT, self.decide(requests)).await;
        let (mut connection, outcomes, batch) = decided
            .unwrap_or(Err(store::Error::Timeout {
                operation: "decide a batch",
            }))
            .map_err(Failure::Before)?;
        let head = batch.head.position;
        let committed = timeout(STEP_WAIT, connection.execute("COMMIT")).await;
        let lost = match committed {
            Ok(Ok(_)) => {
                self.connection = Some(connection);
                return Ok((outcomes, head));
            }
            Ok(Err(source)) => store::Error::Query {
                operation: "commit",
                source,
            },
            Err(_) => store::Error::Timeout {
                operation: "commit",
            },
        };
        drop(connection);
        let Some((position, id)) = batch.first else {
            return Err(Failure::Before(lost));
        };
        match was_committed(&self.store, position, id).await {
            Some(true) => Ok((outcomes, head)),
            Some(false) => Err(Failure::Before(lost)),
            None => Err(Failure::Unknown),
        }
    }

    /// Everything before the commit, on the connection of the last batch if it has one.
    async fn decide(
        &mut self,
        requests: &[Request],
    ) -> Result<(AnyConnection, Vec<Result<Outcome, Error>>, Batch), store::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.connect().await?,
        };
        let backend = self.store.backend();
        let (outcomes, batch) =
            carry_out_all(&mut connection, backend, &self.look, requests).await?;
        Ok((connection, outcomes, batch))
    }
}

/// Looks for the first event of a batch whose commit was not answered. Taking the head's
/// lock first waits for a commit that the server may still be working on.
async fn was_committed(store: &Store, position: Position, id: EventId) -> Option<bool> {
    let deadline = Instant::now() + LOST_COMMIT_WAIT;
    loop {
        // A database that restarts refuses at once and is back a moment later.
        match timeout_at(deadline, look_for(store, position, id)).await {
            Ok(Ok(held)) => return Some(held),
            Ok(Err(_)) => sleep(LOST_COMMIT_RETRY).await,
            Err(_) => return None,
        }
    }
}

async fn look_for(store: &Store, position: Position, id: EventId) -> Result<bool, store::Error> {
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
    look.await
}

/// Why a batch has no outcomes.
enum Failure {
    /// It failed before the commit, or is known not to have been committed.
    Before(store::Error),
    /// Nobody knows.
    Unknown,
}

/// Everything between begin and commit.
async fn carry_out_all(
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
        if let Some(repeated) = &request.idempotency
            && let Some(first) = idempotency::first_answer(connection, repeated).await?
        {
            return Ok(first);
        }
        let now = fresh::now();
        let decided = match self.decide_all(connection, look, request, now).await? {
            Ok(decided) => decided,
            Err(error) => return Ok(Err(error)),
        };
        let placed = match self.place(request, decided, now) {
            Ok(placed) => placed,
            Err(error) => return Ok(Err(error)),
        };
        for row in &placed.rows {
            log::insert(connection, row).await?;
        }
        if let Some(first) = placed.rows.first() {
            self.first
                .get_or_insert((first.recorded.position, first.recorded.id));
        }
        self.head = placed.head;
        let changed = !placed.rows.is_empty();
        for (stream, aggregate) in &placed.afterwards {
            if changed && let Some(aggregate) = aggregate {
                view::save(connection, *stream, aggregate).await?;
            }
            self.aggregates.insert(*stream, aggregate.clone());
        }
        for row in &request.rows {
            insert_side_row(connection, row, now).await?;
        }
        if let Some(account_id) = request.erases {
            erase::remove_rows(connection, account_id).await?;
        }
        let Some((stream, Some(aggregate))) = placed.afterwards.into_iter().next() else {
            return Ok(Err(Refusal::NotFound("resource").into()));
        };
        let last = placed.rows.last().map(|row| row.recorded.position);
        let outcome = Outcome {
            position: last.unwrap_or_else(|| aggregate.position()),
            aggregate,
            at: now,
            replayed: false,
        };
        if let Some(repeated) = &request.idempotency {
            idempotency::remember(connection, repeated, stream, &outcome).await?;
        }
        Ok(Ok(outcome))
    }

    /// Decides all steps, those too that follow from departures, before any is written: so
    /// a refusal undoes nothing.
    async fn decide_all(
        &mut self,
        connection: &mut AnyConnection,
        look: &SecretLook,
        request: &Request,
        now: Timestamp,
    ) -> Result<Result<Vec<Decided>, Error>, store::Error> {
        if let Some(expected) = &request.expected_versions
            && let Some(step) = request.steps.first()
            && let Ok(Some(first)) = self.load(connection, step.command.stream()).await
            && !expected.contains(&first.version())
        {
            let actual = first.version();
            return Ok(Err(Refusal::VersionMismatch { actual }.into()));
        }
        let mut decided = Vec::with_capacity(request.steps.len());
        let mut undecided = request.steps.clone();
        let mut departures = request.departures.iter();
        loop {
            for step in undecided {
                match self.decide(connection, look, step, &decided, now).await? {
                    Ok(step) => decided.push(step),
                    Err(error) => return Ok(Err(error)),
                }
            }
            undecided = match departures.next() {
                None => break,
                Some(departure) => match departure.steps(connection).await? {
                    Ok(steps) => steps,
                    Err(refusal) => return Ok(Err(refusal.into())),
                },
            };
        }
        if let Some(account_id) = request.erases {
            let leaves = request.departures.iter().map(|it| it.workspace_id);
            // Somebody who joined a workspace a moment ago would leave a member behind who
            // is nobody.
            if !erase::is_only_in(connection, account_id, leaves).await? {
                return Ok(Err(Error::Unavailable(None)));
            }
        }
        Ok(Ok(decided))
    }

    /// Gives what was decided its places in the log.
    fn place(
        &self,
        request: &Request,
        decided: Vec<Decided>,
        now: Timestamp,
    ) -> Result<Placed, Error> {
        let asked = request.steps.len();
        let mut placed = Placed {
            rows: Vec::new(),
            afterwards: Vec::with_capacity(decided.len()),
            head: self.head.clone(),
        };
        for (number, it) in decided.into_iter().enumerate() {
            let stream = it.step.command.stream();
            let mut aggregate = it.aggregate;
            // What follows from a departure follows from its first event.
            let cause = placed.rows.first().filter(|_| number >= asked);
            let causation_id = cause.map(|row: &log::Row| row.recorded.id);
            for event in it.events {
                let unplaced = Unplaced {
                    request,
                    step: &it.step,
                    aggregate: aggregate.as_ref(),
                    causation_id,
                    at: now,
                };
                let row = next_row(&mut placed.head, &unplaced, event).map_err(Error::TooLarge)?;
                let after = events::evolve(aggregate.clone(), &row.recorded);
                check_entries(aggregate.as_ref(), after.as_ref(), &row)
                    .map_err(Error::EntryTooLarge)?;
                aggregate = after;
                placed.rows.push(row);
            }
            placed.afterwards.push((stream, aggregate));
        }
        Ok(placed)
    }

    /// Decides one step, on what the log holds and on the steps before it.
    async fn decide(
        &mut self,
        connection: &mut AnyConnection,
        look: &SecretLook,
        step: Step,
        earlier: &[Decided],
        now: Timestamp,
    ) -> Result<Result<Decided, Error>, store::Error> {
        let aggregate = match self.load(connection, step.command.stream()).await {
            // One view that cannot be read must not take the whole batch with it.
            Err(error @ store::Error::Corrupt { .. }) => {
                return Ok(Err(Error::Unavailable(Some(error))));
            }
            loaded => loaded?,
        };
        let events = match events::decide(aggregate.as_ref(), &step.command, now, look) {
            Ok(events) => events,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let earlier: Vec<&Event> = earlier.iter().flat_map(|it| &it.events).collect();
        let judged = rules::Decided {
            command: &step.command,
            workspace_id: step.workspace_id,
            aggregate: aggregate.as_ref(),
            events: &events,
            earlier: &earlier,
            now,
        };
        let verdict = rules::check(connection, &judged).await?;
        Ok(verdict.map_err(Error::from).map(|()| Decided {
            step,
            aggregate,
            events,
        }))
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

/// Checks the entries that an event changes with the code that proxies read them with, so
/// that nothing is committed that could not be published.
fn check_entries(
    before: Option<&Aggregate>,
    after: Option<&Aggregate>,
    row: &log::Row,
) -> Result<(), BadEntry> {
    let Some(after) = after else { return Ok(()) };
    events::project::project(before, after, &row.recorded)
        .iter()
        .try_for_each(entry::check)
}

/// A step, the aggregate it found, and what follows.
struct Decided {
    step: Step,
    aggregate: Option<Aggregate>,
    events: Vec<Event>,
}

/// A request with its places in the log, about to be written.
struct Placed {
    rows: Vec<log::Row>,
    /// The aggregates of the steps, after them.
    afterwards: Vec<(Stream, Option<Aggregate>)>,
    /// The head after all of it.
    head: Head,
}

/// What an event has around it before it has a place.
struct Unplaced<'a> {
    request: &'a Request,
    step: &'a Step,
    /// The aggregate before the event.
    aggregate: Option<&'a Aggregate>,
    causation_id: Option<EventId>,
    at: Timestamp,
}

/// Gives an event the next place in the log.
fn next_row(
    place: &mut Head,
    unplaced: &Unplaced<'_>,
    event: Event,
) -> Result<log::Row, codec::Error> {
    let recorded = Recorded {
        position: place.position + 1,
        lineage: place.lineage,
        generation: place.generation,
        stream: unplaced.step.command.stream(),
        stream_version: unplaced.aggregate.map_or(0, Aggregate::version) + 1,
        id: fresh::id(EventId::from_parts),
        at: unplaced.at,
        workspace_id: unplaced.step.workspace_id,
        actor: unplaced.request.actor.clone(),
        request_id: unplaced.request.request_id.clone(),
        causation_id: unplaced.causation_id,
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

// === rows beside the log ===

async fn insert_side_row(
    connection: &mut AnyConnection,
    row: &SideRow,
    now: Timestamp,
) -> Result<(), store::Error> {
    match row {
        SideRow::Owner(account) => crate::account::make_owner(connection, account, now).await,
        SideRow::Link(link) => crate::account::link::insert(connection, link, now).await,
        SideRow::Token(token) => crate::token::insert(connection, token, now).await,
        SideRow::Invitation(link) => crate::invitation::put(connection, link, now).await,
        SideRow::NoInvitation(id) => crate::invitation::remove(connection, *id).await,
    }
}
