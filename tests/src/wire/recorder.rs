//! An upstream that notes what arrives byte for byte, answers it itself or hands it on to
//! a server behind it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::{Arrived, Reading, read_request};
use crate::wait::eventually;

/// Something that happened on a connection to the upstream.
#[derive(Debug, Clone)]
pub struct Event {
    /// Which connection, by the port at its other end; behind another server, at the end
    /// of the one that it hands on.
    pub connection: u16,
    /// What.
    pub what: Happened,
}

/// What can happen on a connection.
#[derive(Debug, Clone)]
pub enum Happened {
    /// A request arrived whole.
    Whole(Box<Arrived>),
    /// Bytes arrived that not every server reads in the same way. The connection is closed.
    Unclear(String),
    /// The connection ended inside a request.
    CutShort(Vec<u8>),
}

/// A recording upstream.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    events: Events,
    server: AbortHandle,
}

type Events = Arc<Mutex<Vec<Event>>>;

/// What the answer to a request is called, so that a client knows which it got.
const ANSWERED: &str = "x-answered";

impl Recorder {
    /// One that answers for itself: 200, with the path in the body.
    pub async fn start() -> Self {
        Self::begin(None).await
    }

    /// One that hands all bytes on to the server at `behind`, connection by connection.
    pub async fn before(behind: SocketAddr) -> Self {
        Self::begin(Some(behind)).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().expect("no holder panics").clone()
    }

    /// Everything so far, which is then forgotten.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().expect("no holder panics"))
    }

    /// Waits until this many requests have arrived whole.
    pub async fn arrived(&self, count: usize) {
        let what = format!("{count} requests arrive");
        eventually(&what, Duration::from_secs(10), async || {
            let events = self.events.lock().expect("no holder panics");
            let whole = events
                .iter()
                .filter(|it| matches!(it.what, Happened::Whole(_)))
                .count();
            ensure!(whole >= count, "{whole} requests arrived");
            Ok(())
        })
        .await;
    }

    async fn begin(behind: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let events = Events::default();
        let noted = events.clone();
        let names = Names::default();
        let server = tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.expect("connections arrive");
                stream.set_nodelay(true).expect("a socket of TCP");
                let events = noted.clone();
                match behind {
                    None => tokio::spawn(answer_all(stream, peer.port(), events)),
                    Some(behind) => {
                        let server = names.connect(behind).await;
                        tokio::spawn(hand_on(stream, server, events))
                    }
                };
            }
        });
        Self {
            address,
            events,
            server: server.abort_handle(),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Reads requests and notes them, one after the other.
struct Reader {
    connection: u16,
    events: Events,
    unread: Vec<u8>,
    is_clear: bool,
}

impl Reader {
    /// The next request in what was read so far; an error when it is unclear.
    fn next(&mut self) -> Result<Option<Arrived>, ()> {
        match read_request(&self.unread) {
            Reading::More => Ok(None),
            Reading::Whole(arrived) => {
                self.unread.drain(..arrived.bytes);
                self.note(Happened::Whole(arrived.clone()));
                Ok(Some(*arrived))
            }
            Reading::Unclear(why) => {
                let text = String::from_utf8_lossy(&self.unread).into_owned();
                self.note(Happened::Unclear(format!("{why} in {text:?}")));
                self.is_clear = false;
                Err(())
            }
        }
    }

    fn note(&self, what: Happened) {
        let connection = self.connection;
        let event = Event { connection, what };
        self.events.lock().expect("no holder panics").push(event);
    }
}

impl Drop for Reader {
    /// Whichever side ended it.
    fn drop(&mut self) {
        if self.is_clear && !self.unread.is_empty() {
            let unread = std::mem::take(&mut self.unread);
            self.note(Happened::CutShort(unread));
        }
    }
}

async fn answer_all(mut stream: TcpStream, connection: u16, events: Events) {
    let mut reader = Reader {
        connection,
        events,
        unread: Vec::new(),
        is_clear: true,
    };
    loop {
        match reader.next() {
            Ok(Some(arrived)) => {
                let body = if arrived.method == "HEAD" {
                    ""
                } else {
                    &arrived.target
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\n{ANSWERED}: {}\r\ncontent-length: {}\r\n\r\n{body}",
                    arrived.method,
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read_buf(&mut reader.unread).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            },
            Err(()) => return,
        }
    }
}

/// The ports that named a connection before: the system gives one out again soon.
#[derive(Debug, Default)]
struct Names(Mutex<HashSet<u16>>);

impl Names {
    /// Connects from a port that no connection had yet.
    async fn connect(&self, to: SocketAddr) -> TcpStream {
        loop {
            let stream = TcpStream::connect(to)
                .await
                .expect("the server behind runs");
            let port = stream.local_addr().expect("a connected socket").port();
            if self.0.lock().expect("no holder panics").insert(port) {
                return stream;
            }
        }
    }
}

async fn hand_on(stream: TcpStream, server: TcpStream, events: Events) {
    server.set_nodelay(true).expect("a socket of TCP");
    let reader = Reader {
        connection: server.local_addr().expect("a connected socket").port(),
        events,
        unread: Vec::new(),
        is_clear: true,
    };
    let (from_client, to_client) = stream.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass_requests(reader, from_client, to_server) => {}
        () = pass_answers(from_server, to_client) => {}
    }
}

/// Notes what passes; also what is unclear goes on, for the server behind to judge.
async fn pass_requests(mut reader: Reader, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if reader.is_clear {
            reader.unread.extend_from_slice(&piece[..read]);
            while let Ok(Some(_)) = reader.next() {}
        }
        if to.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
}

async fn pass_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    // Either side may be gone; then the connection ends.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}
