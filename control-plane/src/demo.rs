//! What `up --demo` needs in the log: an owner, a target and a key that works.

use events::Command;
use events::command::{CreateKey, CreateTarget, KeyCommand, TargetCommand, TargetRules};
use schemas::api::{Actor, ActorKind, KeyStatus, Source};
use schemas::entry::{Bodies, Scheme, Timeouts};
use schemas::{Environment, KeyId, Limits, Position, TargetId, WorkspaceId, credential};

use crate::bootstrap::{self, Bootstrapped, bootstrap};
use crate::execute::{self, Execute, Request, Step};
use crate::store::{self, Store};
use crate::{fresh, token, view};

/// The name of the demo's target.
pub const TARGET: &str = "echo";
const HOST: &str = "127.0.0.1";
const EMAIL: &str = "owner@demo.invalid";
const KEY_NAME: &str = "demo";

/// What the file of an earlier start says, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Opens the control API.
    pub control_token: String,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The key.
    pub key_id: KeyId,
    /// Its string.
    pub key: String,
}

/// What the demo runs with from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    /// Opens the control API.
    pub control_token: String,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The key.
    pub key_id: KeyId,
    /// Its string.
    pub key: String,
    /// The last change that the key or its target needs.
    pub position: Position,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store was made without the demo, so its owner's token is not known here.
    #[error(
        "this data directory has an owner that the demo did not make, or its demo.json is gone \
         together with the token in it; use another --data-dir"
    )]
    Foreign,
    /// The first owner could not be made.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// A change failed.
    #[error(transparent)]
    Execute(#[from] execute::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes what is missing and keeps what is there: account, workspace, target, key and
/// token stay over restarts; the target moves to where the upstream listens now.
///
/// # Errors
/// [`Error`].
pub async fn prepare(
    store: &Store,
    execute: &Execute,
    before: Option<Before>,
    upstream_port: u16,
) -> Result<Demo, Error> {
    let (control_token, workspace_id) = owner(store, execute, before.as_ref()).await?;
    let mut position = target(store, execute, workspace_id, upstream_port).await?;
    if let Some(before) = &before
        && let Some(kept) = usable_key(store, workspace_id, before).await?
    {
        return Ok(Demo {
            control_token,
            workspace_id,
            key_id: before.key_id,
            key: before.key.clone(),
            position: position.max(kept),
        });
    }
    revoke_old_keys(store, execute, workspace_id).await?;
    let (credential, secret) = fresh::secret(Environment::Test);
    let key_id = fresh::id(KeyId::from_parts);
    let create = KeyCommand::Create(Box::new(CreateKey {
        name: KEY_NAME.to_owned(),
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
        source: Source::Demo,
        secret,
    }));
    let made = run(execute, Some(workspace_id), Command::Key(key_id, create)).await?;
    position = position.max(made.position);
    let key = credential.reveal().to_owned();
    Ok(Demo {
        control_token,
        workspace_id,
        key_id,
        key,
        position,
    })
}

/// The owner of an earlier start, or a new one in an empty store. A token that is lost
/// while the store is ours is made anew.
async fn owner(
    store: &Store,
    execute: &Execute,
    before: Option<&Before>,
) -> Result<(String, WorkspaceId), Error> {
    if let Some(before) = before
        && let Some(token) = token::find(store, &before.control_token).await?
        && token.workspace_id == before.workspace_id
    {
        return Ok((before.control_token.clone(), before.workspace_id));
    }
    if view::workspace::instance(store).await?.operators.is_empty() {
        let Bootstrapped {
            control_token,
            workspace_id,
            ..
        } = bootstrap(store, execute, EMAIL, "Demo", "").await?;
        return Ok((control_token, workspace_id));
    }
    let Some((account_id, workspace_id)) = demo_owner(store).await? else {
        return Err(Error::Foreign);
    };
    let text = token::generate();
    let new = token::NewToken {
        id: fresh::id(schemas::ControlTokenId::from_parts),
        hash: token::hash(&text),
        account_id,
        service_account_id: None,
        workspace_id,
        name: "demo".to_owned(),
        scopes: None,
        expires_at: None,
    };
    token::create(store, &new, None, &serde_json::Value::Null).await?;
    Ok((text, workspace_id))
}

/// The owner that the demo made in an earlier start, known by the demo's address.
async fn demo_owner(
    store: &Store,
) -> Result<Option<(schemas::AccountId, WorkspaceId)>, store::Error> {
    use crate::store::log::{column, corrupt};
    let row = sqlx::query(
        "SELECT accounts.id AS id, control_tokens.workspace_id AS workspace_id FROM accounts \
         JOIN control_tokens ON control_tokens.account_id = accounts.id \
         WHERE accounts.email = $1 ORDER BY control_tokens.id LIMIT 1",
    )
    .bind(EMAIL)
    .fetch_optional(store.pool())
    .await
    .map_err(store::failed("look for the demo's owner"))?;
    row.map(|row| {
        let account: String = column(&row, "id")?;
        let workspace: String = column(&row, "workspace_id")?;
        Ok((
            account.parse().map_err(|_| corrupt("accounts.id"))?,
            workspace
                .parse()
                .map_err(|_| corrupt("control_tokens.workspace_id"))?,
        ))
    })
    .transpose()
}

async fn target(
    store: &Store,
    execute: &Execute,
    workspace_id: WorkspaceId,
    port: u16,
) -> Result<Position, Error> {
    let targets = view::target::list(store, workspace_id, None, 500).await?;
    let command = match targets.iter().find(|it| is_ours(&it.fields)) {
        Some(target) => Command::Target(target.id, TargetCommand::MoveDemo { port }),
        None => Command::Target(
            fresh::id(TargetId::from_parts),
            TargetCommand::Create(Box::new(CreateTarget {
                workspace_id,
                name: TARGET.to_owned(),
                host: HOST.to_owned(),
                scheme: Scheme::Http,
                port: Some(u64::from(port)),
                extra_ports: Vec::new(),
                base_path: String::new(),
                timeouts: Timeouts::default(),
                bodies: Bodies::default(),
                allow_set_cookie: false,
                allow_private: false,
                groups: Vec::new(),
                credential: None,
                rules: TargetRules {
                    is_demo: true,
                    ..TargetRules::default()
                },
            })),
        ),
    };
    Ok(run(execute, Some(workspace_id), command).await?.position)
}

/// A target that a user gave the same name is theirs.
fn is_ours(fields: &events::event::TargetFields) -> bool {
    fields.name == TARGET && fields.host == HOST && fields.scheme == Scheme::Http
}

/// The position of the file's key, if that key is ours and still opens the proxy.
async fn usable_key(
    store: &Store,
    workspace_id: WorkspaceId,
    before: &Before,
) -> Result<Option<Position>, Error> {
    if credential::shape(before.key.as_bytes()) != credential::Shape::Ours {
        return Ok(None);
    }
    let hash = schemas::CredentialHash::of(before.key.as_bytes());
    let now = fresh::now();
    let key = view::key::get(store, workspace_id, before.key_id).await?;
    Ok(key
        .filter(|key| key.status(now) == KeyStatus::Active)
        .filter(|key| key.live_secrets(now).any(|it| it.hash == hash))
        .map(|key| key.position))
}

/// Keys of earlier starts whose string is lost must not stay good.
async fn revoke_old_keys(
    store: &Store,
    execute: &Execute,
    workspace_id: WorkspaceId,
) -> Result<(), Error> {
    let filter = view::key::Filter {
        limit: 500,
        ..Default::default()
    };
    for key in view::key::list(store, workspace_id, &filter, fresh::now()).await? {
        if key.source == Source::Demo {
            run(
                execute,
                Some(workspace_id),
                Command::Key(key.id, KeyCommand::Revoke),
            )
            .await?;
        }
    }
    Ok(())
}

async fn run(
    execute: &Execute,
    workspace_id: Option<WorkspaceId>,
    command: Command,
) -> Result<execute::Outcome, execute::Error> {
    execute
        .run(Request {
            steps: vec![Step {
                command,
                workspace_id,
            }],
            actor: Actor {
                kind: ActorKind::System,
                id: "demo".to_owned(),
            },
            request_id: None,
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        })
        .await
}
