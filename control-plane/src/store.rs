//! The database: Postgres for an installation, SQLite inside one process.
//!
//! Both speak through the same SQL over sqlx's `Any` driver; [`Backend`] names the few
//! statements in which they differ. The log is in [`log`], the tables around it in the
//! modules that own them.

pub mod log;
pub(crate) mod sql;

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, Connection, Executor, SqlSafeStr as _, Transaction,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

const ACQUIRE_WAIT: Duration = Duration::from_secs(5);
const API_CONNECTIONS_MAX: u32 = 8;
const BACKGROUND_CONNECTIONS_MAX: u32 = 16;

/// A database that could not do as asked. What the client reads says nothing of the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `[control] database_url` is not of a form that is supported.
    #[error("[control] database_url: expected sqlite://<path> or postgres://…, not `{scheme}`")]
    Url {
        /// What stands before `://`.
        scheme: String,
    },
    /// It cannot be reached.
    #[error("cannot reach the database: {operation}")]
    Connect {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot bring the schema up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("the database failed: {operation}")]
    Query {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// It did not answer in time.
    #[error("the database did not answer in time: {operation}")]
    Timeout {
        /// What was tried.
        operation: &'static str,
    },
    /// A row does not hold what it must.
    #[error("the database holds something that cannot be read: {what}")]
    Corrupt {
        /// Where.
        what: String,
    },
}

/// Names the operation that a failed statement belongs to.
pub(crate) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error::Query { operation, source }
}

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Many control planes may share it.
    Postgres,
    /// One file, one writer at a time.
    Sqlite,
}

impl Backend {
    fn of_url(url: &str) -> Result<Self, Error> {
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            Some("sqlite") => Ok(Self::Sqlite),
            scheme => Err(Error::Url {
                scheme: scheme.unwrap_or_default().to_owned(),
            }),
        }
    }

    /// Begins the transaction of an append. SQLite takes its only write lock here.
    pub(crate) const fn begin_append(self) -> &'static str {
        match self {
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Self::Sqlite => "BEGIN IMMEDIATE",
        }
    }

    /// Reads the head row and keeps others from appending until the transaction ends.
    pub(crate) const fn lock_head(self) -> &'static str {
        match self {
            Self::Postgres => {
                "SELECT position, chain_hash, lineage, generation FROM head FOR UPDATE"
            }
            Self::Sqlite => "SELECT position, chain_hash, lineage, generation FROM head",
        }
    }
}

/// A handle to the database; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    url: String,
    pool: AnyPool,
    /// Of their own, so that neither many callers of the API nor many reports of proxies
    /// can hold up a revocation on its way to a region.
    background: AnyPool,
    /// SQLite has one writer at a time and hands the lock to whoever asks at the right
    /// moment; within a process, writers take turns instead.
    turn: Arc<Mutex<()>>,
}

/// A transaction beside the log, and the turn that it holds. Undone unless committed.
pub(crate) struct Writing {
    // Dropped, and so undone, before the turn is given on.
    transaction: Transaction<'static, Any>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Writing {
    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await.map_err(failed("commit"))
    }
}

impl Deref for Writing {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

// === impl Store ===

impl Store {
    /// Opens the database at `url` without reaching for it yet, so that a control plane
    /// starts, says so and keeps trying while its database is away.
    ///
    /// # Errors
    /// [`Error::Url`] where the URL is not of a supported form.
    pub fn open(url: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let backend = Backend::of_url(url)?;
        let url = match backend {
            Backend::Postgres => url.to_owned(),
            // Made where it is missing; a file that is there keeps its parameters.
            Backend::Sqlite if url.contains('?') => url.to_owned(),
            Backend::Sqlite => format!("{url}?mode=rwc"),
        };
        let options = connect_options(&url)?;
        let pool = |connections_max| {
            AnyPoolOptions::new()
                .max_connections(connections_max)
                .acquire_timeout(ACQUIRE_WAIT)
                .after_connect(move |connection, _| Box::pin(prepare(connection, backend)))
                .connect_lazy_with(options.clone())
        };
        Ok(Self {
            backend,
            pool: pool(API_CONNECTIONS_MAX),
            background: pool(BACKGROUND_CONNECTIONS_MAX),
            url,
            turn: Arc::default(),
        })
    }

    /// Which database it is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The address of the database, with its password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Connections for projectors and for what proxies report.
    pub(crate) fn background(&self) -> &AnyPool {
        &self.background
    }

    /// Waits for the turn to write, where writers have to take turns.
    pub(crate) async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match self.backend {
            Backend::Postgres => None,
            Backend::Sqlite => Some(self.turn.clone().lock_owned().await),
        }
    }

    /// A transaction for rows beside the log. It takes the lock for writing first, so that
    /// what it reads cannot change before it commits.
    pub(crate) async fn begin(&self) -> Result<Writing, Error> {
        let turn = self.turn().await;
        let transaction = self
            .pool
            .begin_with(self.backend.begin_append())
            .await
            .map_err(failed("begin"))?;
        Ok(Writing {
            transaction,
            _turn: turn,
        })
    }

    /// Connections for answering callers.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A connection that belongs to the caller alone.
    pub(crate) async fn connect(&self) -> Result<AnyConnection, Error> {
        let unreachable = |source| Error::Connect {
            operation: "open a connection",
            source,
        };
        let mut connection = AnyConnection::connect_with(&connect_options(&self.url)?)
            .await
            .map_err(unreachable)?;
        prepare(&mut connection, self.backend)
            .await
            .map_err(unreachable)?;
        Ok(connection)
    }

    /// Brings the schema up to date and makes the head row of a new log, under a lock.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn migrate(&self) -> Result<(), Error> {
        let migrator = Migrator::with_migrations(migrations(self.backend));
        match self.backend {
            // The migrator takes Postgres' advisory lock by itself.
            Backend::Postgres => migrator.run(&self.pool).await.map_err(Error::Migrate)?,
            // It knows no lock of SQLite's: two processes that start together would both make
            // the first table. Inside one transaction, each of its steps is a savepoint.
            Backend::Sqlite => {
                let _turn = self.turn().await;
                let mut connection = self.connect().await?;
                let mut transaction = connection
                    .begin_with("BEGIN IMMEDIATE")
                    .await
                    .map_err(failed("begin to bring the schema up to date"))?;
                let sqlite: &mut AnyConnection = &mut transaction;
                // `run` asks for a bound that a future to be spawned cannot have.
                migrator
                    .run_direct(None, sqlite, false)
                    .await
                    .map_err(Error::Migrate)?;
                transaction
                    .commit()
                    .await
                    .map_err(failed("commit the schema"))?;
            }
        }
        log::create_head(self).await?;
        crate::replay::renew_views(self).await
    }
}

/// The schema, version by version; one text for both databases, which differ in the name
/// of the type for bytes and in how they look into the bytes of an event.
fn migrations(backend: Backend) -> Vec<Migration> {
    const MIGRATIONS: &[(i64, &str, &str)] = &[
        (1, "log", include_str!("../migrations/0001_log.sql")),
        (2, "people", include_str!("../migrations/0002_people.sql")),
        (3, "members", include_str!("../migrations/0003_members.sql")),
        (4, "teams", include_str!("../migrations/0004_teams.sql")),
        (5, "targets", include_str!("../migrations/0005_targets.sql")),
    ];
    let of_backend = |&(version, name, text): &(i64, &'static str, &str)| {
        let differing: [(&str, &str); 3] = match backend {
            Backend::Postgres => [
                ("BYTEA", "BYTEA"),
                (
                    "ACTOR_ID(canonical)",
                    "CONVERT_FROM(canonical, 'UTF8')::json -> 'actor' ->> 'id'",
                ),
                ("OBJECT_ID(stream)", "REGEXP_REPLACE(stream, '^.*/', '')"),
            ],
            Backend::Sqlite => [
                ("BYTEA", "BLOB"),
                (
                    "ACTOR_ID(canonical)",
                    "JSON_EXTRACT(CAST(canonical AS TEXT), '$.actor.id')",
                ),
                (
                    "OBJECT_ID(stream)",
                    "SUBSTR(stream, INSTR(stream, '/') + 1)",
                ),
            ],
        };
        let text = differing
            .iter()
            .fold(text.to_owned(), |text, (ours, theirs)| {
                text.replace(ours, theirs)
            });
        let sql = AssertSqlSafe(text).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    MIGRATIONS.iter().map(of_backend).collect()
}

fn connect_options(url: &str) -> Result<AnyConnectOptions, Error> {
    AnyConnectOptions::from_str(url).map_err(|source| Error::Connect {
        operation: "read [control] database_url",
        source,
    })
}

async fn prepare(connection: &mut AnyConnection, backend: Backend) -> Result<(), sqlx::Error> {
    let settings: &[&'static str] = match backend {
        // A control plane that was cut off inside a transaction must not keep the head's
        // lock from all others until TCP notices.
        Backend::Postgres => &[
            "SET idle_in_transaction_session_timeout = '5s'",
            "SET statement_timeout = '10s'",
        ],
        // FULL: a change that was answered survives a power cut.
        Backend::Sqlite => &[
            "PRAGMA busy_timeout = 10000",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA case_sensitive_like = ON",
        ],
    };
    for setting in settings {
        connection.execute(*setting).await?;
    }
    Ok(())
}
