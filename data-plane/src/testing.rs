//! What tests of this crate share: entries, a region in memory, a proxy over it, and a
//! real upstream on loopback.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use schemas::digest::{self, Digest, Leaf};
use schemas::entry::{
    Access, Bodies, Change, Policy, PolicyEntry, Revision, Scheme, SecretEntry, SecretStatus,
    TargetPolicy, Timeouts, WorkspacePolicy,
};
use schemas::fleet::{Renewal, RenewalAnswer};
use schemas::name::{BUCKETS, bucket_of};
use schemas::seal::{FleetSecret, Seal, Signed};
use schemas::stream::{Frame, Heartbeat, Meta, MetaFields, Part};
use schemas::{
    Credential, CredentialHash, Environment, KeyId, Limits, LineageId, PlanLimits, Position,
    SecretId, TargetId, WorkspaceId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

use crate::config::{Bounds, Config};
use crate::follow::{ExactEntry, Message, RegionSource, SourceError};
use crate::server::{self, Running};

pub(crate) const WORKSPACE: WorkspaceId = WorkspaceId::from_u128(1);

/// A key string that is always the same for a number.
pub(crate) fn credential(n: u64) -> Credential {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Credential::generate(Environment::Live, move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

pub(crate) fn revision(rev: Position) -> Revision {
    Revision { generation: 1, rev }
}

/// The entry of key `n`; the region gives it its revision.
pub(crate) fn secret(n: u64, status: SecretStatus) -> SecretEntry {
    SecretEntry {
        min_reader: 1,
        revision: revision(0),
        key_id: KeyId::from_u128(u128::from(n)),
        secret_id: SecretId::from_u128(u128::from(n)),
        status,
        ends_at_ms: None,
        expires_at_ms: None,
        workspace_id: WORKSPACE,
        team_id: None,
        owner: None,
        name: format!("key {n}"),
        limits: Limits::default(),
        access: Access::default(),
    }
}

pub(crate) fn change(n: u64, secret: SecretEntry) -> Change {
    Change::Secret {
        hash: credential(n).hash(),
        secret,
    }
}

pub(crate) fn policy(policy: Policy) -> Change {
    Change::Policy {
        policy: PolicyEntry {
            min_reader: 1,
            revision: revision(0),
            policy,
        },
    }
}

pub(crate) fn workspace() -> WorkspacePolicy {
    WorkspacePolicy {
        workspace_id: WORKSPACE,
        suspended: false,
        plan_limits: PlanLimits::default(),
        error_profile: None,
        allow_query_key: false,
    }
}

/// A target on loopback.
pub(crate) fn target(name: &str, address: SocketAddr) -> TargetPolicy {
    let id = name.bytes().fold(0, |id, byte| id << 8 | u128::from(byte));
    TargetPolicy {
        target_id: TargetId::from_u128(id),
        workspace_id: WORKSPACE,
        deleted: false,
        name: name.to_owned(),
        scheme: Scheme::Http,
        host: address.ip().to_string(),
        port: address.port(),
        extra_ports: Vec::new(),
        base_path: String::new(),
        allow_private: true,
        allow_set_cookie: false,
        timeouts: Timeouts::default(),
        bodies: Bodies::default(),
        groups: Vec::new(),
        credential: None,
    }
}

/// A region in memory.
pub(crate) struct MemoryRegion {
    state: Mutex<State>,
    notices: broadcast::Sender<Message>,
    /// Nothing can be read.
    pub(crate) is_away: AtomicBool,
    /// Notices get lost.
    pub(crate) is_silent: AtomicBool,
    /// Renewals are answered.
    pub(crate) answers: AtomicBool,
    /// Heartbeats are made one after the other.
    beats: AtomicI64,
    is_unread: AtomicBool,
}

struct State {
    meta: Option<Meta>,
    /// As stored, and the revision that was signed.
    secrets: HashMap<CredentialHash, (Vec<u8>, Revision)>,
    policies: BTreeMap<String, (Vec<u8>, Revision)>,
    digests: Vec<u8>,
    feed: Vec<(Position, Signed)>,
    renewals: Vec<Renewal>,
}

/// What the region in memory is sealed with.
pub(crate) fn seal() -> Seal {
    Seal::new("test", &[7; 32], FleetSecret::from_bytes(&[8; 32]))
}

// === impl MemoryRegion ===

impl MemoryRegion {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                meta: Some(Meta {
                    lineage: LineageId::from_u128(1),
                    generation: 1,
                    epoch: 1,
                    fence: 1,
                    position: 0,
                    chain_hash: String::new(),
                    as_of_ms: 0,
                    count: 0,
                    root: Digest::EMPTY,
                }),
                secrets: HashMap::new(),
                policies: BTreeMap::new(),
                digests: Vec::new(),
                feed: Vec::new(),
                renewals: Vec::new(),
            }),
            notices: broadcast::channel(1_024).0,
            is_away: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            answers: AtomicBool::new(true),
            beats: AtomicI64::new(1),
            is_unread: AtomicBool::new(false),
        }
    }

    /// Appends one event that changes entries; the position after it.
    pub(crate) fn publish(&self, mut changes: Vec<Change>) -> Position {
        let mut state = self.state.lock().unwrap();
        let meta = state.meta.as_mut().unwrap();
        let from = meta.position;
        meta.position += 1;
        let to = meta.position;
        let frame_of = meta.clone();
        for change in &mut changes {
            match change {
                Change::Secret { hash, secret } => {
                    secret.revision = revision(to);
                    let text = serde_json::to_string(secret).unwrap();
                    let stored = seal().entry(&hash.to_string(), &text);
                    state.secrets.insert(*hash, (stored.into(), revision(to)));
                }
                Change::Policy { policy } => {
                    policy.revision = revision(to);
                    let text = serde_json::to_string(policy).unwrap();
                    let name = policy.policy.id().to_string();
                    let stored = seal().entry(&name, &text);
                    state.policies.insert(name, (stored.into(), revision(to)));
                }
            }
        }
        let frame = Frame {
            lineage: frame_of.lineage,
            generation: frame_of.generation,
            epoch: frame_of.epoch,
            from,
            to,
            changes: Some(changes),
            as_of_ms: 0,
        };
        state.digest();
        let frame = seal().frame(&frame);
        state.feed.push((to, frame.clone()));
        self.send(Message::Frame(frame));
        to
    }

    /// Says how far the region is.
    pub(crate) fn beat(&self) {
        let state = self.state.lock().unwrap();
        let Some(meta) = &state.meta else { return };
        let beat = Heartbeat {
            as_of_ms: self.beats.fetch_add(1, Ordering::SeqCst),
            root: meta.root,
            ..heartbeat(meta.epoch, meta.position)
        };
        self.send(Message::Heartbeat(seal().heartbeat(&beat)));
    }

    /// Sends what anybody could send.
    pub(crate) fn send(&self, message: Message) {
        if !self.is_silent.load(Ordering::SeqCst) {
            let _ = self.notices.send(message);
        }
    }

    /// Empties the region, as when its Redis lost its memory.
    pub(crate) fn wipe(&self) {
        let mut state = self.state.lock().unwrap();
        state.meta = None;
        state.digests.clear();
        state.secrets.clear();
        state.policies.clear();
        state.feed.clear();
    }

    /// Puts bytes in place of an entry, at no new position, as somebody does who can write
    /// to the region and knows no secret.
    pub(crate) fn spoil(&self, hash: CredentialHash, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.secrets.insert(hash, (bytes.to_vec(), revision(0)));
    }

    /// Puts an entry that is sealed and that this build cannot read in place of one.
    pub(crate) fn publish_unreadable(&self, hash: CredentialHash) -> Position {
        let to = self.publish(Vec::new());
        let mut state = self.state.lock().unwrap();
        let text = format!("{{\"generation\":1,\"rev\":{to},\"status\":\"unheard of\"}}");
        let stored = seal().entry(&hash.to_string(), &text);
        state.secrets.insert(hash, (stored.into(), revision(to)));
        state.digest();
        to
    }

    /// From here on only exact look-ups are answered.
    pub(crate) fn stop_meta(&self) {
        self.is_unread.store(true, Ordering::SeqCst);
    }

    /// The digest of what the region holds.
    pub(crate) fn root(&self) -> Digest {
        self.state.lock().unwrap().meta.as_ref().unwrap().root
    }

    /// The entry of a secret as stored.
    pub(crate) fn stored(&self, hash: CredentialHash) -> Vec<u8> {
        self.state.lock().unwrap().secrets[&hash].0.clone()
    }

    pub(crate) fn renewals(&self) -> Vec<Renewal> {
        self.state.lock().unwrap().renewals.clone()
    }

    fn reach(&self) -> Result<std::sync::MutexGuard<'_, State>, SourceError> {
        if self.is_away.load(Ordering::SeqCst) {
            Err(SourceError::unavailable("testing", "the region is away"))
        } else {
            Ok(self.state.lock().unwrap())
        }
    }
}

impl State {
    /// Signs what the region holds now.
    fn digest(&mut self) {
        let mut buckets = vec![Vec::new(); usize::from(BUCKETS)];
        for (hash, (_, revision)) in &self.secrets {
            buckets[usize::from(bucket_of(hash))].push(Leaf {
                hash: *hash,
                revision: *revision,
            });
        }
        let buckets: Vec<Digest> = buckets.into_iter().map(digest::of_bucket).collect();
        let policies = self.policies.iter();
        let policies = digest::of_policies(policies.map(|(name, it)| (name.as_str(), it.1)));
        if let Some(meta) = &mut self.meta {
            meta.count = self.secrets.len() as u64;
            meta.root = digest::of_root(&buckets, policies);
        }
        let all = buckets.iter().chain([&policies]);
        self.digests = all.flat_map(|it| *it.as_bytes()).collect();
    }
}

#[async_trait]
impl RegionSource for MemoryRegion {
    async fn meta(&self) -> Result<Option<MetaFields>, SourceError> {
        if self.is_unread.load(Ordering::SeqCst) {
            return Err(SourceError::unavailable("testing", "meta is not answered"));
        }
        Ok(self.reach()?.meta.as_ref().map(|it| seal().meta(it)))
    }

    async fn read(
        &self,
        _epoch: u64,
        buckets: Range<u16>,
        policies: bool,
    ) -> Result<Part, SourceError> {
        let state = self.reach()?;
        let bucket = |bucket: u16| {
            let all = state.secrets.iter();
            let stored = all
                .filter(|(hash, _)| bucket_of(hash) == bucket)
                .map(|(hash, it)| (hash.to_string(), it.0.clone()));
            (bucket, stored.collect())
        };
        let all = state.policies.iter();
        Ok(Part {
            meta: state.meta.as_ref().map(|it| seal().meta(it)),
            digests: state.digests.clone(),
            policies: policies
                .then(|| all.map(|(name, it)| (name.clone(), it.0.clone())).collect()),
            buckets: buckets.map(bucket).collect(),
        })
    }

    async fn feed(
        &self,
        _epoch: u64,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Signed>, SourceError> {
        let state = self.reach()?;
        let frames = state.feed.iter().filter(|(to, _)| *to > after);
        Ok(frames.take(limit).map(|(_, frame)| frame.clone()).collect())
    }

    async fn lookup(&self, hash: &CredentialHash) -> Result<Option<ExactEntry>, SourceError> {
        let state = self.reach()?;
        if state.meta.is_none() {
            return Err(SourceError::unavailable("testing", "the region is empty"));
        }
        let policies = state.policies.iter();
        Ok(state.secrets.get(hash).map(|(secret, _)| ExactEntry {
            secret: secret.clone(),
            policies: policies
                .filter(|(name, _)| !name.starts_with("target:"))
                .map(|(name, it)| (name.clone(), it.0.clone()))
                .collect(),
        }))
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, SourceError> {
        let receiver = self.notices.subscribe();
        Ok(stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(message) => Some((message, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Message::Lost, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed())
    }

    async fn renew(&self, renewal: &Signed) -> Result<Signed, SourceError> {
        if !self.answers.load(Ordering::SeqCst) {
            return Err(SourceError::unavailable("testing", "nobody answers"));
        }
        let renewal = seal().renewal(renewal).unwrap();
        let mut state = self.state.lock().unwrap();
        let answer = RenewalAnswer {
            boot_id: renewal.boot_id,
            counter: renewal.counter,
            lineage: LineageId::from_u128(1),
            generation: 1,
            head: state.meta.as_ref().map_or(0, |meta| meta.position),
            now_ms: 0,
        };
        state.renewals.push(renewal);
        Ok(seal().answer(&answer))
    }
}

/// Says how far a region is.
pub(crate) fn heartbeat(epoch: u64, to: Position) -> Heartbeat {
    Heartbeat {
        lineage: LineageId::from_u128(1),
        generation: 1,
        epoch,
        to,
        as_of_ms: 0,
        root: Digest::EMPTY,
    }
}

/// A proxy over a region in memory, with one workspace.
pub(crate) struct Proxy {
    pub(crate) region: Arc<MemoryRegion>,
    pub(crate) running: Running,
}

/// What a proxy answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Result<Bytes, String>,
}

// === impl Reply ===

impl Reply {
    /// The refusal's code, or an empty text.
    pub(crate) fn code(&self) -> &str {
        self.headers
            .get("x-throttleproxy-error")
            .map_or("", |it| it.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone().unwrap().to_vec()).unwrap()
    }
}

// === impl Proxy ===

impl Proxy {
    /// Starts a proxy and waits until it is ready.
    pub(crate) async fn start(changes: Vec<Change>) -> Self {
        Self::start_with(changes, |_| {}).await
    }

    pub(crate) async fn start_with(changes: Vec<Change>, adjust: impl FnOnce(&mut Config)) -> Self {
        let proxy = Self::start_unready(changes, adjust).await;
        eventually("the proxy is ready", || proxy.running.is_ready()).await;
        proxy
    }

    pub(crate) async fn start_unready(
        changes: Vec<Change>,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let region = Arc::new(MemoryRegion::new());
        region.publish([vec![policy(Policy::Workspace(workspace()))], changes].concat());
        Self::over(region, adjust).await
    }

    pub(crate) async fn over(region: Arc<MemoryRegion>, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        adjust(&mut config);
        let running = server::start(config, Arc::clone(&region) as Arc<dyn RegionSource>)
            .await
            .unwrap();
        Self { region, running }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.running.proxy_addr()
    }

    /// Publishes changes and waits until the proxy has them.
    pub(crate) async fn publish(&self, changes: Vec<Change>) {
        let position = self.region.publish(changes);
        eventually("the proxy has the change", || {
            self.region
                .renewals()
                .last()
                .is_some_and(|it| it.position >= position)
        })
        .await;
    }

    /// A GET of a path with key `n`.
    pub(crate) async fn get(&self, n: u64, path: &str) -> Reply {
        self.send(with_key(n, Request::get(path), "")).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        exchange(self.addr(), request).await
    }

    /// A client's connection of HTTP/2, in plain text.
    pub(crate) async fn http2(&self) -> Http2<Full<Bytes>> {
        http2_over(TcpStream::connect(self.addr()).await.unwrap()).await
    }

    /// The status line's code in answer to raw bytes, and whether the connection closed.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr()).await.unwrap();
        // The proxy may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .expect("the connection should have been closed")
            .ok();
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        (status, text)
    }

    /// The body of an admin page, and its status.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Full::default()).unwrap();
        let reply = exchange(self.running.admin_addr(), request).await;
        (reply.status, reply.text())
    }
}

pub(crate) fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        authz_listen: None,
        certificate: None,
        region: "test".to_owned(),
        trust: seal().trust().clone(),
        proxy_id: "proxy".to_owned(),
        workers: 2,
        allow_private_upstreams: true,
        exempt_upstream: None,
        trusted_proxies: Vec::new(),
        drain_delay_ms: 0,
        upstreams: crate::config::UpstreamConfig::default(),
        bounds: Bounds::default(),
    }
}

/// What passes streams of HTTP/2 on to tasks of the test.
#[derive(Debug, Clone)]
pub(crate) struct Tasks;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

/// The sending side of a client's connection of HTTP/2.
pub(crate) type Http2<B> = hyper::client::conn::http2::SendRequest<B>;

/// A client's connection of HTTP/2 over any stream.
pub(crate) async fn http2_over<B>(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) -> Http2<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::handshake(Tasks, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// Reads an answer to its end.
pub(crate) async fn whole(response: Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.map_err(|err| err.to_string()),
    }
}

/// A request with key `n`.
pub(crate) fn with_key(
    n: u64,
    builder: http::request::Builder,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    builder
        .header("x-api-key", credential(n).reveal())
        .body(Full::new(body.into()))
        .unwrap()
}

/// Sends one request over a fresh connection.
pub(crate) async fn exchange(addr: SocketAddr, mut request: Request<Full<Bytes>>) -> Reply {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    request
        .headers_mut()
        .entry("host")
        .or_insert_with(|| "proxy.example".parse().unwrap());
    let reply = whole(sender.send_request(request).await.unwrap()).await;
    connection.abort();
    reply
}

/// What an upstream saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<http::HeaderMap>,
}

/// A real upstream that records what it saw and answers as it is told.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::answering(|_| Response::new(Full::from("hello"))).await
    }

    pub(crate) async fn answering(
        answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let connections: Arc<Mutex<usize>> = Arc::default();
        let answer = Arc::new(answer);
        let (seen_by, counted) = (Arc::clone(&seen), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *counted.lock().unwrap() += 1;
                let (seen, answer) = (Arc::clone(&seen_by), Arc::clone(&answer));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await;
                        let this = Seen {
                            trailers: body.as_ref().ok().and_then(|it| it.trailers().cloned()),
                            method: head.method.to_string(),
                            path: head.uri.to_string(),
                            headers: head.headers,
                            body: body
                                .map(http_body_util::Collected::to_bytes)
                                .unwrap_or_default(),
                        };
                        let response = answer(&this);
                        seen.lock().unwrap().push(this);
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            addr,
            seen,
            connections,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

/// An upstream below HTTP: each connection is handed over after the head of a request has
/// come.
pub(crate) async fn raw_upstream<F>(
    answer: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|it| it == b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            tokio::spawn(answer(stream));
        }
    });
    addr
}

/// Polls until a fact holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
