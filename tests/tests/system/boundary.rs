//! The boundary: every endpoint, asked by every kind of caller.
//!
//! What is expected follows from three things: the permission matrix as the product's
//! documents have it ([`MATRIX`], not the program's own table), what each row says its
//! endpoint needs ([`rows`]), and who the caller is ([`Kind`]). An endpoint without a row
//! fails the test.
//!
//! Who may is answered with something that comes after the judgement and changes nothing: a
//! parameter that there is not. So the rows can be asked in any order, by everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::wait::eventually;
use tests::{Ask, Control, World};

use crate::members::{Joined, join, put, team};

/// The permission matrix of the documents, word for word.
const MATRIX: &str = "\
| permission | owner | admin | developer | billing | viewer | auditor | team_admin (own team) | team_developer | team_viewer |
|---|---|---|---|---|---|---|---|---|---|
| `key.read` | x | x | x | | x (no owner data) | x | x | own keys | |
| `key.create`, `key.update`, `key.revoke`, `key.rotate` | x | x | x | | | | x | | |
| `key.create_self` (and rotate, deactivate, reactivate, revoke own) | x | x | x | | | | x | x, under the team's policy | |
| `target.read` | x | x | x | | x | x | x | x | x |
| `target.update` (targets, access groups) | x | x | x | | | | | | |
| `team.read` | x | x | x | | x | x | own | own | own |
| `team.update`, `service_account.update` | x | x | | | | | own | | |
| `member.read` | x | x | x | | | x | own team | | |
| `member.update`, `invitation.update` | x | developer, viewer, auditor, member only | | | | | own team | | |
| `workspace.update` | x | x (not lifecycle) | | | | | | | |
| `usage.read` | x | x | x | x | x | x | own team | own keys | own team |
| `log.read` (request logs) | x | x | x | | | x | own team | own keys | |
| `audit.read` (events, state, proofs, export; without it, own actions) | x | x | | | | x | | | |
| `fleet.read` | x | x | x | | | x | | | |";

const ROLES: [&str; 6] = [
    "owner",
    "admin",
    "developer",
    "billing",
    "viewer",
    "auditor",
];
const TEAM_ROLES: [&str; 3] = ["team_admin", "team_developer", "team_viewer"];

/// What stands in the names of everything in the workspace that strangers must not see.
const CANARY: &str = "canary";

/// Added where the answer would change something otherwise.
const NONSENSE: &str = "nonsense=1";

/// How far a role reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Reach {
    Own,
    Team,
    Workspace,
}

/// Where something is, seen from the people of our team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// A list, which shows what its reader reaches.
    Somewhere,
    /// The workspace's.
    Workspace,
    /// Our team's, and the team developer's own.
    Own,
    /// Our team's.
    Team,
}

/// What an endpoint needs.
#[derive(Debug, Clone)]
enum Gate {
    /// Nothing.
    Open,
    /// An account that has shown who it is.
    Account,
    /// The same with all its rights: not with a token that is for its workspace only.
    Whole,
    /// The same, and verified.
    Verified,
    /// A verified account that has logged in.
    Session,
    /// An active member.
    Member,
    /// One of these, there.
    Needs(Vec<(&'static str, Where)>),
    /// What only the owner made: others do not find it.
    Owners,
    /// An operator.
    Operator,
    /// Logging out of a page: asked only by those who have no session to lose.
    LogOut,
}

struct Row {
    /// As the router lists it, without `/v1`.
    route: &'static str,
    /// As it is asked: `{name}` is an id of the workspace.
    path: &'static str,
    body: Option<Value>,
    gate: Gate,
    /// What who may is answered.
    ok: (u16, &'static str),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Role(&'static str),
    TeamRole(&'static str),
    /// A plain member without a team.
    PlainMember,
    /// Above workspaces, and the owner of another one.
    Operator,
    /// The owner of another workspace.
    Foreign,
    Suspended,
    Unverified,
    NoMember,
    /// The owner's token, for `target.read` only.
    Narrowed,
    Expired,
    DataPlaneKey,
    Nobody,
}

struct Caller {
    kind: Kind,
    control: Control,
}

fn needs(permission: &'static str, place: Where) -> Gate {
    Gate::Needs(vec![(permission, place)])
}

/// A row that reads.
fn reads(route: &'static str, path: &'static str, gate: Gate) -> Row {
    Row {
        route,
        path,
        body: None,
        gate,
        ok: (200, ""),
    }
}

/// A row that would change something, were it not for [`NONSENSE`].
fn changes(route: &'static str, path: &'static str, gate: Gate) -> Row {
    Row {
        route,
        path,
        body: None,
        gate,
        ok: (422, "validation"),
    }
}

impl Row {
    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    fn ok(mut self, status: u16, code: &'static str) -> Self {
        self.ok = (status, code);
        self
    }

    /// Whether it names something that only the workspace has.
    fn names_an_object(&self) -> bool {
        let in_body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        self.path.contains('{') || in_body.contains("{our")
    }
}

/// All endpoints. Some stand here more than once: for things of a team, and of none.
fn rows() -> Vec<Row> {
    use Where::{Own, Somewhere, Team, Workspace};
    let own_key = |permission| Gate::Needs(vec![(permission, Own), ("key.create_self", Own)]);
    let mut rows = vec![
        // Pages, and whether it is there.
        reads("GET /healthz", "/healthz", Gate::Open),
        reads("GET /readyz", "/readyz", Gate::Open),
        changes("POST /login", "/login", Gate::Open),
        changes("POST /logout", "/logout", Gate::LogOut),
        // Accounts.
        changes("POST /accounts", "/accounts", Gate::Open),
        changes("POST /accounts/verify", "/accounts/verify", Gate::Open),
        changes(
            "POST /accounts/verify/resend",
            "/accounts/verify/resend",
            Gate::Open,
        ),
        changes(
            "POST /accounts/password/forgot",
            "/accounts/password/forgot",
            Gate::Open,
        ),
        changes(
            "POST /accounts/password/reset",
            "/accounts/password/reset",
            Gate::Open,
        ),
        changes("DELETE /accounts/me", "/accounts/me", Gate::Session),
        changes("POST /sessions", "/sessions", Gate::Open),
        reads("GET /sessions", "/sessions", Gate::Verified),
        changes("DELETE /sessions/{id}", "/sessions/ses_x", Gate::Whole),
        changes(
            "PUT /sessions/current/workspace",
            "/sessions/current/workspace",
            Gate::Session,
        ),
        reads(
            "GET /sessions/oidc/{provider}/start",
            "/sessions/oidc/none/start",
            Gate::Open,
        )
        .ok(404, "not_found"),
        reads(
            "GET /sessions/oidc/{provider}/callback",
            "/sessions/oidc/none/callback",
            Gate::Open,
        )
        .ok(404, "not_found"),
        reads("GET /me", "/me", Gate::Account),
        changes("POST /me/totp", "/me/totp", Gate::Session),
        changes("DELETE /me/totp", "/me/totp", Gate::Session),
        // The installation.
        reads("GET /instance", "/instance", Gate::Operator),
        changes("PATCH /instance", "/instance", Gate::Operator),
        reads("GET /operators", "/operators", Gate::Operator),
        changes("POST /operators", "/operators", Gate::Operator),
        changes(
            "DELETE /operators/{id}",
            "/operators/{member}",
            Gate::Operator,
        ),
        changes(
            "POST /workspaces/{id}/suspend",
            "/workspaces/{workspace}/suspend",
            Gate::Operator,
        ),
        changes(
            "POST /workspaces/{id}/reinstate",
            "/workspaces/{workspace}/reinstate",
            Gate::Operator,
        ),
        // The workspace and its people.
        changes("POST /workspaces", "/workspaces", Gate::Verified),
        reads("GET /workspace", "/workspace", Gate::Member),
        changes(
            "PATCH /workspace",
            "/workspace",
            needs("workspace.update", Workspace),
        ),
        reads("GET /members", "/members", needs("member.read", Somewhere)),
        changes(
            "PATCH /members/{id}",
            "/members/{member}",
            needs("member.update", Workspace),
        ),
        changes(
            "DELETE /members/{id}",
            "/members/{member}",
            needs("member.update", Workspace),
        ),
        reads(
            "GET /invitations",
            "/invitations",
            needs("invitation.update", Somewhere),
        ),
        changes(
            "POST /invitations",
            "/invitations",
            needs("invitation.update", Workspace),
        )
        .body(json!({ "email": "x@example.com", "role": "member" })),
        changes(
            "POST /invitations",
            "/invitations",
            needs("invitation.update", Team),
        )
        .body(json!({ "email": "x@example.com", "team_id": "{our_team}" })),
        changes(
            "DELETE /invitations/{id}",
            "/invitations/{invitation}",
            needs("invitation.update", Team),
        ),
        changes(
            "POST /invitations/{id}/reissue",
            "/invitations/{invitation}/reissue",
            needs("invitation.update", Team),
        ),
        changes(
            "POST /invitations/accept",
            "/invitations/accept",
            Gate::Verified,
        ),
        reads("GET /events", "/events", Gate::Member),
        reads("GET /positions/{position}", "/positions/1", Gate::Member),
        reads("GET /control-tokens", "/control-tokens", Gate::Member),
        changes("POST /control-tokens", "/control-tokens", Gate::Member),
        changes(
            "DELETE /control-tokens/{id}",
            "/control-tokens/{token}",
            Gate::Owners,
        ),
        // Teams and service accounts.
        reads("GET /teams", "/teams", needs("team.read", Somewhere)),
        changes("POST /teams", "/teams", needs("team.update", Workspace)),
        reads(
            "GET /service-accounts",
            "/service-accounts",
            needs("team.read", Somewhere),
        ),
        changes(
            "POST /service-accounts",
            "/service-accounts",
            needs("service_account.update", Team),
        )
        .body(json!({ "name": "x", "team_id": "{our_team}" })),
        changes(
            "PATCH /service-accounts/{id}",
            "/service-accounts/{robot}",
            needs("service_account.update", Team),
        ),
        // Targets.
        reads("GET /targets", "/targets", needs("target.read", Workspace)),
        changes(
            "POST /targets",
            "/targets",
            needs("target.update", Workspace),
        ),
        reads(
            "GET /targets/{id}",
            "/targets/{target}",
            needs("target.read", Workspace),
        ),
        changes(
            "PATCH /targets/{id}",
            "/targets/{target}",
            needs("target.update", Workspace),
        ),
        changes(
            "DELETE /targets/{id}",
            "/targets/{target}",
            needs("target.update", Workspace),
        ),
        // Access groups and upstream credentials.
        reads(
            "GET /access-groups",
            "/access-groups",
            needs("target.read", Workspace),
        ),
        changes(
            "POST /access-groups",
            "/access-groups",
            needs("target.update", Workspace),
        ),
        changes(
            "DELETE /access-groups/{name}",
            "/access-groups/{group}",
            needs("target.update", Workspace),
        ),
        reads(
            "GET /credentials",
            "/credentials",
            needs("target.read", Workspace),
        ),
        changes(
            "POST /credentials",
            "/credentials",
            needs("target.update", Workspace),
        ),
        changes(
            "DELETE /credentials/{name}",
            "/credentials/{credential}",
            needs("target.update", Workspace),
        ),
        // Keys.
        reads("GET /api-keys", "/api-keys", needs("key.read", Somewhere)),
        changes("POST /api-keys", "/api-keys", own_key("key.create"))
            .body(json!({ "name": "x", "team_id": "{our_team}" })),
        changes(
            "POST /api-keys",
            "/api-keys",
            needs("key.create", Workspace),
        )
        .body(json!({ "name": "x", "team_id": "{our_other_team}" })),
    ];
    for (team, place) in [("{our_team}", Team), ("{our_other_team}", Workspace)] {
        rows.extend(of_team(team, place));
    }
    for (key, place) in [
        ("{own_key}", Own),
        ("{team_key}", Team),
        ("{plain_key}", Workspace),
    ] {
        rows.extend(of_key(key, place));
    }
    rows
}

fn of_team(team: &str, place: Where) -> Vec<Row> {
    let path = |rest: &str| -> &'static str { format!("/teams/{team}{rest}").leak() };
    let read = || needs("team.read", place);
    let update = || needs("team.update", place);
    let people = || needs("member.update", place);
    let member = "/members/{team_member}";
    let is_in_it = place == Where::Team;
    let one = reads(
        "GET /teams/{id}/members/{account_id}",
        path(member),
        needs("member.read", place),
    );
    vec![
        reads("GET /teams/{id}", path(""), read()),
        changes("PATCH /teams/{id}", path(""), update()),
        changes("DELETE /teams/{id}", path(""), update()),
        reads(
            "GET /teams/{id}/members",
            path("/members"),
            needs("member.read", place),
        ),
        if is_in_it {
            one
        } else {
            one.ok(404, "not_found")
        },
        changes(
            "PUT /teams/{id}/members/{account_id}",
            path(member),
            people(),
        ),
        if is_in_it {
            changes(
                "DELETE /teams/{id}/members/{account_id}",
                path(member),
                people(),
            )
        } else {
            changes(
                "DELETE /teams/{id}/members/{account_id}",
                path(member),
                people(),
            )
            .ok(404, "not_found")
        },
    ]
}

fn of_key(key: &str, place: Where) -> Vec<Row> {
    let path = |rest: &str| -> &'static str { format!("/api-keys/{key}{rest}").leak() };
    // What a developer of a team may do with what is their own.
    let or_own = |permission| {
        let mut any = vec![(permission, place)];
        if place == Where::Own {
            any.push(("key.create_self", place));
        }
        Gate::Needs(any)
    };
    let read = || needs("key.read", place);
    vec![
        reads("GET /api-keys/{id}", path(""), read()),
        changes("PATCH /api-keys/{id}", path(""), needs("key.update", place)),
        changes("DELETE /api-keys/{id}", path(""), or_own("key.revoke")),
        changes(
            "POST /api-keys/{id}/deactivate",
            path("/deactivate"),
            or_own("key.revoke"),
        ),
        changes(
            "POST /api-keys/{id}/reactivate",
            path("/reactivate"),
            or_own("key.revoke"),
        ),
        changes(
            "POST /api-keys/{id}/rotate",
            path("/rotate"),
            or_own("key.rotate"),
        ),
        reads(
            "GET /api-keys/{id}/effective-access",
            path("/effective-access"),
            read(),
        ),
        reads("GET /api-keys/{id}/rotation", path("/rotation"), read()),
        changes(
            "POST /api-keys/{id}/transfer",
            path("/transfer"),
            needs("key.update", place),
        ),
        changes(
            "POST /api-keys/{id}/purge",
            path("/purge"),
            needs("key.revoke", place),
        ),
        reads(
            "GET /api-keys/{id}/effective-access",
            path("/effective-access"),
            read(),
        ),
        reads(
            "GET /api-keys/{id}/history",
            path("/history"),
            Gate::Needs(vec![("key.read", place), ("audit.read", Where::Workspace)]),
        ),
    ]
}

// === what is expected ===

/// How far each role reaches with each permission, read from the documents.
fn matrix() -> BTreeMap<(String, &'static str), Reach> {
    let mut table = BTreeMap::new();
    for line in MATRIX.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let names = cells[0].split('`').skip(1).step_by(2);
        for name in names {
            for (role, cell) in ROLES.iter().zip(&cells[1..7]) {
                if !cell.is_empty() {
                    table.insert((name.to_owned(), *role), Reach::Workspace);
                }
            }
            for (role, cell) in TEAM_ROLES.iter().zip(&cells[7..10]) {
                let reach = match *cell {
                    "" => continue,
                    // Targets belong to the workspace and to no team.
                    _ if name == "target.read" => Reach::Workspace,
                    "own keys" => Reach::Own,
                    it if it.starts_with("x, under") => Reach::Own,
                    "x" | "own" | "own team" => Reach::Team,
                    other => panic!("the matrix says {other:?}"),
                };
                table.insert((name.to_owned(), *role), reach);
            }
        }
    }
    table
}

type Matrix = BTreeMap<(String, &'static str), Reach>;

fn holds(matrix: &Matrix, role: &'static str, gate: &[(&'static str, Where)]) -> bool {
    gate.iter().any(|(permission, place)| {
        let reach = matrix.get(&((*permission).to_owned(), role));
        match (reach, place) {
            (None, _) => false,
            (Some(_), Where::Somewhere) | (Some(Reach::Workspace), _) => true,
            (Some(Reach::Team), place) => *place != Where::Workspace,
            (Some(Reach::Own), place) => *place == Where::Own,
        }
    })
}

/// Status and code of an answer; the code is empty where it is no problem.
type Answer = (u16, String);

fn expected(matrix: &Matrix, kind: Kind, row: &Row) -> Answer {
    let ok = || (row.ok.0, row.ok.1.to_owned());
    let refused = |status, code: &str| (status, code.to_owned());
    let forbidden = || refused(403, "forbidden");
    let judged = |may: bool| if may { ok() } else { forbidden() };
    if matches!(row.gate, Gate::Open) {
        return ok();
    }
    match kind {
        Kind::Expired | Kind::DataPlaneKey | Kind::Nobody => {
            return refused(401, "unauthenticated");
        }
        Kind::Unverified => {
            return match row.gate {
                Gate::Account | Gate::Whole => ok(),
                _ => refused(403, "email_not_verified"),
            };
        }
        _ => {}
    }
    let is_narrowed = kind == Kind::Narrowed;
    match &row.gate {
        Gate::Open | Gate::Account => return ok(),
        Gate::Whole | Gate::Verified | Gate::Session | Gate::LogOut => {
            return judged(!is_narrowed);
        }
        Gate::Operator => return judged(kind == Kind::Operator),
        Gate::Member | Gate::Needs(_) | Gate::Owners => {}
    }
    match (kind, &row.gate) {
        (Kind::Suspended | Kind::NoMember, _) => forbidden(),
        (Kind::Foreign | Kind::Operator, _) if row.names_an_object() => refused(404, "not_found"),
        (Kind::Foreign | Kind::Operator, _) | (_, Gate::Member) => ok(),
        (Kind::Role("owner") | Kind::Narrowed, Gate::Owners) => ok(),
        (_, Gate::Owners) => refused(404, "not_found"),
        (Kind::Narrowed, Gate::Needs(any)) => judged(
            any.iter()
                .any(|(permission, _)| *permission == "target.read"),
        ),
        (Kind::Role(role) | Kind::TeamRole(role), Gate::Needs(any)) => {
            judged(holds(matrix, role, any))
        }
        _ => forbidden(),
    }
}

// === the workspace ===

struct Scene {
    ids: BTreeMap<&'static str, String>,
    callers: Vec<Caller>,
}

impl Scene {
    fn filled(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (name, id)| {
            text.replace(&format!("{{{name}}}"), id)
        })
    }

    async fn ask(&self, caller: &Caller, row: &Row) -> tests::http::Reply {
        let (method, pattern) = row.route.split_once(' ').unwrap();
        let root = match pattern {
            "/login" | "/logout" | "/healthz" | "/readyz" => "",
            _ => "/v1",
        };
        let mut path = format!("{root}{}", self.filled(row.path));
        if method != "GET" {
            path = format!("{path}?{NONSENSE}");
        }
        let mut ask = Ask::new(method, path);
        if method != "GET" {
            let body = row.body.clone().unwrap_or_else(|| json!({}));
            let body: Value = serde_json::from_str(&self.filled(&body.to_string())).unwrap();
            ask = ask.json(&body);
        }
        caller.control.send(ask).await
    }
}

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

async fn found(world: &World, email: &str, name: &str) -> Control {
    let control = world.people().verified(email).await.log_in().await;
    control
        .post("/workspaces", json!({ "name": name }))
        .await
        .expect(201);
    control
}

async fn account_of(control: &Control) -> String {
    let me = control.get("/me").await.expect(200).json();
    id(&me["account"])
}

/// A workspace in which everything has a canary in its name, and all kinds of callers.
async fn scene(world: &World) -> Scene {
    let people = world.people();
    let owner = found(world, "owner@canary.example", "canary workspace").await;
    let our_team = team(&owner, "canary team").await;
    let other_team = team(&owner, "canary other team").await;
    let mut callers = vec![Caller {
        kind: Kind::Role("owner"),
        control: owner.clone(),
    }];
    let mut joined: BTreeMap<&str, Joined> = BTreeMap::new();
    for role in ROLES.iter().skip(1).chain(&["member"]) {
        let email = format!("{role}@canary.example");
        let person = join(world, &owner, &email, json!({ "role": role })).await;
        let kind = match *role {
            "member" => Kind::PlainMember,
            role => Kind::Role(role),
        };
        callers.push(Caller {
            kind,
            control: person.control.clone(),
        });
        joined.insert(role, person);
    }
    for role in TEAM_ROLES {
        let email = format!("{role}@canary.example");
        let into = json!({ "team_id": our_team, "team_role": role });
        let person = join(world, &owner, &email, into).await;
        callers.push(Caller {
            kind: Kind::TeamRole(role),
            control: person.control.clone(),
        });
        joined.insert(role, person);
    }
    let suspended = json!({ "role": "admin" });
    let suspended = join(world, &owner, "suspended@canary.example", suspended).await;
    owner
        .patch(&suspended.path(""), json!({ "status": "suspended" }))
        .await
        .expect(200);

    let of_developer = json!({ "type": "user", "id": joined["team_developer"].id });
    let own_key = json!({ "name": "canary own", "team_id": our_team, "owner": of_developer });
    let own_key = owner.key_with(own_key).await;
    let team_key = json!({ "name": "canary in the team", "team_id": our_team });
    let team_key = owner.key_with(team_key).await;
    let plain_key = owner.key("canary").await;
    let target = owner
        .target("canary", world.upstream.port(), json!({}))
        .await;
    let group = json!({ "name": "canary-group" });
    owner.post("/access-groups", group).await.expect(201);
    let credential = json!({
        "name": "canary-credential", "header": "authorization", "format": "Bearer {secret}",
        "source": "file", "ref": "CANARY",
    });
    owner.post("/credentials", credential).await.expect(201);
    let robot = json!({ "name": "canary robot", "team_id": our_team });
    let robot = owner.post("/service-accounts", robot).await.expect(201);
    let invitation = json!({ "email": "invited@canary.example", "team_id": our_team });
    let invitation = owner.post("/invitations", invitation).await.expect(201);
    let narrowed = json!({ "name": "canary token", "scopes": ["target.read"] });
    let narrowed = owner.post("/control-tokens", narrowed).await.expect(201);
    let soon = schemas::Timestamp::from_unix_ms(now_ms() + 1_000);
    let expiring = json!({ "name": "canary expiring", "expires_at": soon });
    let expiring = owner.post("/control-tokens", expiring).await.expect(201);
    let secret = |body: Value| body["token"].as_str().unwrap().to_owned();
    let expired = owner.with_token(&secret(expiring.json()));
    eventually("the token expires", Duration::from_secs(10), async || {
        expired.get("/me").await.check(401)
    })
    .await;

    let unverified = people.stranger("unverified@example.com");
    unverified.sign_up().await.expect(201);
    let operator = found(world, "operator@example.com", "The operator's").await;
    let as_operator = json!({ "account_id": account_of(&operator).await });
    world
        .owner
        .post("/operators", as_operator)
        .await
        .expect(201);
    for (kind, control) in [
        (Kind::Operator, operator),
        (
            Kind::Foreign,
            found(world, "foreign@example.com", "Foreign").await,
        ),
        (Kind::Suspended, suspended.control),
        (Kind::Unverified, unverified.log_in().await),
        (
            Kind::NoMember,
            people.verified("none@example.com").await.log_in().await,
        ),
        (Kind::Narrowed, owner.with_token(&secret(narrowed.json()))),
        (Kind::Expired, expired),
        (Kind::DataPlaneKey, owner.with_token(&plain_key.secret)),
        (Kind::Nobody, owner.stranger()),
    ] {
        callers.push(Caller { kind, control });
    }
    let workspace = owner.get("/workspace").await.expect(200).json();
    let ids = [
        ("workspace", id(&workspace)),
        ("our_team", our_team),
        ("our_other_team", other_team),
        ("member", joined["developer"].id.clone()),
        ("team_member", joined["team_developer"].id.clone()),
        ("own_key", own_key.id),
        ("team_key", team_key.id),
        ("plain_key", plain_key.id),
        ("target", id(&target)),
        ("group", "canary-group".to_owned()),
        ("credential", "canary-credential".to_owned()),
        ("robot", id(&robot.json())),
        ("invitation", id(&invitation.json())),
        ("token", id(&narrowed.json())),
        ("group", "canary-group".to_owned()),
        ("credential", "canary-credential".to_owned()),
    ];
    Scene {
        ids: ids.into(),
        callers,
    }
}

fn now_ms() -> i64 {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since_1970.as_millis()).unwrap()
}

// === the tests ===

#[test]
fn every_endpoint_has_a_row_and_every_row_an_endpoint() {
    let routes: BTreeSet<String> = control_plane::http::routes()
        .iter()
        .map(|it| format!("{} {}", it.method, it.path))
        .collect();
    let rows: BTreeSet<String> = rows().iter().map(|it| it.route.to_owned()).collect();
    let missing: Vec<_> = routes.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&routes).collect();
    assert!(missing.is_empty(), "no caller was judged for {missing:?}");
    assert!(stale.is_empty(), "there is no endpoint {stale:?}");
}

#[tokio::test]
async fn every_endpoint_answers_every_caller_as_the_matrix_says() {
    let world = World::start("boundary").await;
    let scene = scene(&world).await;
    let matrix = matrix();
    let mut wrong = Vec::new();
    for row in rows() {
        let asked = scene.callers.iter().filter(|caller| {
            let holds_nothing = [
                Kind::Narrowed,
                Kind::Expired,
                Kind::DataPlaneKey,
                Kind::Nobody,
            ];
            !matches!(row.gate, Gate::LogOut) || holds_nothing.contains(&caller.kind)
        });
        let asked: Vec<&Caller> = asked.collect();
        let replies = join_all(asked.iter().map(|caller| scene.ask(caller, &row))).await;
        for (caller, reply) in asked.into_iter().zip(replies) {
            let code = serde_json::from_slice::<Value>(&reply.body)
                .ok()
                .and_then(|it| it["code"].as_str().map(str::to_owned))
                .unwrap_or_default();
            let answer = (reply.status, code);
            let expected = expected(&matrix, caller.kind, &row);
            if answer != expected {
                let who = caller.kind;
                let asked = format!("{} as {}", row.route, row.path);
                wrong.push(format!(
                    "{who:?} {asked}: {answer:?} instead of {expected:?}"
                ));
            }
            if let Some(seen) = seen_of_the_canary(&scene, caller.kind, &reply.text()) {
                let who = caller.kind;
                wrong.push(format!("{who:?} {}: the answer shows {seen}", row.route));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    attempts_are_recorded(&scene).await;
}

/// What a stranger to the workspace saw of it.
fn seen_of_the_canary(scene: &Scene, kind: Kind, text: &str) -> Option<String> {
    let is_stranger = matches!(
        kind,
        Kind::Operator
            | Kind::Foreign
            | Kind::Unverified
            | Kind::NoMember
            | Kind::Expired
            | Kind::DataPlaneKey
            | Kind::Nobody
    );
    if !is_stranger {
        return None;
    }
    if text.to_lowercase().contains(CANARY) {
        return Some(text.to_owned());
    }
    let mut ids = scene.ids.values();
    ids.find(|id| text.contains(id.as_str())).cloned()
}

/// The denied attempts of the members are there, bounded, and name routes and no ids.
async fn attempts_are_recorded(scene: &Scene) {
    let owner = &scene.callers[0].control;
    let page = owner.get("/events?type=access.denied&limit=500").await;
    let page = page.expect(200).json();
    let rows = page["data"].as_array().unwrap();
    assert!(!rows.is_empty());
    let mut by_caller: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let route = row["data"]["route"].as_str().unwrap();
        assert!(route.starts_with('/'), "{row}");
        assert!(!row["data"].to_string().contains("_01"), "an id: {row}");
        *by_caller.entry(row["actor"]["id"].to_string()).or_default() += 1;
    }
    // Of the viewer, of the suspended member, of the token; nobody of another workspace.
    assert!(by_caller.len() >= 5, "{by_caller:?}");
}

/// Ids of another workspace, wherever a body or a query takes one.
#[tokio::test]
async fn an_id_of_another_workspace_is_not_found_anywhere() {
    let world = World::start("foreign").await;
    let scene = scene(&world).await;
    let foreign = found(&world, "another@example.com", "Another").await;
    let own_team = team(&foreign, "Own").await;
    let own_key = foreign.key("own").await;
    let own_member = join(
        &world,
        &foreign,
        "own@example.com",
        json!({ "role": "admin" }),
    )
    .await;
    foreign
        .target("own", world.upstream.port(), json!({}))
        .await;
    let user = |id: &str| json!({ "type": "user", "id": id });
    let robot = || json!({ "type": "service_account", "id": "{robot}" });
    let access = || json!({ "mode": "restrict", "targets": ["{target}"] });
    let posts = [
        ("/api-keys", json!({ "name": "a", "team_id": "{our_team}" })),
        (
            "/api-keys",
            json!({ "name": "b", "owner": user("{member}") }),
        ),
        (
            "/api-keys",
            json!({ "name": "c", "team_id": own_team, "owner": robot() }),
        ),
        (
            "/api-keys",
            json!({ "name": "d", "replaces": "{plain_key}" }),
        ),
        ("/api-keys", json!({ "name": "h", "access": access() })),
        ("/teams", json!({ "name": "i", "access": access() })),
        (
            "/api-keys",
            json!({ "name": "t", "access": { "mode": "restrict", "targets": ["{target}"] } }),
        ),
        (
            "/api-keys",
            json!({ "name": "u", "access": { "mode": "restrict", "groups": ["{group}"] } }),
        ),
        (
            "/teams",
            json!({ "name": "v", "access": { "mode": "restrict", "targets": ["{target}"] } }),
        ),
        (
            "/targets",
            json!({ "name": "w", "host": "api.example.com", "groups": ["{group}"] }),
        ),
        (
            "/targets",
            json!({ "name": "x", "host": "api.example.com", "credential": "{credential}" }),
        ),
        (
            "/service-accounts",
            json!({ "name": "e", "team_id": "{our_team}" }),
        ),
        (
            "/invitations",
            json!({ "email": "f@example.com", "team_id": "{our_team}" }),
        ),
        (
            "/control-tokens",
            json!({ "name": "g", "service_account_id": "{robot}" }),
        ),
        (
            &own_key.path("/transfer"),
            json!({ "owner": user("{member}") }),
        ),
        (&own_key.path("/transfer"), json!({ "owner": robot() })),
    ];
    for (path, body) in posts {
        let body: Value = serde_json::from_str(&scene.filled(&body.to_string())).unwrap();
        let reply = foreign.post(path, body).await;
        assert!(seen_of_the_canary(&scene, Kind::Foreign, &reply.text()).is_none());
        reply.refused(404, "not_found");
    }
    let own_team_member = format!("/teams/{own_team}/members/{{member}}");
    let body = json!({ "role": "team_viewer" });
    put(&foreign, &scene.filled(&own_team_member), body)
        .await
        .refused(404, "not_found");
    let workspace = json!({ "workspace_id": scene.ids["workspace"] });
    put(&foreign, "/sessions/current/workspace", workspace)
        .await
        .refused(404, "not_found");
    foreign
        .delete(&own_member.path(&scene.filled("?keys=transfer&to={robot}")))
        .await
        .refused(404, "not_found");
    for query in [
        "/api-keys?team_id={our_team}",
        "/api-keys?owner={member}",
        "/api-keys?owner={robot}",
        "/api-keys?target={target}",
        "/service-accounts?team_id={our_team}",
        "/events?actor={member}",
        "/events?object={plain_key}",
    ] {
        let reply = foreign.get(&scene.filled(query)).await;
        reply.refused(404, "not_found");
    }
    let query = scene.filled("/events?workspace={workspace}");
    foreign.get(&query).await.refused(403, "forbidden");
    let operator = scene.callers.iter().find(|it| it.kind == Kind::Operator);
    operator.unwrap().control.get(&query).await.expect(200);
}
