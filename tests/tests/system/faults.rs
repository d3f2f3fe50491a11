//! One thing breaks at a time, under constant traffic: break, expect, restore, expect.
//!
//! What dies whole (a control plane, a proxy, a Redis, a NATS) is in `story`; here it is the
//! database, the network between two of them, and those that fall asleep and wake.

use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt as _;
use serde_json::json;
use tests::process::Signal;
use tests::proxy::{Verdict, check_verdict, verdict};
use tests::wait::{eventually, throughout};
use tests::world::ProxyLinks;
use tests::{Control, Key, World};

use crate::scene::{HEALED_WITHIN, Scene, inactive};

/// Long enough for every silence in the protocol to be noticed.
const SILENCE: Duration = Duration::from_secs(4);

async fn pair(name: &'static str) -> World {
    World::builder(name)
        .proxies(2)
        .own_servers()
        .links()
        .start()
        .await
}

/// Asserts that all proxies serve a key and call themselves ready, all the time.
async fn all_serve(world: &World, key: &Key, during: Duration) {
    throughout("every proxy serves", during, async || {
        for proxy in world.proxies() {
            check_verdict(&proxy, &key.secret, &Verdict::Admitted).await?;
            proxy.admin("/readyz").await?.check(200)?;
        }
        Ok(())
    })
    .await;
}

/// Asserts that the control plane says that it cannot do this now, rather than something else.
async fn is_unavailable(owner: &Control) {
    let reply = owner.post("/api-keys", json!({ "name": "never" })).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    let code = reply.json()["code"].clone();
    assert!(
        code == "unavailable" || code == "outcome_unknown",
        "{code} is not about the database"
    );
}

/// Makes a key as soon as the control plane can.
async fn can_make_keys(owner: &Control, name: &str) -> Key {
    eventually("keys can be made again", HEALED_WITHIN, async || {
        let body = json!({ "name": name });
        let reply = owner.post("/api-keys?wait=committed", body).await;
        reply.check(201).map(Key::of)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_dies_and_no_proxy_notices() {
    let world = World::builder("dbdead")
        .proxies(2)
        .own_servers()
        .own_database()
        .start()
        .await;
    let postgres = world.own_postgres.as_ref().expect("it was asked for");
    let scene = Scene::begin(&world).await;
    let key = world.owner.key("through it all").await;
    world.all_admit(&key.secret).await;

    postgres.kill().await;
    is_unavailable(&world.owner).await;
    world
        .control_plane
        .admin("/readyz")
        .await
        .unwrap()
        .expect(503);
    world
        .control_plane
        .admin("/healthz")
        .await
        .unwrap()
        .expect(200);
    all_serve(&world, &key, SILENCE).await;

    postgres.restart().await;
    let made = can_make_keys(&world.owner, "made after").await;
    world
        .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
        .await;
    world.owner.delete(&key.path("")).await.expect(204);
    world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_slow_makes_changes_slow_and_nothing_else() {
    let world = pair("dbslow").await;
    let link = world.database_link.as_ref().expect("it was asked for");
    let scene = Scene::begin(&world).await;
    let key = world.owner.key("switched off slowly").await;
    world.all_admit(&key.secret).await;

    link.slow(Duration::from_millis(100));
    world
        .owner
        .delete(&key.path("?wait=committed"))
        .await
        .expect(200);
    world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;

    link.open();
    let made = can_make_keys(&world.owner, "made after").await;
    world
        .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
        .await;
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_cut_from_the_database() {
    let world = pair("dbcut").await;
    let link = world.database_link.as_ref().expect("it was asked for");
    let scene = Scene::begin(&world).await;
    let key = world.owner.key("through it all").await;
    world.all_admit(&key.secret).await;

    // Once the connections are reset, once they stay and nothing comes.
    for round in 0..2 {
        match round {
            0 => link.cut(),
            _ => link.hold(),
        }
        let owner = world.owner.clone();
        let asked = tokio::spawn(async move { is_unavailable(&owner).await });
        all_serve(&world, &key, SILENCE).await;
        asked.await.unwrap();
        link.open();
        let made = can_make_keys(&world.owner, &format!("made after {round}")).await;
        world
            .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
            .await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_projector_wakes_after_its_successor_took_over() {
    let world = pair("woken").await;
    let scene = Scene::begin(&world).await;
    let other = world.another_control_plane("control-2").await;
    let token = world.bootstrap["control_token"].as_str().unwrap();
    let elsewhere = Control::new(other, token);
    for round in 0..3 {
        let before = world.owner.key(&format!("off meanwhile {round}")).await;
        world.all_admit(&before.secret).await;

        world.control_plane.signal(Signal::STOP);
        elsewhere
            .delete(&before.path("?wait=committed"))
            .await
            .expect(200);
        world
            .all_say(&before.secret, inactive(), HEALED_WITHIN)
            .await;
        let made = can_make_keys(&elsewhere, &format!("made meanwhile {round}")).await;
        world
            .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
            .await;

        // It wakes and believes that it leads: the region does not let it.
        world.control_plane.signal(Signal::CONT);
        throughout("what happened stays", SILENCE / 2, async || {
            for proxy in world.proxies() {
                check_verdict(&proxy, &before.secret, &inactive()).await?;
                check_verdict(&proxy, &made.secret, &Verdict::Admitted).await?;
            }
            Ok(())
        })
        .await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_cut_from_what_it_follows() {
    let world = pair("cutoff").await;
    let scene = Scene::begin(&world).await;
    let region = &world.regions[0];
    let (cut_off, links) = (&region.proxies[0], &region.links[0]);
    // What is cut, how it comes back, and whether the proxy can hear of a change meanwhile.
    type Way = fn(&ProxyLinks);
    let cases: [(&str, Way, Way, bool); 5] = [
        ("redis", |it| it.redis.cut(), |it| it.redis.open(), true),
        (
            "held redis",
            |it| it.redis.hold(),
            |it| it.redis.open(),
            true,
        ),
        ("nats", |it| it.nats.cut(), |it| it.nats.open(), true),
        ("held nats", |it| it.nats.hold(), |it| it.nats.open(), true),
        (
            "both",
            |it| [&it.redis, &it.nats].iter().for_each(|it| it.cut()),
            |it| [&it.redis, &it.nats].iter().for_each(|it| it.open()),
            false,
        ),
    ];
    for (name, break_it, restore, hears) in cases {
        let key = world.owner.key(&format!("off without {name}")).await;
        world.all_admit(&key.secret).await;
        break_it(links);
        world
            .owner
            .delete(&key.path("?wait=committed"))
            .await
            .expect(200);
        if hears {
            world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
        } else {
            // It says itself that nothing is heard, and serves what it last knew.
            eventually("it knows that it is cut off", HEALED_WITHIN, async || {
                let table = cut_off.table().await?;
                ensure!(table["state"] == "stale", "{table}");
                Ok(())
            })
            .await;
            let last_known = verdict(cut_off, &key.secret).await.unwrap();
            assert_eq!(last_known, Verdict::Admitted);
            cut_off.admin("/readyz").await.unwrap().expect(200);
        }
        restore(links);
        world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
        let made = world.owner.key(&format!("made after {name}")).await;
        world
            .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
            .await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_sleeps_through_a_revocation() {
    let world = pair("asleep").await;
    let scene = Scene::begin(&world).await;
    let sleeper = &world.regions[0].proxies[0];
    let others = &world.regions[0].proxies[1];
    for round in 0..2 {
        let key = world.owner.key(&format!("off while asleep {round}")).await;
        world.all_admit(&key.secret).await;
        sleeper.signal(Signal::STOP);
        // A proxy that does not renew is not waited for longer than it counts as live.
        world
            .owner
            .delete(&key.path("?wait=applied"))
            .await
            .expect(200);
        check_verdict(others, &key.secret, &inactive())
            .await
            .unwrap();
        sleeper.signal(Signal::CONT);
        world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_twice_late_and_in_any_order() {
    let world = pair("echoes").await;
    let scene = Scene::begin(&world).await;
    let region = &world.regions[0];
    let client = async_nats::connect(region.nats.url()).await.unwrap();
    let subject = schemas::name::subject::frames(&region.name);
    let mut frames = client.subscribe(subject.clone()).await.unwrap();
    client.flush().await.unwrap();
    // Whatever was ever carried is carried again after each new frame, newest first.
    let echoes = tokio::spawn(async move {
        let mut heard = std::collections::BTreeSet::new();
        let mut old = Vec::new();
        while let Some(frame) = frames.next().await {
            if heard.insert(frame.payload.clone()) {
                old.push(frame);
                for frame in old.iter().rev() {
                    let headers = frame.headers.clone().unwrap_or_default();
                    let echo = frame.payload.clone();
                    let sent = client
                        .publish_with_headers(subject.clone(), headers, echo)
                        .await;
                    sent.unwrap();
                }
            }
        }
    });
    for round in 0..10 {
        let key = world.owner.key(&format!("echoed {round}")).await;
        world.all_admit(&key.secret).await;
        for step in ["/deactivate", "/reactivate", "/deactivate"] {
            let path = key.path(&format!("{step}?wait=applied"));
            world.owner.post(&path, json!({})).await.expect(200);
        }
        world.all_say(&key.secret, inactive(), Duration::ZERO).await;
        world
            .owner
            .delete(&key.path("?wait=applied"))
            .await
            .expect(200);
        world.all_say(&key.secret, inactive(), Duration::ZERO).await;
    }
    echoes.abort();
    scene.end(&world, |_| true).await;
}
