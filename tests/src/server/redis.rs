//! A private Redis without persistence of its own accord: what a restart finds is what
//! [`Redis::save`] last wrote, so that a test decides how much is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncCommands, Client};
use anyhow::{Context, Result, bail};
use schemas::entry::{PolicyEntry, SecretEntry};
use schemas::name::{BUCKETS, redis_key};

use super::{Server, find_program, free_port, fresh_dir};
use crate::process::{Program, Signal};
use crate::wait::eventually;

/// A Redis server of our own.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    dir: PathBuf,
}

/// What a restarted Redis finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// All it had when it was killed.
    Whole,
    /// What it had at the last [`Redis::save`].
    Older,
    /// Nothing.
    Gone,
}

/// What a region's Redis says.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The fields of meta.
    pub meta: BTreeMap<String, String>,
    /// The secret entries by lookup hash.
    pub secrets: BTreeMap<String, SecretEntry>,
    /// The policy entries by `<kind>:<id>`.
    pub policies: BTreeMap<String, PolicyEntry>,
}

impl Redis {
    /// Starts one in a directory `redis-<name>` under `parent`.
    pub async fn start(parent: &Path, name: &str) -> Self {
        let dir = fresh_dir(parent, &format!("redis-{name}"));
        let port = free_port();
        let program = Program::new(find_program("redis-server")).args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--dir",
            &dir.display().to_string(),
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ]);
        let redis = Self {
            server: Server::new(program, port, dir.join("redis.log")),
            dir,
        };
        redis.run().await;
        redis
    }

    /// How a client reaches it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Writes all it holds to disk, for a later start to find.
    pub async fn save(&self) {
        let mut connection = self.connect().await.expect("it runs");
        () = ::redis::cmd("SAVE")
            .query_async(&mut connection)
            .await
            .expect("Redis can save");
    }

    /// Ends it with SIGKILL. With [`Data::Whole`] it saves right before.
    pub async fn kill(&self, data: Data) {
        match data {
            Data::Whole => self.save().await,
            Data::Older => assert!(self.dump().exists(), "nothing was saved before"),
            Data::Gone => {
                let _ = std::fs::remove_file(self.dump());
            }
        }
        self.server.kill().await;
    }

    /// Starts it again on the same port.
    pub async fn restart(&self) {
        self.run().await;
    }

    /// Stops it without ending it: connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Lets it go on after [`Redis::freeze`].
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    /// A connection for looking into it.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        let client = Client::open(self.url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// Everything that a region stored here.
    pub async fn region(&self, region: &str) -> Result<Stored> {
        let mut connection = self.connect().await?;
        let meta: BTreeMap<String, String> = connection.hgetall(redis_key::meta(region)).await?;
        let epoch = meta
            .get("epoch")
            .context("the region is empty")?
            .parse::<u64>()?;
        let mut secrets = BTreeMap::new();
        for bucket in 0..BUCKETS {
            let entries: BTreeMap<String, String> = connection
                .hgetall(redis_key::bucket(region, epoch, bucket))
                .await?;
            for (hash, entry) in entries {
                secrets.insert(hash, serde_json::from_str(&entry)?);
            }
        }
        let stored: BTreeMap<String, String> = connection
            .hgetall(redis_key::policies(region, epoch))
            .await?;
        let policies = stored
            .into_iter()
            .map(|(id, entry)| Ok((id, serde_json::from_str(&entry)?)))
            .collect::<Result<_>>()?;
        Ok(Stored {
            meta,
            secrets,
            policies,
        })
    }

    /// Every key, field and value that it holds, as one text each.
    pub async fn everything(&self) -> Result<Vec<String>> {
        let mut connection = self.connect().await?;
        let keys: Vec<String> = connection.keys("*").await?;
        let mut all = Vec::new();
        for key in keys {
            let kind: String = ::redis::cmd("TYPE")
                .arg(&key)
                .query_async(&mut connection)
                .await?;
            let command = match kind.as_str() {
                "string" => ::redis::cmd("GET").arg(&key).to_owned(),
                "hash" => ::redis::cmd("HGETALL").arg(&key).to_owned(),
                "set" => ::redis::cmd("SMEMBERS").arg(&key).to_owned(),
                "list" => ::redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).to_owned(),
                "zset" => ::redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).to_owned(),
                "stream" => ::redis::cmd("XRANGE")
                    .arg(&key)
                    .arg("-")
                    .arg("+")
                    .to_owned(),
                "none" => continue,
                other => bail!("{key} is of the type {other}, which the test cannot read"),
            };
            let value: ::redis::Value = command.query_async(&mut connection).await?;
            all.push(key);
            flatten(value, &mut all);
        }
        Ok(all)
    }

    async fn run(&self) {
        self.server.start().await;
        eventually("Redis is loaded", Duration::from_secs(30), async || {
            let mut connection = self.connect().await?;
            let _: String = ::redis::cmd("PING").query_async(&mut connection).await?;
            Ok(())
        })
        .await;
    }

    fn dump(&self) -> PathBuf {
        self.dir.join("dump.rdb")
    }
}

fn flatten(value: ::redis::Value, into: &mut Vec<String>) {
    match value {
        ::redis::Value::BulkString(bytes) => {
            into.push(String::from_utf8_lossy(&bytes).into_owned())
        }
        ::redis::Value::SimpleString(text) => into.push(text),
        ::redis::Value::Array(items) | ::redis::Value::Set(items) => {
            items.into_iter().for_each(|item| flatten(item, into));
        }
        ::redis::Value::Map(pairs) => pairs.into_iter().for_each(|(key, value)| {
            flatten(key, into);
            flatten(value, into);
        }),
        other => into.push(format!("{other:?}")),
    }
}
