//! Where keys may go: groups, restrictions of keys and teams, and what tells about them.

use std::time::Duration;

use serde_json::{Value, json};
use tests::proxy::{get, refused};
use tests::wait::eventually;
use tests::{Key, World};

struct Scene {
    world: World,
    one: String,
    two: String,
}

impl Scene {
    /// Targets `one` and `two`, which lead to the same upstream, and a group `payments`
    /// that nothing is in.
    async fn start(name: &'static str) -> Self {
        let world = World::start(name).await;
        let body = json!({ "name": "payments" });
        let made = world.owner.post("/access-groups?wait=applied", body).await;
        made.expect(201);
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            // Another name of the same host, since places are unique.
            let body = json!({ "host": format!("{name}.localhost") });
            let made = world.owner.target(name, world.upstream.port(), body).await;
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        let two = ids.pop().unwrap();
        let one = ids.pop().unwrap();
        Self { world, one, two }
    }

    async fn key(&self, name: &str, access: Value) -> Key {
        let body = json!({ "name": name, "access": access });
        self.world.owner.key_with(body).await
    }

    /// Whether the proxy lets a key go to a target.
    async fn may(&self, secret: &str, target: &str) -> bool {
        let reply = get(self.world.proxy(), secret, &format!("/t/{target}/x")).await;
        if reply.header("x-throttleproxy-error") == Some("target_not_allowed") {
            refused(reply, 403, "target_not_allowed", "Target not allowed");
            return false;
        }
        reply.expect(200);
        true
    }

    async fn check(&self, secret: &str, one: bool, two: bool) {
        let found = (self.may(secret, "one").await, self.may(secret, "two").await);
        assert_eq!(found, (one, two));
    }

    async fn label(&self, target: &str, groups: Value) {
        let path = format!("/targets/{target}?wait=applied");
        let labelled = self.world.owner.patch(&path, json!({ "groups": groups }));
        labelled.await.expect(200);
    }
}

#[tokio::test]
async fn a_group_gains_members_without_touching_keys() {
    let scene = Scene::start("groups").await;
    let access = json!({ "mode": "restrict", "groups": ["payments"] });
    let key = scene.key("by group", access).await;
    scene.check(&key.secret, false, false).await;
    scene.label(&scene.two, json!(["payments"])).await;
    scene.check(&key.secret, false, true).await;
    scene.label(&scene.one, json!(["payments"])).await;
    scene.check(&key.secret, true, true).await;
    scene.label(&scene.two, json!([])).await;
    scene.check(&key.secret, true, false).await;
    let history = scene.world.owner.get(&key.path("/history")).await;
    let history = history.expect(200).json();
    let kinds: Vec<_> = history["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].clone())
        .filter(|it| it != "key.first_used")
        .collect();
    assert_eq!(kinds, ["key.created"], "the key was not touched");
}

#[tokio::test]
async fn restrictions_only_narrow_and_a_rotation_keeps_them() {
    let scene = Scene::start("narrow").await;
    let owner = &scene.world.owner;
    let everywhere = scene.key("everywhere", Value::Null).await;
    assert_eq!(
        everywhere.body["access"],
        json!({ "mode": "inherit", "targets": [], "groups": [], "shadow": false })
    );
    scene.check(&everywhere.secret, true, true).await;
    let nowhere = scene.key("nowhere", json!({ "mode": "restrict" })).await;
    scene.check(&nowhere.secret, false, false).await;

    let only_one = json!({ "mode": "restrict", "targets": [scene.one] });
    let body = json!({ "name": "ours", "access": only_one });
    let team = owner.post("/teams?wait=applied", body).await.expect(201);
    let team = team.json();
    assert_eq!(team["access"]["mode"], "restrict");
    let of_team = |name: &str, access: Value| json!({ "name": name, "team_id": team["id"], "access": access });
    let inherits = owner.key_with(of_team("inherits", Value::Null)).await;
    scene.check(&inherits.secret, true, false).await;
    let both = json!({ "mode": "restrict", "targets": [scene.one, scene.two] });
    let wider = owner.key_with(of_team("wider", both)).await;
    scene.check(&wider.secret, true, false).await;
    let other = json!({ "mode": "restrict", "targets": [scene.two] });
    let disjoint = owner.key_with(of_team("disjoint", other)).await;
    scene.check(&disjoint.secret, false, false).await;

    for body in [
        json!({ "overlap_seconds": 60 }),
        json!({ "overlap_seconds": 0 }),
    ] {
        let path = disjoint.path("/rotate?wait=applied");
        let rotated = owner.post(&path, body).await.expect(200).json();
        assert_eq!(rotated["access"], disjoint.body["access"]);
        let secret = rotated["secret"].as_str().unwrap();
        scene.check(secret, false, false).await;
    }

    // The team opens up, and what a key restricts stays restricted.
    let path = format!("/teams/{}?wait=applied", team["id"].as_str().unwrap());
    let opened = owner.patch(&path, json!({ "access": null })).await;
    assert_eq!(opened.expect(200).json()["access"]["mode"], "inherit");
    scene.check(&inherits.secret, true, true).await;
    scene.check(&wider.secret, true, true).await;
}

#[tokio::test]
async fn a_patch_merges_and_what_means_nothing_is_refused() {
    let scene = Scene::start("patch").await;
    let owner = &scene.world.owner;
    let key = scene
        .key("k", json!({ "mode": "restrict", "targets": [scene.one] }))
        .await;
    let patch = async |access: Value| {
        let path = key.path("?wait=applied");
        owner.patch(&path, json!({ "access": access })).await
    };
    let shown = patch(json!({ "groups": ["payments"] })).await.expect(200);
    assert_eq!(
        shown.json()["access"],
        json!({
            "mode": "restrict", "targets": [scene.one], "groups": ["payments"], "shadow": false,
        })
    );
    patch(json!({ "targets": null })).await.expect(200);
    scene.check(&key.secret, false, false).await;
    let shown = patch(json!({ "mode": "inherit" })).await.expect(200);
    assert_eq!(shown.json()["access"]["groups"], json!([]));
    scene.check(&key.secret, true, true).await;

    patch(json!({ "mode": "inherit", "targets": [scene.one] }))
        .await
        .refused_fields("validation", &["access.targets"]);
    patch(json!({ "shadow": true }))
        .await
        .refused_fields("validation", &["access.shadow"]);
    patch(json!({ "mode": "deny", "targets": ["x"], "groups": 1, "extra": 1 }))
        .await
        .refused_fields(
            "validation",
            &[
                "access.mode",
                "access.targets",
                "access.groups",
                "access.extra",
            ],
        );
    let groups: Vec<_> = (0..33).map(|it| format!("g{it}")).collect();
    patch(json!({ "mode": "restrict", "groups": groups }))
        .await
        .refused_fields("validation", &["access.groups"]);
    let unknown = "tgt_01JD3ZK8Q6N4V6M2W0T5R7X9YB";
    patch(json!({ "mode": "restrict", "targets": [unknown] }))
        .await
        .refused(404, "not_found");
    patch(json!({ "mode": "restrict", "groups": ["nobody"] }))
        .await
        .refused(404, "not_found");

    // A target that is deleted leaves a name behind that lets nothing through.
    patch(json!({ "mode": "restrict", "targets": [scene.two] }))
        .await
        .expect(200);
    let path = format!("/targets/{}?wait=applied", scene.two);
    owner.delete(&path).await.expect(200);
    assert!(!scene.may(&key.secret, "one").await);
    patch(json!({ "groups": ["payments"] })).await.expect(200);
}

#[tokio::test]
async fn what_is_named_is_not_deleted() {
    let scene = Scene::start("in-use").await;
    let owner = &scene.world.owner;
    let delete = async || owner.delete("/access-groups/payments").await;
    let access = json!({ "mode": "restrict", "groups": ["payments"] });
    let key = scene.key("names it", access.clone()).await;
    delete().await.refused(409, "in_use");
    owner.delete(&key.path("")).await.expect(204);
    let body = json!({ "name": "names it", "access": access });
    let team = owner.post("/teams", body).await.expect(201).json();
    delete().await.refused(409, "in_use");
    let path = format!("/teams/{}", team["id"].as_str().unwrap());
    owner.delete(&path).await.expect(204);
    scene.label(&scene.one, json!(["payments"])).await;
    delete().await.refused(409, "in_use");
    scene.label(&scene.one, json!([])).await;
    delete().await.expect(204);
    delete().await.refused(404, "not_found");
    let body = json!({ "name": "Payments" });
    let made = owner.post("/access-groups", body.clone()).await.expect(201);
    assert_eq!(made.must("etag"), format!("\"{}\"", made.json()["version"]));
    owner
        .post("/access-groups", json!({ "name": "payments" }))
        .await
        .refused(409, "name_taken");
    owner
        .post("/access-groups", json!({ "name": "a/b" }))
        .await
        .refused_fields("validation", &["name"]);
    // The log alone says the same as the views.
    let compared = scene.world.json(["replay", "--json"]).await;
    assert!(compared["targets"].is_array(), "{compared}");
}

#[tokio::test]
async fn effective_access_says_what_and_why() {
    let scene = Scene::start("effective").await;
    let owner = &scene.world.owner;
    scene.label(&scene.two, json!(["payments"])).await;
    let both = json!({ "mode": "restrict", "targets": [scene.one], "groups": ["payments"] });
    let body = json!({ "name": "ours", "access": both });
    let team = owner.post("/teams", body).await.expect(201).json();
    let access = json!({ "mode": "restrict", "targets": [scene.one], "shadow": true });
    let body = json!({ "name": "k", "team_id": team["id"], "access": access });
    let key = owner.key_with(body).await;
    let shown = owner.get(&key.path("/effective-access")).await.expect(200);
    let shown = shown.json();
    assert_eq!(shown["key_id"], key.id);
    assert_eq!(shown["status"], "active");
    assert_eq!(shown["next_cursor"], Value::Null);
    let levels: Vec<_> = shown["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["level"].clone(), it["access"]["mode"].clone()))
        .collect();
    assert_eq!(
        json!(levels),
        json!([
            ["workspace", "inherit"],
            ["team", "restrict"],
            ["key", "restrict"]
        ])
    );
    let of = |name: &str| {
        let all = shown["targets"].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).unwrap().clone()
    };
    let check = |name: &str, allowed: bool, shadow_denied: bool, by: Value| {
        let it = of(name);
        assert_eq!(
            (&it["allowed"], &it["shadow_denied"]),
            (&json!(allowed), &json!(shadow_denied)),
            "{it}"
        );
        let reasons = it["reasons"].as_array().unwrap();
        let found: Vec<_> = reasons.iter().map(|it| it["by"].clone()).collect();
        assert_eq!(json!(found), by, "{it}");
    };
    check("one", true, false, json!(["inherit", "target", "target"]));
    check("two", true, true, json!(["inherit", "group", null]));
    check("echo", false, false, json!(["inherit", null, null]));
    assert_eq!(of("two")["reasons"][1]["name"], "payments");

    // And the proxy agrees.
    scene.check(&key.secret, true, true).await;
    assert!(!scene.may(&key.secret, "echo").await);

    // A list of keys shows those that may.
    let may_call = async |id: &str| {
        let listed = owner.get(&format!("/api-keys?target={id}")).await;
        let names: Vec<_> = listed.expect(200).json()["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].clone())
            .collect();
        json!(names)
    };
    let echo = of("echo")["id"].as_str().unwrap().to_owned();
    assert_eq!(may_call(&scene.two).await, json!(["k"]));
    assert_eq!(may_call(&echo).await, json!([]));

    let page = owner
        .get(&key.path("/effective-access?limit=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(page["targets"].as_array().unwrap().len(), 1);
    assert!(page["next_cursor"].is_string());
    owner
        .get(&key.path("/effective-access?x=1"))
        .await
        .refused_fields("validation", &["x"]);
}

#[tokio::test]
async fn shadow_shows_what_a_restriction_would_refuse() {
    let scene = Scene::start("shadow").await;
    let access = json!({ "mode": "restrict", "targets": [scene.one], "shadow": true });
    let key = scene.key("watched", access).await;
    scene.check(&key.secret, true, true).await;
    let proxy = scene.world.proxy();
    let page = proxy.admin("/metrics").await.unwrap().text();
    assert!(
        page.contains("throttleproxy_shadow_denied_requests_total 1\n"),
        "{page}"
    );
    eventually("it is logged", Duration::from_secs(2), async || {
        let log = proxy.log();
        let line = log.lines().find(|it| it.contains("in shadow would refuse"));
        let line = line.ok_or_else(|| anyhow::anyhow!("no line yet"))?;
        anyhow::ensure!(
            line.contains(&key.id) && line.contains(&scene.two),
            "{line}"
        );
        Ok(())
    })
    .await;
    // In force, it refuses just that.
    let body = json!({ "access": { "shadow": false } });
    let path = key.path("?wait=applied");
    scene.world.owner.patch(&path, body).await.expect(200);
    scene.check(&key.secret, true, false).await;
}
