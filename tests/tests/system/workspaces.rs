//! Workspaces, operators, control tokens, and what auditors read.

use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tests::{Ask, Control, Key, World};
use tokio::time::timeout;

use crate::members::{event, join, put, team};

fn id_of(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

async fn token(control: &Control, body: Value) -> (String, Control) {
    let made = control.post("/control-tokens", body).await.expect(201);
    let made = made.json();
    let text = made["token"].as_str().unwrap();
    (id_of(&made), control.with_token(text))
}

#[tokio::test]
async fn anybody_verified_makes_workspaces_and_owns_them() {
    let world = World::start("found").await;
    let people = world.people();
    let unverified = people.stranger("new@example.com");
    unverified.sign_up().await.expect(201);
    let control = unverified.log_in().await;
    control
        .post("/workspaces", json!({ "name": "Early" }))
        .await
        .refused(403, "email_not_verified");
    let founder = people.verified("founder@example.com").await.log_in().await;
    founder.get("/workspace").await.refused(403, "forbidden");
    for (body, code, field) in [
        (json!({}), "validation", "name"),
        (json!({ "name": " " }), "validation", "name"),
        (
            json!({ "name": "me@example.com" }),
            "name_looks_like_secret",
            "name",
        ),
        (
            json!({ "name": "A", "owner": "acc_x" }),
            "validation",
            "owner",
        ),
    ] {
        let refused = founder.post("/workspaces", body).await;
        refused.refused_fields(code, &[field]);
    }
    let ask = || {
        let ask = Ask::new("POST", "/v1/workspaces").json(&json!({ "name": "First" }));
        founder.send(ask.header("idempotency-key", "one"))
    };
    let first = ask().await.expect(201);
    let again = ask().await.expect(201);
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.must("idempotent-replayed"), "true");
    let second = founder
        .post("/workspaces", json!({ "name": "Second" }))
        .await
        .expect(201);
    let shown = founder.get("/workspace").await.expect(200).json();
    assert_eq!(shown["id"], first.json()["id"], "the active one stays");
    let body = json!({ "workspace_id": second.json()["id"] });
    put(&founder, "/sessions/current/workspace", body)
        .await
        .expect(200);
    let shown = founder.get("/workspace").await.expect(200).json();
    assert_eq!(shown["name"], "Second");
    assert_eq!(shown["require_totp"], false);
    let key = founder.key("in the second").await;
    let body = json!({ "workspace_id": first.json()["id"] });
    put(&founder, "/sessions/current/workspace", body)
        .await
        .expect(200);
    founder.get(&key.path("")).await.refused(404, "not_found");

    // Whoever asks for a second factor needs one, too; the own account stays within reach.
    founder
        .patch("/workspace", json!({ "require_totp": true }))
        .await
        .expect(200);
    founder.get("/api-keys").await.refused(403, "forbidden");
    founder.get("/me").await.expect(200);
}

#[tokio::test]
async fn operators_name_others_and_the_last_one_stays() {
    let world = World::start("operators").await;
    let operator = &world.owner;
    let first = world.bootstrap["account_id"].as_str().unwrap();
    let people = world.people();
    let other = people.verified("other@example.com").await.log_in().await;
    let me = other.get("/me").await.expect(200).json();
    let other_id = me["account"]["id"].as_str().unwrap().to_owned();
    let unverified = people.stranger("unverified@example.com");
    unverified.sign_up().await.expect(201);
    let unverified = unverified.log_in().await.get("/me").await.json();

    other.get("/operators").await.refused(403, "forbidden");
    other.get("/instance").await.refused(403, "forbidden");
    operator
        .delete(&format!("/operators/{first}"))
        .await
        .refused(409, "in_use");
    operator
        .delete(&format!("/operators/{other_id}"))
        .await
        .refused(404, "not_found");
    operator
        .post(
            "/operators",
            json!({ "account_id": "acc_01JD3ZK8Q6N4V6M2W0T5R7X9YB" }),
        )
        .await
        .refused(404, "not_found");
    operator
        .post(
            "/operators",
            json!({ "account_id": unverified["account"]["id"] }),
        )
        .await
        .refused_fields("validation", &["account_id"]);
    let added = operator
        .post("/operators", json!({ "account_id": other_id }))
        .await
        .expect(201);
    assert_eq!(added.json()["email"], "other@example.com");
    // An operator without any workspace is one all the same.
    let listed = other.get("/operators").await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let instance = other
        .patch("/instance", json!({ "sign_up": "invite" }))
        .await
        .expect(200)
        .json();
    assert_eq!(instance["sign_up"], "invite");
    let uninvited = people.stranger("uninvited@example.com");
    uninvited.sign_up().await.expect(201);
    uninvited.try_log_in().await.refused(401, "unauthenticated");

    // Two who remove each other at the same moment: one stays.
    let paths = [
        format!("/operators/{first}"),
        format!("/operators/{other_id}"),
    ];
    let (one, two) = tokio::join!(other.delete(&paths[0]), operator.delete(&paths[1]));
    let done = [&one, &two].iter().filter(|it| it.status == 204).count();
    assert_eq!(done, 1, "{} and {}", one.text(), two.text());
    // A token with scopes is for its workspace only.
    let left = if one.status == 204 { &other } else { operator };
    let listed = left.get("/operators").await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn a_token_has_what_its_maker_has_at_that_moment() {
    let world = World::start("tokens").await;
    let owner = &world.owner;
    let maker = join(
        &world,
        owner,
        "maker@example.com",
        json!({ "role": "developer" }),
    )
    .await;
    let control = &maker.control;
    control
        .post(
            "/control-tokens",
            json!({ "name": "t", "scopes": ["key.read", "audit.read"] }),
        )
        .await
        .refused(403, "forbidden");
    control
        .post(
            "/control-tokens",
            json!({ "name": "t", "scopes": ["root"] }),
        )
        .await
        .refused_fields("validation", &["scopes"]);
    let (_, all) = token(control, json!({ "name": "all" })).await;
    let (narrow_id, narrow) = token(
        control,
        json!({ "name": "narrow", "scopes": ["key.read", "target.read"] }),
    )
    .await;
    let key = all.key("made by a token").await;
    narrow.get(&key.path("")).await.expect(200);
    narrow.delete(&key.path("")).await.refused(403, "forbidden");
    narrow.get("/members").await.refused(403, "forbidden");
    // A token hands on no more than it has itself.
    narrow
        .post(
            "/control-tokens",
            json!({ "name": "more", "scopes": ["key.create"] }),
        )
        .await
        .refused(403, "forbidden");
    let (_, child) = token(&narrow, json!({ "name": "child" })).await;
    child.delete(&key.path("")).await.refused(403, "forbidden");
    for own in ["/sessions", "/operators"] {
        narrow.get(own).await.refused(403, "forbidden");
    }
    narrow
        .post("/workspaces", json!({ "name": "Escape" }))
        .await
        .refused(403, "forbidden");

    owner
        .patch(&maker.path(""), json!({ "role": "billing" }))
        .await
        .expect(200);
    all.get(&key.path("")).await.refused(403, "forbidden");
    narrow.get(&key.path("")).await.refused(403, "forbidden");
    let me = all.get("/me").await.expect(200).json();
    assert_eq!(me["permissions"], json!(["usage.read"]), "{me}");
    owner
        .patch(&maker.path(""), json!({ "role": "admin" }))
        .await
        .expect(200);
    all.get("/members").await.expect(200);
    narrow.get("/members").await.refused(403, "forbidden");

    control
        .delete(&format!("/control-tokens/{narrow_id}"))
        .await
        .expect(204);
    narrow
        .get("/api-keys")
        .await
        .refused(401, "unauthenticated");
    owner.delete(&maker.path("")).await.expect(204);
    all.get("/api-keys").await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_service_account_acts_by_its_own_name_and_only_while_it_is_on() {
    let world = World::start("robots").await;
    let owner = &world.owner;
    let ours = team(owner, "Ours").await;
    let theirs = team(owner, "Theirs").await;
    let lead = join(
        &world,
        owner,
        "lead@example.com",
        json!({ "team_id": ours, "team_role": "team_admin" }),
    )
    .await;
    let developer = join(
        &world,
        owner,
        "dev@example.com",
        json!({ "team_id": ours, "team_role": "team_developer" }),
    )
    .await;
    let account = |team: &str| json!({ "name": format!("robot of {team}"), "team_id": team });
    let robot = owner.post("/service-accounts", account(&ours)).await;
    let robot = id_of(&robot.expect(201).json());
    let other = owner.post("/service-accounts", account(&theirs)).await;
    let other = id_of(&other.expect(201).json());

    let body = |id: &str| json!({ "name": "robot", "service_account_id": id });
    for (control, id, status, code) in [
        (&developer.control, &robot, 403, "forbidden"),
        (&lead.control, &other, 403, "forbidden"),
        (
            &lead.control,
            &"sa_01JD3ZK8Q6N4V6M2W0T5R7X9YB".to_owned(),
            404,
            "not_found",
        ),
    ] {
        let refused = control.post("/control-tokens", body(id)).await;
        refused.refused(status, code);
    }
    let (token_id, acting) = token(&lead.control, body(&robot)).await;
    let key = Key::of(
        acting
            .post("/api-keys", json!({ "name": "by robot", "team_id": ours }))
            .await
            .expect(201),
    );
    assert_eq!(key.body["created_by"]["type"], "service_account");
    assert_eq!(key.body["created_by"]["id"], robot.as_str());
    let history = owner.get(&key.path("/history")).await.expect(200).json();
    let actor = &history["data"][0]["actor"];
    assert_eq!(actor, &json!({ "type": "service_account", "id": robot }));
    // It cannot become the person who made it.
    let (_, child) = token(&acting, json!({ "name": "child" })).await;
    let child = Key::of(
        child
            .post("/api-keys", json!({ "name": "by child", "team_id": ours }))
            .await
            .expect(201),
    );
    assert_eq!(child.body["created_by"]["id"], robot.as_str());
    acting.get("/sessions").await.refused(403, "forbidden");
    acting
        .post("/workspaces", json!({ "name": "Escape" }))
        .await
        .refused(403, "forbidden");

    // Whoever manages the service account sees and revokes its tokens.
    for (control, seen) in [
        (owner, 2),
        (&lead.control, 2),
        (&developer.control, 0),
        (&acting, 2),
    ] {
        let listed = control.get("/control-tokens").await.expect(200).json();
        let rows = listed["data"].as_array().unwrap().iter();
        let count = rows.filter(|it| it["service_account_id"] == robot.as_str());
        assert_eq!(count.count(), seen, "{listed}");
    }
    developer
        .control
        .delete(&format!("/control-tokens/{token_id}"))
        .await
        .refused(404, "not_found");

    let switch = |active: bool| json!({ "active": active });
    let path = format!("/service-accounts/{robot}");
    owner.patch(&path, switch(false)).await.expect(200);
    acting.get("/targets").await.refused(401, "unauthenticated");
    lead.control
        .post("/control-tokens", body(&robot))
        .await
        .refused_fields("validation", &["service_account_id"]);
    owner.patch(&path, switch(true)).await.expect(200);
    acting.get("/targets").await.expect(200);
    owner.delete(&lead.path("")).await.expect(204);
    acting.get("/targets").await.refused(403, "forbidden");
}

#[tokio::test]
async fn events_are_found_by_what_readers_look_for() {
    let world = World::start("events").await;
    let owner = &world.owner;
    let account_id = world.bootstrap["account_id"].as_str().unwrap();
    let auditor = join(
        &world,
        owner,
        "auditor@example.com",
        json!({ "role": "auditor" }),
    )
    .await;
    let developer = join(
        &world,
        owner,
        "dev@example.com",
        json!({ "role": "developer" }),
    )
    .await;
    let key = developer.control.key("theirs").await;
    let revoked = owner.delete(&key.path("")).await.expect(204).position();

    let reader = &auditor.control;
    let find = |query: String| async move {
        let page = reader.get(&format!("/events?{query}")).await.expect(200);
        page.json()["data"].as_array().unwrap().clone()
    };
    let types = |rows: &[Value]| -> Vec<String> {
        let rows = rows.iter();
        rows.map(|it| it["type"].as_str().unwrap().to_owned())
            .collect()
    };
    let of_key = find(format!("object={}", key.id)).await;
    assert_eq!(types(&of_key), ["key.created", "key.revoked"]);
    assert_eq!(of_key[1]["position"], revoked);
    assert_eq!(of_key[1]["actor"]["id"], account_id);
    assert_eq!(of_key[0]["leaf_hash"].as_str().unwrap().len(), 64);
    let by = find(format!("actor={}&type=key.created", developer.id)).await;
    assert_eq!(types(&by), ["key.created"]);
    let at = of_key[1]["at"].as_str().unwrap();
    let at_once = find(format!("from={at}&to={at}&object={}", key.id)).await;
    assert_eq!(types(&at_once), ["key.revoked"]);
    let later = find(format!("after={revoked}")).await;
    assert!(
        later
            .iter()
            .all(|it| it["position"].as_u64() > Some(revoked))
    );
    let page = reader.get("/events?limit=2").await.expect(200).json();
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(page["data"][1]["position"].to_string(), next);
    for (query, status, code) in [
        ("object=key_01JD3ZK8Q6N4V6M2W0T5R7X9YB", 404, "not_found"),
        ("actor=acc_01JD3ZK8Q6N4V6M2W0T5R7X9YB", 404, "not_found"),
        ("from=2026-01-01T00:00:00", 422, "validation"),
        ("after=x", 422, "validation"),
        ("colour=red", 422, "validation"),
        ("workspace=ws_01JD3ZK8Q6N4V6M2W0T5R7X9YB", 403, "forbidden"),
    ] {
        let refused = reader.get(&format!("/events?{query}")).await;
        refused.refused(status, code);
    }

    // Without audit.read: what one did oneself.
    let own = developer.control.get("/events").await.expect(200).json();
    let own = own["data"].as_array().unwrap().clone();
    assert!(!own.is_empty());
    assert!(
        own.iter()
            .all(|it| it["actor"]["id"] == developer.id.as_str())
    );
    let others = format!("/events?actor={account_id}");
    developer
        .control
        .get(&others)
        .await
        .refused(403, "forbidden");

    let accept = |accept: &str, path: &str| {
        let ask = Ask::get(format!("/v1{path}")).header("accept", accept);
        reader.send(ask)
    };
    let batch = accept("application/cloudevents-batch+json", "/events?limit=3");
    let batch = batch.await.expect(200);
    assert_eq!(
        batch.must("content-type"),
        "application/cloudevents-batch+json"
    );
    assert!(batch.must("link").contains("rel=\"next\""));
    let first = &batch.json()[0];
    assert_eq!(first["specversion"], "1.0");
    assert_eq!(first["id"], first["data"]["id"]);
    assert_eq!(first["sequence"], first["data"]["position"].to_string());
    accept("text/html", "/events")
        .await
        .refused(406, "not_acceptable");
}

#[tokio::test]
async fn events_are_followed_live_and_only_by_those_who_may() {
    let world = World::start("live").await;
    let owner = &world.owner;
    let auditor = join(
        &world,
        owner,
        "auditor@example.com",
        json!({ "role": "auditor" }),
    )
    .await;
    let before = owner.key("before").await;
    let (_, reader) = token(&auditor.control, json!({ "name": "reader" })).await;
    let ask = |last: u64| {
        Ask::get("/v1/events?type=key.created&after=1")
            .header("accept", "text/event-stream")
            .header("last-event-id", last.to_string())
    };
    let mut body = reader
        .open(ask(before.position - 1))
        .await
        .unwrap()
        .into_body();
    let mut text = String::new();
    let after = owner.key("after").await;
    let told = async {
        while !text.contains(&after.id) {
            let frame = body.frame().await.expect("the stream goes on").unwrap();
            text += &String::from_utf8_lossy(frame.data_ref().unwrap());
        }
    };
    timeout(Duration::from_secs(10), told).await.unwrap();
    assert!(
        text.contains(&format!("id: {}\n", before.position)),
        "{text}"
    );
    assert!(
        text.contains(&format!("id: {}\n", after.position)),
        "{text}"
    );

    owner.delete(&auditor.path("")).await.expect(204);
    let ends = async { while let Some(Ok(_)) = body.frame().await {} };
    timeout(Duration::from_secs(20), ends).await.unwrap();
}

#[tokio::test]
async fn what_was_tried_in_vain_is_there_for_auditors_and_bounded() {
    let world = World::start("denied").await;
    let owner = &world.owner;
    let viewer = join(
        &world,
        owner,
        "viewer@example.com",
        json!({ "role": "viewer" }),
    )
    .await;
    let key = owner.key("not theirs").await;
    let workspace = owner.get("/workspace").await.expect(200);
    let tries = (0..25).map(|_| {
        viewer
            .control
            .delete("/api-keys/key_01JD3ZK8Q6N4V6M2W0T5R7X9YB")
    });
    for reply in join_all(tries).await {
        reply.refused(404, "not_found");
    }
    let path = key.path("");
    let tries = (0..25).map(|_| viewer.control.delete(&path));
    for reply in join_all(tries).await {
        reply.refused(403, "forbidden");
    }
    let denied = event(owner, "type=access.denied").await;
    assert_eq!(denied["actor"]["id"], viewer.id.as_str());
    assert_eq!(
        denied["data"],
        json!({ "method": "DELETE", "route": "/v1/api-keys/{id}", "code": "forbidden" })
    );
    // Something that is certainly written after all of them.
    owner.key("afterwards").await;
    let query = format!("/events?type=access.denied&actor={}", viewer.id);
    let rows = owner.get(&query).await.expect(200).json()["data"].clone();
    assert!(rows.as_array().unwrap().len() <= 10, "{rows}");
    // The workspace itself is where it was.
    let same = owner.get("/workspace").await.expect(200);
    assert_eq!(same.must("etag"), workspace.must("etag"));
    let verified = world.json(["audit", "verify", "--json"]).await;
    assert_eq!(verified["ok"], true, "{verified}");
}
