//! Teams: their life, their people, and what they mean for keys.

use schemas::{AccountId, MemberStatus, Role, TeamId, TeamRole};
use serde_json::{Value, json};
use tests::proxy::{Verdict, get, verdict};
use tests::{Ask, Control, Key, Upstream, World};

use crate::people::{People, Person, service_account, set, team};

fn put(path: String, body: Value) -> Ask {
    Ask::new("PUT", format!("/v1{path}")).json(&body)
}

async fn list(control: &Control, path: &str) -> Vec<Value> {
    let page = control.get(path).await.expect(200).json();
    page["data"].as_array().unwrap().clone()
}

/// The ids in a list, as it stands.
async fn ids(control: &Control, path: &str) -> Vec<String> {
    let rows = list(control, path).await;
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    rows.iter().map(id).collect()
}

#[tokio::test]
async fn a_team_lives_from_its_making_to_its_end() {
    let world = World::start("team-life").await;
    let owner = &world.owner;
    let made = owner
        .post(
            "/teams",
            json!({ "name": " checkout ", "limits": { "rpm": 100 }, "quotas": null,
                    "self_service": { "max_keys_per_user": 3, "budget_ceiling": null } }),
        )
        .await
        .expect(201);
    assert!(made.position() > 0);
    let etag = made.must("etag").to_owned();
    let shown = made.json();
    let id = shown["id"].as_str().unwrap();
    assert!(id.parse::<TeamId>().is_ok());
    assert_eq!(shown["name"], "checkout");
    assert_eq!(shown["limits"]["rpm"], 100);
    assert_eq!(shown["limits"]["rps"], Value::Null);
    assert_eq!(
        shown["self_service"],
        json!({ "enabled": true, "max_keys_per_user": 3, "budget_ceiling": null,
                "require_expiry": false, "max_expiry_days": null })
    );
    assert_eq!(shown["blocked"], false);
    assert_eq!(shown["access"]["mode"], "inherit");
    assert_eq!(shown["members"], json!([]));
    assert_eq!(shown["propagation"]["level"], "applied");

    let path = format!("/teams/{id}");
    let read = owner.get(&path).await.expect(200);
    assert_eq!(read.must("etag"), etag);
    assert_eq!(list(owner, "/teams").await, [read.json()]);

    let stale = Ask::new("PATCH", format!("/v1{path}"))
        .header("if-match", "\"77\"")
        .json(&json!({ "name": "x" }));
    owner.send(stale).await.refused(412, "precondition_failed");
    let changed = owner
        .patch(
            &path,
            json!({ "limits": { "rps": 5 }, "self_service": { "require_expiry": true } }),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(changed["limits"]["rpm"], 100);
    assert_eq!(changed["limits"]["rps"], 5);
    assert_eq!(changed["self_service"]["max_keys_per_user"], 3);
    assert_eq!(changed["self_service"]["require_expiry"], true);
    let cleared = owner
        .patch(&path, json!({ "limits": null, "self_service": null }))
        .await
        .expect(200)
        .json();
    assert_eq!(cleared["limits"]["rpm"], Value::Null);
    assert_eq!(cleared["self_service"]["require_expiry"], false);

    owner
        .patch(&path, json!({}))
        .await
        .refused(422, "validation");
    owner
        .post("/teams", json!({}))
        .await
        .refused_fields("validation", &["name"]);
    owner
        .patch(
            &path,
            json!({ "name": null, "blocked": "yes", "members": [], "limits": { "rpx": 1 },
                    "self_service": { "max_expiry_days": 0 } }),
        )
        .await
        .refused_fields(
            "validation",
            &[
                "name",
                "blocked",
                "members",
                "limits.rpx",
                "self_service.max_expiry_days",
            ],
        );
    for (body, field) in [
        (json!({ "quotas": { "daily": 5 } }), "quotas"),
        (json!({ "budget": { "max": 5 } }), "budget"),
        (json!({ "limits": { "rpd": 5 } }), "limits.rpd"),
        (
            json!({ "self_service": { "budget_ceiling": 5 } }),
            "self_service.budget_ceiling",
        ),
    ] {
        let refused = owner.patch(&path, body).await;
        refused.refused_fields("not_available", &[field]);
    }
    owner
        .patch(&path, json!({ "name": "sk-abcdefgh" }))
        .await
        .refused_fields("name_looks_like_secret", &["name"]);

    let again = || {
        Ask::new("POST", "/v1/teams")
            .header("idempotency-key", "once")
            .json(&json!({ "name": "second" }))
    };
    let first = owner.send(again()).await.expect(201).json();
    let second = owner.send(again()).await.expect(201);
    assert_eq!(second.must("idempotent-replayed"), "true");
    assert_eq!(second.json()["id"], first["id"]);

    let page = owner.get("/teams?limit=1").await.expect(200).json();
    assert_eq!(page["data"][0]["id"], id);
    let rest = format!("/teams?cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(ids(owner, &rest).await, [first["id"].as_str().unwrap()]);
    owner
        .get("/teams?nmae=x")
        .await
        .refused_fields("validation", &["nmae"]);

    owner.delete(&path).await.expect(204);
    owner.get(&path).await.refused(404, "not_found");
    owner.delete(&path).await.refused(404, "not_found");
    owner
        .post("/api-keys", json!({ "name": "late", "team_id": id }))
        .await
        .refused(404, "not_found");
    assert_eq!(ids(owner, "/teams").await.len(), 1);
    owner.get("/teams/team_x").await.refused(404, "not_found");
}

#[tokio::test]
async fn people_have_roles_in_teams() {
    let world = World::start("team-people").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let (_, foreigner) = People::elsewhere(&world).await;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let lead = people.join_team(&own, TeamRole::TeamAdmin).await;
    let developer = people.join_team(&own, TeamRole::TeamDeveloper).await;
    let plain = people.join(Role::Member).await;

    let path = |team: &str, person: &Person| format!("/teams/{team}/members/{}", person.id);
    let shown = owner.get(&path(&own, &lead)).await.expect(200).json();
    assert_eq!(
        shown,
        json!({ "account_id": lead.id, "role": "team_admin" })
    );
    let rows = list(owner, &format!("/teams/{own}/members")).await;
    assert_eq!(rows.len(), 2);
    let team_shown = owner.get(&format!("/teams/{own}")).await.expect(200).json();
    assert_eq!(team_shown["members"], json!(rows));
    let page = format!("/teams/{own}/members?limit=1");
    let page = owner.get(&page).await.expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = list(owner, &format!("/teams/{own}/members?cursor={cursor}")).await;
    assert_eq!(rest, rows[1..]);

    // The admin of a team manages its people, and nobody else's.
    set(&lead.control, &own, &plain, TeamRole::TeamViewer).await;
    let promoted = lead
        .control
        .send(put(path(&own, &plain), json!({ "role": "team_developer" })))
        .await
        .expect(200);
    assert!(promoted.position() > 0);
    let gone = lead.control.delete(&path(&own, &plain)).await;
    gone.expect(204);
    let again = lead.control.delete(&path(&own, &plain)).await;
    again.refused(404, "not_found");
    let reach_out = put(path(&other, &plain), json!({ "role": "team_viewer" }));
    lead.control.send(reach_out).await.refused(403, "forbidden");
    for person in [&developer, &plain] {
        let itself = put(path(&own, person), json!({ "role": "team_admin" }));
        person.control.send(itself).await.refused(403, "forbidden");
    }

    // Who is not in the workspace cannot be in its teams, and is not told apart from nobody.
    let nobody = Person {
        id: control_plane::fresh::id(AccountId::from_parts),
        control: owner.stranger(),
    };
    for stranger in [&foreigner, &nobody] {
        let body = json!({ "role": "team_viewer" });
        let reply = owner.send(put(path(&own, stranger), body)).await;
        reply.refused(404, "not_found");
    }
    let reply = owner
        .send(put(path(&own, &plain), json!({ "role": "owner" })))
        .await;
    reply.refused_fields("validation", &["role"]);
    let reply = owner.send(put(path(&own, &plain), json!({}))).await;
    reply.refused_fields("validation", &["role"]);
    let from_elsewhere = foreigner.control.get(&format!("/teams/{own}")).await;
    from_elsewhere.refused(404, "not_found");

    // Who sees which teams, and who is in them.
    let viewer = people.join(Role::Viewer).await;
    let auditor = people.join(Role::Auditor).await;
    let onlooker = people.join_team(&own, TeamRole::TeamViewer).await;
    let both = [own.clone(), other.clone()];
    for (person, teams, sees_people) in [
        (&viewer, &both[..], false),
        (&auditor, &both[..], true),
        (&lead, &both[..1], true),
        (&developer, &both[..1], false),
        (&onlooker, &both[..1], false),
    ] {
        assert_eq!(ids(&person.control, "/teams").await, teams);
        let shown = person.control.get(&format!("/teams/{own}")).await;
        assert_eq!(shown.expect(200).json()["members"].is_array(), sees_people);
        let members = person.control.get(&format!("/teams/{own}/members")).await;
        assert_eq!(members.status, if sees_people { 200 } else { 403 });
    }
    let hidden = developer.control.get(&format!("/teams/{other}")).await;
    hidden.refused(403, "forbidden");
    let plain_list = plain.control.get("/teams").await;
    plain_list.refused(403, "forbidden");
    let made = lead.control.post("/teams", json!({ "name": "x" })).await;
    made.refused(403, "forbidden");
    let renamed = json!({ "name": "renamed" });
    let path = format!("/teams/{own}");
    lead.control.patch(&path, renamed.clone()).await.expect(200);
    developer
        .control
        .patch(&path, renamed)
        .await
        .refused(403, "forbidden");

    // A role in a deleted team is none.
    owner.delete(&path).await.expect(204);
    lead.control.get("/teams").await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_blocked_team_is_refused_by_the_proxies() {
    let world = World::start("team-blocked").await;
    let owner = &world.owner;
    let id = team(owner, json!({ "name": "checkout" })).await;
    let path = format!("/teams/{id}?wait=applied");
    let key = owner.key_with(json!({ "name": "a", "team_id": id })).await;
    let off = owner.key_with(json!({ "name": "b", "team_id": id })).await;
    let free = owner.key("c").await;
    let stop = off.path("/deactivate?wait=applied");
    owner.post(&stop, json!({})).await.expect(200);
    world.all_admit(&key.secret).await;

    let blocked = owner
        .patch(&path, json!({ "blocked": true }))
        .await
        .expect(200);
    assert_eq!(blocked.json()["propagation"]["level"], "applied");
    let inactive = Verdict::Refused {
        status: 401,
        code: "inactive_key".to_owned(),
    };
    let proxy = world.proxy();
    assert_eq!(verdict(proxy, &key.secret).await.unwrap(), inactive);
    assert_eq!(
        verdict(proxy, &free.secret).await.unwrap(),
        Verdict::Admitted
    );
    // A key that is made now is refused from its first request on.
    let late = owner.key_with(json!({ "name": "d", "team_id": id })).await;
    assert_eq!(verdict(proxy, &late.secret).await.unwrap(), inactive);

    owner
        .patch(&path, json!({ "blocked": null }))
        .await
        .expect(200);
    assert_eq!(
        verdict(proxy, &key.secret).await.unwrap(),
        Verdict::Admitted
    );
    assert_eq!(
        verdict(proxy, &late.secret).await.unwrap(),
        Verdict::Admitted
    );
    assert_eq!(verdict(proxy, &off.secret).await.unwrap(), inactive);
}

#[tokio::test]
async fn a_team_with_keys_stays() {
    let world = World::start("team-keys").await;
    let owner = &world.owner;
    let id = team(owner, json!({ "name": "checkout" })).await;
    let path = format!("/teams/{id}");
    let first = owner.key_with(json!({ "name": "a", "team_id": id })).await;
    let second = owner.key_with(json!({ "name": "b", "team_id": id })).await;
    owner
        .post(&second.path("/deactivate"), json!({}))
        .await
        .expect(200);
    owner.delete(&path).await.refused(409, "team_has_keys");
    owner.delete(&first.path("")).await.expect(204);
    owner.delete(&path).await.refused(409, "team_has_keys");
    owner
        .post(&second.path("/purge"), json!({}))
        .await
        .expect(204);
    owner.delete(&path).await.expect(204);
    // What it was stays to be seen.
    let revoked = owner.get(&first.path("")).await.expect(200).json();
    assert_eq!(revoked["team_id"], id);
    let events = world.json(["replay", "--json"]).await;
    assert_eq!(events["teams"], json!([]));
}

#[tokio::test]
async fn limits_fit_those_above_them_when_they_are_written() {
    let world = World::start("team-limits").await;
    let owner = &world.owner;
    let plan = json!({ "plan_limits": { "rps": 50, "rpm": 1000 } });
    owner.patch("/workspace", plan).await.expect(200);
    let above = json!({ "name": "a", "limits": { "rps": 51, "rpm": 1001 } });
    owner
        .post("/teams", above)
        .await
        .refused_fields("validation", &["limits.rps", "limits.rpm"]);
    let id = team(owner, json!({ "name": "a", "limits": { "rpm": 100 } })).await;
    let path = format!("/teams/{id}");
    owner
        .patch(&path, json!({ "limits": { "rpm": 1001 } }))
        .await
        .refused_fields("validation", &["limits.rpm"]);

    let key = |limits: Value| json!({ "name": "k", "team_id": id, "limits": limits });
    owner
        .post("/api-keys", key(json!({ "rpm": 101 })))
        .await
        .refused_fields("validation", &["limits.rpm"]);
    let made = owner.key_with(key(json!({ "rpm": 100, "rps": 500 }))).await;
    assert_eq!(made.body["limits"]["rpm"], 100);
    owner
        .patch(&made.path(""), json!({ "limits": { "rpm": 101 } }))
        .await
        .refused_fields("validation", &["limits.rpm"]);

    // What was right when it was written may stand, but not grow.
    owner
        .patch(&path, json!({ "limits": { "rpm": 10 } }))
        .await
        .expect(200);
    let renamed = json!({ "name": "still", "limits": { "rps": 3 } });
    owner.patch(&made.path(""), renamed).await.expect(200);
    owner
        .patch(&made.path(""), json!({ "limits": { "rpm": 99 } }))
        .await
        .refused_fields("validation", &["limits.rpm"]);
    let blank = json!({ "limits": { "rpm": null } });
    let blank = owner.patch(&made.path(""), blank).await.expect(200).json();
    assert_eq!(blank["limits"]["rpm"], Value::Null);
}

#[tokio::test]
async fn a_key_belongs_to_whom_it_is_given() {
    let world = World::start("key-owner").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let (_, foreigner) = People::elsewhere(&world).await;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let foreign_team = team(&foreigner.control, json!({ "name": "foreign" })).await;
    let account = service_account(owner, &own, "deploy").await;
    let foreign_account = service_account(&foreigner.control, &foreign_team, "deploy").await;
    let person = people.join(Role::Member).await;
    let suspended = people.join(Role::Member).await;
    people.set_status(&suspended, MemberStatus::Suspended).await;

    let machine = |id: &str| json!({ "type": "service_account", "id": id });
    let body = |team: Value, who: Value| json!({ "name": "k", "team_id": team, "owner": who });
    for bad in [
        body(json!(foreign_team), Value::Null),
        body(json!("team_x"), Value::Null),
        body(Value::Null, foreigner.owner()),
        body(Value::Null, json!({ "type": "user", "id": "acc_x" })),
        body(json!(own), machine(&foreign_account)),
    ] {
        let reply = owner.post("/api-keys", bad).await;
        reply.refused(404, "not_found");
    }
    for (bad, field) in [
        (body(json!(7), Value::Null), "team_id"),
        (body(Value::Null, json!("me")), "owner"),
        (
            body(Value::Null, json!({ "type": "team", "id": own })),
            "owner",
        ),
        (body(Value::Null, suspended.owner()), "owner"),
        (body(Value::Null, machine(&account)), "team_id"),
        (body(json!(other), machine(&account)), "owner"),
    ] {
        let reply = owner.post("/api-keys", bad).await;
        reply.refused_fields("validation", &[field]);
    }

    let with = async |name: &str, team: Value, who: Value| {
        owner
            .key_with(json!({ "name": name, "team_id": team, "owner": who }))
            .await
    };
    let persons = with("persons", json!(own), person.owner()).await;
    let machines = with("machines", json!(own), machine(&account)).await;
    let nobodys = with("nobodys", Value::Null, Value::Null).await;
    let others = with("others", json!(other), Value::Null).await;
    assert_eq!(persons.body["owner"], person.owner());
    assert_eq!(persons.body["team_id"], own);
    assert_eq!(persons.body["source"], "api");
    for (filter, expected) in [
        (format!("team_id={own}"), vec![&persons, &machines]),
        (format!("team_id={other}"), vec![&others]),
        (format!("owner={}", person.id), vec![&persons]),
        (format!("owner={account}"), vec![&machines]),
        (format!("owner={account}&team_id={other}"), vec![]),
        ("mine=true".to_owned(), vec![]),
        (
            "mine=false".to_owned(),
            vec![&persons, &machines, &nobodys, &others],
        ),
    ] {
        let found = ids(owner, &format!("/api-keys?{filter}")).await;
        let expected: Vec<_> = expected.iter().map(|it| it.id.clone()).collect();
        assert_eq!(found, expected, "{filter}");
    }
    for foreign in [
        format!("team_id={foreign_team}"),
        format!("owner={}", foreigner.id),
        format!("owner={foreign_account}"),
        "owner=me".to_owned(),
        "team_id=".to_owned(),
    ] {
        let reply = owner.get(&format!("/api-keys?{foreign}")).await;
        reply.refused(404, "not_found");
    }

    // Whose a key is cannot be patched, but handed over.
    for field in ["owner", "team_id"] {
        let reply = owner.patch(&persons.path(""), json!({ field: null })).await;
        reply.refused_fields("validation", &[field]);
    }
    let hand = async |path: String, to: Value| owner.post(&path, json!({ "owner": to })).await;
    let handed = hand(persons.path("/transfer?wait=applied"), machine(&account)).await;
    let handed = handed.expect(200);
    assert!(handed.position() > persons.position);
    assert_eq!(handed.json()["owner"], machine(&account));
    assert_eq!(handed.json()["propagation"]["level"], "applied");
    let again = hand(persons.path("/transfer"), machine(&account))
        .await
        .expect(200);
    assert_eq!(again.position(), handed.position());
    let joined = hand(nobodys.path("/transfer"), machine(&account))
        .await
        .expect(200);
    assert_eq!(
        joined.json()["team_id"],
        own,
        "a key goes to the account's team"
    );
    hand(others.path("/transfer"), machine(&account))
        .await
        .refused_fields("validation", &["owner"]);
    hand(others.path("/transfer"), suspended.owner())
        .await
        .refused_fields("validation", &["owner"]);
    hand(others.path("/transfer"), foreigner.owner())
        .await
        .refused(404, "not_found");
    let nobody = hand(machines.path("/transfer"), Value::Null)
        .await
        .expect(200);
    assert_eq!(nobody.json()["owner"], Value::Null);
    owner
        .post(&machines.path("/transfer"), json!({ "to": 1 }))
        .await
        .refused_fields("validation", &["owner", "to"]);
    owner.delete(&machines.path("")).await.expect(204);
    hand(machines.path("/transfer"), person.owner())
        .await
        .refused(409, "key_revoked");
    let history = list(owner, &persons.path("/history")).await;
    let transferred = &history.last().unwrap();
    assert_eq!(transferred["type"], "key.transferred");
    assert_eq!(
        transferred["data"]["changes"]["owner"]["from"],
        person.owner()
    );
    world.all_admit(&persons.secret).await;
}

#[tokio::test]
async fn roles_reach_as_far_as_their_teams() {
    let world = World::start("team-roles").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let lead = people.join_team(&own, TeamRole::TeamAdmin).await;
    let onlooker = people.join_team(&own, TeamRole::TeamViewer).await;
    let viewer = people.join(Role::Viewer).await;
    let developer = people.join(Role::Developer).await;
    let inside = owner
        .key_with(json!({ "name": "inside", "team_id": own, "owner": lead.owner() }))
        .await;
    let outside = owner
        .key_with(json!({ "name": "outside", "team_id": other }))
        .await;
    let free = owner.key("free").await;

    // The admin of a team: all of its keys, and none of others.
    assert_eq!(ids(&lead.control, "/api-keys").await, [inside.id.as_str()]);
    let made = lead
        .control
        .post("/api-keys", json!({ "name": "by lead", "team_id": own }))
        .await
        .expect(201)
        .json();
    assert_eq!(made["owner"], Value::Null);
    assert_eq!(made["source"], "api");
    for body in [
        json!({ "name": "x", "team_id": other }),
        json!({ "name": "x" }),
    ] {
        let reply = lead.control.post("/api-keys", body).await;
        assert!([403, 422].contains(&reply.status), "{}", reply.text());
    }
    let patched = json!({ "category": "x" });
    lead.control
        .patch(&inside.path(""), patched.clone())
        .await
        .expect(200);
    for key in [&outside, &free] {
        lead.control
            .get(&key.path(""))
            .await
            .refused(403, "forbidden");
        let reply = lead.control.patch(&key.path(""), patched.clone()).await;
        reply.refused(403, "forbidden");
        let reply = lead.control.delete(&key.path("")).await;
        reply.refused(403, "forbidden");
    }
    let filtered = lead
        .control
        .get(&format!("/api-keys?team_id={other}"))
        .await;
    filtered.refused(403, "forbidden");

    // Viewers of a team see no keys; viewers of the workspace see all, but not whose.
    onlooker
        .control
        .get("/api-keys")
        .await
        .refused(403, "forbidden");
    onlooker
        .control
        .get(&inside.path(""))
        .await
        .refused(403, "forbidden");
    let seen = viewer
        .control
        .get(&inside.path(""))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&seen["owner"], &seen["created_by"]),
        (&Value::Null, &Value::Null)
    );
    for row in list(&viewer.control, "/api-keys").await {
        assert_eq!(
            (&row["owner"], &row["created_by"]),
            (&Value::Null, &Value::Null)
        );
    }
    let history = viewer
        .control
        .get(&inside.path("/history"))
        .await
        .expect(200);
    let hidden = lead.id.to_string();
    assert!(!history.text().contains(&hidden), "{}", history.text());
    let by_owner = format!("/api-keys?owner={}", lead.id);
    viewer
        .control
        .get(&by_owner)
        .await
        .refused(403, "forbidden");
    assert_eq!(
        ids(&developer.control, &by_owner).await,
        [inside.id.as_str()]
    );
    let seen = developer
        .control
        .get(&inside.path(""))
        .await
        .expect(200)
        .json();
    assert_eq!(seen["owner"], lead.owner());
    // A viewer who has a role in the team sees there what that role sees.
    set(owner, &own, &viewer, TeamRole::TeamAdmin).await;
    let seen = viewer
        .control
        .get(&inside.path(""))
        .await
        .expect(200)
        .json();
    assert_eq!(seen["owner"], lead.owner());
}

#[tokio::test]
async fn a_team_keeps_its_keys_to_some_targets() {
    let world = World::start("team-access").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let second = Upstream::start().await;
    owner
        .post("/access-groups", json!({ "name": "models" }))
        .await
        .expect(201);
    let grouped = json!({ "groups": ["models"] });
    let grouped = owner.target("grouped", second.port(), grouped).await;
    let targets = owner.get("/targets").await.expect(200).json();
    let targets = targets["data"].as_array().unwrap();
    let echo = targets.iter().find(|it| it["name"] == "echo").unwrap();
    let (echo, grouped) = (
        echo["id"].as_str().unwrap(),
        grouped["id"].as_str().unwrap(),
    );

    let access = json!({ "mode": "restrict", "groups": ["models"] });
    let id = team(owner, json!({ "name": "own", "access": access })).await;
    let ada = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let body = json!({ "name": "inside", "team_id": id });
    let inside = Key::of(ada.control.post("/api-keys", body).await.expect(201));
    let free = owner.key("free").await;
    let status = async |key: &Key, target: &str| {
        let path = format!("/t/{target}/x");
        get(world.proxy(), &key.secret, &path).await.status
    };
    assert_eq!(status(&inside, "grouped").await, 200);
    assert_eq!(status(&inside, "echo").await, 403);
    assert_eq!(status(&free, "echo").await, 200);
    for (target, expected) in [
        (grouped, vec![&inside.id, &free.id]),
        (echo, vec![&free.id]),
    ] {
        let found = ids(owner, &format!("/api-keys?target={target}")).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }
    let first = format!("/api-keys?target={grouped}&limit=1");
    let first = owner.get(&first).await.expect(200).json();
    assert_eq!(first["data"][0]["id"], inside.id.as_str());
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = format!("/api-keys?target={grouped}&cursor={cursor}");
    assert_eq!(ids(owner, &rest).await, [free.id.as_str()]);
    // Whose key it is may know why.
    let why = inside.path("/effective-access");
    let why = ada.control.get(&why).await.expect(200).json();
    let rows = why["targets"].as_array().unwrap().iter();
    let allowed: Vec<_> = rows
        .filter(|it| it["allowed"] == true)
        .map(|it| &it["id"])
        .collect();
    assert_eq!(allowed, [grouped]);
    let why = ada.control.get(&free.path("/effective-access")).await;
    why.refused(403, "forbidden");

    let path = format!("/teams/{id}?wait=applied");
    let shadow = json!({ "access": { "shadow": true } });
    let shown = owner.patch(&path, shadow).await.expect(200).json();
    assert_eq!(shown["access"]["groups"], json!(["models"]));
    assert_eq!(status(&inside, "echo").await, 200);
    let narrowed = json!({ "access": { "shadow": null, "groups": null } });
    owner.patch(&path, narrowed).await.expect(200);
    assert_eq!(status(&inside, "grouped").await, 403);
    owner
        .patch(&path, json!({ "access": null }))
        .await
        .expect(200);
    assert_eq!(status(&inside, "grouped").await, 200);

    for (access, status) in [
        (json!({ "mode": "restrict", "groups": ["unknown"] }), 404),
        (json!({ "mode": "restrict", "targets": ["tgt_x"] }), 422),
        (json!({ "mode": "inherit", "groups": ["models"] }), 422),
        (json!({ "mood": "restrict" }), 422),
    ] {
        let reply = owner.patch(&path, json!({ "access": access })).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[tokio::test]
async fn the_past_of_teams_is_told_by_the_log() {
    let world = World::start("team-past").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let id = team(owner, json!({ "name": "own", "limits": { "rpm": 5 } })).await;
    let before = owner.get(&format!("/teams/{id}")).await.expect(200).json();
    let head = |state: &Value| state["position"].as_u64().unwrap();
    let at = head(&world.json(["replay", "--json"]).await);
    people.join_team(&id, TeamRole::TeamDeveloper).await;
    let blocked = json!({ "blocked": true });
    owner
        .patch(&format!("/teams/{id}"), blocked)
        .await
        .expect(200);

    let then = world
        .json(["replay", "--json", "--at", &at.to_string()])
        .await;
    assert_eq!(then["teams"], json!([before]));
    let now = world.json(["replay", "--json"]).await;
    assert_eq!(now["teams"], json!(list(owner, "/teams").await));
    let store = control_plane::store::Store::open(&world.database.url()).unwrap();
    let differences = control_plane::replay::compare_views(&store).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
    let teams = list(owner, "/teams").await;
    control_plane::replay::rebuild_views(&store).await.unwrap();
    assert_eq!(list(owner, "/teams").await, teams);
}
