//! What stories have in common: constant traffic from their beginning, and the judgement at
//! their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use schemas::entry::SecretStatus;
use serde_json::Value;
use tests::proxy::Verdict;
use tests::traffic::Record;
use tests::wait::eventually;
use tests::watch::Positions;
use tests::{Key, Plane, Traffic, World};
use tokio::time::Instant;

/// How long everything may take to agree again after something broke.
pub const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Between two requests of one lane of the constant traffic.
pub const PAUSE: Duration = Duration::from_millis(15);

/// Constant traffic with a key that lives on and one that is revoked at the start, and a
/// watch over the positions of all proxies.
pub struct Scene {
    traffic: Traffic,
    positions: Positions,
    revoked: Key,
    since: Instant,
}

impl Scene {
    pub async fn begin(world: &World) -> Self {
        let bystander = world.owner.key("bystander").await;
        let revoked = world.owner.key("revoked at the start").await;
        world.all_admit(&bystander.secret).await;
        world.all_admit(&revoked.secret).await;
        let traffic = Traffic::start(
            &world.proxies(),
            &[
                ("bystander", &bystander.secret),
                ("revoked", &revoked.secret),
            ],
            PAUSE,
        );
        let since = Instant::now();
        world
            .owner
            .delete(&revoked.path("?wait=applied"))
            .await
            .expect(200);
        Self {
            traffic,
            positions: Positions::watch(&world.proxies()),
            revoked,
            since,
        }
    }

    /// Ends the traffic and judges it. `untouched` says which proxies were there all the
    /// time; the others may have been away, or have said that they cannot judge yet.
    pub async fn end(self, world: &World, untouched: impl Fn(&str) -> bool) {
        world
            .all_say(&self.revoked.secret, inactive(), HEALED_WITHIN)
            .await;
        all_tell_the_same(world).await;
        self.positions.never_went_back().await;
        let record: Record = self.traffic.stop().await;
        record.refused_for_good("revoked", self.since);
        record.admitted("bystander", untouched);
    }
}

/// What a proxy says of a key that is switched off.
pub fn inactive() -> Verdict {
    Verdict::Refused {
        status: 401,
        code: "inactive_key".into(),
    }
}

/// The log, the views, what each Redis holds and what each proxy knows: one state.
pub async fn all_tell_the_same(world: &World) {
    eventually("all tell the same state", HEALED_WITHIN, async || {
        compare(world).await
    })
    .await;
}

async fn compare(world: &World) -> Result<()> {
    let replayed = world.json(["replay", "--json"]).await;
    let head = replayed["position"].as_u64().context("no position")?;
    let told: BTreeMap<_, _> = by_id(&replayed["keys"])?;
    let shown: BTreeMap<_, _> = by_id(&Value::Array(world.owner.all_keys().await))?;
    for (id, key) in &shown {
        let replayed = told
            .get(id)
            .with_context(|| format!("{id} is not in the replay"))?;
        ensure!(key == replayed, "the view {key} and the replay {replayed}");
    }
    ensure!(
        told.len() == shown.len(),
        "{} replayed, {} shown",
        told.len(),
        shown.len()
    );
    let targets = by_id(
        &world
            .owner
            .get("/targets?limit=500")
            .await
            .expect(200)
            .json()["data"],
    )?;
    ensure!(by_id(&replayed["targets"])? == targets, "targets differ");
    let audit = world.json(["audit", "verify", "--json"]).await;
    ensure!(audit["ok"] == true, "{audit}");

    for region in &world.regions {
        let stored = region.redis.region(&region.name).await?;
        ensure!(
            stored.meta["position"].parse::<u64>()? >= head,
            "{} is at {} of {head}",
            region.name,
            stored.meta["position"]
        );
        let mut live: BTreeMap<String, usize> = BTreeMap::new();
        for entry in stored.secrets.values() {
            let id = entry.key_id.to_string();
            let key = shown
                .get(&id)
                .with_context(|| format!("{id} is only in Redis"))?;
            let status = match entry.status {
                SecretStatus::Active => "active",
                SecretStatus::Inactive => "inactive",
                SecretStatus::Revoked => "revoked",
                SecretStatus::Ended | SecretStatus::Purged => continue,
            };
            // A key that is past its end is active in Redis, and refused by the clock.
            ensure!(
                key["status"] == status || key["status"] == "expired",
                "{entry:?} and {key}"
            );
            ensure!(
                serde_json::to_value(entry.limits)? == key["limits"],
                "{entry:?} and {key}"
            );
            *live.entry(id).or_default() += 1;
        }
        for id in shown.keys() {
            ensure!(
                live.contains_key(id),
                "{id} has no entry in {}",
                region.name
            );
        }
        for proxy in &region.proxies {
            table_agrees(proxy, head, stored.secrets.len()).await?;
        }
    }
    for id in shown.keys().take(3) {
        let entries = world.json(["region", "entry", id, "--json"]).await;
        let text = entries.to_string();
        for region in &world.regions {
            ensure!(
                text.contains(&region.name),
                "{} is missing in {text}",
                region.name
            );
        }
        ensure!(text.contains(id.as_str()), "{id} is missing in {text}");
    }
    let status = world.json(["region", "status", "--json"]).await.to_string();
    for region in &world.regions {
        ensure!(
            status.contains(&region.name),
            "{} is missing in {status}",
            region.name
        );
    }
    Ok(())
}

async fn table_agrees(proxy: &Arc<Plane>, head: u64, entries: usize) -> Result<()> {
    let table = proxy.table().await?;
    ensure!(
        table["position"].as_u64() >= Some(head),
        "{}: {table}, head {head}",
        proxy.name()
    );
    ensure!(
        table["entries"] == entries,
        "{}: {table}, {entries} stored",
        proxy.name()
    );
    ensure!(table["state"] == "follow", "{}: {table}", proxy.name());
    Ok(())
}

/// Objects by id, without what the log does not hold.
fn by_id(objects: &Value) -> Result<BTreeMap<String, Value>> {
    objects
        .as_array()
        .with_context(|| format!("not a list: {objects}"))?
        .iter()
        .map(|object| {
            let mut object = object.clone();
            forget(&mut object, "last_used_at");
            let id = object["id"].as_str().context("no id")?.to_owned();
            Ok((id, object))
        })
        .collect()
}

fn forget(value: &mut Value, member: &str) {
    match value {
        Value::Object(members) => {
            members.remove(member);
            members.values_mut().for_each(|it| forget(it, member));
        }
        Value::Array(items) => items.iter_mut().for_each(|it| forget(it, member)),
        _ => {}
    }
}
