//! The harness itself: servers start, die, come back, and end with the binary.

use std::time::Duration;

use anyhow::ensure;
use redis::AsyncCommands;
use tests::process::Program;
use tests::server::nats::Nats;
use tests::server::redis::{Data, Redis};
use tests::wait::eventually;
use tests::world::{binary_dir, shared_servers};

#[tokio::test]
async fn databases_are_apart() {
    let (postgres, _, _) = shared_servers().await;
    let one = postgres.create("apart_one").await;
    let two = postgres.create("apart_two").await;
    one.query("CREATE TABLE facts (fact text); INSERT INTO facts VALUES ('here')")
        .await;
    assert_eq!(one.query("SELECT fact FROM facts").await.trim(), "here");
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'facts'";
    assert_eq!(two.query(tables).await.trim(), "0");
    assert!(one.dump().await.contains("here"));
}

#[tokio::test]
async fn a_killed_redis_comes_back_with_as_much_as_was_asked_for() {
    let redis = Redis::start(&binary_dir(), "fate").await;
    for (data, expected) in [
        (Data::Whole, Some("new")),
        (Data::Older, Some("old")),
        (Data::Gone, None),
    ] {
        let mut connection = redis.connect().await.unwrap();
        () = connection.set("fact", "old").await.unwrap();
        redis.save().await;
        () = connection.set("fact", "new").await.unwrap();
        redis.kill(data).await;
        assert!(redis.connect().await.is_err());
        redis.restart().await;
        let found: Option<String> = redis.connect().await.unwrap().get("fact").await.unwrap();
        assert_eq!(found.as_deref(), expected, "{data:?}");
    }
    assert_eq!(redis.everything().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_nats_comes_back_on_its_port() {
    let nats = Nats::start(&binary_dir(), "fate").await;
    let url = nats.url();
    nats.kill().await;
    assert!(async_nats::connect(&url).await.is_err());
    nats.restart().await;
    let overheard = nats.overhear().await;
    let client = async_nats::connect(&url).await.unwrap();
    client
        .publish("some.subject", "a word".into())
        .await
        .unwrap();
    eventually("the word is heard", Duration::from_secs(5), async || {
        let messages = overheard.messages();
        ensure!(
            messages.iter().any(|it| it.contains("a word")),
            "{messages:?}"
        );
        Ok(())
    })
    .await;
}

/// A child must end with its parent however the parent ends. The kernel does it, at the
/// word of `setpriv`; here a shell stands for the test binary.
#[tokio::test]
async fn a_child_ends_with_its_parent() {
    let script = "setpriv --pdeathsig KILL -- sleep 600 >/dev/null 2>&1 & \
                  until grep -q sleep /proc/$!/comm; do :; done; echo $!; kill -9 $$";
    let output = Program::new("/bin/bash")
        .args(["-c", script])
        .run()
        .await
        .unwrap();
    let child = output.stdout.trim().to_owned();
    assert!(!child.is_empty(), "{output:?}");
    eventually("the child is gone", Duration::from_secs(5), async || {
        let state = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let gone = state.is_empty() || state.contains("State:\tZ");
        ensure!(gone, "{state}");
        Ok(())
    })
    .await;
}
