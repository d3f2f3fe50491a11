//! A whole control plane: the append task, a projector and a listener per region, and the
//! API, built in one place.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use events::command::OwnPlaces;
use events::command::TargetRules;
use schemas::api::SignUp;
use schemas::{BootId, Position};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::account::password::{Busy, Hasher};
use crate::account::{self, Accounts};
use crate::attempts::Attempts;
use crate::chain::Chain;
use crate::execute::{self, Execute, NOTIFY_CHANNEL, raise};
use crate::fleet::{Fleet, Listener};
use crate::fresh;
use crate::http::{self, App, Parts};
use crate::mail::{self, Outbox, Sender, Transport};
use crate::oidc::{self, Providers};
use crate::projector::{self, Projector};
use crate::region::Led;
use crate::store::{Backend, Store, log};

/// The floor under every way of being woken.
const POLL: Duration = Duration::from_secs(1);

const TIDY_EVERY: Duration = Duration::from_secs(600);

/// How long a control plane that stops waits for the database.
const RELEASE_WAIT: Duration = Duration::from_secs(1);

/// How a control plane runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `[control] public_url`, where links in mails lead; `None` is `http://` and the
    /// address that is really listened on.
    pub public_url: Option<String>,
    /// `[accounts] sign_up`, until the instance says otherwise.
    pub sign_up: SignUp,
    /// `[mail]`.
    pub mail: Mail,
    /// `[[oidc]]`.
    pub oidc: Vec<oidc::Settings>,
    /// `[security] allow_private_upstreams`.
    pub allow_private_upstreams: bool,
    /// Where the installation itself is reached.
    pub own_places: OwnPlaces,
}

/// How mail leaves.
#[derive(Clone)]
pub struct Mail {
    /// `[mail] smtp_url`, which may hold a password; without it mail is written to files.
    pub smtp_url: Option<String>,
    /// `[mail] from`.
    pub from: String,
    /// Where mail is written to, one file each, without an SMTP server.
    pub directory: PathBuf,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("smtp_url", &self.smtp_url.as_ref().map(|_| "…"))
            .field("from", &self.from)
            .field("directory", &self.directory)
            .finish()
    }
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error(
        "cannot listen on {address}; set [control] listen or \
         THROTTLEPROXY__CONTROL__LISTEN to another address"
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Mail cannot be sent as configured.
    #[error(transparent)]
    Mail(#[from] mail::OpenError),
    /// Providers cannot be asked.
    #[error(transparent)]
    Oidc(#[from] oidc::OpenError),
    /// Passwords cannot be hashed: there is no randomness.
    #[error("passwords cannot be hashed here")]
    Passwords(#[from] Busy),
}

/// A running control plane.
pub struct Plane {
    address: SocketAddr,
    app: App,
    boot_id: BootId,
    tasks: JoinSet<()>,
    serving: JoinHandle<()>,
    stop: CancellationToken,
}

// === impl Plane ===

impl Plane {
    /// Starts a control plane on a database whose schema may still have to be made: it
    /// listens at once, answers 503 until the database is there, and keeps trying.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn start(config: Config, store: Store, regions: Vec<Led>) -> Result<Self, Error> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| Error::Listen {
                address: config.listen,
                source,
            })?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
        let (head, head_seen) = watch::channel(0);
        let execute = Execute::start(store.clone(), head.clone());
        let fleet = Fleet::new(regions.iter().map(|it| it.region.name()));
        let transport = match &config.mail.smtp_url {
            Some(url) => Transport::smtp(url, &config.mail.from)?,
            None => Transport::files(config.mail.directory.clone(), &config.mail.from)?,
        };
        let public_url = config.public_url.clone();
        let public_url = public_url.unwrap_or_else(|| format!("http://{address}"));
        let attempts = Arc::new(Attempts::default());
        let outbox = Outbox::new(attempts.clone());
        let accounts = Accounts {
            store: store.clone(),
            hasher: Hasher::new()?,
            attempts,
            outbox: outbox.clone(),
            sign_up: config.sign_up,
        };
        let sender = Sender::new(store.clone(), outbox, transport, public_url.clone());
        let app = App::new(Parts {
            store: store.clone(),
            execute: execute.clone(),
            fleet: fleet.clone(),
            accounts,
            providers: Providers::new(config.oidc.clone(), &public_url)?,
            public_url,
            head: head_seen.clone(),
            target_rules: TargetRules {
                allow_private_upstreams: config.allow_private_upstreams,
                own: Arc::new(config.own_places.clone()),
                is_demo: false,
            },
        });
        let stop = CancellationToken::new();
        let boot_id = fresh::id(BootId::from_parts);

        let migrated = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for region in &regions {
            let projector = Projector::new(
                store.clone(),
                region.clone(),
                head_seen.clone(),
                fleet.clone(),
                boot_id,
            );
            tasks.spawn(once(migrated.clone(), projector.run()));
            let listener = Listener::new(
                store.clone(),
                region.clone(),
                fleet.clone(),
                execute.clone(),
            );
            tasks.spawn(once(migrated.clone(), listener.run()));
        }
        tasks.spawn(once(migrated.clone(), sender.run()));
        tasks.spawn(poll_head(store.clone(), head.clone(), migrated));
        if store.backend() == Backend::Postgres {
            tasks.spawn(hear_others(store, head));
        }
        let serving = tokio::spawn(http::serve(
            listener,
            http::router(app.clone()),
            stop.clone(),
        ));
        tracing::info!(listener = "control", %address, "listening");
        Ok(Self {
            address,
            app,
            boot_id,
            tasks,
            serving,
            stop,
        })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What handlers work with, for commands that run in the same process.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Stops accepting, lets running requests end for at most `grace`, and stops.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(grace, &mut self.serving)
            .await
            .is_err()
        {
            self.serving.abort();
        }
        self.tasks.shutdown().await;
        // Best effort: a lease that is not given back ends by itself.
        let release = projector::release(self.app.store(), self.boot_id);
        drop(tokio::time::timeout(RELEASE_WAIT, release).await);
    }
}

/// Runs a task once the database is there.
async fn once(there: CancellationToken, task: impl Future<Output = ()>) {
    there.cancelled().await;
    task.await;
}

/// Makes the schema, then looks at the head each second, so that nothing depends on being
/// told.
async fn poll_head(store: Store, head: watch::Sender<Position>, migrated: CancellationToken) {
    while let Err(error) = store.migrate().await {
        tracing::error!(error = %Chain(&error), "the database is not ready; trying again");
        tokio::time::sleep(POLL).await;
    }
    migrated.cancel();
    let mut tidy_at = Instant::now();
    loop {
        if Instant::now() >= tidy_at {
            tidy_at = Instant::now() + TIDY_EVERY;
            if let Err(error) = execute::forget_old_answers(&store).await {
                tracing::warn!(error = %Chain(&error), "old idempotency keys were not forgotten");
            }
            if let Err(error) = account::sweep(&store).await {
                tracing::warn!(error = %Chain(&error), "what has ended was not removed");
            }
        }
        if let Ok(seen) = log::head(&store).await {
            raise(&head, seen.position);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Hears of the commits of other control planes at once.
async fn hear_others(store: Store, head: watch::Sender<Position>) {
    loop {
        if let Err(error) = hear_until_lost(&store, &head).await {
            tracing::warn!(%error, "commits of others are heard by polling for now");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn hear_until_lost(store: &Store, head: &watch::Sender<Position>) -> Result<(), sqlx::Error> {
    let mut listener = sqlx::postgres::PgListener::connect(store.url()).await?;
    listener.listen(NOTIFY_CHANNEL).await?;
    loop {
        let notification = listener.recv().await?;
        if let Ok(position) = notification.payload().parse() {
            raise(head, position);
        }
    }
}
