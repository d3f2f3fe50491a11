//! Somebody has full access to a region's Redis and NATS, and none of its keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use schemas::name::{PROOF_HEADER, bucket_of, redis_key, subject};
use schemas::{Credential, CredentialHash, Environment};
use serde_json::{Value, json};
use tests::plane::command;
use tests::process::Signal;
use tests::proxy::{Verdict, check_verdict, verdict};
use tests::wait::{eventually, throughout};
use tests::{Plane, Traffic, World};

/// How long what somebody changed in Redis may stay so.
const REPAIRED_WITHIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(10);

/// Who writes to the region.
struct Attacker {
    region: String,
    redis: MultiplexedConnection,
    nats: Client,
}

impl Attacker {
    async fn of(world: &World) -> Self {
        let region = &world.regions[0];
        Self {
            region: region.name.clone(),
            redis: region.redis.connect().await.unwrap(),
            nats: async_nats::connect(region.nats.url()).await.unwrap(),
        }
    }

    async fn meta(&self) -> BTreeMap<String, String> {
        let mut redis = self.redis.clone();
        redis.hgetall(redis_key::meta(&self.region)).await.unwrap()
    }

    async fn epoch(&self) -> u64 {
        self.meta().await["epoch"].parse().unwrap()
    }

    async fn bucket(&self, hash: &CredentialHash) -> String {
        redis_key::bucket(&self.region, self.epoch().await, bucket_of(hash))
    }

    async fn entry(&self, hash: &CredentialHash) -> Option<String> {
        let bucket = self.bucket(hash).await;
        let mut redis = self.redis.clone();
        redis.hget(bucket, hash.to_string()).await.unwrap()
    }

    async fn put(&self, hash: &CredentialHash, entry: &str) {
        let bucket = self.bucket(hash).await;
        let mut redis = self.redis.clone();
        let field = hash.to_string();
        () = redis.hset(bucket, field, entry).await.unwrap();
    }

    /// A copy of everything, signatures and all.
    async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut redis = self.redis.clone();
        let keys: Vec<String> = redis
            .keys(format!("{{tp:{}:0}}:*", self.region))
            .await
            .unwrap();
        let mut copies = Vec::new();
        for key in keys {
            let dump = redis::cmd("DUMP").arg(&key).to_owned();
            copies.push((key, dump.query_async(&mut redis).await.unwrap()));
        }
        copies
    }

    /// Makes the region what it was.
    async fn restore(&self, copies: &[(String, Vec<u8>)]) {
        let mut redis = self.redis.clone();
        for (key, copy) in copies {
            let mut restore = redis::cmd("RESTORE");
            restore.arg(key).arg(0).arg(copy).arg("REPLACE");
            () = restore.query_async(&mut redis).await.unwrap();
        }
    }

    async fn publish(&self, subject: String, proof: &str, payload: &Value) {
        let mut headers = HeaderMap::new();
        headers.insert(PROOF_HEADER, proof);
        let payload = payload.to_string().into();
        self.nats
            .publish_with_headers(subject, headers, payload)
            .await
            .unwrap();
        self.nats.flush().await.unwrap();
    }

    /// The next message on a subject, with its proof.
    async fn overhear(&self, subject: String) -> Message {
        let mut messages = self.nats.subscribe(subject).await.unwrap();
        let next = tokio::time::timeout(SOON, messages.next()).await;
        next.unwrap().unwrap()
    }

    async fn repeat(&self, message: &Message) {
        let headers = message.headers.clone().unwrap_or_default();
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        self.nats
            .publish_with_headers(subject, headers, payload)
            .await
            .unwrap();
    }
}

fn hash(secret: &str) -> CredentialHash {
    CredentialHash::of(secret.as_bytes())
}

async fn metric(proxy: &Plane, name: &str) -> Result<u64> {
    let page = proxy.admin("/metrics").await?;
    let text = String::from_utf8(page.body.to_vec())?;
    let row = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(row.context("no such metric")?.trim().parse()?)
}

async fn never_admitted(proxies: &[Arc<Plane>], secret: &str, during: Duration) {
    throughout("the key is not admitted", during, async || {
        for proxy in proxies {
            let found = verdict(proxy, secret).await?;
            ensure!(found != Verdict::Admitted, "{} admits it", proxy.name());
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_entry_opens_nothing_and_is_removed() {
    let world = World::builder("forged").proxies(2).start().await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("good").await;
    world.all_admit(&key.secret).await;

    let forged = Credential::generate(Environment::Live, rand::random);
    let (forged, forged_hash) = (forged.reveal().to_owned(), forged.hash());
    let copy = attacker.entry(&hash(&key.secret)).await.unwrap();
    attacker.put(&forged_hash, &copy).await;
    // One that starts now, and one that runs.
    let proxies = world.proxies();
    proxies[1].kill().await;
    proxies[1].restart().await;
    proxies[1].ready().await;
    never_admitted(&proxies, &forged, Duration::from_secs(2)).await;
    world.all_admit(&key.secret).await;

    eventually("the forged entry is removed", REPAIRED_WITHIN, async || {
        ensure!(attacker.entry(&forged_hash).await.is_none());
        Ok(())
    })
    .await;
    never_admitted(&proxies, &forged, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_signed_entry_put_back_revives_nothing() {
    let world = World::builder("putback").proxies(2).start().await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("leaked").await;
    let key_hash = hash(&key.secret);
    world.all_admit(&key.secret).await;
    let active = attacker.entry(&key_hash).await.unwrap();
    world
        .owner
        .delete(&key.path("?wait=applied"))
        .await
        .expect(200);
    let revoked = attacker.entry(&key_hash).await.unwrap();

    attacker.put(&key_hash, &active).await;
    let proxies = world.proxies();
    proxies[1].kill().await;
    proxies[1].restart().await;
    never_admitted(&proxies, &key.secret, Duration::from_secs(2)).await;
    // What is missing is put back, and then the one that started is ready.
    proxies[1].ready().await;
    world.all_refuse(&key.secret, "inactive_key").await;
    eventually(
        "the entry is the newest again",
        REPAIRED_WITHIN,
        async || {
            ensure!(attacker.entry(&key_hash).await.as_ref() == Some(&revoked));
            Ok(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_whole_region_revives_nothing() {
    let world = World::builder("older").proxies(2).start().await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("leaked").await;
    world.all_admit(&key.secret).await;
    let copies = attacker.dump().await;
    world
        .owner
        .delete(&key.path("?wait=applied"))
        .await
        .expect(200);

    let proxies = world.proxies();
    proxies[1].kill().await;
    attacker.restore(&copies).await;
    proxies[1].restart().await;
    never_admitted(&proxies, &key.secret, Duration::from_secs(2)).await;
    proxies[1].ready().await;
    world.all_refuse(&key.secret, "inactive_key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_frames_and_heartbeats_hold_nobody_back() {
    let world = World::start("forgedmsg").await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("good").await;
    world.all_admit(&key.secret).await;
    let meta = attacker.meta().await;
    let number = |name: &str| meta[name].parse::<u64>().unwrap();
    let huge = 1_u64 << 50;
    let beat = json!({
        "lineage": meta["lineage"], "generation": number("generation"),
        "epoch": number("epoch"), "to": huge, "as_of_ms": huge, "root": "0".repeat(64),
    });
    let forged = Credential::generate(Environment::Live, rand::random);
    let entry = attacker.entry(&hash(&key.secret)).await.unwrap();
    let entry: Value = serde_json::from_str(&entry).unwrap();
    let frame = json!({
        "lineage": meta["lineage"], "generation": number("generation"),
        "epoch": number("epoch"), "from": 0, "to": huge, "as_of_ms": huge,
        "changes": [{ "hash": forged.hash(), "secret": entry }],
    });
    let recorded = attacker
        .overhear(subject::heartbeats(&attacker.region))
        .await;
    let proof = recorded.headers.as_ref().unwrap().get(PROOF_HEADER);
    let proof = proof.unwrap().as_str().to_owned();
    let forge = async || {
        for proof in ["", &"ab".repeat(64), &proof] {
            let (frames, beats) = (
                subject::frames(&attacker.region),
                subject::heartbeats(&attacker.region),
            );
            attacker.publish(frames, proof, &frame).await;
            attacker.publish(beats, proof, &beat).await;
        }
        attacker.repeat(&recorded).await;
    };

    let proxy = world.proxy();
    forge().await;
    eventually("the forged messages are counted", SOON, async || {
        for kind in ["frame", "heartbeat"] {
            let name = format!("throttleproxy_unverified_messages_total{{kind=\"{kind}\"}}");
            ensure!(metric(proxy, &name).await? >= 3, "{kind}");
        }
        Ok(())
    })
    .await;
    ensure_current(proxy, &key.secret).await;
    // One that starts while it goes on becomes ready.
    proxy.kill().await;
    proxy.restart().await;
    let flood = async {
        loop {
            forge().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = flood => unreachable!("it never ends"),
        () = proxy.ready() => {}
    }
    ensure_current(proxy, &key.secret).await;
    let new = world.owner.key("new").await;
    world.all_admit(&new.secret).await;
    let proxies = world.proxies();
    never_admitted(&proxies, forged.reveal(), Duration::from_millis(100)).await;
}

async fn ensure_current(proxy: &Plane, secret: &str) {
    eventually("the proxy is current", SOON, async || {
        let table = proxy.table().await?;
        ensure!(
            table["state"] == "follow" && table["ready"] == true,
            "{table}"
        );
        ensure!(table["position"].as_u64() < Some(1 << 40), "{table}");
        check_verdict(proxy, secret, &Verdict::Admitted).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_ack_confirms_nothing() {
    let world = World::builder("forgedack").proxies(2).start().await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("good").await;
    let proxy = &world.proxies()[1];
    let recorded = loop {
        let message = attacker.overhear(subject::renewals(&attacker.region)).await;
        let renewal: Value = serde_json::from_slice(&message.payload).unwrap();
        if renewal["proxy_id"] == proxy.name() {
            break message;
        }
    };
    let proof = recorded.headers.as_ref().unwrap().get(PROOF_HEADER);
    let proof = proof.unwrap().as_str().to_owned();

    proxy.signal(Signal::STOP);
    let forging = async {
        let mut renewal: Value = serde_json::from_slice(&recorded.payload).unwrap();
        let renewals = subject::renewals(&attacker.region);
        for counter in 1_000_u64.. {
            renewal["counter"] = counter.into();
            renewal["position"] = (1_u64 << 40).into();
            for proof in ["", &"ab".repeat(32), &proof] {
                attacker.publish(renewals.clone(), proof, &renewal).await;
            }
            attacker.repeat(&recorded).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let path = key.path("?wait=applied&timeout_ms=1000");
    let changing = world.owner.patch(&path, json!({ "name": "renamed" }));
    let reply = tokio::select! {
        () = forging => unreachable!("it never ends"),
        reply = changing => reply,
    };
    proxy.signal(Signal::CONT);
    let body = reply.expect(202).json();
    let propagation = &body["propagation"];
    assert_eq!(propagation["level"], "committed", "{propagation}");
    let missing = &propagation["regions"][0]["missing"];
    assert_eq!(*missing, json!([proxy.name()]), "{propagation}");

    // The truth still counts.
    let path = key.path("?wait=applied");
    let renamed = world.owner.patch(&path, json!({ "name": "again" })).await;
    renamed.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_answer_makes_nobody_ready() {
    let world = World::start("forgedanswer").await;
    let attacker = Attacker::of(&world).await;
    let key = world.owner.key("good").await;
    let proxy = world.proxy();
    let renewals = subject::renewals(&attacker.region);
    let mut heard = attacker.nats.subscribe(renewals).await.unwrap();
    let meta = attacker.meta().await;
    let nats = attacker.nats.clone();
    world.control_plane.kill().await;
    proxy.kill().await;
    let answering = tokio::spawn(async move {
        while let Some(message) = heard.next().await {
            let renewal: Value = serde_json::from_slice(&message.payload).unwrap();
            let answer = json!({
                "boot_id": renewal["boot_id"], "counter": renewal["counter"],
                "lineage": meta["lineage"], "generation": 1, "head": 0, "now_ms": 0,
            });
            let Some(inbox) = message.reply else { continue };
            let mut headers = HeaderMap::new();
            headers.insert(PROOF_HEADER, "ab".repeat(32));
            let payload = answer.to_string().into();
            nats.publish_with_headers(inbox, headers, payload)
                .await
                .unwrap();
        }
    });
    proxy.restart().await;
    eventually("a forged answer was heard", SOON, async || {
        let name = "throttleproxy_unverified_messages_total{kind=\"answer\"}";
        ensure!(metric(proxy, name).await? > 0);
        Ok(())
    })
    .await;
    throughout("it is not ready", Duration::from_secs(2), async || {
        let table = proxy.table().await?;
        ensure!(table["ready"] == false, "{table}");
        ensure!(verdict(proxy, &key.secret).await? != Verdict::Admitted);
        Ok(())
    })
    .await;
    answering.abort();
    world.control_plane.restart().await;
    proxy.ready().await;
    world.all_admit(&key.secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_edited_in_redis_is_put_right() {
    let world = World::start("edited").await;
    let attacker = Attacker::of(&world).await;
    let (edited, deleted) = (
        world.owner.key("edited").await,
        world.owner.key("deleted").await,
    );
    world.all_admit(&edited.secret).await;
    let region = &world.regions[0];
    let right = region.redis.region(&region.name).await.unwrap();
    let feed = redis_key::feed(&region.name, attacker.epoch().await);

    let mut redis = attacker.redis.clone();
    let entry = attacker.entry(&hash(&edited.secret)).await.unwrap();
    let edit = entry.replace("\"active\"", "\"revoked\"");
    assert_ne!(edit, entry);
    attacker.put(&hash(&edited.secret), &edit).await;
    let bucket = attacker.bucket(&hash(&deleted.secret)).await;
    let field = hash(&deleted.secret).to_string();
    () = redis.hdel(bucket, field).await.unwrap();
    let policies = redis_key::policies(&region.name, attacker.epoch().await);
    () = redis.hset(policies, "global:instance", "{}").await.unwrap();
    // A feed that seems to be further than the log will be for long.
    let items = [("frame", "{}")];
    () = redis
        .xadd(&feed, "4503599627370496-0", &items)
        .await
        .unwrap();
    let meta = redis_key::meta(&region.name);
    let wrong = [
        ("position", "4503599627370496"),
        ("fence", "4503599627370496"),
    ];
    () = redis.hset_multiple(&meta, &wrong).await.unwrap();

    eventually("the region is what it was", REPAIRED_WITHIN, async || {
        let now = region.redis.region(&region.name).await?;
        ensure!(now.secrets == right.secrets, "secrets");
        ensure!(now.policies == right.policies, "policies");
        for field in ["position", "fence"] {
            ensure!(now.meta[field].parse::<u64>()? < 1 << 40, "{field}");
        }
        Ok(())
    })
    .await;
    assert_eq!(attacker.entry(&hash(&edited.secret)).await, Some(entry));
    // It goes on from there, for the proxy that ran and for one that starts.
    let new = world.owner.key("new").await;
    world.all_admit(&new.secret).await;
    let proxy = world.proxy();
    proxy.kill().await;
    proxy.restart().await;
    proxy.ready().await;
    for key in [&edited, &deleted, &new] {
        world.all_admit(&key.secret).await;
    }
    let log = world.control_plane.log();
    assert!(log.contains("differs from the log"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_keys_change_without_a_gap() {
    let world = World::builder("rotation").proxies(2).start().await;
    let key = world.owner.key("good").await;
    world.all_admit(&key.secret).await;
    let region = &world.regions[0].name;
    let print_key = async || {
        let printed = world
            .command(["region", "key", region])
            .run()
            .await
            .unwrap();
        printed.success().trim().to_owned()
    };
    let old = print_key().await;
    let traffic = Traffic::start(
        &world.proxies(),
        &[("good", &key.secret)],
        Duration::from_millis(15),
    );

    // The new key, made where nobody signs with it yet.
    let file = world.dir.join(format!("{region}.signing_key"));
    let kept = world.dir.join("old_key");
    std::fs::rename(&file, &kept).unwrap();
    let new = print_key().await;
    let made = world.dir.join("new_key");
    std::fs::rename(&file, &made).unwrap();
    std::fs::rename(&kept, &file).unwrap();
    assert_ne!(old, new);

    trust_only(&world, &[&old, &new]).await;
    std::fs::rename(&made, &file).unwrap();
    world.control_plane.stop().await;
    world.control_plane.restart().await;
    world.control_plane.ready().await;
    eventually("the region is signed with the new key", SOON, async || {
        let path = key.path("?wait=applied&timeout_ms=1000");
        let name = json!({ "name": "renamed" });
        ensure!(world.owner.patch(&path, name).await.status == 200);
        Ok(())
    })
    .await;
    trust_only(&world, &[&new]).await;
    let made = world.owner.key("after").await;
    world.all_admit(&made.secret).await;

    traffic.stop().await.admitted("good", |_| false);
    for proxy in world.proxies() {
        let name = "throttleproxy_table_mismatch_total";
        assert_eq!(metric(&proxy, name).await.unwrap(), 0);
    }
}

/// Gives each proxy these keys, one proxy after the other.
async fn trust_only(world: &World, keys: &[&str]) {
    for proxy in world.proxies() {
        let path = world.dir.join(format!("{}.toml", proxy.name()));
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|it| it.starts_with("verify_keys"));
        let keys = format!("verify_keys = {keys:?}");
        std::fs::write(&path, text.replace(line.unwrap(), &keys)).unwrap();
        proxy.stop().await;
        proxy.restart().await;
        proxy.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_signed_by_somebody_else_is_refused_and_says_so() {
    let world = World::start("stranger").await;
    let proxy = world.proxy();
    let path = world.dir.join(format!("{}.toml", proxy.name()));
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|it| it.starts_with("verify_keys"));
    let other = format!("verify_keys = [\"{}\"]", "3d".repeat(32));
    std::fs::write(&path, text.replace(line.unwrap(), &other)).unwrap();
    proxy.stop().await;
    proxy.restart().await;
    eventually("it tells what is wrong", SOON, async || {
        ensure!(proxy.log().contains("data.verify_keys"));
        let name = "throttleproxy_unverified_messages_total{kind=\"meta\"}";
        ensure!(metric(proxy, name).await? > 0);
        Ok(())
    })
    .await;
    assert_eq!(proxy.table().await.unwrap()["ready"], false);
}

#[tokio::test]
async fn a_proxy_that_knows_no_key_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("proxy.toml");
    let region = "[[regions]]\nname = \"local\"\nredis_url = \"redis://127.0.0.1:1\"\n";
    std::fs::write(&config, region).unwrap();
    let refused = command(["data-plane", "--config", &config.display().to_string()])
        .args(["--data-dir", &dir.path().join("data").display().to_string()])
        .run()
        .await
        .unwrap();
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("data.verify_keys"), "{refused:?}");
    assert!(refused.stderr.contains("region key local"), "{refused:?}");
}
