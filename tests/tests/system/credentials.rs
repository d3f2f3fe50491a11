//! Upstream credentials: references over the API, values on the proxy's host.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::plane::{Plane, command};
use tests::proxy::{get, send};
use tests::wait::eventually;
use tests::{Ask, World};

const SECRET: &str = "upstream-s3cret-of-the-provider";

fn reference(name: &str, more: Value) -> Value {
    let mut body = json!({
        "name": name, "header": "Authorization", "format": "Bearer {secret}",
        "source": "file", "ref": "PROVIDER",
    });
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    body
}

fn workspace_id(world: &World) -> &str {
    world.bootstrap["workspace_id"].as_str().unwrap()
}

/// The file that a proxy reads the value of `PROVIDER` from.
fn value_file(world: &World) -> PathBuf {
    let data_dir = world.dir.join(format!("{}-data", world.proxy().name()));
    let dir = data_dir.join("credentials").join(workspace_id(world));
    fs::create_dir_all(&dir).unwrap();
    dir.join("PROVIDER")
}

#[tokio::test]
async fn a_reference_is_made_used_and_deleted() {
    let world = World::start("reference").await;
    let owner = &world.owner;
    let made = owner
        .post("/credentials", reference("provider", json!({})))
        .await;
    let made = made.expect(201);
    let shown = made.json();
    assert_eq!(made.must("etag"), format!("\"{}\"", shown["version"]));
    for (field, expected) in [
        ("name", "provider"),
        ("header", "authorization"),
        ("format", "Bearer {secret}"),
        ("source", "file"),
        ("ref", "PROVIDER"),
    ] {
        assert_eq!(shown[field], expected);
    }
    owner
        .post("/credentials", reference("Provider", json!({})))
        .await
        .refused(409, "name_taken");
    for (field, value) in [
        ("name", json!("a b")),
        ("header", json!("host")),
        ("header", json!("Transfer_Encoding")),
        ("header", json!("x-throttleproxy-target")),
        ("header", json!("x-forwarded-for")),
        ("format", json!("Bearer")),
        ("format", json!("{secret} {secret}")),
        ("format", json!("{secret}\r\nx: y")),
        ("source", json!("vault")),
        ("ref", json!("../secret")),
        ("ref", json!("a.b")),
        ("ref", Value::Null),
        ("value", json!(SECRET)),
    ] {
        let body = reference("another", json!({ field: value }));
        owner
            .post("/credentials", body)
            .await
            .refused_fields("validation", &[field]);
    }

    let target = owner
        .target(
            "named",
            world.upstream.port() ^ 1,
            json!({ "credential": "provider" }),
        )
        .await;
    assert_eq!(target["credential"], "provider");
    let listed = owner.get("/credentials").await.expect(200).json();
    assert_eq!(listed["data"][0]["targets"], 1, "{listed}");
    owner
        .delete("/credentials/provider")
        .await
        .refused(409, "in_use");
    let path = format!("/targets/{}", target["id"].as_str().unwrap());
    let freed = owner.patch(&path, json!({ "credential": null })).await;
    assert_eq!(freed.expect(200).json()["credential"], Value::Null);
    let stale = Ask::new("DELETE", "/v1/credentials/provider").header("if-match", "\"1\"");
    owner.send(stale).await.refused(412, "precondition_failed");
    owner.delete("/credentials/provider").await.expect(204);
    owner
        .delete("/credentials/provider")
        .await
        .refused(404, "not_found");
    owner
        .patch(&path, json!({ "credential": "provider" }))
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn a_value_is_given_exactly_and_changes_without_a_restart() {
    let world = World::start("value").await;
    let owner = &world.owner;
    owner
        .post("/credentials", reference("provider", json!({})))
        .await
        .expect(201);
    let echo = owner.get("/targets").await.expect(200).json();
    let echo = echo["data"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/targets/{echo}?wait=applied");
    let given = owner
        .patch(&path, json!({ "credential": "provider" }))
        .await;
    given.expect(200);
    let key = owner.key("any").await.secret;
    let proxy = world.proxy();

    // Without a value nothing goes, rather than without the credential.
    let reply = get(proxy, &key, "/t/echo/early").await;
    assert!(reply.header("retry-after").is_some());
    reply.refused(503, "stale");
    assert!(world.upstream.seen().is_empty());
    eventually("it is told", Duration::from_secs(2), async || {
        let log = proxy.log();
        let line = log.lines().find(|it| it.contains("has no value"));
        let line = line.ok_or_else(|| anyhow::anyhow!("no line yet"))?;
        anyhow::ensure!(line.contains("PROVIDER"), "{line}");
        Ok(())
    })
    .await;

    let comes_through = async |value: &str| {
        fs::write(value_file(&world), format!("{value}\n")).unwrap();
        eventually(value, Duration::from_secs(5), async || {
            let request = Ask::get("/t/echo/x")
                .header("x-api-key", key.clone())
                .header("authorization", "Bearer forged");
            send(proxy, request).await.check(200)?;
            let seen = world.upstream.last("/x");
            let values: Vec<_> = seen.headers.get_all("authorization").iter().collect();
            anyhow::ensure!(values == [&format!("Bearer {value}")], "{values:?}");
            Ok(())
        })
        .await;
    };
    comes_through(SECRET).await;
    comes_through("the-next-one").await;

    // Characters that would end the header are no value.
    fs::write(value_file(&world), "a\r\nx-evil: 1").unwrap();
    eventually("it is refused", Duration::from_secs(5), async || {
        get(proxy, &key, "/t/echo/x").await.check(503).map(drop)
    })
    .await;

    // The value was nowhere but in its file.
    fs::remove_file(value_file(&world)).unwrap();
    for (path, content) in world.files().unwrap() {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(SECRET), "{} holds it", path.display());
    }
}

/// A variable of a process cannot change, so a proxy is started that has it.
#[tokio::test]
async fn a_value_may_be_in_a_variable_with_the_workspace_in_its_name() {
    let world = World::start("variable").await;
    let owner = &world.owner;
    let body = json!({
        "source": "env", "ref": "PROVIDER_2026", "header": "x-api-key", "format": "{secret}",
    });
    owner
        .post("/credentials", reference("provider", body))
        .await
        .expect(201);
    let more = json!({ "credential": "provider", "host": "localhost" });
    owner.target("named", world.upstream.port(), more).await;
    let key = owner.key("any").await.secret;

    let config = world.dir.join(format!("{}.toml", world.proxy().name()));
    let data_dir = world.dir.join("second-data");
    let variable = format!(
        "THROTTLEPROXY_CREDENTIAL_{}_PROVIDER_2026",
        workspace_id(&world)
    );
    let program = command(["data-plane"])
        .args(["--config", &config.display().to_string()])
        .args(["--data-dir", &data_dir.display().to_string()])
        .env("THROTTLEPROXY__DATA__PROXY_ID", "second")
        .env(&variable, SECRET);
    let second = Plane::start("second", program, &world.dir, &["proxy", "admin"]).await;
    second.ready().await;
    eventually(
        "the second knows the key",
        Duration::from_secs(5),
        async || get(&second, &key, "/t/named/x").await.check(200).map(drop),
    )
    .await;
    let seen = world.upstream.last("/x");
    assert_eq!(seen.headers["x-api-key"], SECRET);
    // The first has no such variable.
    get(world.proxy(), &key, "/t/named/x")
        .await
        .refused(503, "stale");
}
