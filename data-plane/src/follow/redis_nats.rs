//! The region as Redis and NATS.
//!
//! Both are reached when first needed and for ever retried, so that a process starts
//! while they are down. Redis answers what is asked; NATS only wakes. An error of any
//! kind drops the Redis connection: after a failover the old primary answers READONLY on
//! a connection that is otherwise fine, and a fresh connection is cheap. Look-ups have a
//! connection of their own, so that they do not wait behind the buckets of a snapshot.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{AsyncConnectionConfig, AsyncTypedCommands, Client, RedisError, Script};
use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::name::{FEED_FIELD, bucket_of, redis_key, subject};
use schemas::stream::{Frame, Heartbeat, Meta};
use schemas::{CredentialHash, LineageId, Position};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::source::{ExactEntry, Notice, RegionSource, SourceError};

/// How long a connection to Redis may take.
const REDIS_CONNECT: Duration = Duration::from_secs(1);
/// How long Redis may take to answer.
const REDIS_ANSWER: Duration = Duration::from_secs(3);
/// How often NATS is pinged: its own minute would be slow to notice a dead server.
const NATS_PING: Duration = Duration::from_secs(2);
/// How long a renewal is waited for.
const NATS_ANSWER: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to reach NATS.
const NATS_RETRY_MAX_MS: u64 = 1_000;

/// Reads one secret and the policies around it in one step. Positions and ids stay text;
/// a region without meta cannot say that a secret does not exist.
const LOOKUP: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  return redis.error_reply('EMPTY the region has no meta')
end
local base = ARGV[1] .. epoch .. ':'
local secret = redis.call('HGET', base .. 'b' .. ARGV[2], ARGV[3])
if not secret then
  return {}
end
local entry = cjson.decode(secret)
local names = {'global:instance', 'workspace:' .. entry['workspace_id']}
if type(entry['team_id']) == 'string' then
  names[#names + 1] = 'team:' .. entry['team_id']
end
if type(entry['owner']) == 'table' then
  names[#names + 1] = 'owner:' .. entry['workspace_id'] .. '/' .. entry['owner']['id']
end
local found = {secret}
for _, policy in ipairs(redis.call('HMGET', base .. 'p', unpack(names))) do
  if policy then
    found[#found + 1] = policy
  end
end
return found
";

/// A region whose entries are in Redis and whose messages come over NATS.
pub struct RedisNats {
    region: String,
    redis: Client,
    /// For everything but look-ups.
    bulk: Mutex<Option<MultiplexedConnection>>,
    /// For look-ups.
    exact: Mutex<Option<MultiplexedConnection>>,
    lookup: Script,
    nats_url: Option<String>,
    nats: OnceCell<Nats>,
}

struct Nats {
    client: async_nats::Client,
    /// Events of the connection that mean lost messages; taken by the subscription.
    losses: Mutex<Option<mpsc::UnboundedReceiver<()>>>,
}

/// A frame without its changes, for when those cannot be read.
#[derive(Deserialize)]
struct FrameHead {
    lineage: LineageId,
    generation: u32,
    epoch: u64,
    from: Position,
    to: Position,
    as_of_ms: i64,
}

// === impl RedisNats ===

impl RedisNats {
    /// A region at these addresses. Nothing is connected yet. Without `nats_url` nothing
    /// wakes the follower (it polls), and renewals have no way to go.
    ///
    /// # Errors
    /// When `redis_url` is not an address of a Redis.
    pub fn connect(
        region: impl Into<String>,
        redis_url: &str,
        nats_url: Option<String>,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            region: region.into(),
            redis: Client::open(redis_url)
                .map_err(|err| SourceError::unavailable("reading the address of Redis", err))?,
            bulk: Mutex::new(None),
            exact: Mutex::new(None),
            lookup: Script::new(LOOKUP),
            nats_url,
            nats: OnceCell::new(),
        })
    }

    /// Runs one command on the connection in `slot`, which an error drops.
    async fn with<T, F>(
        &self,
        slot: &Mutex<Option<MultiplexedConnection>>,
        doing: &'static str,
        command: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = {
            let mut held = slot.lock().await;
            match &*held {
                Some(connection) => connection.clone(),
                None => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(REDIS_CONNECT))
                        .set_response_timeout(Some(REDIS_ANSWER));
                    let fresh = self
                        .redis
                        .get_multiplexed_async_connection_with_config(&config)
                        .await
                        .map_err(|err| SourceError::unavailable(doing, err))?;
                    held.insert(fresh).clone()
                }
            }
        };
        let outcome = command(connection).await;
        if outcome.is_err() {
            *slot.lock().await = None;
        }
        outcome.map_err(|err| SourceError::unavailable(doing, err))
    }

    async fn hash(
        &self,
        doing: &'static str,
        key: String,
    ) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        self.with(&self.bulk, doing, |mut redis| async move {
            redis::cmd("HGETALL").arg(key).query_async(&mut redis).await
        })
        .await
    }

    async fn nats(&self, doing: &'static str) -> Result<&Nats, SourceError> {
        let url = self
            .nats_url
            .as_deref()
            .ok_or_else(|| SourceError::unavailable(doing, "the region has no nats_url"))?;
        self.nats
            .get_or_try_init(|| async {
                let (sender, losses) = mpsc::unbounded_channel();
                let client = ConnectOptions::new()
                    .name("throttleproxy data-plane")
                    .ping_interval(NATS_PING)
                    .request_timeout(Some(NATS_ANSWER))
                    .retry_on_initial_connect()
                    .reconnect_delay_callback(|attempts| {
                        let pause_ms = (attempts as u64).saturating_mul(50);
                        Duration::from_millis(pause_ms.min(NATS_RETRY_MAX_MS))
                    })
                    .event_callback(move |event| {
                        if matches!(
                            event,
                            Event::Connected | Event::Disconnected | Event::SlowConsumer(_)
                        ) {
                            // Nobody listens once the subscription is gone.
                            let _ = sender.send(());
                        }
                        std::future::ready(())
                    })
                    .connect(url)
                    .await
                    .map_err(|err| SourceError::unavailable(doing, err))?;
                Ok(Nats {
                    client,
                    losses: Mutex::new(Some(losses)),
                })
            })
            .await
    }
}

#[async_trait]
impl RegionSource for RedisNats {
    async fn meta(&self) -> Result<Option<Meta>, SourceError> {
        const DOING: &str = "reading the region's meta";
        let key = redis_key::meta(&self.region);
        let fields: HashMap<String, String> = self
            .with(&self.bulk, DOING, |mut redis| async move {
                redis::cmd("HGETALL").arg(key).query_async(&mut redis).await
            })
            .await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| {
            fields
                .get(name)
                .map(String::as_str)
                .ok_or_else(|| SourceError::malformed(DOING, format_args!("{name} is missing")))
        };
        fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, SourceError> {
            text.parse()
                .map_err(|_| SourceError::malformed(DOING, format_args!("{name} is not a number")))
        }
        Ok(Some(Meta {
            lineage: text("lineage")?
                .parse()
                .map_err(|err| SourceError::malformed(DOING, err))?,
            generation: number("generation", text("generation")?)?,
            epoch: number("epoch", text("epoch")?)?,
            fence: number("fence", text("fence")?)?,
            position: number("position", text("position")?)?,
            chain_hash: text("chain_hash")?.to_owned(),
            as_of_ms: number("as_of_ms", text("as_of_ms")?)?,
        }))
    }

    async fn policies(&self, epoch: u64) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let key = redis_key::policies(&self.region, epoch);
        self.hash("reading the region's policies", key).await
    }

    async fn bucket(&self, epoch: u64, bucket: u16) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let key = redis_key::bucket(&self.region, epoch, bucket);
        self.hash("reading a bucket of the region", key).await
    }

    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Frame>, SourceError> {
        const DOING: &str = "reading the region's feed";
        let key = redis_key::feed(&self.region, epoch);
        let reply: StreamRangeReply = self
            .with(&self.bulk, DOING, |mut redis| async move {
                let from = format!("{}-0", after.saturating_add(1));
                redis.xrange_count(key, from, "+", limit).await
            })
            .await?;
        reply
            .ids
            .iter()
            .map(|item| {
                let bytes: Vec<u8> = item
                    .get(FEED_FIELD)
                    .ok_or_else(|| SourceError::malformed(DOING, "an item has no frame"))?;
                decode_frame(&bytes)
                    .ok_or_else(|| SourceError::malformed(DOING, "an item is not a frame"))
            })
            .collect()
    }

    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError> {
        let epoch_zero = redis_key::epoch(&self.region, 0);
        let base = epoch_zero
            .strip_suffix("0:")
            .expect("the key of an epoch ends with its number and a colon");
        let mut invocation = self.lookup.prepare_invoke();
        invocation
            .key(redis_key::meta(&self.region))
            .arg(base)
            .arg(bucket_of(hash))
            .arg(hash.to_string());
        let found: Vec<Vec<u8>> = self
            .with(
                &self.exact,
                "looking up one secret",
                |mut redis| async move { invocation.invoke_async(&mut redis).await },
            )
            .await?;
        let mut found = found.into_iter();
        Ok(found.next().map(|secret| ExactEntry {
            secret,
            policies: found.collect(),
        }))
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Notice>, SourceError> {
        const DOING: &str = "subscribing to the region";
        if self.nats_url.is_none() {
            return Ok(stream::pending().boxed());
        }
        let nats = self.nats(DOING).await?;
        let frames = nats
            .client
            .subscribe(subject::frames(&self.region))
            .await
            .map_err(|err| SourceError::unavailable(DOING, err))?
            .map(|message| decode_frame(&message.payload).map_or(Notice::Lost, Notice::Frame));
        let heartbeats = nats
            .client
            .subscribe(subject::heartbeats(&self.region))
            .await
            .map_err(|err| SourceError::unavailable(DOING, err))?
            .map(|message| {
                serde_json::from_slice::<Heartbeat>(&message.payload)
                    .map_or(Notice::Lost, Notice::Heartbeat)
            });
        // Sends what it queued, so that the server knows of the subscription; while there
        // is no server, that waits for the reconnection instead of us.
        let _ = tokio::time::timeout(NATS_ANSWER, nats.client.flush()).await;
        let losses = match nats.losses.lock().await.take() {
            Some(losses) => stream::unfold(losses, |mut losses| async move {
                losses.recv().await.map(|()| (Notice::Lost, losses))
            })
            .chain(stream::pending())
            .boxed(),
            None => stream::pending().boxed(),
        };
        // A subscription that ends ends the whole, so that it is made anew.
        let ends = stream::once(std::future::ready(None));
        let frames = frames.map(Some).chain(ends);
        let heartbeats = heartbeats
            .map(Some)
            .chain(stream::once(std::future::ready(None)));
        Ok(
            stream::select(stream::select(frames, heartbeats), losses.map(Some))
                .take_while(|notice| std::future::ready(notice.is_some()))
                .filter_map(std::future::ready)
                .boxed(),
        )
    }

    async fn renew(&self, renewal: &Renewal) -> Result<RenewalAnswer, SourceError> {
        const DOING: &str = "sending a renewal";
        let nats = self.nats(DOING).await?;
        let payload =
            serde_json::to_vec(renewal).map_err(|err| SourceError::malformed(DOING, err))?;
        let answer = nats
            .client
            .request(subject::renewals(&self.region), payload.into())
            .map(|outcome| outcome.map_err(|err| SourceError::unavailable(DOING, err)))
            .await?;
        serde_json::from_slice(&answer.payload).map_err(|err| SourceError::malformed(DOING, err))
    }
}

/// Reads a frame. One whose changes cannot be read comes without them: the follower then
/// reads the entries themselves, where one bad entry is set aside alone.
fn decode_frame(bytes: &[u8]) -> Option<Frame> {
    serde_json::from_slice(bytes).ok().or_else(|| {
        let head: FrameHead = serde_json::from_slice(bytes).ok()?;
        Some(Frame {
            lineage: head.lineage,
            generation: head.generation,
            epoch: head.epoch,
            from: head.from,
            to: head.to,
            changes: None,
            as_of_ms: head.as_of_ms,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_with_an_entry_that_cannot_be_read_comes_without_its_changes() {
        let text = r#"{"lineage":"01JD3ZK8Q6N4V6M2W0T5R7X9YB","generation":1,"epoch":1,
            "from":6,"to":7,"changes":[{"hash":"nonsense"}],"as_of_ms":0}"#;
        let frame = decode_frame(text.as_bytes()).unwrap();
        assert_eq!((frame.from, frame.to, frame.changes), (6, 7, None));
        assert!(decode_frame(b"{}").is_none());
    }

    #[test]
    fn the_look_up_knows_the_names_of_keys() {
        let key = redis_key::epoch("eu", 0);
        assert_eq!(key.strip_suffix("0:"), Some("{tp:eu:0}:e"));
    }
}
