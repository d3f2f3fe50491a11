//! Targets over the API: which hosts may be one, and wildcards through the proxy.

use serde_json::{Value, json};
use tests::proxy::{get, refused, send};
use tests::{Ask, Dns, World};

#[tokio::test]
async fn hosts_that_may_not_be_targets_are_told_apart_from_mistakes() {
    let world = World::start("hosts").await;
    let create = async |host: &str| {
        let body = json!({ "name": "bad", "host": host, "allow_private": false });
        world.owner.post("/targets", body).await
    };
    for host in [
        "*",
        "*.*",
        "*.com",
        "*.co.uk",
        "*.github.io",
        "github.io",
        "co.uk",
        "com",
        "S3.amazonaws.com",
        "*.compute.amazonaws.com",
        "localhost",
        "api.localhost",
        "intranet",
        "db.internal",
        "printer.local",
        "x.home.arpa",
        "x.onion",
        "8.8.8.8",
        "[2606:4700::1111]",
        "１２７.0.0.1",
    ] {
        create(host)
            .await
            .refused_fields("host_not_allowed", &["host"]);
    }
    for host in [
        "*example.com",
        "a.*.com",
        "*.*.example.com",
        "user@api.example.com",
        "api.example.com:443",
        "api..example.com",
        "xn--a.example.com",
        "::1",
    ] {
        create(host).await.refused_fields("validation", &["host"]);
    }
}

#[tokio::test]
async fn a_host_has_one_spelling() {
    let world = World::start("spelling").await;
    let create = async |name: &str, host: &str| {
        let body = json!({ "name": name, "host": host, "allow_private": false });
        world.owner.post("/targets", body).await
    };
    let shown = create("a", "BÜCHER.Example.").await.expect(201).json();
    assert_eq!(shown["host"], "xn--bcher-kva.example");
    create("b", "xn--bcher-kva.example")
        .await
        .refused(409, "name_taken");
    let shown = create("c", "*.EXAMPLE.com").await.expect(201).json();
    assert_eq!(shown["host"], "*.example.com");
    create("d", "*.example.com.")
        .await
        .refused(409, "name_taken");
    // An exact host beside the wildcard that covers it is no conflict.
    create("e", "api.example.com").await.expect(201);
}

#[tokio::test]
async fn a_wildcard_covers_one_label_and_is_reached_by_url_only() {
    let dns = Dns::start().await;
    let world = World::builder("wildcard")
        .dns_server(dns.address())
        .start()
        .await;
    let key = world.owner.key("any").await.secret;
    let port = world.upstream.port();
    for host in ["one.example.com", "two.example.com", "api.example.com"] {
        dns.say(host, 60, &[&["127.0.0.1"]]);
    }
    let create = async |name: &str, host: &str, base_path: &str| {
        let body = json!({
            "name": name, "host": host, "scheme": "http", "port": port, "base_path": base_path,
        });
        let reply = world.owner.post("/targets?wait=applied", body).await;
        reply.expect(201).json()
    };
    create("all", "*.example.com", "").await;
    create("api", "api.example.com", "/v1").await;
    let ask = async |host: &str, path: &str| {
        let request = Ask::get(path)
            .header("x-api-key", key.clone())
            .header("x-throttleproxy-target", format!("http://{host}:{port}"));
        send(world.proxy(), request).await
    };
    for host in ["one.example.com", "TWO.example.com"] {
        ask(host, "/x").await.expect(200);
        let seen = world.upstream.last("/x");
        let expected = format!("{}:{port}", host.to_lowercase());
        assert_eq!(seen.headers["host"], expected);
    }
    for host in [
        "example.com",
        "a.one.example.com",
        "example.org",
        "one.example.com.evil.org",
    ] {
        let reply = ask(host, "/x").await;
        refused(reply, 403, "target_not_allowed", "Target not allowed");
    }
    // The host's own target decides alone, also where it refuses.
    ask("api.example.com", "/v1/x").await.expect(200);
    let reply = ask("api.example.com", "/v2").await;
    refused(reply, 403, "target_not_allowed", "Target not allowed");
    get(world.proxy(), &key, "/t/all/x")
        .await
        .refused(400, "bad_target");
    get(world.proxy(), &key, "/t/api/x").await.expect(200);
}

#[tokio::test]
async fn groups_and_credential_of_a_target_exist() {
    let world = World::start("labels").await;
    let owner = &world.owner;
    let create = async |more: Value| {
        let mut body = json!({ "name": "t", "host": "api.example.com", "allow_private": false });
        let members = body.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        owner.post("/targets", body).await
    };
    create(json!({ "groups": ["nobody"] }))
        .await
        .refused(404, "not_found");
    create(json!({ "credential": "nobody" }))
        .await
        .refused(404, "not_found");
    create(json!({ "groups": "a", "credential": 1 }))
        .await
        .refused_fields("validation", &["groups", "credential"]);
    for name in ["payments", "email"] {
        let body = json!({ "name": name });
        owner.post("/access-groups", body).await.expect(201);
    }
    let reply = create(json!({ "groups": ["payments", "email", "payments"] })).await;
    let shown = reply.expect(201).json();
    assert_eq!(shown["groups"], json!(["email", "payments"]));
    assert_eq!(shown["credential"], Value::Null);
    let path = format!("/targets/{}", shown["id"].as_str().unwrap());
    let patched = owner.patch(&path, json!({ "groups": null })).await;
    assert_eq!(patched.expect(200).json()["groups"], json!([]));
    let listed = owner.get("/access-groups").await.expect(200).json();
    let names: Vec<_> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].clone(), it["targets"].clone()))
        .collect();
    assert_eq!(
        json!(names),
        json!([["email", 0], ["payments", 0]]),
        "{listed}"
    );
}
