//! A region of its own Redis and NATS.
//!
//! Both may be away when the process starts and at any time after: connections are made
//! when they are needed, and each failed call says so to a caller that tries again.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::connection::State;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};
use schemas::CredentialHash;
use schemas::entry::{self, Change};
use schemas::name::{FEED_POSITIONS, bucket_of, redis_key, subject};
use schemas::stream::{Frame, Heartbeat, Meta};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::{Batch, Error, Incoming, Region, Verdict};

const REDIS_ANSWER: Duration = Duration::from_secs(5);
const REDIS_CONNECT: Duration = Duration::from_secs(2);
const NATS_PING: Duration = Duration::from_secs(2);
/// Longer than two heartbeats are apart, and shorter than a silent proxy counts as live: a
/// proxy that is not heard because nobody is must not be taken for one that is gone.
const HEARD: Duration = Duration::from_millis(1_500);
const PUBLISH: Duration = Duration::from_millis(100);

/// A region behind a Redis and, if it has one, a NATS.
pub struct RedisNats {
    name: String,
    redis: Client,
    /// The connection in use. It is dropped at the first error: what is wrong with it (a
    /// replica after a fail-over, say) is not ours to find out.
    connection: Mutex<Option<MultiplexedConnection>>,
    nats: Option<async_nats::Client>,
    /// When a heartbeat last came back from NATS.
    heard: watch::Sender<Option<Instant>>,
    apply: Script,
}

// === impl RedisNats ===

impl RedisNats {
    /// A region at these addresses. Redis is reached when first needed; NATS is tried in
    /// the background until it answers.
    ///
    /// # Errors
    /// Where an address is not of the form.
    pub async fn open(name: &str, redis_url: &str, nats_url: Option<&str>) -> Result<Self, Error> {
        let redis = Client::open(redis_url).map_err(Error::of("read redis_url"))?;
        let nats = match nats_url {
            None => None,
            Some(url) => Some(
                async_nats::ConnectOptions::new()
                    .retry_on_initial_connect()
                    .ping_interval(NATS_PING)
                    .connect(url)
                    .await
                    .map_err(Error::of("read nats_url"))?,
            ),
        };
        Ok(Self {
            name: name.to_owned(),
            redis,
            connection: Mutex::new(None),
            nats,
            heard: watch::Sender::new(None),
            apply: Script::new(include_str!("apply.lua")),
        })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Error> {
        let mut place = self.connection.lock().await;
        if let Some(connection) = &*place {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REDIS_CONNECT))
            .set_response_timeout(Some(REDIS_ANSWER));
        let mut connection = self
            .redis
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(Error::of("connect to Redis"))?;
        check_policy(&mut connection).await?;
        *place = Some(connection.clone());
        Ok(connection)
    }

    /// Runs one call on the connection, and drops the connection if it fails.
    async fn run<T, F>(
        &self,
        operation: &'static str,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = redis::RedisResult<T>>,
    {
        let connection = self.connection().await?;
        match call(connection).await {
            Ok(value) => Ok(value),
            Err(source) => {
                *self.connection.lock().await = None;
                Err(Error::of(operation)(source))
            }
        }
    }

    /// Publishes now or not at all: while NATS is away its client would keep messages, then
    /// make us wait, and later ring with what is long past.
    async fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), Error> {
        let Some(nats) = &self.nats else {
            return Ok(());
        };
        if nats.connection_state() != State::Connected {
            return Err(Error::of("publish")("NATS is away"));
        }
        match timeout(PUBLISH, nats.publish(subject, payload.into())).await {
            Ok(published) => published.map_err(Error::of("publish")),
            Err(_) => Err(Error::of("publish")("NATS does not take messages")),
        }
    }
}

/// A Redis that throws entries away to make room would revive nothing, but it would
/// refuse good keys without a word. `INFO` tells the policy where `CONFIG` is forbidden.
async fn check_policy(connection: &mut MultiplexedConnection) -> Result<(), Error> {
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query_async(connection)
        .await
        .map_err(Error::of("check Redis"))?;
    let policy = info
        .lines()
        .find_map(|line| line.strip_prefix("maxmemory_policy:"));
    match policy.map(str::trim) {
        Some("noeviction") => Ok(()),
        other => Err(Error::of("check Redis")(format!(
            "maxmemory-policy is {}; noeviction is required, or entries vanish",
            other.unwrap_or("not told")
        ))),
    }
}

#[async_trait]
impl Region for RedisNats {
    fn name(&self) -> &str {
        &self.name
    }

    async fn meta(&self) -> Result<Option<Meta>, Error> {
        let key = redis_key::meta(&self.name);
        let fields: HashMap<String, String> = self
            .run("read meta", async |mut connection| {
                redis::cmd("HGETALL")
                    .arg(key)
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        if fields.is_empty() {
            Ok(None)
        } else {
            to_meta(&fields).map(Some)
        }
    }

    async fn apply(&self, batch: &Batch) -> Result<Verdict, Error> {
        let frame = serde_json::to_string(&batch.frame()).map_err(Error::of("encode a frame"))?;
        let mut buckets: Vec<u16> = batch
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Secret { hash, .. } => Some(bucket_of(hash)),
                Change::Policy { .. } => None,
            })
            .collect();
        buckets.sort_unstable();
        buckets.dedup();

        let mut call = self.apply.prepare_invoke();
        call.key(redis_key::meta(&self.name))
            .key(redis_key::policies(&self.name, batch.epoch))
            .key(redis_key::feed(&self.name, batch.epoch));
        for bucket in &buckets {
            call.key(redis_key::bucket(&self.name, batch.epoch, *bucket));
        }
        call.arg(batch.lineage.to_string())
            .arg(batch.generation)
            .arg(batch.epoch)
            .arg(batch.fence)
            .arg(batch.from)
            .arg(batch.to)
            .arg(&batch.chain_hash)
            .arg(batch.as_of_ms)
            .arg(frame)
            .arg(FEED_POSITIONS);
        for change in &batch.changes {
            let revision = change.revision();
            let (key_number, field, value) = match change {
                Change::Policy { policy } => {
                    (2, policy.policy.id().to_string(), entry::encode(policy))
                }
                Change::Secret { hash, secret } => {
                    let at = buckets.partition_point(|it| *it < bucket_of(hash));
                    (4 + at, hash.to_string(), entry::encode(secret))
                }
            };
            let value = value.map_err(Error::of("encode an entry"))?;
            call.arg(key_number)
                .arg(field)
                .arg(revision.generation)
                .arg(revision.rev)
                .arg(value);
        }
        let answer: Vec<String> = self
            .run("apply a batch", async |mut connection| {
                call.invoke_async(&mut connection).await
            })
            .await?;
        let mut words = answer.into_iter();
        Ok(match words.next().as_deref() {
            Some("applied") => Verdict::Applied,
            Some("fenced") => Verdict::Fenced,
            Some("refused") => Verdict::Refused {
                reason: words.next().unwrap_or_default(),
            },
            _ => Verdict::Elsewhere,
        })
    }

    async fn publish_frame(&self, frame: &Frame) -> Result<(), Error> {
        let mut payload = serde_json::to_vec(frame).map_err(Error::of("encode a frame"))?;
        if payload.len() > schemas::stream::FRAME_BYTES_MAX {
            let without = Frame {
                changes: None,
                ..frame.clone()
            };
            payload = serde_json::to_vec(&without).map_err(Error::of("encode a frame"))?;
        }
        self.publish(subject::frames(&self.name), payload).await
    }

    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        let payload = serde_json::to_vec(heartbeat).map_err(Error::of("encode a heartbeat"))?;
        self.publish(subject::heartbeats(&self.name), payload).await
    }

    async fn renewals(&self) -> Result<BoxStream<'static, Incoming>, Error> {
        let Some(nats) = self.nats.clone() else {
            return Ok(stream::pending().boxed());
        };
        let failed = || Error::of("subscribe to renewals");
        let messages = nats
            .subscribe(subject::renewals(&self.name))
            .await
            .map_err(failed())?;
        // The heartbeats of whoever leads the region come the same way, twice a second:
        // while they do, renewals would come too.
        let heartbeats = nats
            .subscribe(subject::heartbeats(&self.name))
            .await
            .map_err(failed())?;
        let heard = self.heard.clone();
        let heartbeats = heartbeats.filter_map(move |_| {
            heard.send_replace(Some(Instant::now()));
            std::future::ready(None)
        });
        let incoming = messages.filter_map(move |message| {
            let nats = nats.clone();
            async move {
                let renewal = serde_json::from_slice(&message.payload)
                    .inspect_err(|error| {
                        tracing::warn!(%error, "a renewal that cannot be read was left out");
                    })
                    .ok()?;
                let (reply, answer) = oneshot::channel();
                if let Some(inbox) = message.reply {
                    tokio::spawn(async move {
                        let Ok(answer) = answer.await else { return };
                        let Ok(payload) = serde_json::to_vec(&answer) else {
                            return;
                        };
                        // A lost answer is asked for again.
                        drop(nats.publish(inbox, payload.into()).await);
                    });
                }
                Some(Incoming { renewal, reply })
            }
        });
        Ok(stream::select(incoming, heartbeats).boxed())
    }

    fn is_heard(&self) -> bool {
        // A NATS that is frozen keeps its connections; only what comes proves anything.
        self.nats.is_none() || self.heard.borrow().is_some_and(|at| at.elapsed() < HEARD)
    }

    async fn entry(&self, epoch: u64, hash: &CredentialHash) -> Result<Option<String>, Error> {
        let key = redis_key::bucket(&self.name, epoch, bucket_of(hash));
        let field = hash.to_string();
        self.run("read an entry", async |mut connection| {
            redis::cmd("HGET")
                .arg(key)
                .arg(field)
                .query_async(&mut connection)
                .await
        })
        .await
    }
}

fn to_meta(fields: &HashMap<String, String>) -> Result<Meta, Error> {
    fn member<T: std::str::FromStr>(
        fields: &HashMap<String, String>,
        name: &'static str,
    ) -> Result<T, Error> {
        fields
            .get(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::of("read meta")(format!("`{name}` is missing or malformed")))
    }
    Ok(Meta {
        lineage: member(fields, "lineage")?,
        generation: member(fields, "generation")?,
        epoch: member(fields, "epoch")?,
        fence: member(fields, "fence")?,
        position: member(fields, "position")?,
        chain_hash: member(fields, "chain_hash")?,
        as_of_ms: member(fields, "as_of_ms")?,
    })
}
