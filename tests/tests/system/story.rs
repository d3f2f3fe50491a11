//! The product's one story, on two regions with two proxies each, with everything
//! breaking on the way.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::process::Signal;
use tests::proxy::{Verdict, verdict};
use tests::server::redis::Data;
use tests::wait::{eventually, throughout};
use tests::{Ask, Key, Traffic, World};
use tokio::time::Instant;

use crate::scene::{HEALED_WITHIN, PAUSE, Scene, all_tell_the_same, inactive};

async fn two_by_two(name: &'static str) -> World {
    World::builder(name)
        .regions(2)
        .proxies(2)
        .own_servers()
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lives_and_every_proxy_obeys() {
    let world = two_by_two("life").await;
    let owner = &world.owner;

    let key = Key::of(
        owner
            .post("/api-keys?wait=committed", json!({ "name": "main" }))
            .await
            .expect(201),
    );
    world.all_admit(&key.secret).await;
    the_upstream_sees_only_what_it_should(&world, &key).await;

    owner
        .patch(
            &key.path("?wait=applied"),
            json!({ "limits": { "rpm": 2 } }),
        )
        .await
        .expect(200);
    for proxy in world.proxies() {
        let limited = Verdict::Refused {
            status: 429,
            code: "rate_limited".into(),
        };
        let found = [(); 3].map(|()| verdict(&proxy, &key.secret));
        let found = futures_util::future::try_join_all(found).await.unwrap();
        assert_eq!(
            found.last(),
            Some(&limited),
            "{} does not enforce",
            proxy.name()
        );
    }
    owner
        .patch(&key.path("?wait=applied"), json!({ "limits": null }))
        .await
        .expect(200);
    world.all_admit(&key.secret).await;

    let bystander = owner.key("bystander").await;
    world.all_admit(&bystander.secret).await;
    let traffic = Traffic::start(
        &world.proxies(),
        &[("main", &key.secret), ("bystander", &bystander.secret)],
        PAUSE,
    );
    let since = Instant::now();
    owner
        .post(&key.path("/deactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    // Applied means all of them, now.
    world.all_say(&key.secret, inactive(), Duration::ZERO).await;
    throughout(
        "the key stays refused",
        Duration::from_secs(2),
        async || {
            for proxy in world.proxies() {
                tests::proxy::check_verdict(&proxy, &key.secret, &inactive()).await?;
            }
            Ok(())
        },
    )
    .await;
    let record = traffic.stop().await;
    record.refused_for_good("main", since);
    record.admitted("bystander", |_| true);
    assert!(
        record.count("bystander") > 200,
        "{} is no traffic",
        record.count("bystander")
    );

    owner
        .post(&key.path("/reactivate?wait=applied"), json!({}))
        .await
        .expect(200);
    world
        .all_say(&key.secret, Verdict::Admitted, Duration::ZERO)
        .await;

    let new = Key::of(
        owner
            .post(
                &key.path("/rotate?wait=applied"),
                json!({ "overlap_seconds": 4 }),
            )
            .await
            .expect(200),
    );
    world
        .all_say(&key.secret, Verdict::Admitted, Duration::ZERO)
        .await;
    world
        .all_say(&new.secret, Verdict::Admitted, Duration::ZERO)
        .await;
    world
        .all_say(&key.secret, inactive(), Duration::from_secs(8))
        .await;
    world
        .all_say(&new.secret, Verdict::Admitted, Duration::ZERO)
        .await;

    let traffic = Traffic::start(&world.proxies(), &[("main", &new.secret)], PAUSE);
    let since = Instant::now();
    owner.delete(&key.path("?wait=applied")).await.expect(200);
    world.all_say(&new.secret, inactive(), Duration::ZERO).await;
    owner
        .post(&key.path("/reactivate"), json!({}))
        .await
        .refused(409, "key_revoked");
    world.all_say(&new.secret, inactive(), Duration::ZERO).await;
    traffic.stop().await.refused_for_good("main", since);

    all_tell_the_same(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_dies_between_commit_and_projection() {
    let world = two_by_two("commit").await;
    let scene = Scene::begin(&world).await;

    // Killed as soon as it has answered: sometimes before the projection, sometimes in
    // the middle of it, sometimes after.
    for round in 0..8_u64 {
        let key = world.owner.key(&format!("victim {round}")).await;
        world.all_admit(&key.secret).await;
        world.owner.delete(&key.path("")).await.expect(204);
        tokio::time::sleep(Duration::from_micros(round * round * 400)).await;
        world.control_plane.kill().await;
        world.control_plane.restart().await;
        world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;
    }

    // And certainly before it: no region can take anything in when the commit happens.
    let key = world.owner.key("certain victim").await;
    world.all_admit(&key.secret).await;
    for region in &world.regions {
        region.redis.kill(Data::Whole).await;
    }
    world
        .owner
        .delete(&key.path("?wait=committed"))
        .await
        .expect(200);
    world.control_plane.kill().await;
    for region in &world.regions {
        region.redis.restart().await;
    }
    for proxy in world.proxies() {
        assert_eq!(
            verdict(&proxy, &key.secret).await.unwrap(),
            Verdict::Admitted
        );
    }
    world.control_plane.restart().await;
    world.all_say(&key.secret, inactive(), HEALED_WITHIN).await;

    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_dies_and_comes_back() {
    let world = two_by_two("proxy").await;
    let scene = Scene::begin(&world).await;
    for round in 0..3 {
        let victim = &world.proxies()[round];
        let key = world
            .owner
            .key(&format!("switched off meanwhile {round}"))
            .await;
        world.all_admit(&key.secret).await;
        victim.kill().await;
        world.owner.delete(&key.path("")).await.expect(204);
        let made = world.owner.key(&format!("made meanwhile {round}")).await;
        victim.restart().await;
        // From its very first answer on.
        let reborn = verdict(victim, &key.secret).await.unwrap();
        assert_ne!(
            reborn,
            Verdict::Admitted,
            "{} starts with an old table",
            victim.name()
        );
        victim.ready().await;
        world
            .all_say(&key.secret, inactive(), Duration::from_secs(5))
            .await;
        world
            .all_say(&made.secret, Verdict::Admitted, Duration::from_secs(5))
            .await;
    }
    // The last proxy was never touched.
    let untouched = world.proxies()[3].name().to_owned();
    scene.end(&world, move |proxy| proxy == untouched).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_dies_with_all_some_or_none_of_its_data() {
    let world = two_by_two("redis").await;
    let scene = Scene::begin(&world).await;
    let region = &world.regions[0];
    for (round, data) in [Data::Whole, Data::Older, Data::Gone, Data::Gone]
        .into_iter()
        .enumerate()
    {
        let before = world.owner.key(&format!("off before {round}")).await;
        let during = world.owner.key(&format!("off during {round}")).await;
        world.all_admit(&before.secret).await;
        world.all_admit(&during.secret).await;
        region.redis.save().await;
        // An older copy does not know of this one.
        world
            .owner
            .delete(&before.path("?wait=applied"))
            .await
            .expect(200);
        region.redis.kill(data).await;

        let reply = world
            .owner
            .delete(&during.path("?wait=committed"))
            .await
            .expect(200);
        let made = Key::of(
            world
                .owner
                .post(
                    "/api-keys?wait=committed",
                    json!({ "name": format!("made during {round}") }),
                )
                .await
                .expect(201),
        );
        // The other region does not wait for this one.
        let position = reply.position().max(made.position);
        other_region_applies(&world, position).await;
        for proxy in &world.regions[1].proxies {
            assert_eq!(verdict(proxy, &during.secret).await.unwrap(), inactive());
            assert_eq!(
                verdict(proxy, &made.secret).await.unwrap(),
                Verdict::Admitted
            );
        }
        for proxy in &region.proxies {
            // What it knows it keeps; what it does not know it cannot judge.
            assert_eq!(verdict(proxy, &before.secret).await.unwrap(), inactive());
            eventually(
                "a proxy without its region does not judge strangers",
                Duration::from_secs(5),
                async || {
                    let unknown = verdict(proxy, &made.secret).await?;
                    ensure!(!unknown.is_key_refused(), "{unknown}");
                    Ok(())
                },
            )
            .await;
        }
        region.redis.restart().await;
        world
            .all_say(&during.secret, inactive(), HEALED_WITHIN)
            .await;
        world
            .all_say(&before.secret, inactive(), HEALED_WITHIN)
            .await;
        world
            .all_say(&made.secret, Verdict::Admitted, HEALED_WITHIN)
            .await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_dies_and_nobody_is_deaf() {
    let world = two_by_two("nats").await;
    let scene = Scene::begin(&world).await;
    let region = &world.regions[0];
    for round in 0..2 {
        let key = world
            .owner
            .key(&format!("off without a bell {round}"))
            .await;
        world.all_admit(&key.secret).await;
        // Once it dies, once it falls silent with its connections open.
        match round {
            0 => region.nats.kill().await,
            _ => region.nats.freeze(),
        }
        world.owner.delete(&key.path("")).await.expect(204);
        let made = Key::of(
            world
                .owner
                .post(
                    "/api-keys?wait=committed",
                    json!({ "name": format!("made without a bell {round}") }),
                )
                .await
                .expect(201),
        );
        // The poll finds it, a second later.
        world
            .all_say(&key.secret, inactive(), Duration::from_secs(5))
            .await;
        world
            .all_say(&made.secret, Verdict::Admitted, Duration::from_secs(5))
            .await;
        match round {
            0 => region.nats.restart().await,
            _ => region.nats.thaw(),
        }
        let after = world
            .owner
            .key(&format!("made with a bell again {round}"))
            .await;
        world
            .all_say(&after.secret, Verdict::Admitted, HEALED_WITHIN)
            .await;
    }
    scene.end(&world, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_falls_silent_and_proxies_go_on() {
    let world = two_by_two("freeze").await;
    let key = world.owner.key("independent").await;
    world.all_admit(&key.secret).await;
    // Frozen, the control plane says nothing at all: no heartbeat, no answer.
    world.control_plane.signal(Signal::STOP);
    throughout(
        "the key stays admitted",
        Duration::from_secs(4),
        async || {
            for proxy in world.proxies() {
                tests::proxy::check_verdict(&proxy, &key.secret, &Verdict::Admitted).await?;
                proxy.admin("/readyz").await?.check(200)?;
            }
            Ok(())
        },
    )
    .await;
    world.control_plane.signal(Signal::CONT);
    world
        .owner
        .delete(&key.path("?wait=applied"))
        .await
        .expect(200);
    world.all_say(&key.secret, inactive(), Duration::ZERO).await;
    all_tell_the_same(&world).await;
}

async fn the_upstream_sees_only_what_it_should(world: &World, key: &Key) {
    for (number, proxy) in world.proxies().iter().enumerate() {
        let path = format!("/seen/{number}");
        let ask = Ask::get(format!("/t/echo{path}"))
            .header("x-api-key", &key.secret)
            .header("authorization", format!("Bearer {}", key.secret))
            .header("cookie", "session=1")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .header("x-throttleproxy-anything", "1")
            .header("x-kept", "yes");
        ask.send(proxy.address("proxy")).await.unwrap().expect(200);
        let seen = world.upstream.last(&path);
        let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-kept"], "{}", proxy.name());
        assert!(!format!("{seen:?}").contains(&key.secret));
    }
}

async fn other_region_applies(world: &World, position: u64) {
    let other = &world.regions[1].name;
    eventually(
        "the other region applies",
        Duration::from_secs(5),
        async || {
            let reply = world
                .owner
                .get(&format!("/positions/{position}"))
                .await
                .check(200)?
                .json();
            let region = reply["regions"]
                .as_array()
                .and_then(|regions| regions.iter().find(|it| it["name"] == **other))
                .context("the region is not named")?
                .clone();
            ensure!(region["level"] == "applied", "{region}");
            Ok(())
        },
    )
    .await;
}
