//! A key's life over the control API.

use std::time::Duration;

use anyhow::ensure;
use regex::Regex;
use serde_json::{Value, json};
use tests::process::Signal;
use tests::proxy::{Verdict, check_verdict, get};
use tests::wait::eventually;
use tests::{Ask, Key, World};

#[tokio::test]
async fn a_created_key_shows_its_secret_once() {
    let world = World::start("create").await;
    let reply = world
        .owner
        .post(
            "/api-keys",
            json!({
                "name": "  billing service ",
                "category": "backend",
                "environment": "test",
                "expires_at": "2999-01-31T10:30:00.5+01:00",
                "limits": { "rps": 50, "rpm": 1000 },
                "metadata": { "ticket": "OPS-17" },
                "rotation_due_at": "2998-01-01T00:00:00Z",
            }),
        )
        .await
        .expect(201);
    assert!(!reply.must("x-request-id").is_empty());
    assert!(reply.position() > 0);
    assert!(reply.header("etag").is_some());

    let key = reply.json();
    let secret = key["secret"].as_str().unwrap();
    let shape = Regex::new(r"^tp_(live|test)_[0-9A-Za-z]{44}$").unwrap();
    assert!(shape.is_match(secret), "{secret}");
    assert!(secret.starts_with("tp_test_"));
    assert_eq!(
        schemas::credential::shape(secret.as_bytes()),
        schemas::credential::Shape::Ours
    );
    assert!(key["id"].as_str().unwrap().starts_with("key_"));
    assert_eq!(key["name"], "billing service");
    assert_eq!(key["status"], "active");
    assert_eq!(key["category"], "backend");
    assert_eq!(key["environment"], "test");
    assert_eq!(key["expires_at"], "2999-01-31T09:30:00.500Z");
    assert_eq!(key["limits"]["rps"], 50);
    assert_eq!(key["limits"]["rpm"], 1000);
    assert_eq!(key["limits"]["rpd"], Value::Null);
    assert_eq!(key["metadata"], json!({ "ticket": "OPS-17" }));
    assert_eq!(key["source"], "api");
    assert_eq!(key["last_used_at"], Value::Null);
    let only = &key["secrets"][0];
    assert_eq!(only["prefix"], secret[..16]);
    assert_eq!(only["last4"], secret[secret.len() - 4..]);
    assert_eq!(key["secrets"].as_array().unwrap().len(), 1);
    let propagation = &key["propagation"];
    assert_eq!(propagation["position"], reply.position());
    assert_eq!(propagation["level"], "applied", "{propagation}");
    assert_eq!(propagation["regions"][0]["name"], world.regions[0].name);
    assert_eq!(propagation["regions"][0]["applied"], 1);

    let read = world
        .owner
        .get(&format!("/api-keys/{}", key["id"].as_str().unwrap()))
        .await
        .expect(200);
    assert!(!read.text().contains(secret));
    let read = read.json();
    for member in [
        "name",
        "secrets",
        "limits",
        "expires_at",
        "version",
        "created_at",
    ] {
        assert_eq!(read[member], key[member], "{member}");
    }
    let listed = world.owner.get("/api-keys").await.expect(200);
    assert!(!listed.text().contains(secret));
    assert_eq!(listed.json()["data"][0]["id"], key["id"]);
}

#[tokio::test]
async fn a_caller_reads_its_own_writes_at_once() {
    let world = World::start("own").await;
    for number in 0..20 {
        let name = format!("key {number}");
        let key = Key::of(
            world
                .owner
                .post("/api-keys?wait=committed", json!({ "name": name }))
                .await
                .expect(201),
        );
        let read = world.owner.get(&key.path("")).await.expect(200).json();
        assert_eq!(read["name"], name);
        world
            .owner
            .patch(&key.path(""), json!({ "category": name }))
            .await
            .expect(200);
        let found = world
            .owner
            .get(&format!("/api-keys?category=key%20{number}"))
            .await
            .expect(200)
            .json();
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found}");
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::start("pages").await;
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(world.owner.key(&format!("page {number}")).await.id);
    }
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world
            .owner
            .get(&format!("/api-keys?limit=3{cursor}"))
            .await
            .expect(200)
            .json();
        let rows = page["data"].as_array().unwrap();
        assert!((1..=3).contains(&rows.len()), "{page}");
        listed.extend(
            rows.iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    listed.sort();
    made.sort();
    assert_eq!(listed, made);

    world
        .owner
        .get("/api-keys?cursor=nonsense")
        .await
        .refused(400, "bad_request");
    for query in ["limit=0", "limit=501", "limit=ten"] {
        world
            .owner
            .get(&format!("/api-keys?{query}"))
            .await
            .refused_fields("validation", &["limit"]);
    }
    world
        .owner
        .get("/api-keys?colour=red")
        .await
        .refused_fields("validation", &["colour"]);
    world
        .owner
        .get("/api-keys?status=sleepy")
        .await
        .refused_fields("validation", &["status"]);
}

#[tokio::test]
async fn lists_are_filtered() {
    let world = World::start("filter").await;
    let active = world.owner.key("an active one").await;
    let inactive = world.owner.key("an inactive one").await;
    let revoked = world
        .owner
        .key_with(json!({ "name": "a revoked one", "category": "old" }))
        .await;
    world
        .owner
        .post(&inactive.path("/deactivate"), json!({}))
        .await
        .expect(200);
    world.owner.delete(&revoked.path("")).await.expect(204);

    let ids = async |query: &str| {
        let page = world
            .owner
            .get(&format!("/api-keys{query}"))
            .await
            .expect(200)
            .json();
        let mut ids: Vec<_> = page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let sorted = |keys: &[&Key]| {
        let mut ids: Vec<_> = keys.iter().map(|key| key.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("").await, sorted(&[&active]));
    assert_eq!(ids("?status=inactive").await, sorted(&[&inactive]));
    assert_eq!(ids("?status=revoked").await, sorted(&[&revoked]));
    assert_eq!(ids("?status=expired").await, Vec::<String>::new());
    assert_eq!(
        ids("?status=all").await,
        sorted(&[&active, &inactive, &revoked])
    );
    assert_eq!(ids("?status=all&category=old").await, sorted(&[&revoked]));
    assert_eq!(ids("?status=all&q=INACTIVE").await, sorted(&[&inactive]));
    let prefix = &active.secret[..16];
    assert_eq!(
        ids(&format!("?status=all&q={prefix}")).await,
        sorted(&[&active])
    );
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let world = World::start("patch").await;
    let key = world
        .owner
        .key_with(json!({ "name": "patched", "limits": { "rps": 5, "rpm": 60 }, "metadata": { "a": "1", "b": "2" } }))
        .await;
    let before = world.owner.get(&key.path("")).await.expect(200);
    let etag = before.must("etag").to_owned();

    let reply = world
        .owner
        .patch(
            &key.path(""),
            json!({ "limits": { "rpm": 90 }, "metadata": { "b": null, "c": "3" } }),
        )
        .await
        .expect(200);
    assert!(reply.position() > key.position);
    assert_ne!(reply.must("etag"), etag);
    let after = reply.json();
    assert_eq!(after["limits"]["rps"], 5);
    assert_eq!(after["limits"]["rpm"], 90);
    assert_eq!(after["metadata"], json!({ "a": "1", "c": "3" }));
    assert!(after["version"].as_u64() > before.json()["version"].as_u64());
    assert_eq!(after.get("secret"), None);

    let cleared = world
        .owner
        .patch(&key.path(""), json!({ "limits": null }))
        .await
        .expect(200)
        .json();
    assert_eq!(cleared["limits"]["rps"], Value::Null);
    assert_eq!(cleared["limits"]["rpm"], Value::Null);

    world
        .owner
        .patch(&key.path(""), json!({ "name": null }))
        .await
        .refused_fields("validation", &["name"]);
    world
        .owner
        .patch(&key.path(""), json!({}))
        .await
        .refused(422, "validation");
    world
        .owner
        .patch(&key.path(""), json!({ "colour": "red" }))
        .await
        .refused_fields("validation", &["colour"]);
    for fixed in ["owner", "team_id", "environment", "replaces"] {
        world
            .owner
            .patch(&key.path(""), json!({ fixed: "x" }))
            .await
            .refused_fields("validation", &[fixed]);
    }

    let stale = Ask::new("PATCH", format!("/v1{}", key.path(""))).json(&json!({ "category": "x" }));
    world
        .owner
        .send(stale.clone().header("if-match", etag))
        .await
        .refused(412, "precondition_failed");
    let etag = world.owner.get(&key.path("")).await.must("etag").to_owned();
    world
        .owner
        .send(stale.header("if-match", etag))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_key_is_switched_off_and_on() {
    let world = World::start("switch").await;
    let key = world.owner.key("switched").await;
    world.all_admit(&key.secret).await;
    // The first use is an event of the key too, and would come in between.
    use_is_reported(&world, &key).await;

    let off = world
        .owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    assert_eq!(off.json()["status"], "inactive");
    assert_eq!(off.json()["propagation"]["level"], "applied");
    let refused = Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    };
    check_verdict(world.proxy(), &key.secret, &refused)
        .await
        .unwrap();

    let again = world
        .owner
        .post(&key.path("/deactivate"), json!({}))
        .await
        .expect(200);
    assert_eq!(again.position(), off.position(), "a repeat changes nothing");

    world
        .owner
        .patch(&key.path(""), json!({ "category": "asleep" }))
        .await
        .expect(200);
    let on = world
        .owner
        .post(&key.path("/reactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    assert_eq!(on.json()["status"], "active");
    check_verdict(world.proxy(), &key.secret, &Verdict::Admitted)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_revoked_key_stays_revoked() {
    let world = World::start("revoke").await;
    let key = world.owner.key("short lived").await;
    world.all_admit(&key.secret).await;

    let gone = world.owner.delete(&key.path("")).await.expect(204);
    assert!(gone.body.is_empty());
    let again = world.owner.delete(&key.path("")).await.expect(204);
    assert_eq!(again.position(), gone.position());
    let waited = world
        .owner
        .delete(&key.path("?wait=applied"))
        .await
        .expect(200)
        .json();
    assert_eq!(waited["propagation"]["level"], "applied", "{waited}");
    world.all_refuse(&key.secret, "inactive_key").await;

    assert_eq!(
        world.owner.get(&key.path("")).await.expect(200).json()["status"],
        "revoked"
    );
    world
        .owner
        .patch(&key.path(""), json!({ "category": "x" }))
        .await
        .refused(409, "key_revoked");
    world
        .owner
        .post(&key.path("/deactivate"), json!({}))
        .await
        .refused(409, "key_revoked");
    world
        .owner
        .post(&key.path("/reactivate"), json!({}))
        .await
        .refused(409, "key_revoked");
    world
        .owner
        .post(&key.path("/rotate"), json!({ "overlap_seconds": 0 }))
        .await
        .refused(409, "key_revoked");
    // The name is free again.
    let heir = world
        .owner
        .key_with(json!({ "name": "Short Lived", "replaces": key.id }))
        .await;
    assert_eq!(heir.body["replaces"], key.id);
}

#[tokio::test]
async fn a_rotation_overlaps_for_as_long_as_was_asked() {
    let world = World::start("rotate").await;
    let key = world.owner.key("rotated").await;
    world.all_admit(&key.secret).await;
    let rotate = async |body: Value| {
        world
            .owner
            .post(&key.path("/rotate?wait=applied"), body)
            .await
    };

    rotate(json!({}))
        .await
        .refused_fields("validation", &["overlap_seconds"]);
    rotate(json!({ "overlap_seconds": -1 }))
        .await
        .refused_fields("validation", &["overlap_seconds"]);
    rotate(json!({ "overlap_seconds": 2_592_001 }))
        .await
        .refused_fields("validation", &["overlap_seconds"]);

    let second = Key::of(rotate(json!({ "overlap_seconds": 3600 })).await.expect(200));
    assert_eq!(second.id, key.id);
    assert_ne!(second.secret, key.secret);
    let secrets = second.body["secrets"].as_array().unwrap();
    assert_eq!(secrets.len(), 2);
    assert!(secrets[0]["expires_at"].is_string(), "{secrets:?}");
    assert_eq!(secrets[1]["expires_at"], Value::Null);
    for secret in [&key.secret, &second.secret] {
        check_verdict(world.proxy(), secret, &Verdict::Admitted)
            .await
            .unwrap();
    }
    rotate(json!({ "overlap_seconds": 60 }))
        .await
        .refused(409, "rotation_in_progress");

    let third = Key::of(rotate(json!({ "overlap_seconds": 0 })).await.expect(200));
    let refused = Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    };
    for secret in [&key.secret, &second.secret] {
        check_verdict(world.proxy(), secret, &refused)
            .await
            .unwrap();
    }
    check_verdict(world.proxy(), &third.secret, &Verdict::Admitted)
        .await
        .unwrap();

    let rotation = world
        .owner
        .get(&key.path("/rotation"))
        .await
        .expect(200)
        .json();
    let rows = rotation["secrets"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{rotation}");
    assert!(rows[0]["ends_at"].is_string() && rows[1]["ends_at"].is_string());
    assert_eq!(rows[2]["ends_at"], Value::Null);
    assert_eq!(rows[2]["prefix"], third.secret[..16]);
}

#[tokio::test]
async fn an_overlap_ends_by_itself() {
    let world = World::start("overlap").await;
    let key = world.owner.key("overlapping").await;
    let new = Key::of(
        world
            .owner
            .post(
                &key.path("/rotate?wait=applied"),
                json!({ "overlap_seconds": 3 }),
            )
            .await
            .expect(200),
    );
    check_verdict(world.proxy(), &key.secret, &Verdict::Admitted)
        .await
        .unwrap();
    let ended = Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    };
    world
        .all_say(&key.secret, ended, Duration::from_secs(6))
        .await;
    check_verdict(world.proxy(), &new.secret, &Verdict::Admitted)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_leak_ends_every_other_secret_at_once() {
    let world = World::start("leak").await;
    let key = world.owner.key("leaked").await;
    let second = Key::of(
        world
            .owner
            .post(&key.path("/rotate"), json!({ "overlap_seconds": 3600 }))
            .await
            .expect(200),
    );
    world
        .owner
        .post(
            &key.path("/rotate"),
            json!({ "overlap_seconds": 60, "reason": "leaked" }),
        )
        .await
        .refused_fields("validation", &["overlap_seconds"]);
    let third = Key::of(
        world
            .owner
            .post(
                &key.path("/rotate?wait=applied"),
                json!({ "reason": "leaked" }),
            )
            .await
            .expect(200),
    );
    let ended = Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    };
    for secret in [&key.secret, &second.secret] {
        check_verdict(world.proxy(), secret, &ended).await.unwrap();
    }
    check_verdict(world.proxy(), &third.secret, &Verdict::Admitted)
        .await
        .unwrap();
}

#[tokio::test]
async fn only_an_unused_key_can_be_purged() {
    let world = World::start("purge").await;
    let unused = world.owner.key("unused").await;
    world
        .owner
        .post(&unused.path("/purge"), json!({}))
        .await
        .expect(204);
    world
        .owner
        .get(&unused.path(""))
        .await
        .refused(404, "not_found");
    let events = history(&world, &unused).await;
    assert_eq!(
        events.last().map(String::as_str),
        Some("key.purged"),
        "{events:?}"
    );
    let refused = world.regions[0]
        .redis
        .region(&world.regions[0].name)
        .await
        .unwrap();
    assert!(
        refused
            .secrets
            .values()
            .all(|entry| entry.key_id.to_string() != unused.id
                || entry.status == schemas::entry::SecretStatus::Purged)
    );

    let used = world.owner.key("used").await;
    world.all_admit(&used.secret).await;
    world
        .owner
        .post(&used.path("/purge"), json!({}))
        .await
        .refused(409, "key_has_history");
    world.owner.get(&used.path("")).await.expect(200);
}

#[tokio::test]
async fn a_purge_that_cannot_be_proven_leaves_the_key_inactive() {
    let world = World::start("unproven").await;
    let key = world.owner.key("unproven").await;
    // Frozen, the proxy still counts as live for as long as its last report is fresh.
    world.proxy().signal(Signal::STOP);
    world
        .owner
        .post(&key.path("/purge?timeout_ms=500"), json!({}))
        .await
        .refused(409, "purge_unproven");
    world.proxy().signal(Signal::CONT);
    let status = world.owner.get(&key.path("")).await.expect(200).json()["status"].clone();
    assert_eq!(status, "inactive");
}

#[tokio::test]
async fn history_tells_what_happened_and_uses_are_seen() {
    let world = World::start("history").await;
    let key = world.owner.key("storied").await;
    world.all_admit(&key.secret).await;
    use_is_reported(&world, &key).await;
    world
        .owner
        .patch(&key.path(""), json!({ "limits": { "rpm": 5 } }))
        .await
        .expect(200);
    world
        .owner
        .post(&key.path("/deactivate"), json!({}))
        .await
        .expect(200);
    world
        .owner
        .post(&key.path("/reactivate"), json!({}))
        .await
        .expect(200);
    world
        .owner
        .post(&key.path("/rotate"), json!({ "overlap_seconds": 0 }))
        .await
        .expect(200);
    world.owner.delete(&key.path("")).await.expect(204);
    assert_eq!(
        history(&world, &key).await,
        [
            "key.created",
            "key.first_used",
            "key.updated",
            "key.deactivated",
            "key.reactivated",
            "key.rotated",
            "key.revoked"
        ]
    );
    let events = world.owner.get(&key.path("/history")).await.json();
    let updated = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["type"] == "key.updated")
        .unwrap();
    let change = updated["data"]["changes"].to_string();
    assert!(
        change.contains("\"to\":5") || change.contains("\"rpm\":5"),
        "{updated}"
    );
    assert!(updated["position"].is_u64() && updated["actor"]["id"].is_string());
}

#[tokio::test]
async fn names_are_names() {
    let world = World::start("names").await;
    let create = async |name: Value| world.owner.post("/api-keys", json!({ "name": name })).await;

    create(json!("x".repeat(255))).await.expect(201);
    for bad in [
        json!(""),
        json!("   "),
        json!("x".repeat(256)),
        json!("tab\there"),
        json!("null\u{0}byte"),
        json!(7),
        json!(null),
    ] {
        create(bad).await.refused_fields("validation", &["name"]);
    }
    world
        .owner
        .post("/api-keys", json!({}))
        .await
        .refused_fields("validation", &["name"]);

    let key = world.owner.key("Straße Café").await;
    for same in ["straße café", "STRAßE CAFE\u{301}", "  Straße Café  "] {
        create(json!(same)).await.refused(409, "name_taken");
    }
    world
        .owner
        .post(&key.path("/deactivate"), json!({}))
        .await
        .expect(200);
    create(json!("Straße Café"))
        .await
        .refused(409, "name_taken");
    let other = world.owner.key("another").await;
    world
        .owner
        .patch(&other.path(""), json!({ "name": "STRASSE CAFÉ" }))
        .await
        .expect(200);
    world
        .owner
        .patch(&other.path(""), json!({ "name": "Straße CAFÉ" }))
        .await
        .refused(409, "name_taken");

    for secret in [
        "somebody@example.com",
        "sk-abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "0123456789abcdef0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        &key.secret,
    ] {
        let reply = create(json!(secret)).await;
        assert!(!reply.text().contains(secret), "the answer repeats it");
        reply.refused(422, "name_looks_like_secret");
    }
    // The same check guards the other free texts.
    world
        .owner
        .post(
            "/api-keys",
            json!({ "name": "fine", "category": "a@example.com" }),
        )
        .await
        .refused(422, "name_looks_like_secret");
    world
        .owner
        .post(
            "/api-keys",
            json!({ "name": "fine", "metadata": { "k": &key.secret } }),
        )
        .await
        .refused(422, "name_looks_like_secret");
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let world = World::start("idem").await;
    let create = |key: &str, name: &str| {
        Ask::new("POST", "/v1/api-keys")
            .header("idempotency-key", key)
            .json(&json!({ "name": name }))
    };
    let first = world
        .owner
        .send(create("\"once\"", "idempotent"))
        .await
        .expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    for spelling in ["\"once\"", "once"] {
        let again = world
            .owner
            .send(create(spelling, "idempotent"))
            .await
            .expect(201);
        assert_eq!(again.must("idempotent-replayed"), "true");
        assert_eq!(again.position(), first.position());
        let (mut expected, found) = (first.json(), again.json());
        expected.as_object_mut().unwrap().remove("secret");
        assert_eq!(found["id"], expected["id"]);
        assert_eq!(found.get("secret"), None);
    }
    world
        .owner
        .send(create("once", "another"))
        .await
        .refused(422, "idempotency_conflict");
    // A refusal is no committed change: the key is free for another attempt.
    world
        .owner
        .send(create("twice", ""))
        .await
        .refused(422, "validation");
    world
        .owner
        .send(create("twice", "now a name"))
        .await
        .expect(201);
    world
        .owner
        .send(create(&"x".repeat(256), "too long"))
        .await
        .refused(400, "bad_request");

    let racers = (0..8).map(|_| world.owner.send(create("race", "raced")));
    let mut ids = std::collections::BTreeSet::new();
    for reply in futures_util::future::join_all(racers).await {
        match reply.status {
            201 => {
                ids.insert(reply.json()["id"].as_str().unwrap().to_owned());
            }
            _ => {
                reply.refused(409, "idempotency_running");
            }
        }
    }
    assert_eq!(ids.len(), 1, "one key for all of them");
}

#[tokio::test]
async fn what_is_not_enforced_is_refused() {
    let world = World::start("notyet").await;
    let key = world.owner.key("honest").await;
    for (field, named, value) in [
        ("quotas", "quotas", json!({ "daily": 5 })),
        ("budget", "budget", json!({ "max": 1, "currency": "EUR" })),
        ("concurrency", "concurrency", json!(3)),
        ("queue", "queue", json!({ "size": 1, "wait_ms_max": 10 })),
        ("staleness", "staleness", json!("strict")),
        ("limits", "limits.rph", json!({ "rph": 100 })),
        ("limits", "limits.tpm", json!({ "tpm": 100 })),
    ] {
        let reply = world
            .owner
            .post("/api-keys", json!({ "name": "not yet", field: value }))
            .await;
        check_not_available(reply, named);
        let reply = world
            .owner
            .patch(&key.path(""), json!({ field: value }))
            .await;
        check_not_available(reply, named);
        world
            .owner
            .patch(&key.path(""), json!({ field: null }))
            .await
            .expect(200);
    }
    world
        .owner
        .post(&key.path("/deactivate?wait=confirmed"), json!({}))
        .await
        .refused(422, "not_available");
}

fn check_not_available(reply: tests::Reply, field: &str) {
    let asked = reply.asked.clone();
    let problem = reply.refused(422, "not_available");
    let named = problem["errors"][0]["field"].as_str().unwrap_or_default();
    assert!(named.starts_with(field), "{asked}: {problem}");
}

#[tokio::test]
async fn a_change_is_waited_for() {
    let world = World::builder("wait").own_servers().start().await;
    let key = world.owner.key("awaited").await;
    let deactivate = async |query: &str| {
        world
            .owner
            .post(&key.path(&format!("/deactivate{query}")), json!({}))
            .await
    };
    deactivate("?wait=someday")
        .await
        .refused_fields("validation", &["wait"]);
    for bad in ["0", "30001", "soon"] {
        deactivate(&format!("?wait=applied&timeout_ms={bad}"))
            .await
            .refused_fields("validation", &["timeout_ms"]);
    }
    assert_eq!(
        deactivate("").await.expect(200).json().get("propagation"),
        None
    );
    let committed = deactivate("?wait=committed").await.expect(200);
    let position = committed.position();
    assert_eq!(committed.json()["propagation"]["position"], position);

    eventually(
        "the change is applied",
        Duration::from_secs(5),
        async || {
            let reply = world
                .owner
                .get(&format!("/positions/{position}"))
                .await
                .check(200)?;
            ensure!(reply.json()["level"] == "applied", "{}", reply.text());
            Ok(())
        },
    )
    .await;
    world
        .owner
        .get("/positions/99999999")
        .await
        .refused(404, "not_found");

    // Without its Redis a region holds nothing, so the wait ends at its timeout.
    world.regions[0]
        .redis
        .kill(tests::server::redis::Data::Whole)
        .await;
    let late = world
        .owner
        .post(
            &key.path("/reactivate?wait=applied&timeout_ms=300"),
            json!({}),
        )
        .await
        .expect(202);
    assert_eq!(late.json()["status"], "active");
    assert_eq!(late.json()["propagation"]["level"], "committed");
    let made = world
        .owner
        .post("/api-keys?timeout_ms=300", json!({ "name": "made" }))
        .await
        .expect(201);
    assert_eq!(made.json()["propagation"]["level"], "committed");
    world.regions[0].redis.restart().await;
    world
        .all_say(&key.secret, Verdict::Admitted, Duration::from_secs(10))
        .await;
}

#[tokio::test]
async fn expiry_is_a_state_that_a_patch_can_end() {
    let world = World::start("expiry").await;
    let soon = schemas::Timestamp::from_unix_ms(now_ms() + 3_000).to_string();
    let key = world
        .owner
        .key_with(json!({ "name": "expiring", "expires_at": soon }))
        .await;
    check_verdict(world.proxy(), &key.secret, &Verdict::Admitted)
        .await
        .unwrap();
    let expired = Verdict::Refused {
        status: 401,
        code: "expired_key".into(),
    };
    world
        .all_say(&key.secret, expired, Duration::from_secs(6))
        .await;
    assert_eq!(
        world.owner.get(&key.path("")).await.json()["status"],
        "expired"
    );
    assert_eq!(
        world.owner.get("/api-keys?status=expired").await.json()["data"][0]["id"],
        key.id
    );
    world
        .owner
        .patch(&key.path("?wait=applied"), json!({ "expires_at": null }))
        .await
        .expect(200);
    check_verdict(world.proxy(), &key.secret, &Verdict::Admitted)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_control_api_opens_to_its_own_tokens_only() {
    let world = World::start("tokens").await;
    let key = world.owner.key("no opener").await;
    let stranger = world.owner.stranger();
    let reply = stranger.get("/api-keys").await;
    assert!(reply.header("www-authenticate").is_some());
    reply.refused(401, "unauthenticated");
    for token in ["", "tpc_nonsense", "nonsense", &key.secret] {
        world
            .owner
            .with_token(token)
            .get("/api-keys")
            .await
            .refused(401, "unauthenticated");
    }
    let by_key_header = Ask::get("/v1/api-keys").header("x-api-key", &key.secret);
    stranger
        .send(by_key_header)
        .await
        .refused(401, "unauthenticated");
    // And the other way round: a control token is no key.
    let token = world.bootstrap["control_token"].as_str().unwrap();
    get(world.proxy(), token, "/t/echo/").await.expect(401);

    let made = world
        .owner
        .post("/control-tokens", json!({ "name": "second" }))
        .await
        .expect(201)
        .json();
    let second = world.owner.with_token(made["token"].as_str().unwrap());
    second.get("/api-keys").await.expect(200);
    let listed = world.owner.get("/control-tokens").await.expect(200);
    assert!(!listed.text().contains(made["token"].as_str().unwrap()));
    let id = made["id"].as_str().unwrap();
    world
        .owner
        .delete(&format!("/control-tokens/{id}"))
        .await
        .expect(204);
    second
        .get("/api-keys")
        .await
        .refused(401, "unauthenticated");
}

#[tokio::test]
async fn there_is_one_first_owner() {
    let world = World::start("first").await;
    for member in ["account_id", "workspace_id", "control_token"] {
        assert!(world.bootstrap[member].is_string(), "{}", world.bootstrap);
    }
    assert!(world.bootstrap.get("set_password_url").is_some());
    let again = world
        .command(["bootstrap", "--email", "second@example.com"])
        .run()
        .await
        .unwrap();
    assert_eq!(again.code(), 1, "{}", again.stderr);
}

/// Waits until a proxy's report of the key's use has arrived.
async fn use_is_reported(world: &World, key: &Key) {
    eventually("the use is reported", Duration::from_secs(5), async || {
        let key = world.owner.get(&key.path("")).await.json();
        ensure!(key["last_used_at"].is_string(), "{key}");
        ensure!(key["secrets"][0]["last_used_at"].is_string(), "{key}");
        Ok(())
    })
    .await;
}

/// The types of a key's events, oldest first.
async fn history(world: &World, key: &Key) -> Vec<String> {
    let page = world
        .owner
        .get(&key.path("/history"))
        .await
        .expect(200)
        .json();
    let mut events: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["position"].as_u64().unwrap(),
                event["type"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    events.sort();
    events.into_iter().map(|(_, kind)| kind).collect()
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
