//! What the control plane says of its regions, it can prove: levels, purges, leadership,
//! and a region that goes back in time.

use std::time::Duration;

use anyhow::ensure;
use schemas::entry::SecretStatus;
use serde_json::{Value, json};
use tests::plane::command;
use tests::process::Signal;
use tests::proxy::{Verdict, verdict};
use tests::wait::eventually;
use tests::{Ask, Key, Plane, World};

const HEALED_WITHIN: Duration = Duration::from_secs(30);

fn inactive() -> Verdict {
    Verdict::Refused {
        status: 401,
        code: "inactive_key".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_hears_nobody_claims_nothing() {
    let world = World::builder("deaf").own_servers().start().await;
    for frozen in [false, true] {
        let key = world.owner.key(&format!("used, frozen: {frozen}")).await;
        world.all_admit(&key.secret).await;
        let nats = &world.regions[0].nats;
        if frozen {
            nats.freeze();
        } else {
            nats.kill().await;
        }
        let path = format!("/positions/{}", key.position);
        eventually("every proxy has fallen silent", HEALED_WITHIN, async || {
            let shown = world.owner.get(&path).await.check(200)?.json();
            ensure!(shown["regions"][0]["proxies"] == 0, "{shown}");
            Ok(())
        })
        .await;
        assert_eq!(
            verdict(world.proxy(), &key.secret).await.unwrap(),
            Verdict::Admitted
        );
        let reply = world
            .owner
            .patch(
                &key.path("?wait=applied&timeout_ms=300"),
                json!({ "category": "c" }),
            )
            .await
            .expect(202);
        assert_eq!(reply.json()["propagation"]["level"], "committed");
        world
            .owner
            .send(Ask::new(
                "POST",
                format!("/v1{}", key.path("/purge?timeout_ms=300")),
            ))
            .await
            .refused(409, "purge_unproven");
        if frozen {
            nats.thaw();
        } else {
            nats.restart().await;
        }
        eventually("it hears again", HEALED_WITHIN, async || {
            let path = key.path("?wait=applied&timeout_ms=1000");
            let body = json!({ "category": null });
            world.owner.patch(&path, body).await.check(200)?;
            Ok(())
        })
        .await;
        // The use is known now, and the key stays.
        let purge = Ask::new("POST", format!("/v1{}", key.path("/purge")));
        world
            .owner
            .send(purge)
            .await
            .refused(409, "key_has_history");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_of_the_key_that_was_proven() {
    let world = World::start("purge").await;
    let owner = &world.owner;
    let key = owner.key("kept").await;
    let purge = |query: &str| Ask::new("POST", format!("/v1{}", key.path(query)));
    owner
        .send(purge("/purge").header("if-match", "\"7\""))
        .await
        .refused(412, "precondition_failed");

    // A proxy that is silent but still counts holds the proof back; meanwhile the key is
    // switched on again.
    world.proxy().signal(Signal::STOP);
    let racing = async {
        eventually("the purge has switched it off", HEALED_WITHIN, async || {
            let shown = owner.get(&key.path("")).await.check(200)?.json();
            ensure!(shown["status"] == "inactive", "{shown}");
            Ok(())
        })
        .await;
        let reactivate = Ask::new("POST", format!("/v1{}", key.path("/reactivate")));
        owner.send(reactivate).await.expect(200);
        world.proxy().signal(Signal::CONT);
    };
    let (reply, ()) = tokio::join!(owner.send(purge("/purge")), racing);
    reply.refused(409, "purge_unproven");
    world.all_admit(&key.secret).await;

    let unused = owner.key("never used").await;
    let once =
        || Ask::new("POST", format!("/v1{}", unused.path("/purge"))).header("idempotency-key", "p");
    owner.send(once()).await.expect(204);
    let again = owner.send(once()).await.expect(204);
    assert_eq!(again.must("idempotent-replayed"), "true");
    owner.get(&unused.path("")).await.refused(404, "not_found");
    let history = owner.get(&unused.path("/history")).await.expect(200).json();
    let last = history["data"].as_array().unwrap().last().unwrap();
    assert_eq!(last["type"], "key.purged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_control_plane_takes_over_and_says_as_much() {
    let world = World::start("two-planes").await;
    let config = world.dir.join("control.toml").display().to_string();
    let data_dir = world.dir.join("control2-data").display().to_string();
    let program = command([
        "control-plane",
        "--config",
        &config,
        "--data-dir",
        &data_dir,
    ]);
    let second = Plane::start("control2", program, &world.dir, &["control"]).await;
    second.ready().await;
    let token = world.bootstrap["control_token"].as_str().unwrap();
    let there = tests::Control::new(std::sync::Arc::new(second), token);

    // It does not project, and still tells how far a change has travelled.
    let key = there.key("made at the second").await;
    world.all_admit(&key.secret).await;
    eventually("the second knows its regions", HEALED_WITHIN, async || {
        let reply = there
            .patch(
                &key.path("?wait=applied&timeout_ms=1000"),
                json!({ "category": "x" }),
            )
            .await;
        reply.check(200)?;
        Ok(())
    })
    .await;

    world.control_plane.kill().await;
    there.delete(&key.path("")).await.expect(204);
    world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
    let made = Key::of(
        there
            .post("/api-keys?wait=committed", json!({ "name": "after" }))
            .await
            .expect(201),
    );
    world
        .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_goes_back_under_a_running_projector_is_brought_forward() {
    let world = World::builder("back").own_servers().start().await;
    let region = &world.regions[0];
    let key = world.owner.key("to be revoked").await;
    world.all_admit(&key.secret).await;

    // What a fail-over to a lagging replica does: the same connection, an older state.
    let mut redis = region.redis.connect().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut redis)
        .await
        .unwrap();
    let mut back = redis::pipe();
    back.atomic().cmd("FLUSHDB").ignore();
    for name in &keys {
        let dump: Vec<u8> = redis::cmd("DUMP")
            .arg(name)
            .query_async(&mut redis)
            .await
            .unwrap();
        back.cmd("RESTORE").arg(name).arg(0).arg(dump).ignore();
    }
    world
        .owner
        .delete(&key.path("?wait=applied"))
        .await
        .expect(200);
    let () = back.query_async(&mut redis).await.unwrap();

    let id = key.id.as_str();
    eventually("the entry says revoked again", HEALED_WITHIN, async || {
        let stored = region.redis.region(&region.name).await?;
        let entry = stored
            .secrets
            .values()
            .find(|it| it.key_id.to_string() == id);
        let status = entry.map(|it| it.status);
        ensure!(status == Some(SecretStatus::Revoked), "{status:?}");
        Ok(())
    })
    .await;
    // A proxy that knows nothing but this region agrees.
    world.proxy().kill().await;
    world.proxy().restart().await;
    world.proxy().ready().await;
    world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_stays_away_does_not_hold_up_the_region() {
    let world = World::builder("long-deaf").own_servers().start().await;
    let region = &world.regions[0];
    let key = world.owner.key("renamed again and again").await;
    region.nats.kill().await;
    // More messages than a client of NATS keeps for later before it makes its caller wait.
    let mut position = 0;
    for round in 0..2_100_u32 {
        let body = json!({ "category": (round % 2 == 0).then_some("even") });
        position = world
            .owner
            .patch(&key.path(""), body)
            .await
            .expect(200)
            .position();
    }
    eventually("the region holds all of it", HEALED_WITHIN, async || {
        let held = region.redis.region(&region.name).await?.meta["position"].parse::<u64>()?;
        ensure!(held >= position, "{held} of {position}");
        Ok(())
    })
    .await;
    eventually("the proxy has read all of it", HEALED_WITHIN, async || {
        let held = world.proxy().table().await?["position"]
            .as_u64()
            .unwrap_or(0);
        ensure!(held >= position, "{held} of {position}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_verifies_while_it_is_written() {
    let world = World::start("verify").await;
    let key = world.owner.key("switched").await;
    let writing = async {
        for round in 0..120 {
            let action = if round % 2 == 0 {
                "deactivate"
            } else {
                "reactivate"
            };
            let ask = Ask::new("POST", format!("/v1{}", key.path(&format!("/{action}"))));
            world.owner.send(ask).await.expect(200);
        }
    };
    let verifying = async {
        for _ in 0..4 {
            let report = world.json(["audit", "verify"]).await;
            assert_eq!(report["ok"], true, "{report}");
        }
    };
    tokio::join!(writing, verifying);
}

#[tokio::test]
async fn a_narrowed_token_makes_narrowed_tokens() {
    let world = World::start("narrow").await;
    let owner = &world.owner;
    owner.get("/instance").await.expect(200);
    let all = owner.get("/me").await.expect(200).json()["permissions"].clone();
    let narrowed = owner
        .post(
            "/control-tokens",
            json!({ "name": "all there is", "scopes": all }),
        )
        .await
        .expect(201)
        .json();
    let narrowed = owner.with_token(narrowed["token"].as_str().unwrap());
    narrowed.get("/instance").await.refused(403, "forbidden");
    let child = narrowed
        .post("/control-tokens", json!({ "name": "child" }))
        .await
        .expect(201)
        .json();
    let child = owner.with_token(child["token"].as_str().unwrap());
    child.get("/instance").await.refused(403, "forbidden");
    child.get("/api-keys").await.expect(200);
}

#[tokio::test]
async fn a_url_leads_to_one_target() {
    let world = World::start("origins").await;
    let target = |name: &str, port: u16, extra: Value| {
        json!({
            "name": name, "host": "api.example.com", "scheme": "https", "port": port,
            "extra_ports": extra,
        })
    };
    let post = async |body: Value| world.owner.post("/targets", body).await;
    post(target("one", 443, json!([8_443]))).await.expect(201);
    post(target("two", 9_443, json!([443])))
        .await
        .refused(409, "name_taken");
    post(target("two", 8_443, json!([])))
        .await
        .refused(409, "name_taken");
    let two = post(target("two", 9_443, Value::Null))
        .await
        .expect(201)
        .json();
    let path = format!("/targets/{}", two["id"].as_str().unwrap());
    let onto_one = json!({ "extra_ports": [8_443] });
    world
        .owner
        .patch(&path, onto_one)
        .await
        .refused(409, "name_taken");
    world.owner.delete(&path).await.expect(204);
    post(target("three", 9_443, json!([]))).await.expect(201);
}
