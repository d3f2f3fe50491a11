//! The secret of a key is in the answer that made it, and nowhere else.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::person::Authenticator;
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

/// A person is in the rows of their account and in the mail to them; what they prove
/// themselves with is not even there.
#[tokio::test]
async fn people_are_written_down_in_their_own_rows_only() {
    let world = World::builder("people")
        .own_servers()
        .smtp()
        .log_level("trace")
        .start()
        .await;
    let overheard = world.regions[0].nats.overhear().await;
    let people = world.people();
    let jane = people.verified("jane.canary@example.com").await;
    let link = people.mail_to(&jane.email, 0).await.token();
    let session = jane.log_in().await;
    let reply = jane.try_log_in().await.expect(201).json();
    let session_token = reply["token"].as_str().unwrap().to_owned();
    let made = json!({ "name": "Somewhere" });
    session.post("/workspaces", made).await.expect(201);
    let factor = session.post("/me/totp", json!({})).await.expect(201).json();
    let totp_secret = factor["secret"].as_str().unwrap().to_owned();
    let body = json!({ "code": Authenticator::new(&totp_secret).code(0) });
    session.post("/me/totp", body).await.expect(200);
    session
        .post("/control-tokens", json!({ "name": "ci" }))
        .await
        .expect(201);

    // What people and programs do wrong with all that.
    let wrong = "not the password of jane";
    jane.with_password(wrong).try_log_in().await.expect(401);
    jane.post("/v1/sessions", json!({ jane.password.as_str(): 1 }))
        .await
        .expect(422);
    jane.post(
        "/v1/accounts",
        json!({ "email": jane.email, "password": 7 }),
    )
    .await
    .expect(422);
    jane.verify(&link).await.expect(422);
    jane.reset(&link, wrong).await.expect(422);
    jane.forgot().await.expect(200);
    let reset = people.mail_to(&jane.email, 1).await.token();
    let asks = [
        Ask::get(format!("/v1/me?email={}", jane.email)),
        Ask::get(format!("/v1/accounts/verify?token={reset}")),
        Ask::get(format!("/v1/sessions/oidc/x/callback?code={session_token}")),
        Ask::get(format!("/v1/sessions/{session_token}")),
        Ask::get("/v1/me").header("cookie", format!("throttleproxy_session={session_token}")),
        Ask::post("/v1/sessions", format!("{{\"password\": \"{wrong}\"")),
    ];
    for ask in asks {
        let reply = session.send(ask).await;
        assert!(reply.status >= 400 || reply.status == 200, "{reply:?}");
    }
    let named = json!({ "name": format!("key of {}", jane.email) });
    session
        .post("/api-keys", named)
        .await
        .refused(422, "name_looks_like_secret");
    world
        .command(["account", "suspend", "--email", &jane.email])
        .run()
        .await
        .unwrap()
        .success();
    let replayed = world.command(["replay"]).run().await.unwrap().success();
    world.proxy().stop().await;
    world.control_plane.stop().await;

    let dump = world.database.dump().await;
    let events = "SELECT string_agg(convert_from(canonical, 'UTF8'), ' ') FROM events";
    let redis = world.regions[0].redis.everything().await.unwrap();
    let mut places: Vec<(String, Vec<u8>)> = vec![
        (
            "the log".into(),
            world.database.query(events).await.into_bytes(),
        ),
        ("Redis".into(), redis.join("\n").into_bytes()),
        ("NATS".into(), overheard.messages().join("\n").into_bytes()),
        ("a replay".into(), replayed.into_bytes()),
    ];
    // The mail server's own files are the mailbox that people read.
    let is_ours = |path: &std::path::Path| !path.display().to_string().contains("/smtp-");
    for (path, content) in world.files().unwrap() {
        if is_ours(&path) {
            places.push((path.display().to_string(), content));
        }
    }
    let hash = world
        .database
        .query("SELECT password_hash FROM accounts WHERE name <> ''")
        .await;
    let proofs = [jane.password.as_str(), wrong, &session_token, &link, &reset];
    for (place, content) in &places {
        let named = [
            jane.email.as_str(),
            "jane.canary",
            &jane.name,
            hash.trim(),
            &totp_secret,
        ];
        for part in named.into_iter().chain(proofs) {
            assert!(!contains(content, part.as_bytes()), "{place} holds {part}");
        }
    }
    for proof in proofs {
        assert!(!dump.contains(proof), "the database holds {proof}");
    }
    // The search would have found it.
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    assert!(dump.contains("jane.canary@example.com"));
    let is_loud = |(name, content): &&(String, Vec<u8>)| {
        name.ends_with(".log") && name.contains("control") && content.len() > 10_000
    };
    assert!(places.iter().any(|it| is_loud(&it)), "nothing was logged");
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|it| it == part)
}
