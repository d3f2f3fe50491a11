//! People with roles, made without mails and passwords: by commands to the log, and by rows
//! for what the log does not hold. How people come by themselves is tested elsewhere.

use control_plane::execute::{Execute, Request, Step};
use control_plane::store::Store;
use control_plane::{fresh, token};
use events::command::{InvitationCommand, MemberCommand, WorkspaceCommand};
use events::{Command, Refusal};
use schemas::api::{Actor, ActorKind};
use schemas::{AccountId, ControlTokenId, InvitationId, MemberStatus, Role, TeamRole, WorkspaceId};
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection};
use tests::{Ask, Control, World};
use tokio::sync::{Mutex, watch};

/// Makes people for a workspace of a world.
pub struct People<'w> {
    world: &'w World,
    execute: Execute,
    rows: Mutex<AnyConnection>,
    workspace_id: WorkspaceId,
    owner: AccountId,
}

/// Somebody with a control token.
#[derive(Debug, Clone)]
pub struct Person {
    /// The account.
    pub id: AccountId,
    /// The API, as they call it.
    pub control: Control,
}

impl<'w> People<'w> {
    /// For the workspace that the world has from its start.
    pub async fn of(world: &'w World) -> Self {
        let id = |name: &str| world.bootstrap[name].as_str().unwrap();
        let workspace_id = id("workspace_id").parse().unwrap();
        let owner = id("account_id").parse().unwrap();
        Self::open(world, workspace_id, owner).await
    }

    /// For another workspace, with an owner of its own, who is given back too.
    pub async fn elsewhere(world: &'w World) -> (Self, Person) {
        let workspace_id = fresh::id(WorkspaceId::from_parts);
        let owner = fresh::id(AccountId::from_parts);
        let people = Self::open(world, workspace_id, owner).await;
        people.account(owner).await;
        let name = "elsewhere".to_owned();
        people
            .run(WorkspaceCommand::Create { name, owner })
            .await
            .unwrap();
        let person = people.token(owner).await;
        (people, person)
    }

    async fn open(world: &'w World, workspace_id: WorkspaceId, owner: AccountId) -> Self {
        let store = Store::open(&world.database.url()).unwrap();
        let rows = AnyConnection::connect(&world.database.url()).await.unwrap();
        Self {
            world,
            execute: Execute::start(store, watch::channel(0).0),
            rows: Mutex::new(rows),
            workspace_id,
            owner,
        }
    }

    /// A new member with a role.
    pub async fn join(&self, role: Role) -> Person {
        let account_id = fresh::id(AccountId::from_parts);
        self.account(account_id).await;
        let id = fresh::id(InvitationId::from_parts);
        for command in [
            InvitationCommand::Create {
                by: self.owner,
                id,
                role,
                team: None,
            },
            InvitationCommand::Accept { id, account_id },
        ] {
            self.run(WorkspaceCommand::Invitation(command))
                .await
                .unwrap();
        }
        self.token(account_id).await
    }

    /// A new member who is only something in a team.
    pub async fn join_team(&self, team: &str, role: TeamRole) -> Person {
        let person = self.join(Role::Member).await;
        set(&self.world.owner, team, &person, role).await;
        person
    }

    /// Suspends a member, or lets them in again.
    pub async fn set_status(&self, person: &Person, status: MemberStatus) {
        let command = MemberCommand::Update {
            by: self.owner,
            account_id: person.id,
            role: None,
            status: Some(status),
        };
        self.run(WorkspaceCommand::Member(command)).await.unwrap();
    }

    /// An order to the workspace in its owner's name.
    pub async fn run(&self, command: WorkspaceCommand) -> Result<(), Refusal> {
        let request = Request {
            steps: vec![Step {
                command: Command::Workspace(self.workspace_id, command),
                workspace_id: Some(self.workspace_id),
            }],
            actor: Actor {
                kind: ActorKind::User,
                id: self.owner.to_string(),
            },
            request_id: None,
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        };
        match self.execute.run(request).await {
            Ok(_) => Ok(()),
            Err(control_plane::execute::Error::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    /// A verified account.
    async fn account(&self, id: AccountId) {
        let mut rows = self.rows.lock().await;
        sqlx::query(
            "INSERT INTO accounts (id, email, address, email_verified, created_at_ms) \
             VALUES ($1, $2, $2, 1, 0)",
        )
        .bind(id.to_string())
        .bind(format!("{id}@example.com").to_lowercase())
        .execute(&mut *rows)
        .await
        .unwrap();
    }

    /// A token of an account.
    async fn token(&self, id: AccountId) -> Person {
        let text = token::generate();
        let mut rows = self.rows.lock().await;
        sqlx::query(
            "INSERT INTO control_tokens (id, hash, account_id, workspace_id, name, \
             created_at_ms) VALUES ($1, $2, $3, $4, 'test', 0)",
        )
        .bind(fresh::id(ControlTokenId::from_parts).to_string())
        .bind(token::hash(&text))
        .bind(id.to_string())
        .bind(self.workspace_id.to_string())
        .execute(&mut *rows)
        .await
        .unwrap();
        Person {
            id,
            control: self.world.owner.with_token(&text),
        }
    }
}

impl Person {
    /// As an owner of keys in a body.
    pub fn owner(&self) -> Value {
        json!({ "type": "user", "id": self.id })
    }
}

/// Makes a team and says its id.
pub async fn team(control: &Control, body: Value) -> String {
    let team = control.post("/teams", body).await.expect(201).json();
    team["id"].as_str().unwrap().to_owned()
}

/// Makes a service account in a team and says its id.
pub async fn service_account(control: &Control, team: &str, name: &str) -> String {
    let body = json!({ "name": name, "team_id": team });
    let made = control.post("/service-accounts", body).await.expect(201);
    made.json()["id"].as_str().unwrap().to_owned()
}

/// Gives somebody a role in a team.
pub async fn set(control: &Control, team: &str, person: &Person, role: TeamRole) {
    let path = format!("/v1/teams/{team}/members/{}", person.id);
    let ask = Ask::new("PUT", path).json(&json!({ "role": role }));
    control.send(ask).await.expect(200);
}
