//! The region as Redis and NATS.
//!
//! Both are reached when first needed and for ever retried, so that a process starts
//! while they are down. Redis answers what is asked; NATS only wakes. An error of any
//! kind drops the Redis connection: after a failover the old primary answers READONLY on
//! a connection that is otherwise fine, and a fresh connection is cheap. Look-ups have a
//! connection of their own, so that they do not wait behind the buckets of a snapshot.

use std::ops::Range;
use std::time::Duration;

use async_nats::{ConnectOptions, Event, HeaderMap};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{AsyncConnectionConfig, AsyncTypedCommands, Client, RedisError, Script, Value};
use schemas::name::{FEED_FIELD, PROOF_HEADER, SIGNATURE_FIELD, bucket_of, redis_key, subject};
use schemas::seal::Signed;
use schemas::stream::{MetaFields, Part, Stored};
use schemas::{CredentialHash, Position};
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::source::{ExactEntry, Message, RegionSource, SourceError};

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
/// a region without meta cannot say that a secret does not exist. What is read here is
/// judged by its MAC, so it does not matter who wrote the epoch.
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
for at, policy in ipairs(redis.call('HMGET', base .. 'p', unpack(names))) do
  if policy then
    found[#found + 1] = names[at]
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
    async fn meta(&self) -> Result<Option<MetaFields>, SourceError> {
        const DOING: &str = "reading the region's meta";
        let key = redis_key::meta(&self.region);
        let fields: Vec<(Vec<u8>, Vec<u8>)> = self
            .with(&self.bulk, DOING, |mut redis| async move {
                redis::cmd("HGETALL").arg(key).query_async(&mut redis).await
            })
            .await?;
        Ok(meta_of(named(fields)))
    }

    async fn read(
        &self,
        epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, SourceError> {
        const DOING: &str = "reading the region's table";
        let mut call = redis::pipe();
        call.atomic();
        call.cmd("HGETALL").arg(redis_key::meta(&self.region));
        call.cmd("GET").arg(redis_key::digests(&self.region, epoch));
        if policies {
            call.cmd("HGETALL")
                .arg(redis_key::policies(&self.region, epoch));
        }
        for bucket in buckets.clone() {
            call.cmd("HGETALL")
                .arg(redis_key::bucket(&self.region, epoch, bucket));
        }
        let answers: Vec<Value> = self
            .with(&self.bulk, DOING, |mut redis| async move {
                call.query_async(&mut redis).await
            })
            .await?;
        let mut answers = answers.into_iter();
        let hash = |answers: &mut std::vec::IntoIter<Value>| {
            let fields = redis::from_redis_value(answers.next().unwrap_or(Value::Nil))
                .map_err(|err| SourceError::malformed(DOING, err))?;
            Ok::<_, SourceError>(named(fields))
        };
        let meta = meta_of(hash(&mut answers)?);
        let digests: Option<Vec<u8>> =
            redis::from_redis_value(answers.next().unwrap_or(Value::Nil))
                .map_err(|err| SourceError::malformed(DOING, err))?;
        Ok(Part {
            meta,
            digests: digests.unwrap_or_default(),
            policies: match policies {
                true => Some(hash(&mut answers)?),
                false => None,
            },
            buckets: buckets
                .map(|bucket| Ok((bucket, hash(&mut answers)?)))
                .collect::<Result<_, SourceError>>()?,
        })
    }

    async fn feed(
        &self,
        epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Signed>, SourceError> {
        const DOING: &str = "reading the region's feed";
        let key = redis_key::feed(&self.region, epoch);
        let reply: StreamRangeReply = self
            .with(&self.bulk, DOING, |mut redis| async move {
                let from = format!("{}-0", after.saturating_add(1));
                redis.xrange_count(key, from, "+", limit).await
            })
            .await?;
        let signed = reply.ids.iter().map(|item| Signed {
            bytes: item.get(FEED_FIELD).unwrap_or_default(),
            proof: item.get(SIGNATURE_FIELD).unwrap_or_default(),
        });
        Ok(signed.collect())
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
        let secret = found.next();
        let mut policies = Vec::new();
        while let (Some(name), Some(policy)) = (found.next(), found.next()) {
            policies.push((String::from_utf8_lossy(&name).into_owned(), policy));
        }
        Ok(secret.map(|secret| ExactEntry { secret, policies }))
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, SourceError> {
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
            .map(|message| Message::Frame(signed(message)));
        let heartbeats = nats
            .client
            .subscribe(subject::heartbeats(&self.region))
            .await
            .map_err(|err| SourceError::unavailable(DOING, err))?
            .map(|message| Message::Heartbeat(signed(message)));
        // Sends what it queued, so that the server knows of the subscription; while there
        // is no server, that waits for the reconnection instead of us.
        let _ = tokio::time::timeout(NATS_ANSWER, nats.client.flush()).await;
        let losses = match nats.losses.lock().await.take() {
            Some(losses) => stream::unfold(losses, |mut losses| async move {
                losses.recv().await.map(|()| (Message::Lost, losses))
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

    async fn renew(&self, renewal: &Signed) -> Result<Signed, SourceError> {
        const DOING: &str = "sending a renewal";
        let nats = self.nats(DOING).await?;
        let mut headers = HeaderMap::new();
        headers.insert(PROOF_HEADER, renewal.proof.as_str());
        let payload = renewal.bytes.clone().into();
        let answer = nats
            .client
            .request_with_headers(subject::renewals(&self.region), headers, payload)
            .map(|outcome| outcome.map_err(|err| SourceError::unavailable(DOING, err)))
            .await?;
        Ok(signed(answer))
    }
}

fn signed(message: async_nats::Message) -> Signed {
    let proof = message.headers.as_ref().and_then(|it| it.get(PROOF_HEADER));
    Signed {
        proof: proof.map(|it| it.as_str().to_owned()).unwrap_or_default(),
        bytes: message.payload.into(),
    }
}

/// A hash of Redis. Names that are not text are not the region's.
fn named(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Stored {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((String::from_utf8(name).ok()?, value)))
        .collect()
}

fn meta_of(fields: Stored) -> Option<MetaFields> {
    let is_there = !fields.is_empty();
    let text = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, String::from_utf8(value).ok()?)));
    is_there.then(|| text.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_up_knows_the_names_of_keys() {
        let key = redis_key::epoch("eu", 0);
        assert_eq!(key.strip_suffix("0:"), Some("{tp:eu:0}:e"));
    }
}
