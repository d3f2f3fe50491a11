//! How long a proxy needs to read a whole table from a Redis: as it does, every entry and
//! every bucket proved, and beside it the same reading, decoding and merging without a proof.
//!
//! Fills the Redis at the address given first with as many sealed keys as given second. Prints
//! one line of JSON.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use control_plane::region::{Batch, POLICIES_DIGEST, Region as _, Verdict, redis_nats};
use data_plane::follow::redis_nats::RedisNats;
use data_plane::follow::{ExactEntry, Message, RegionSource, SourceError};
use data_plane::table::KeyTable;
use futures_util::stream::BoxStream;
use ops::probe;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use schemas::digest::{self, Leaf, Tree};
use schemas::entry::{Access, Change, Revision, SecretEntry, SecretStatus, decode_secret};
use schemas::fleet::RenewalAnswer;
use schemas::name::{BUCKETS, bucket_of};
use schemas::seal::{FleetSecret, Seal, Signed};
use schemas::stream::{Meta, MetaFields, Part};
use schemas::{CredentialHash, KeyId, Limits, LineageId, Position, SecretId, WorkspaceId};
use serde_json::json;

const REGION: &str = "boot";
/// Keys that one script writes.
const AT_ONCE: usize = 2_000;

/// The region, whose reports are answered here: there is no control plane.
struct Answering {
    region: RedisNats,
    seal: Seal,
    head: Position,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let redis_url = args.next().context("which Redis?")?;
    let keys: usize = args.next().context("how many keys?")?.parse()?;
    let meta = fill(&redis_url, keys).await?;
    let answering = Answering {
        region: RedisNats::connect(REGION, &redis_url, None)?,
        seal: seal(),
        head: meta.position,
    };

    let unproved_s = read_unproved(&answering, &meta, keys).await?;
    let trust = answering.seal.trust().clone();
    let config = data_plane::Config {
        listen: "127.0.0.1:0".parse()?,
        admin_listen: "127.0.0.1:0".parse()?,
        authz_listen: None,
        certificate: None,
        region: REGION.to_owned(),
        trust,
        proxy_id: "boot".to_owned(),
        workers: 1,
        allow_private_upstreams: false,
        exempt_upstream: None,
        trusted_proxies: Vec::new(),
        drain_delay_ms: 0,
        upstreams: data_plane::UpstreamConfig::default(),
        bounds: data_plane::Bounds::default(),
    };
    let started = Instant::now();
    let proxy = data_plane::start(config, Arc::new(answering)).await?;
    probe::wait_for_proxy(proxy.admin_addr(), meta.position).await?;
    let proved_s = started.elapsed().as_secs_f64();
    proxy.shutdown().await;

    let result = json!({ "keys": keys, "unproved_s": unproved_s, "proved_s": proved_s });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}

/// What every proxy did before tables were proved.
async fn read_unproved(source: &Answering, meta: &Meta, keys: usize) -> anyhow::Result<f64> {
    let table = KeyTable::new();
    let started = Instant::now();
    let step = meta.buckets_at_once();
    for first in (0..BUCKETS).step_by(usize::from(step)) {
        let buckets = first..BUCKETS.min(first + step);
        let part = source.read(meta.epoch, buckets, false).await?;
        for (bucket, stored) in part.buckets {
            let entries = stored
                .into_iter()
                .filter_map(|(field, bytes)| Some((field.parse().ok()?, decode_secret(&bytes))));
            table.merge_bucket(bucket, entries.collect());
        }
    }
    ensure!(table.len() == keys, "{} of {keys} keys", table.len());
    Ok(started.elapsed().as_secs_f64())
}

fn seal() -> Seal {
    Seal::new(REGION, &[1; 32], FleetSecret::from_bytes(&[2; 32]))
}

async fn fill(redis_url: &str, keys: usize) -> anyhow::Result<Meta> {
    let region = redis_nats::RedisNats::open(REGION, redis_url, None).await?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut changes: Vec<Change> = (1..=keys as Position)
        .map(|rev| change(&mut random, rev))
        .collect();
    let tree = tree(&changes);
    let mut meta = Meta {
        lineage: LineageId::from_u128(1),
        generation: 1,
        epoch: 1,
        fence: 1,
        position: 0,
        chain_hash: "00".repeat(32),
        as_of_ms: 0,
        count: keys as u64,
        root: tree.root(),
    };
    let all = (0..BUCKETS).map(|it| (it, tree.bucket(it)));
    let mut digests: Vec<_> = all.chain([(POLICIES_DIGEST, tree.policies())]).collect();
    while !changes.is_empty() {
        let from = meta.position;
        let rest = changes.split_off(AT_ONCE.min(changes.len()));
        meta.position += changes.len() as Position;
        let digests = std::mem::take(&mut digests);
        let batch = Batch::seal(&seal(), meta.clone(), from, changes, digests)?;
        let verdict = region.apply(&batch).await?;
        ensure!(verdict == Verdict::Applied, "{verdict:?}");
        changes = rest;
    }
    Ok(meta)
}

fn change(random: &mut SmallRng, rev: Position) -> Change {
    let mut bytes = [0; 32];
    random.fill_bytes(&mut bytes);
    let id = u128::from_be_bytes(bytes[..16].try_into().expect("half of 32 bytes"));
    Change::Secret {
        hash: CredentialHash::from_bytes(bytes),
        secret: SecretEntry {
            min_reader: 1,
            revision: Revision { generation: 1, rev },
            key_id: KeyId::from_u128(id),
            secret_id: SecretId::from_u128(!id),
            status: SecretStatus::Active,
            ends_at_ms: None,
            expires_at_ms: None,
            workspace_id: WorkspaceId::from_parts(1, 1),
            team_id: None,
            owner: None,
            name: format!("bench {rev}"),
            limits: Limits {
                rps: Some(10 + u64::from(bytes[31] % 8)),
                ..Limits::default()
            },
            access: Access::default(),
        },
    }
}

fn tree(changes: &[Change]) -> Tree {
    let mut leaves: Vec<Leaf> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Secret { hash, secret } => Some(Leaf {
                hash: *hash,
                revision: secret.revision,
            }),
            Change::Policy { .. } => None,
        })
        .collect();
    leaves.sort_unstable();
    debug_assert!(leaves.is_sorted_by_key(|it| bucket_of(&it.hash)));
    let mut tree = Tree::new();
    for leaves in leaves.chunk_by(|a, b| digest::cell_of(&a.hash) == digest::cell_of(&b.hash)) {
        tree.set_cell(digest::cell_of(&leaves[0].hash), leaves);
    }
    tree
}

// === impl Answering ===

#[async_trait]
impl RegionSource for Answering {
    async fn meta(&self) -> Result<Option<MetaFields>, SourceError> {
        self.region.meta().await
    }

    async fn read(
        &self,
        epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, SourceError> {
        self.region.read(epoch, buckets, policies).await
    }

    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Signed>, SourceError> {
        self.region.feed(epoch, after, limit).await
    }

    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError> {
        self.region.lookup(hash).await
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, SourceError> {
        self.region.subscribe().await
    }

    async fn renew(&self, renewal: &Signed) -> Result<Signed, SourceError> {
        let renewal = self
            .seal
            .renewal(renewal)
            .map_err(|err| SourceError::malformed("renewing", err))?;
        Ok(self.seal.answer(&RenewalAnswer {
            boot_id: renewal.boot_id,
            counter: renewal.counter,
            lineage: LineageId::from_u128(1),
            generation: 1,
            head: self.head,
            now_ms: 0,
        }))
    }
}
