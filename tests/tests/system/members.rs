//! Who belongs to a workspace: roles, suspension, going, and what becomes of keys.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::wait::eventually;
use tests::{Control, Key, World};

/// Somebody who came in by an invitation, logged in.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The account.
    pub id: String,
    /// The API, as they call it with their session.
    pub control: Control,
}

impl Joined {
    /// `/members/<id><rest>`
    pub fn path(&self, rest: &str) -> String {
        format!("/members/{}{rest}", self.id)
    }
}

/// Invites somebody as the body says, and lets them come in.
pub async fn join(world: &World, inviter: &Control, email: &str, body: Value) -> Joined {
    let people = world.people();
    let person = people.verified(email).await;
    let mut invitation = json!({ "email": email });
    invitation
        .as_object_mut()
        .unwrap()
        .extend(body.as_object().unwrap().clone());
    inviter.post("/invitations", invitation).await.expect(201);
    let token = people.mail_to(email, 1).await.token();
    let control = person.log_in().await;
    control
        .post("/invitations/accept", json!({ "token": token }))
        .await
        .expect(200);
    let me = control.get("/me").await.expect(200).json();
    Joined {
        id: me["account"]["id"].as_str().unwrap().to_owned(),
        control,
    }
}

/// A team, by its id.
pub async fn team(control: &Control, name: &str) -> String {
    let body = json!({ "name": name });
    let team = control.post("/teams", body).await.expect(201).json();
    team["id"].as_str().unwrap().to_owned()
}

/// A key of somebody.
async fn key_of(control: &Control, owner: &Joined, name: &str) -> Key {
    let owner = json!({ "type": "user", "id": owner.id });
    control
        .key_with(json!({ "name": name, "owner": owner }))
        .await
}

fn role(role: &str) -> Value {
    json!({ "role": role })
}

#[tokio::test]
async fn admins_manage_those_below_them_and_nobody_manages_himself() {
    let world = World::start("manage").await;
    let owner = &world.owner;
    let admin = join(&world, owner, "admin@example.com", role("admin")).await;
    let other = join(&world, owner, "other@example.com", role("admin")).await;
    let developer = join(&world, owner, "dev@example.com", role("developer")).await;
    let account_id = world.bootstrap["account_id"].as_str().unwrap();

    let listed = admin.control.get("/members").await.expect(200).json();
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let row = rows.iter().find(|row| row["account_id"] == developer.id);
    let row = row.unwrap();
    assert_eq!(row["email"], "dev@example.com");
    assert_eq!(row["role"], "developer");
    assert_eq!(row["status"], "active");
    let page = admin
        .control
        .get("/members?limit=3")
        .await
        .expect(200)
        .json();
    let next = page["next_cursor"].as_str().unwrap();
    let rest = admin
        .control
        .get(&format!("/members?limit=3&cursor={next}"))
        .await
        .expect(200)
        .json();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_cursor"], Value::Null);

    let changed = admin
        .control
        .patch(&developer.path(""), role("auditor"))
        .await
        .expect(200);
    assert!(changed.position() > 0);
    assert_eq!(changed.json()["role"], "auditor");
    // What somebody is, is asked anew for each request.
    developer.control.get("/api-keys").await.expect(200);
    developer
        .control
        .post("/api-keys", json!({ "name": "too late" }))
        .await
        .refused(403, "forbidden");
    let before = admin
        .control
        .patch(&developer.path(""), role("auditor"))
        .await;
    assert_eq!(before.expect(200).position(), changed.position());

    for (path, body) in [
        (other.path(""), role("developer")),
        (other.path(""), json!({ "status": "suspended" })),
        (format!("/members/{account_id}"), role("member")),
        (developer.path(""), role("admin")),
        (developer.path(""), role("billing")),
        (developer.path(""), role("owner")),
        (admin.path(""), role("owner")),
        (admin.path(""), role("member")),
    ] {
        let refused = admin.control.patch(&path, body).await;
        refused.refused(403, "forbidden");
    }
    for path in [other.path(""), admin.path("")] {
        let refused = admin.control.delete(&path).await;
        refused.refused(403, "forbidden");
    }
    for (body, code, field) in [
        (role("root"), "validation", "role"),
        (role("team_admin"), "validation", "role"),
        (json!({ "role": null }), "validation", "role"),
        (json!({ "status": "gone" }), "validation", "status"),
        (json!({ "limits": { "rps": 5 } }), "not_available", "limits"),
    ] {
        let refused = owner.patch(&developer.path(""), body).await;
        refused.refused_fields(code, &[field]);
    }
    owner
        .patch(&developer.path(""), json!({}))
        .await
        .refused(422, "validation");
    owner
        .patch("/members/acc_01JD3ZK8Q6N4V6M2W0T5R7X9YB", role("viewer"))
        .await
        .refused(404, "not_found");
    owner
        .patch(&developer.path("?keys=deactivate"), role("viewer"))
        .await
        .refused_fields("validation", &["keys"]);
}

#[tokio::test]
async fn one_of_two_owners_who_remove_each_other_stays() {
    let world = World::start("owners").await;
    let mut first = world.owner.clone();
    let mut first_path = format!(
        "/members/{}",
        world.bootstrap["account_id"].as_str().unwrap()
    );
    first.delete(&first_path).await.refused(409, "last_owner");
    for round in 0..4 {
        let email = format!("owner{round}@example.com");
        let second = join(&world, &first, &email, role("owner")).await;
        let calls = (0..3).flat_map(|_| {
            [
                (first.clone(), second.path("")),
                (second.control.clone(), first_path.clone()),
            ]
        });
        let replies = join_all(calls.map(|(control, path)| async move {
            match round % 2 {
                0 => control.delete(&path).await,
                _ => control.patch(&path, role("member")).await,
            }
        }))
        .await;
        let done = replies.iter().filter(|it| it.status < 300).count();
        assert!(done >= 1, "{replies:?}");
        // Whoever is left is an owner and can act as one.
        let mut owners = Vec::new();
        for control in [&first, &second.control] {
            let reply = control.get("/members").await;
            if reply.status == 200 {
                let rows = reply.json()["data"].clone();
                let active = rows.as_array().unwrap().iter();
                let count = active.filter(|it| it["role"] == "owner").count();
                assert_eq!(count, 1, "{rows}");
            }
            let me = control.get("/me").await.expect(200).json();
            if me["role"] == "owner" {
                owners.push(control.clone());
            }
        }
        assert_eq!(owners.len(), 1);
        let path = match owners[0].get("/me").await.json()["account"]["id"].as_str() {
            Some(id) => format!("/members/{id}"),
            None => panic!("no account"),
        };
        owners[0]
            .patch(&path, json!({ "status": "suspended" }))
            .await
            .refused(409, "last_owner");
        (first, first_path) = (owners[0].clone(), path);
    }
}

#[tokio::test]
async fn the_keys_of_a_member_who_goes_are_revoked_or_handed_over() {
    let world = World::start("leave").await;
    let owner = &world.owner;
    let team_id = team(owner, "Payments").await;
    let in_team = json!({ "team_id": team_id, "team_role": "team_admin" });
    let leaver = join(&world, owner, "leaver@example.com", in_team).await;
    let heir = owner
        .post(
            "/service-accounts",
            json!({ "name": "batch", "team_id": team_id }),
        )
        .await
        .expect(201)
        .json();
    let heir = heir["id"].as_str().unwrap();
    let mut keys = Vec::new();
    for number in 0..3 {
        keys.push(key_of(owner, &leaver, &format!("key {number}")).await);
    }
    owner
        .post(&keys[2].path("/deactivate"), json!({}))
        .await
        .expect(200);
    let spent = key_of(owner, &leaver, "spent").await;
    owner.delete(&spent.path("")).await.expect(204);

    let problem = owner
        .delete(&leaver.path(""))
        .await
        .refused(409, "member_owns_keys");
    assert_eq!(problem["count"], 3, "{problem}");
    for (query, field) in [
        ("?keys=burn", "keys"),
        ("?keys=transfer", "to"),
        ("?keys=revoke&to=sa_01JD3ZK8Q6N4V6M2W0T5R7X9YB", "to"),
        ("?to=sa_01JD3ZK8Q6N4V6M2W0T5R7X9YB", "to"),
    ] {
        let refused = owner.delete(&leaver.path(query)).await;
        refused.refused_fields("validation", &[field]);
    }
    owner
        .delete(&leaver.path("?keys=transfer&to=sa_01JD3ZK8Q6N4V6M2W0T5R7X9YB"))
        .await
        .refused(404, "not_found");

    let gone = owner
        .delete(&leaver.path(&format!("?keys=transfer&to={heir}&wait=applied")))
        .await
        .expect(200);
    for key in &keys {
        let read = owner.get(&key.path("")).await.expect(200).json();
        assert_eq!(read["owner"]["id"], heir, "{read}");
        assert_eq!(read["team_id"], team_id, "{read}");
        let history = owner.get(&key.path("/history")).await.expect(200).json();
        let last = history["data"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["type"], "key.transferred");
        assert_eq!(last["request_id"], gone.must("x-request-id"));
        assert!(last["causation_id"].is_string(), "{last}");
    }
    world.all_admit(&keys[0].secret).await;
    leaver
        .control
        .get("/api-keys")
        .await
        .refused(403, "forbidden");
    // The team does not know them any more either, also when they come again.
    let people = owner.get(&format!("/teams/{team_id}")).await.expect(200);
    assert!(!people.text().contains(&leaver.id));
    owner
        .delete(&leaver.path(""))
        .await
        .refused(404, "not_found");

    let second = join(&world, owner, "second@example.com", role("developer")).await;
    let key = key_of(owner, &second, "theirs").await;
    world.all_admit(&key.secret).await;
    owner
        .delete(&second.path("?keys=revoke&wait=applied"))
        .await
        .expect(200);
    world.all_refuse(&key.secret, "inactive_key").await;
    let read = owner.get(&key.path("")).await.expect(200).json();
    assert_eq!(read["status"], "revoked");
    assert_eq!(read["owner"]["id"], second.id, "history names who it was");
}

/// More keys than fit into one transaction, and a member who makes more all the while.
#[tokio::test]
async fn a_member_with_very_many_keys_leaves_none_alive() {
    let world = World::start("many").await;
    let owner = &world.owner;
    let leaver = join(&world, owner, "many@example.com", role("developer")).await;
    for chunk in 0..26 {
        let keys = (0..20).map(|number| {
            let name = format!("key {chunk}-{number}");
            let whose = json!({ "type": "user", "id": leaver.id });
            let body = json!({ "name": name, "owner": whose });
            owner.post("/api-keys?wait=committed", body)
        });
        for reply in join_all(keys).await {
            reply.expect(201);
        }
    }
    let makes = async {
        let mut made = 0;
        loop {
            let owner = json!({ "type": "user", "id": leaver.id });
            let body = json!({ "name": format!("late {made}"), "owner": owner });
            let reply = leaver.control.post("/api-keys?wait=committed", body).await;
            if reply.status != 201 {
                break reply;
            }
            made += 1;
        }
    };
    let path = leaver.path("?keys=revoke");
    let goes = owner.delete(&path);
    let (gone, last) = tokio::join!(goes, makes);
    gone.expect(204);
    // Refused as a caller, or, in the middle of the call, as an owner that is not there.
    assert!([403, 404].contains(&last.status), "{}", last.text());
    let live = owner
        .get(&format!("/api-keys?status=all&limit=1&owner={}", leaver.id))
        .await;
    assert!([200, 404].contains(&live.status), "{}", live.text());
    for key in owner.all_keys().await {
        if key["owner"]["id"] == leaver.id.as_str() {
            assert_eq!(key["status"], "revoked", "{key}");
        }
    }
}

#[tokio::test]
async fn the_keys_of_a_suspended_member_go_on_unless_they_are_stopped() {
    let world = World::start("suspend").await;
    let owner = &world.owner;
    let member = join(&world, owner, "member@example.com", role("developer")).await;
    let key = key_of(owner, &member, "theirs").await;
    let suspended = json!({ "status": "suspended" });

    owner
        .patch(&member.path("?wait=applied"), suspended.clone())
        .await
        .expect(200);
    world.all_admit(&key.secret).await;
    for path in ["/api-keys", &key.path(""), "/workspace", "/events"] {
        let refused = member.control.get(path).await;
        refused.refused(403, "forbidden");
    }
    let me = member.control.get("/me").await.expect(200).json();
    assert_eq!(me["role"], Value::Null, "{me}");
    assert_eq!(me["permissions"], json!([]));

    // Once more, and this time with the keys.
    owner
        .patch(&member.path("?keys=deactivate&wait=applied"), suspended)
        .await
        .expect(200);
    world.all_refuse(&key.secret, "inactive_key").await;
    owner
        .patch(&member.path(""), json!({ "status": "active" }))
        .await
        .expect(200);
    let read = member.control.get(&key.path("")).await.expect(200).json();
    assert_eq!(read["status"], "inactive", "a key is switched on by hand");
}

/// Whoever left a moment ago: every session and token they have ends in the same moment.
#[tokio::test]
async fn a_workspace_one_left_is_not_there_any_more() {
    let world = World::start("left").await;
    let owner = &world.owner;
    let leaver = join(&world, owner, "left@example.com", role("admin")).await;
    let token = leaver
        .control
        .post("/control-tokens", json!({ "name": "mine" }))
        .await
        .expect(201)
        .json();
    let token = leaver.control.with_token(token["token"].as_str().unwrap());
    token.get("/members").await.expect(200);
    let workspace_id = world.bootstrap["workspace_id"].as_str().unwrap();
    let own = leaver
        .control
        .post("/workspaces", json!({ "name": "Own" }))
        .await
        .expect(201)
        .json();
    let switch = |id: &str| json!({ "workspace_id": id });
    let enter = "/sessions/current/workspace";
    let entered = put(&leaver.control, enter, switch(own["id"].as_str().unwrap())).await;
    entered.expect(200);
    put(&leaver.control, enter, switch(workspace_id))
        .await
        .expect(200);
    put(&leaver.control, enter, switch(own["id"].as_str().unwrap()))
        .await
        .expect(200);

    owner.delete(&leaver.path("")).await.expect(204);
    put(&leaver.control, enter, switch(workspace_id))
        .await
        .refused(404, "not_found");
    token.get("/members").await.refused(403, "forbidden");
    let listed = leaver.control.get("/members").await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "their own");
}

/// The log says who was a member and what, also of those who are gone.
#[tokio::test]
async fn replay_knows_the_members_of_any_time() {
    let world = World::start("past").await;
    let owner = &world.owner;
    let gone = join(&world, owner, "past@example.com", role("auditor")).await;
    let removed = owner.delete(&gone.path("")).await.expect(204).position();

    let at = (removed - 1).to_string();
    let before = world.json(["replay", "--json", "--at", &at]).await;
    let members = before["members"].as_array().unwrap();
    let was = json!({
        "account_id": gone.id, "role": "auditor", "status": "active", "limits": null,
    });
    assert!(members.contains(&was), "{members:?}");
    let now = world.json(["replay", "--json"]).await;
    assert_eq!(now["members"].as_array().unwrap().len(), 1);
    let verified = world.json(["audit", "verify", "--json"]).await;
    assert_eq!(verified["ok"], true, "{verified}");

    let events = owner
        .get(&format!("/events?object={}", gone.id))
        .await
        .expect(200)
        .json();
    let kinds: Vec<&str> = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["workspace.member_added", "workspace.member_removed"],
        "{events}"
    );
}

#[tokio::test]
async fn a_suspended_workspace_is_closed_to_all_but_operators() {
    let world = World::start("closed").await;
    let operator = &world.owner;
    let founder = world.people().verified("founder@example.com").await;
    let founder = founder.log_in().await;
    let made = founder
        .post("/workspaces", json!({ "name": "Acme" }))
        .await
        .expect(201);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.json()["propagation"]["level"], "applied");
    let me = founder.get("/me").await.expect(200).json();
    assert_eq!(
        (&me["workspace_id"], &me["role"]),
        (&json!(id), &json!("owner"))
    );
    founder
        .target("echo", world.upstream.port(), json!({}))
        .await;
    let key = founder.key("acme").await;
    world.all_admit(&key.secret).await;

    let call = |what: &str| format!("/workspaces/{id}/{what}?wait=applied");
    for what in ["suspend", "reinstate"] {
        let refused = founder.post(&call(what), json!({})).await;
        refused.refused(403, "forbidden");
        let unknown = format!("/workspaces/ws_01JD3ZK8Q6N4V6M2W0T5R7X9YB/{what}");
        let refused = founder.post(&unknown, json!({})).await;
        refused.refused(403, "forbidden");
        let refused = operator.post(&unknown, json!({})).await;
        refused.refused(404, "not_found");
    }
    let suspended = operator.post(&call("suspend"), json!({})).await.expect(200);
    assert_eq!(suspended.json()["status"], "suspended");
    world.all_refuse(&key.secret, "inactive_key").await;
    for path in ["/workspace", "/api-keys", &key.path("")] {
        founder.get(path).await.refused(403, "forbidden");
    }
    let me = founder.get("/me").await.expect(200).json();
    assert_eq!(me["role"], Value::Null, "{me}");
    let again = operator.post(&call("suspend"), json!({})).await.expect(200);
    assert_eq!(again.position(), suspended.position());

    operator
        .post(&call("reinstate"), json!({}))
        .await
        .expect(200);
    world.all_admit(&key.secret).await;
    founder.get("/workspace").await.expect(200);

    // An operator's own workspace is none that he could not open again.
    let own = world.bootstrap["workspace_id"].as_str().unwrap();
    operator
        .post(&format!("/workspaces/{own}/suspend"), json!({}))
        .await
        .expect(200);
    operator.get("/api-keys").await.refused(403, "forbidden");
    operator
        .post(&format!("/workspaces/{own}/reinstate"), json!({}))
        .await
        .expect(200);
    operator.get("/api-keys").await.expect(200);
}

/// `PUT /v1<path>`
pub async fn put(control: &Control, path: &str, body: Value) -> tests::http::Reply {
    control
        .send(tests::Ask::new("PUT", format!("/v1{path}")).json(&body))
        .await
}

/// Waits for an event of a type, and gives it back.
pub async fn event(control: &Control, query: &str) -> Value {
    eventually(query, Duration::from_secs(5), async || {
        let reply = control.get(&format!("/events?{query}")).await.check(200)?;
        let rows = reply.json()["data"].clone();
        let last = rows.as_array().and_then(|it| it.last()).cloned();
        last.ok_or_else(|| anyhow::anyhow!("no such event"))
    })
    .await
}
