//! Self-service: what the developers of a team may make for themselves.

use std::time::Duration;

use anyhow::ensure;
use control_plane::execute::{Error, Execute};
use control_plane::fresh;
use events::command::{CreateKey, KeyCommand, PatchTeam, TeamCommand};
use events::{Command, Refusal};
use schemas::api::{SelfServiceRule, Source};
use schemas::entry::Owner;
use schemas::{Environment, KeyId, Limits, Role, TeamId, TeamRole};
use serde_json::{Value, json};
use tests::proxy::{Verdict, get, verdict};
use tests::wait::eventually;
use tests::{Ask, Control, Key, World};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::log::Log;
use crate::people::{People, team};

/// Creations at once.
const RACERS: usize = 50;
/// The keys that the policy allows.
const ROOM: usize = 5;

fn in_days(days: i64) -> String {
    let at = fresh::now().plus_ms(days * 86_400_000);
    at.to_string()
}

async fn make(control: &Control, body: Value) -> Key {
    Key::of(control.post("/api-keys", body).await.expect(201))
}

#[tokio::test]
async fn developers_manage_their_own_keys_and_no_others() {
    let world = World::start("self-own").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let own = team(owner, json!({ "name": "own" })).await;
    let other = team(owner, json!({ "name": "other" })).await;
    let ada = people.join_team(&own, TeamRole::TeamDeveloper).await;
    let bob = people.join_team(&own, TeamRole::TeamDeveloper).await;
    let control = &ada.control;

    // Whatever the body says of an owner, the caller is it.
    let mut keys = Vec::new();
    for (name, given) in [
        ("a", Value::Null),
        ("b", bob.owner()),
        ("c", json!({ "type": "service_account", "id": "sa_x" })),
        ("d", json!("nonsense")),
    ] {
        let key = make(
            control,
            json!({ "name": name, "team_id": own, "owner": given }),
        )
        .await;
        assert_eq!(key.body["owner"], ada.owner());
        assert_eq!(key.body["source"], "self_service");
        assert_eq!(key.body["team_id"], own);
        assert_eq!(
            key.body["created_by"],
            json!({ "type": "user", "id": ada.id })
        );
        keys.push(key);
    }
    control
        .post("/api-keys", json!({ "name": "e" }))
        .await
        .refused_fields("validation", &["team_id"]);
    control
        .post(
            "/api-keys",
            json!({ "name": "e", "team_id": null, "category": 7 }),
        )
        .await
        .refused_fields("validation", &["category", "team_id"]);
    control
        .post("/api-keys", json!({ "name": "e", "team_id": other }))
        .await
        .refused(403, "forbidden");
    control
        .post("/api-keys", json!({ "name": "e", "team_id": "team_x" }))
        .await
        .refused(404, "not_found");

    let bobs = make(&bob.control, json!({ "name": "bobs", "team_id": own })).await;
    let elsewhere = owner
        .key_with(json!({ "name": "elsewhere", "team_id": other, "owner": ada.owner() }))
        .await;
    let listed = async |filter: &str| {
        let page = control
            .get(&format!("/api-keys{filter}"))
            .await
            .expect(200)
            .json();
        let rows = page["data"].as_array().unwrap().clone();
        rows.iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mine: Vec<_> = keys.iter().map(|key| key.id.clone()).collect();
    assert_eq!(listed("").await, mine);
    assert_eq!(listed("?mine=true").await, mine);
    assert_eq!(listed(&format!("?team_id={own}")).await, mine);
    let admins = owner.get("/api-keys?mine=true").await.expect(200).json();
    assert_eq!(admins["data"], json!([]));

    // Read, rotate, switch and revoke: what is theirs, and only that.
    let key = &keys[0];
    control.get(&key.path("")).await.expect(200);
    control.get(&key.path("/rotation")).await.expect(200);
    control.get(&key.path("/history")).await.expect(200);
    let rotate = json!({ "overlap_seconds": 0 });
    let rotated = control
        .post(&key.path("/rotate?wait=applied"), rotate.clone())
        .await;
    let rotated = Key::of(rotated.expect(200));
    assert_eq!(
        verdict(world.proxy(), &rotated.secret).await.unwrap(),
        Verdict::Admitted
    );
    let empty = || json!({});
    control
        .post(&key.path("/deactivate"), empty())
        .await
        .expect(200);
    control
        .post(&key.path("/reactivate"), empty())
        .await
        .expect(200);
    for path in ["/transfer", "/purge"] {
        let body = if path == "/transfer" {
            json!({ "owner": bob.owner() })
        } else {
            empty()
        };
        control
            .post(&key.path(path), body)
            .await
            .refused(403, "forbidden");
    }
    let patch = json!({ "name": "renamed" });
    control
        .patch(&key.path(""), patch.clone())
        .await
        .refused(403, "forbidden");
    control.delete(&key.path("")).await.expect(204);
    for strange in [&bobs, &elsewhere] {
        control
            .get(&strange.path(""))
            .await
            .refused(403, "forbidden");
        control
            .get(&strange.path("/history"))
            .await
            .refused(403, "forbidden");
        control
            .delete(&strange.path(""))
            .await
            .refused(403, "forbidden");
        for path in ["/deactivate", "/reactivate"] {
            control
                .post(&strange.path(path), empty())
                .await
                .refused(403, "forbidden");
        }
        control
            .post(&strange.path("/rotate"), rotate.clone())
            .await
            .refused(403, "forbidden");
    }

    // Who is put out of the team has no say over the keys that stay behind.
    let member = format!("/teams/{own}/members/{}", ada.id);
    owner.delete(&member).await.expect(204);
    control
        .get(&keys[1].path(""))
        .await
        .refused(403, "forbidden");
    assert_eq!(
        verdict(world.proxy(), &keys[1].secret).await.unwrap(),
        Verdict::Admitted
    );
}

#[tokio::test]
async fn every_rule_of_the_policy_has_its_code() {
    let world = World::start("self-policy").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let id = team(owner, json!({ "name": "own", "limits": { "rpm": 100 } })).await;
    let ada = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let lead = people.join_team(&id, TeamRole::TeamAdmin).await;
    let policy = async |policy: Value| {
        let body = json!({ "self_service": policy });
        owner.patch(&format!("/teams/{id}"), body).await.expect(200);
    };
    let post = async |who: &Control, more: Value| {
        let mut body = json!({ "name": "k", "team_id": id });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        who.post("/api-keys", body).await
    };
    let control = &ada.control;

    policy(json!({ "enabled": false, "require_expiry": true })).await;
    post(control, json!({}))
        .await
        .refused(403, "self_service_disabled");
    // Whether self-service is on is judged before what the body says.
    post(control, json!({ "name": 7 }))
        .await
        .refused(403, "self_service_disabled");
    policy(json!({ "enabled": true })).await;
    post(control, json!({}))
        .await
        .refused_fields("self_service_expiry", &["expires_at"]);
    policy(json!({ "require_expiry": false, "max_expiry_days": 30 })).await;
    post(control, json!({}))
        .await
        .refused_fields("self_service_expiry", &["expires_at"]);
    post(control, json!({ "expires_at": in_days(31) }))
        .await
        .refused_fields("self_service_expiry", &["expires_at"]);
    let limits = json!({ "expires_at": in_days(29), "limits": { "rpm": 101 } });
    post(control, limits)
        .await
        .refused_fields("self_service_limit", &["limits.rpm"]);
    let both = post(control, json!({ "limits": { "rpm": 101 } })).await;
    both.refused_fields("self_service_expiry", &["expires_at", "limits.rpm"]);
    let within = json!({ "expires_at": in_days(29), "limits": { "rpm": 100 } });
    let first = Key::of(post(control, within.clone()).await.expect(201));

    policy(json!({ "max_keys_per_user": 1 })).await;
    let named = json!({ "name": "second", "expires_at": in_days(29) });
    post(control, named.clone())
        .await
        .refused(403, "self_service_max_keys");
    // Rotating makes no key. What is switched off still counts, what is revoked does not.
    let rotate = json!({ "overlap_seconds": 0 });
    control
        .post(&first.path("/rotate"), rotate.clone())
        .await
        .expect(200);
    control
        .post(&first.path("/deactivate"), json!({}))
        .await
        .expect(200);
    post(control, named.clone())
        .await
        .refused(403, "self_service_max_keys");
    control.delete(&first.path("")).await.expect(204);
    let again = || {
        let mut body = json!({ "name": "k", "team_id": id });
        body.as_object_mut()
            .unwrap()
            .extend(named.as_object().unwrap().clone());
        Ask::new("POST", "/v1/api-keys")
            .header("idempotency-key", "second")
            .json(&body)
    };
    let second = control.send(again()).await.expect(201).json();
    let repeated = control.send(again()).await.expect(201).json();
    assert_eq!(second["id"], repeated["id"]);
    // What has expired makes room.
    owner
        .patch(
            &format!("/api-keys/{}", second["id"].as_str().unwrap()),
            json!({ "expires_at": fresh::now().plus_ms(300).to_string() }),
        )
        .await
        .expect(200);
    let third = json!({ "name": "third", "expires_at": in_days(29) });
    eventually(
        "an expired key makes room",
        Duration::from_secs(5),
        async || {
            let reply = post(control, third.clone()).await;
            ensure!(reply.status == 201, "{}", reply.text());
            Ok(())
        },
    )
    .await;

    // The policy binds developers of the team and nobody else.
    policy(json!({ "enabled": false, "max_keys_per_user": 0, "require_expiry": true })).await;
    for (number, who) in [
        &lead.control,
        owner,
        &people.join(Role::Developer).await.control,
    ]
    .into_iter()
    .enumerate()
    {
        post(who, json!({ "name": format!("free {number}") }))
            .await
            .expect(201);
    }
}

#[tokio::test]
async fn a_policy_changes_no_key_but_marks_those_outside_of_it() {
    let world = World::start("self-marks").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let id = team(owner, json!({ "name": "own" })).await;
    let path = format!("/teams/{id}");
    let ada = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let control = &ada.control;
    let body = |name: &str, more: Value| {
        let mut body = json!({ "name": name, "team_id": id });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let lasting = make(control, body("lasting", json!({ "limits": { "rpm": 50 } }))).await;
    let brief = make(control, body("brief", json!({ "expires_at": in_days(5) }))).await;
    let far = make(control, body("far", json!({ "expires_at": in_days(50) }))).await;
    let given = owner
        .key_with(body("given", json!({ "owner": ada.owner() })))
        .await;
    let check = async |expected: [&[&str]; 4]| {
        let listed = owner.get("/api-keys").await.expect(200).json();
        let replayed = world.json(["replay", "--json"]).await;
        for (key, expected) in [&lasting, &brief, &far, &given].into_iter().zip(expected) {
            let shown = owner.get(&key.path("")).await.expect(200).json();
            let find = |rows: &Value| {
                let rows = rows.as_array().unwrap();
                rows.iter()
                    .find(|it| it["id"] == key.id.as_str())
                    .unwrap()
                    .clone()
            };
            for told in [shown, find(&listed["data"]), find(&replayed["keys"])] {
                match expected {
                    [] => assert_eq!(told.get("out_of_policy"), None, "{told}"),
                    rules => assert_eq!(told["out_of_policy"], json!(rules), "{told}"),
                }
            }
        }
    };
    check([&[], &[], &[], &[]]).await;
    let (expiry, limit) = ("self_service_expiry", "self_service_limit");
    let narrowed = json!({ "limits": { "rpm": 49 }, "self_service": { "max_expiry_days": 30 } });
    owner.patch(&path, narrowed).await.expect(200);
    check([&[expiry, limit], &[], &[expiry], &[]]).await;
    let policy = json!({ "self_service": { "max_keys_per_user": 2, "max_expiry_days": null } });
    owner.patch(&path, policy).await.expect(200);
    check([&[limit], &[], &["self_service_max_keys"], &[]]).await;
    let off = json!({ "self_service": { "max_keys_per_user": null, "enabled": false } });
    owner.patch(&path, off).await.expect(200);
    let disabled = "self_service_disabled";
    check([&[disabled, limit], &[disabled], &[disabled], &[]]).await;
    for key in [&lasting, &brief, &far, &given] {
        world.all_admit(&key.secret).await;
    }

    // A rotation is judged by the policy of today.
    let rotate = async |key: &Key| {
        let body = json!({ "overlap_seconds": 0 });
        control.post(&key.path("/rotate"), body).await
    };
    rotate(&brief).await.refused(403, disabled);
    let on = json!({ "self_service": { "enabled": true, "max_expiry_days": 30 } });
    owner.patch(&path, on).await.expect(200);
    rotate(&lasting)
        .await
        .refused_fields("self_service_expiry", &["expires_at", "limits.rpm"]);
    rotate(&far)
        .await
        .refused_fields("self_service_expiry", &["expires_at"]);
    rotate(&brief).await.expect(200);
    // Stopping a key is always allowed.
    control
        .post(&far.path("/deactivate"), json!({}))
        .await
        .expect(200);
    control.delete(&far.path("")).await.expect(204);
    // Who is not bound by the policy rotates as before.
    let body = json!({ "overlap_seconds": 0 });
    owner.post(&lasting.path("/rotate"), body).await.expect(200);
}

#[tokio::test]
async fn a_limit_left_blank_is_the_teams() {
    let world = World::start("self-blank").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let id = team(owner, json!({ "name": "own", "limits": { "rpm": 3 } })).await;
    let ada = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let first = make(&ada.control, json!({ "name": "a", "team_id": id })).await;
    let second = make(&ada.control, json!({ "name": "b", "team_id": id })).await;
    assert_eq!(first.body["limits"]["rpm"], Value::Null);
    for key in [&first, &second, &first] {
        let reply = get(world.proxy(), &key.secret, "/t/echo/x").await;
        assert_eq!(Verdict::of(&reply), Verdict::Admitted);
    }
    let refused = get(world.proxy(), &second.secret, "/t/echo/x")
        .await
        .expect(429);
    assert_eq!(refused.must("x-throttleproxy-error"), "rate_limited");
    assert_eq!(refused.json()["scope"], "team");
}

#[tokio::test]
async fn creations_at_once_do_not_pass_the_most_keys() {
    let world = World::start("self-race").await;
    let owner = &world.owner;
    let people = People::of(&world).await;
    let policy = json!({ "max_keys_per_user": ROOM });
    let id = team(owner, json!({ "name": "own", "self_service": policy })).await;
    let ada = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let bob = people.join_team(&id, TeamRole::TeamDeveloper).await;
    let mut racers = JoinSet::new();
    for number in 0..RACERS {
        let control = ada.control.clone();
        let body = json!({ "name": format!("key {number}"), "team_id": id });
        racers.spawn(async move { control.post("/api-keys?wait=committed", body).await });
    }
    let replies = racers.join_all().await;
    let made = replies.iter().filter(|it| it.status == 201).count();
    assert_eq!(made, ROOM);
    for refused in replies.into_iter().filter(|it| it.status != 201) {
        refused.refused(403, "self_service_max_keys");
    }
    let listed = ada
        .control
        .get("/api-keys?mine=true")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["data"].as_array().unwrap().len(), ROOM);
    // Room is counted for each developer.
    make(&bob.control, json!({ "name": "bobs", "team_id": id })).await;
}

#[tokio::test]
async fn the_count_holds_on_postgres_between_two_control_planes() {
    let log = Log::postgres("self_service_count").await;
    // A second one works on the same log, as a second control plane does.
    let second = Execute::start(log.store.clone(), watch::channel(0).0);
    race(&log, [log.execute.clone(), second]).await;
}

#[tokio::test]
async fn the_count_holds_on_sqlite() {
    let log = Log::sqlite().await;
    race(&log, [log.execute.clone(), log.execute.clone()]).await;
}

/// Creations at once on a log: as many hold as the policy allows.
async fn race(log: &Log, writers: [Execute; 2]) {
    let team_id = fresh::id(TeamId::from_parts);
    let policy = [("max_keys_per_user".to_owned(), json!(ROOM))];
    let patch = PatchTeam {
        name: Some("own".to_owned()),
        self_service: Some(Some(policy.into())),
        ..PatchTeam::default()
    };
    log.run(Command::Team(team_id, TeamCommand::Create(Box::new(patch))))
        .await
        .unwrap();
    let mut racers = JoinSet::new();
    for number in 0..RACERS {
        let create = CreateKey {
            name: format!("key {number}"),
            category: None,
            environment: Environment::Live,
            team_id: Some(team_id),
            owner: Some(Owner::User(log.owner)),
            expires_at: None,
            access: Default::default(),
            limits: Limits::default(),
            metadata: Default::default(),
            replaces: None,
            rotation_due_at: None,
            source: Source::SelfService,
            secret: fresh::secret(Environment::Live).1,
        };
        let id = fresh::id(KeyId::from_parts);
        let request = log.request(Command::Key(id, KeyCommand::Create(Box::new(create))));
        let writer = writers[number % 2].clone();
        racers.spawn(async move { writer.run(request).await });
    }
    let mut made = 0;
    for outcome in racers.join_all().await {
        match outcome {
            Ok(_) => made += 1,
            Err(Error::Refused(Refusal::SelfService(SelfServiceRule::MaxKeys))) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made, ROOM);
}
