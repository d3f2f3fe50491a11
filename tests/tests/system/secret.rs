//! The secret of a key is in the answer that made it, and nowhere else.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::proxy::{get, send};
use tests::wait::eventually;
use tests::{Ask, Key, World};

/// Everything is said as loudly as an operator can ask for, every way a key can come in
/// is used, the wrong ones too; then all that was written anywhere is searched.
#[tokio::test]
async fn secrets_are_written_down_nowhere() {
    let world = World::builder("secret")
        .own_servers()
        .log_level("trace")
        .start()
        .await;
    let region = &world.regions[0];
    let overheard = region.nats.overhear().await;
    let owner = &world.owner;
    let proxy = world.proxy();

    let create = Ask::new("POST", "/v1/api-keys")
        .header("idempotency-key", "once")
        .json(&json!({ "name": "whispered", "limits": { "rpm": 1000 } }));
    let key = Key::of(owner.send(create.clone()).await.expect(201));
    owner.send(create).await.expect(201);
    let rotate = Ask::new("POST", format!("/v1{}", key.path("/rotate")))
        .header("idempotency-key", "twice")
        .json(&json!({ "overlap_seconds": 600 }));
    let rotated = Key::of(owner.send(rotate.clone()).await.expect(200));
    owner.send(rotate).await.expect(200);
    let secrets = [key.secret.clone(), rotated.secret.clone()];

    // What a person may do wrong with a secret on the control side.
    for secret in &secrets {
        owner
            .post("/api-keys", json!({ "name": secret }))
            .await
            .expect(422);
        owner
            .post("/api-keys", json!({ secret.as_str(): 1 }))
            .await
            .expect(422);
        owner.get(&format!("/api-keys?q={secret}")).await;
        owner.get(&format!("/api-keys/{secret}")).await.expect(404);
        owner
            .get(&format!("/api-keys?{secret}=1"))
            .await
            .expect(422);
        owner.with_token(secret).get("/api-keys").await.expect(401);
        let broken = Ask::new("POST", "/v1/api-keys")
            .header("content-type", "application/json")
            .header("idempotency-key", secret.as_str())
            .body(format!("{{\"name\": \"{secret}\""));
        owner.send(broken).await.expect(400);
    }
    // And on the proxy's.
    owner
        .patch(
            "/workspace?wait=applied",
            json!({ "allow_query_key": true }),
        )
        .await
        .expect(200);
    for secret in &secrets {
        get(proxy, secret, "/t/echo/header").await.expect(200);
        let bearer = Ask::get("/t/echo/bearer").header("authorization", format!("Bearer {secret}"));
        send(proxy, bearer).await.expect(200);
        send(proxy, Ask::get(format!("/t/echo/query?x_api_key={secret}")))
            .await
            .expect(200);
        get(proxy, secret, "/t/nowhere/").await.expect(404);
        get(proxy, secret, "/.throttleproxy/me").await.expect(200);
        send(
            proxy,
            Ask::get("/t/echo/x").header("x-throttleproxy-target", secret.as_str()),
        )
        .await;
        let both = Ask::get("/t/echo/")
            .header("x-api-key", &secrets[0])
            .header("authorization", format!("Bearer {}", secrets[1]));
        send(proxy, both).await.expect(400);
    }
    owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    get(proxy, &rotated.secret, "/t/echo/").await.expect(401);
    owner.delete(&key.path("?wait=applied")).await.expect(200);
    // Uses were reported, so everything that travels has travelled.
    eventually("the use is reported", Duration::from_secs(5), async || {
        let key = owner.get(&key.path("")).await.json();
        ensure!(key["last_used_at"].is_string(), "{key}");
        Ok(())
    })
    .await;
    let printed = [
        world
            .command(["replay", "--json"])
            .run()
            .await
            .unwrap()
            .success(),
        world
            .command(["region", "entry", &key.id, "--json"])
            .run()
            .await
            .unwrap()
            .success(),
        world
            .command(["config", "check"])
            .run()
            .await
            .unwrap()
            .success(),
    ];
    proxy.stop().await;
    world.control_plane.stop().await;

    let dump = world.database.dump().await;
    let redis = region.redis.everything().await.unwrap();
    let messages = overheard.messages();
    let mut places: Vec<(String, Vec<u8>)> = vec![
        ("the database".into(), dump.clone().into_bytes()),
        ("Redis".into(), redis.join("\n").into_bytes()),
        ("NATS".into(), messages.join("\n").into_bytes()),
        (
            "what commands printed".into(),
            printed.join("\n").into_bytes(),
        ),
    ];
    for (path, content) in world.files().unwrap() {
        places.push((path.display().to_string(), content));
    }
    for seen in world.upstream.seen() {
        places.push(("the upstream".into(), format!("{seen:?}").into_bytes()));
    }
    let token = world.bootstrap["control_token"].as_str().unwrap();
    for (place, content) in &places {
        for secret in &secrets {
            // Without the public prefix and the checksum, too.
            for part in [secret.as_str(), &secret[16..46]] {
                assert!(
                    !contains(content, part.as_bytes()),
                    "{place} holds a key's secret"
                );
            }
        }
        assert!(
            !contains(content, token.as_bytes()),
            "{place} holds the control token"
        );
    }

    // The search would have found it: what may be known of the key is in all of them.
    let hash = schemas::CredentialHash::of(key.secret.as_bytes()).to_string();
    assert!(
        dump.contains(&key.secret[..16]),
        "the dump is not of this log"
    );
    assert!(
        redis.iter().any(|it| it.contains(&hash)),
        "this is not the region's Redis"
    );
    assert!(
        messages.iter().any(|it| it.contains(&hash)),
        "this is not the region's NATS"
    );
    let is_log =
        |name: &str| name.ends_with(".log") && (name.contains("control") || name.contains("proxy"));
    let logs = places.iter().filter(|(name, _)| is_log(name));
    assert!(
        logs.filter(|(_, content)| content.len() > 1000).count() >= 2,
        "nothing was logged"
    );
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|it| it == part)
}
