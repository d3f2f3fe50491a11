//! A region of its own Redis and NATS.
//!
//! Both may be away when the process starts and at any time after: connections are made
//! when they are needed, and each failed call says so to a caller that tries again.

use std::ops::Range;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisResult, Script, ScriptInvocation, Value,
};
use schemas::CredentialHash;
use schemas::digest::DIGEST_BYTES;
use schemas::name::{FEED_POSITIONS, PROOF_HEADER, SIGNATURE_FIELD, bucket_of, redis_key, subject};
use schemas::seal::Signed;
use schemas::stream::{MetaFields, Part, Stored};
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::{Batch, Error, Heard, Incoming, Region, Repair, Verdict};

const REDIS_ANSWER: Duration = Duration::from_secs(5);
const REDIS_CONNECT: Duration = Duration::from_secs(2);
const NATS_PING: Duration = Duration::from_secs(2);
const PUBLISH: Duration = Duration::from_millis(100);

/// A region behind a Redis and, if it has one, a NATS.
pub struct RedisNats {
    name: String,
    redis: Client,
    /// The connection in use. It is dropped at the first error: what is wrong with it (a
    /// replica after a fail-over, say) is not ours to find out.
    connection: Mutex<Option<MultiplexedConnection>>,
    nats: Option<async_nats::Client>,
    apply: Script,
    repair: Script,
    replace_meta: Script,
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
            apply: Script::new(include_str!("apply.lua")),
            repair: Script::new(include_str!("repair.lua")),
            replace_meta: Script::new(include_str!("replace_meta.lua")),
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
    async fn publish(&self, subject: String, signed: &Signed) -> Result<(), Error> {
        let Some(nats) = &self.nats else {
            return Ok(());
        };
        if nats.connection_state() != State::Connected {
            return Err(Error::of("publish")("NATS is away"));
        }
        let payload = signed.bytes.clone().into();
        let publishing = nats.publish_with_headers(subject, headers(signed), payload);
        match timeout(PUBLISH, publishing).await {
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

    async fn meta(&self) -> Result<Option<MetaFields>, Error> {
        let mut call = redis::pipe();
        call.ignore_errors();
        call.cmd("HGETALL").arg(redis_key::meta(&self.name));
        let answers: Vec<RedisResult<Value>> = self
            .run("read meta", async |mut connection| {
                call.query_async(&mut connection).await
            })
            .await?;
        meta_of(answers.into_iter().next())
    }

    async fn read(&self, epoch: u64, buckets: Range<u16>, policies: bool) -> Result<Part, Error> {
        let mut call = redis::pipe();
        call.atomic().ignore_errors();
        call.cmd("HGETALL").arg(redis_key::meta(&self.name));
        call.cmd("GET").arg(redis_key::digests(&self.name, epoch));
        if policies {
            call.cmd("HGETALL")
                .arg(redis_key::policies(&self.name, epoch));
        }
        for bucket in buckets.clone() {
            call.cmd("HGETALL")
                .arg(redis_key::bucket(&self.name, epoch, bucket));
        }
        let answers: Vec<RedisResult<Value>> = self
            .run("read the table", async |mut connection| {
                call.query_async(&mut connection).await
            })
            .await?;
        let mut answers = answers.into_iter();
        let mut read_next = || answers.next();
        Ok(Part {
            meta: meta_of(read_next())?,
            digests: value_of(read_next())?,
            policies: if policies {
                Some(fields_of(read_next())?)
            } else {
                None
            },
            buckets: buckets
                .map(|bucket| Ok((bucket, fields_of(read_next())?)))
                .collect::<Result<_, Error>>()?,
        })
    }

    async fn apply(&self, batch: &Batch) -> Result<Verdict, Error> {
        let meta = &batch.meta;
        let places = batch.entries.iter().map(|entry| entry.place);
        let buckets = buckets_of(places.filter_map(|it| it.bucket()));

        let mut call = self.apply.prepare_invoke();
        call.key(redis_key::meta(&self.name))
            .key(redis_key::policies(&self.name, meta.epoch))
            .key(redis_key::feed(&self.name, meta.epoch))
            .key(redis_key::digests(&self.name, meta.epoch));
        for bucket in &buckets {
            call.key(redis_key::bucket(&self.name, meta.epoch, *bucket));
        }
        call.arg(meta.lineage.to_string())
            .arg(meta.generation)
            .arg(meta.epoch)
            .arg(meta.fence)
            .arg(batch.from)
            .arg(meta.position)
            .arg(FEED_POSITIONS)
            .arg(&batch.frame.bytes)
            .arg(&batch.frame.proof);
        call.arg(batch.signed_meta.len());
        add_fields(&mut call, &batch.signed_meta);
        call.arg(batch.digests.len());
        for (at, digest) in &batch.digests {
            call.arg(usize::from(*at) * DIGEST_BYTES)
                .arg(&digest.as_bytes()[..]);
        }
        for entry in &batch.entries {
            let key_number = match entry.place.bucket() {
                None => 2,
                Some(bucket) => 5 + buckets.partition_point(|it| *it < bucket),
            };
            call.arg(key_number)
                .arg(entry.place.field())
                .arg(entry.revision.generation)
                .arg(entry.revision.rev)
                .arg(&entry.text);
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

    async fn repair(&self, repair: &Repair) -> Result<bool, Error> {
        let entries = repair.entries.iter().map(|it| it.place);
        let strangers = repair.strangers.iter().map(|(bucket, _)| *bucket);
        let buckets = buckets_of(entries.map(|it| it.bucket()).chain(strangers).flatten());
        let mut call = self.repair.prepare_invoke();
        call.key(redis_key::meta(&self.name))
            .key(redis_key::policies(&self.name, repair.epoch))
            .key(redis_key::digests(&self.name, repair.epoch));
        for bucket in &buckets {
            call.key(redis_key::bucket(&self.name, repair.epoch, *bucket));
        }
        let key_number = |bucket: Option<u16>| match bucket {
            None => 2,
            Some(bucket) => 4 + buckets.partition_point(|it| *it < bucket),
        };
        call.arg(repair.epoch)
            .arg(repair.fence)
            .arg(repair.digests.as_deref().unwrap_or_default());
        for entry in &repair.entries {
            call.arg(key_number(entry.place.bucket()))
                .arg(entry.place.field())
                .arg(&entry.text);
        }
        for (bucket, field) in &repair.strangers {
            call.arg(key_number(*bucket)).arg(field).arg("");
        }
        self.run("repair the table", async |mut connection| {
            call.invoke_async(&mut connection).await
        })
        .await
    }

    async fn replace_meta(
        &self,
        seen: &MetaFields,
        meta: &MetaFields,
        digests: &[u8],
    ) -> Result<bool, Error> {
        let epoch = meta.get("epoch").and_then(|text| text.parse().ok());
        let epoch = epoch.ok_or_else(|| Error::of("replace meta")("it has no epoch"))?;
        let mut call = self.replace_meta.prepare_invoke();
        call.key(redis_key::meta(&self.name))
            .key(redis_key::digests(&self.name, epoch))
            .arg(seen.get(SIGNATURE_FIELD).map_or("", String::as_str))
            .arg(digests);
        add_fields(&mut call, meta);
        self.run("replace meta", async |mut connection| {
            call.invoke_async(&mut connection).await
        })
        .await
    }

    async fn publish_frame(&self, frame: &Signed) -> Result<(), Error> {
        self.publish(subject::frames(&self.name), frame).await
    }

    async fn publish_heartbeat(&self, heartbeat: &Signed) -> Result<(), Error> {
        self.publish(subject::heartbeats(&self.name), heartbeat)
            .await
    }

    async fn listen(&self) -> Result<BoxStream<'static, Heard>, Error> {
        let Some(nats) = self.nats.clone() else {
            return Ok(stream::pending().boxed());
        };
        let failed = || Error::of("subscribe to renewals");
        let renewals = nats
            .subscribe(subject::renewals(&self.name))
            .await
            .map_err(failed())?;
        let heartbeats = nats
            .subscribe(subject::heartbeats(&self.name))
            .await
            .map_err(failed())?;
        let heartbeats = heartbeats.map(|message| Heard::Heartbeat(signed(message).0));
        let renewals = renewals.map(move |message| {
            let nats = nats.clone();
            let (renewal, inbox) = signed(message);
            let (reply, answer) = oneshot::channel::<Signed>();
            if let Some(inbox) = inbox {
                tokio::spawn(async move {
                    let Ok(answer) = answer.await else { return };
                    let headers = headers(&answer);
                    // A lost answer is asked for again.
                    drop(
                        nats.publish_with_headers(inbox, headers, answer.bytes.into())
                            .await,
                    );
                });
            }
            Heard::Renewal(Incoming { renewal, reply })
        });
        Ok(stream::select(renewals, heartbeats).boxed())
    }

    fn carries_heartbeats(&self) -> bool {
        self.nats.is_some()
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

/// The buckets, each once and in order.
fn buckets_of(buckets: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut buckets: Vec<u16> = buckets.collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

fn add_fields(call: &mut ScriptInvocation<'_>, fields: &MetaFields) {
    for (name, value) in fields {
        call.arg(name).arg(value);
    }
}

/// What one command of a transaction answered. A key of another type holds nothing of ours.
fn value_of<T: FromRedisValue + Default>(answer: Option<RedisResult<Value>>) -> Result<T, Error> {
    const OPERATION: &str = "read the table";
    match answer {
        Some(Ok(Value::Nil)) => Ok(T::default()),
        Some(Ok(value)) => redis::from_redis_value(value).map_err(Error::of(OPERATION)),
        Some(Err(err)) if is_wrong_type(&err) => Ok(T::default()),
        Some(Err(err)) => Err(Error::of(OPERATION)(err)),
        None => Err(Error::of(OPERATION)("an answer is missing")),
    }
}

/// A hash. Names that are not text are not ours.
fn fields_of(answer: Option<RedisResult<Value>>) -> Result<Stored, Error> {
    let fields: Vec<(Vec<u8>, Vec<u8>)> = value_of(answer)?;
    let named = fields.into_iter();
    Ok(named
        .filter_map(|(name, value)| Some((String::from_utf8(name).ok()?, value)))
        .collect())
}

/// Meta; `None` where there is none, and empty where there is something else.
fn meta_of(answer: Option<RedisResult<Value>>) -> Result<Option<MetaFields>, Error> {
    if matches!(&answer, Some(Err(err)) if is_wrong_type(err)) {
        return Ok(Some(MetaFields::new()));
    }
    let fields = fields_of(answer)?;
    let is_there = !fields.is_empty();
    let text = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, String::from_utf8(value).ok()?)));
    let fields = text.collect();
    Ok(is_there.then_some(fields))
}

fn is_wrong_type(err: &redis::RedisError) -> bool {
    err.code() == Some("WRONGTYPE")
}

fn headers(signed: &Signed) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(PROOF_HEADER, signed.proof.as_str());
    headers
}

fn signed(message: async_nats::Message) -> (Signed, Option<async_nats::Subject>) {
    let proof = message.headers.as_ref().and_then(|it| it.get(PROOF_HEADER));
    let signed = Signed {
        bytes: message.payload.into(),
        proof: proof.map(|it| it.as_str().to_owned()).unwrap_or_default(),
    };
    (signed, message.reply)
}
