//! Service accounts: owners of keys that cannot log in.

use schemas::{Role, ServiceAccountId, TeamRole};
use serde_json::{Value, json};
use tests::proxy::{Verdict, verdict};
use tests::{Ask, World};

use crate::people::{People, service_account, team};

fn machine(id: &str) -> Value {
    json!({ "type": "service_account", "id": id })
}

#[tokio::test]
async fn a_service_account_has_a_name_in_one_team() {
    let world = World::start("sa-life").await;
    let owner = &world.owner;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let body = |name: &str, team: &str| json!({ "name": name, "team_id": team });
    let made = owner
        .post("/service-accounts", body(" Deploy ", &own))
        .await
        .expect(201);
    assert!(made.position() > 0);
    let shown = made.json();
    let id = shown["id"].as_str().unwrap();
    assert!(id.parse::<ServiceAccountId>().is_ok());
    assert_eq!(shown["name"], "Deploy");
    assert_eq!(shown["team_id"], own);
    assert_eq!(shown["active"], true);
    assert_eq!(shown["limits"]["rpm"], Value::Null);
    assert_eq!(shown["propagation"]["level"], "applied");

    for taken in ["Deploy", "dEPLOY", "  deploy"] {
        let reply = owner.post("/service-accounts", body(taken, &own)).await;
        reply.refused(409, "name_taken");
    }
    let namesake = service_account(owner, &other, "deploy").await;
    let second = service_account(owner, &own, "release").await;
    let path = format!("/service-accounts/{second}");
    owner
        .patch(&path, json!({ "name": "DEPLOY" }))
        .await
        .refused(409, "name_taken");
    let renamed = owner
        .patch(&path, json!({ "name": "RELEASE" }))
        .await
        .expect(200);
    assert_eq!(renamed.json()["name"], "RELEASE");
    let stale = Ask::new("PATCH", format!("/v1{path}"))
        .header("if-match", "\"1\"")
        .json(&json!({ "name": "x" }));
    owner.send(stale).await.refused(412, "precondition_failed");

    let listed = owner.get("/service-accounts").await.expect(200).json();
    let ids: Vec<_> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(ids, [id, &namesake, &second]);
    let of_team = format!("/service-accounts?team_id={other}");
    let listed = owner.get(&of_team).await.expect(200).json();
    assert_eq!(listed["data"][0]["id"], namesake);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    let page = owner
        .get("/service-accounts?limit=2")
        .await
        .expect(200)
        .json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = format!("/service-accounts?cursor={cursor}");
    let rest = owner.get(&rest).await.expect(200).json();
    assert_eq!(rest["data"][0]["id"], second);

    owner
        .post("/service-accounts", json!({}))
        .await
        .refused_fields("validation", &["name", "team_id"]);
    owner
        .post(
            "/service-accounts",
            json!({ "name": "bot@example.com", "team_id": own }),
        )
        .await
        .refused_fields("name_looks_like_secret", &["name"]);
    owner
        .post("/service-accounts", body("x", "team_x"))
        .await
        .refused(404, "not_found");
    owner
        .patch(&path, json!({}))
        .await
        .refused(422, "validation");
    owner
        .patch(
            &path,
            json!({ "active": null, "name": null, "team_id": other, "x": 1 }),
        )
        .await
        .refused_fields("validation", &["active", "name", "team_id", "x"]);
    owner
        .patch(&path, json!({ "limits": { "rpm": 5 } }))
        .await
        .refused_fields("not_available", &["limits"]);
    owner
        .patch(&path, json!({ "limits": null }))
        .await
        .expect(200);

    // With its team it is gone.
    owner.delete(&format!("/teams/{other}")).await.expect(204);
    let gone = format!("/service-accounts/{namesake}");
    owner
        .patch(&gone, json!({ "active": false }))
        .await
        .refused(404, "not_found");
    let listed = owner.get("/service-accounts").await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let body = json!({ "name": "k", "team_id": own, "owner": machine(&namesake) });
    owner
        .post("/api-keys", body)
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn switching_it_off_stops_its_keys_at_once() {
    let world = World::start("sa-off").await;
    let owner = &world.owner;
    let own = team(owner, json!({ "name": "own" })).await;
    let account = service_account(owner, &own, "deploy").await;
    let twin = service_account(owner, &own, "twin").await;
    let key = async |name: &str, account: &str| {
        owner
            .key_with(json!({ "name": name, "team_id": own, "owner": machine(account) }))
            .await
    };
    let first = key("first", &account).await;
    let off = key("off", &account).await;
    let others = key("others", &twin).await;
    let stop = off.path("/deactivate?wait=applied");
    owner.post(&stop, json!({})).await.expect(200);
    let proxy = world.proxy();
    let inactive = Verdict::Refused {
        status: 401,
        code: "inactive_key".to_owned(),
    };
    assert_eq!(
        verdict(proxy, &first.secret).await.unwrap(),
        Verdict::Admitted
    );

    let path = format!("/service-accounts/{account}?wait=applied");
    let switched = owner
        .patch(&path, json!({ "active": false }))
        .await
        .expect(200);
    assert_eq!(switched.json()["active"], false);
    assert_eq!(switched.json()["propagation"]["level"], "applied");
    assert_eq!(verdict(proxy, &first.secret).await.unwrap(), inactive);
    assert_eq!(
        verdict(proxy, &others.secret).await.unwrap(),
        Verdict::Admitted
    );
    // The key itself is as it was: what stops it is its owner.
    let shown = owner.get(&first.path("")).await.expect(200).json();
    assert_eq!(shown["status"], "active");
    let body = json!({ "name": "k", "team_id": own, "owner": machine(&account) });
    owner
        .post("/api-keys", body)
        .await
        .refused_fields("validation", &["owner"]);
    let hand = json!({ "owner": machine(&account) });
    owner
        .post(&others.path("/transfer"), hand)
        .await
        .refused_fields("validation", &["owner"]);
    // Handed to an owner who is not switched off, a key works again.
    let hand = json!({ "owner": machine(&twin) });
    let moved = first.path("/transfer?wait=applied");
    owner.post(&moved, hand).await.expect(200);
    assert_eq!(
        verdict(proxy, &first.secret).await.unwrap(),
        Verdict::Admitted
    );

    let again = owner
        .patch(&path, json!({ "active": false }))
        .await
        .expect(200);
    assert_eq!(again.position(), switched.position());
    owner
        .patch(&path, json!({ "active": true }))
        .await
        .expect(200);
    assert_eq!(verdict(proxy, &off.secret).await.unwrap(), inactive);
    let start = off.path("/reactivate?wait=applied");
    owner.post(&start, json!({})).await.expect(200);
    assert_eq!(
        verdict(proxy, &off.secret).await.unwrap(),
        Verdict::Admitted
    );
}

#[tokio::test]
async fn the_admin_of_a_team_has_its_service_accounts() {
    let world = World::start("sa-roles").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let (_, foreigner) = People::elsewhere(&world).await;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let foreign = team(&foreigner.control, json!({ "name": "foreign" })).await;
    let lead = people.join_team(&own, TeamRole::TeamAdmin).await;
    let coder = people.join_team(&own, TeamRole::TeamDeveloper).await;
    let developer = people.join(Role::Developer).await;
    let plain = people.join(Role::Member).await;
    let inside = service_account(&lead.control, &own, "inside").await;
    let outside = service_account(owner, &other, "outside").await;
    let beyond = service_account(&foreigner.control, &foreign, "beyond").await;

    let off = json!({ "active": false });
    let path = |id: &str| format!("/service-accounts/{id}");
    for (person, account, status) in [
        (&lead, &inside, 200),
        (&lead, &outside, 403),
        (&lead, &beyond, 404),
        (&coder, &inside, 403),
        (&developer, &inside, 403),
        (&plain, &inside, 403),
    ] {
        let reply = person.control.patch(&path(account), off.clone()).await;
        assert_eq!(reply.status, status, "{}: {}", reply.asked, reply.text());
    }
    for (person, team, status) in [
        (&lead, &other, 403),
        (&lead, &foreign, 404),
        (&coder, &own, 403),
        (&developer, &own, 403),
    ] {
        let body = json!({ "name": "new", "team_id": team });
        let reply = person.control.post("/service-accounts", body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    for (person, expected) in [
        (&lead, Some(vec![&inside])),
        (&coder, Some(vec![&inside])),
        (&developer, Some(vec![&inside, &outside])),
        (&plain, None),
    ] {
        let reply = person.control.get("/service-accounts").await;
        let Some(expected) = expected else {
            reply.refused(403, "forbidden");
            continue;
        };
        let listed = reply.expect(200).json();
        let rows = listed["data"].as_array().unwrap().iter();
        let ids: Vec<_> = rows.map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected);
    }
    let of_other = format!("/service-accounts?team_id={other}");
    lead.control.get(&of_other).await.refused(403, "forbidden");
    let of_foreign = format!("/service-accounts?team_id={foreign}");
    owner.get(&of_foreign).await.refused(404, "not_found");
}

#[tokio::test]
async fn what_its_token_makes_for_itself_is_its_own() {
    let world = World::start("sa-token").await;
    let owner = &world.owner;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let account = service_account(owner, &own, "deploy").await;
    let body = json!({ "name": "robot", "service_account_id": account,
                       "scopes": ["key.create_self", "key.read"] });
    let made = owner.post("/control-tokens", body).await.expect(201).json();
    let robot = owner.with_token(made["token"].as_str().unwrap());

    let body = json!({ "name": "a", "team_id": own });
    let key = robot.post("/api-keys", body).await.expect(201).json();
    assert_eq!(key["owner"], machine(&account));
    assert_eq!(key["created_by"], machine(&account));
    assert_eq!(key["source"], "self_service");
    let mine = robot.get("/api-keys?mine=true").await.expect(200).json();
    assert_eq!(mine["data"][0]["id"], key["id"]);
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let others = owner.key_with(json!({ "name": "b", "team_id": own })).await;
    let body = json!({ "name": "c", "team_id": other });
    robot
        .post("/api-keys", body)
        .await
        .refused_fields("validation", &["owner"]);
    let reply = robot.delete(&others.path("")).await;
    reply.refused(403, "forbidden");
    let patch = json!({ "category": "x" });
    robot.patch(&path, patch).await.refused(403, "forbidden");
    robot.delete(&path).await.expect(204);

    let off = format!("/service-accounts/{account}");
    let off = owner.patch(&off, json!({ "active": false })).await;
    off.expect(200);
    robot.get("/api-keys").await.refused(401, "unauthenticated");
}
