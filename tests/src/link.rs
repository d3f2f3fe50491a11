//! A stretch of network that a test can slow down, hold up or cut.
//!
//! It is a TCP relay between one process of the product and one server. Unlike a signal to
//! the server it breaks the way of that one process and of nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// A relay on a port of its own. Dropping it cuts it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Every piece comes so much later.
    Slow(Duration),
    /// Connections stay and nothing passes: neither end is told.
    Held,
    /// Connections are reset, and new ones with them.
    Cut,
}

// === impl Link ===

impl Link {
    /// A link to a port of the loopback.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port can be listened on");
        let address = listener.local_addr().expect("it is bound");
        let weather = watch::Sender::new(Weather::Fair);
        let task = tokio::spawn(relay_all(listener, port, weather.subscribe()));
        Self {
            address,
            weather,
            task,
        }
    }

    /// The port that stands for the server's.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.weather.send_replace(Weather::Fair);
    }

    /// Makes every piece come so much later.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_replace(Weather::Slow(delay));
    }

    /// Lets nothing through while connections stay.
    pub fn hold(&self) {
        self.weather.send_replace(Weather::Held);
    }

    /// Resets all connections and refuses new ones.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay_all(listener: TcpListener, port: u16, weather: watch::Receiver<Weather>) {
    let mut relays = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *weather.borrow() != Weather::Cut {
            relays.spawn(relay(client, port, weather.clone()));
        }
        while relays.try_join_next().is_some() {}
    }
}

/// Joins two ends until one closes, or the link is cut.
async fn relay(client: TcpStream, port: u16, mut weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    for end in [&client, &server] {
        // Pieces are small, and both ends are measured by how fast they answer.
        let _ = end.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, weather.clone()) => {}
        () = carry(from_server, to_client, weather.clone()) => {}
        _ = weather.wait_for(|it| *it == Weather::Cut) => {}
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else {
            return;
        };
        let now = weather.wait_for(|it| *it != Weather::Held).await;
        let delay = match now.map(|it| *it) {
            Ok(Weather::Slow(delay)) => delay,
            Ok(_) => Duration::ZERO,
            Err(_) => return,
        };
        sleep(delay).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        port
    }

    async fn is_echoed(stream: &mut TcpStream) -> bool {
        let mut back = [0; 2];
        stream.write_all(b"hi").await.is_ok() && stream.read_exact(&mut back).await.is_ok()
    }

    #[tokio::test]
    async fn it_passes_delays_holds_and_cuts() {
        let link = Link::to(echo().await).await;
        let address = ("127.0.0.1", link.port());
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(is_echoed(&mut stream).await);

        link.slow(Duration::from_millis(30));
        let began = Instant::now();
        assert!(is_echoed(&mut stream).await);
        assert!(began.elapsed() >= Duration::from_millis(60), "both ways");

        link.hold();
        let held = timeout(Duration::from_millis(50), is_echoed(&mut stream)).await;
        assert!(held.is_err(), "nothing passes");
        link.open();
        let mut back = [0; 2];
        stream.read_exact(&mut back).await.unwrap();

        link.cut();
        assert!(!is_echoed(&mut stream).await, "the connection is gone");
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(!is_echoed(&mut refused).await, "and there is no other");
        link.open();
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(is_echoed(&mut stream).await);
    }
}
