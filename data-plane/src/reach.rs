//! What a host's name leads to, and whether that may be connected to.
//!
//! A name is resolved, every address of the answer is judged, and the connection goes to
//! one of exactly these addresses. Nobody resolves the name again in between, so an answer
//! that is another one a moment later wins nothing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::address::{Allowance, is_allowed};
use crate::resolve::Resolver;

/// What may be connected to.
#[derive(Debug)]
pub struct Reach {
    resolver: Resolver,
    /// Ports that this installation listens on, on this host.
    own_ports: Box<[u16]>,
}

/// Why a host has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its addresses is not public, and nothing allows it.
    #[error("an address of the host is not allowed")]
    Unsafe,
    /// It has none.
    #[error("the host has no address")]
    Unresolved(#[source] std::io::Error),
}

// === impl Reach ===

impl Reach {
    /// Everything that the rules allow, but nothing at the ports of `own` on this host.
    pub fn new(resolver: Resolver, own: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            resolver,
            own_ports: own.into_iter().map(|it| it.port()).collect(),
        }
    }

    /// The addresses of a host, all of which may be connected to. `literal` is its address
    /// where the host is one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn addresses(
        &self,
        host: &Arc<str>,
        literal: Option<IpAddr>,
        port: u16,
        allowance: Allowance,
    ) -> Result<Vec<SocketAddr>, Error> {
        let addresses: Vec<SocketAddr> = match literal {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => {
                let found = self.resolver.addresses(host).await;
                let found = found.map_err(Error::Unresolved)?;
                found.iter().map(|it| SocketAddr::new(*it, port)).collect()
            }
        };
        match addresses.iter().all(|it| self.may_connect(*it, allowance)) {
            true => Ok(addresses),
            false => Err(Error::Unsafe),
        }
    }

    /// Whether `address` may be connected to.
    pub fn may_connect(&self, address: SocketAddr, allowance: Allowance) -> bool {
        is_allowed(address, allowance)
            && (allowance.exempt == Some(address) || !self.leads_back(address))
    }

    /// Whether one of the installation's own listeners may be there: a request would come
    /// back to where it came from, or reach what only operators may. Which address a
    /// listener is bound to does not matter.
    fn leads_back(&self, address: SocketAddr) -> bool {
        self.own_ports.contains(&address.port()) && is_local(address.ip().to_canonical())
    }
}

/// Whether the address is this host's: only such can be bound to. Where the system lets
/// others be bound too (`ip_nonlocal_bind`), these count as local, which is the safe side.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve;

    const ANY: Allowance = Allowance {
        private: true,
        exempt: None,
    };

    #[test]
    fn a_request_does_not_come_back_whatever_is_allowed() {
        let (resolver, _service) = resolve::new(None);
        let reach = Reach::new(resolver, ["0.0.0.0:7080".parse().unwrap()]);
        let check = |address: &str, allowance, expected: bool| {
            let found = reach.may_connect(address.parse().unwrap(), allowance);
            assert_eq!(found, expected, "{address}");
        };
        for own in [
            "127.0.0.1:7080",
            "127.8.8.8:7080",
            "[::1]:7080",
            "[::ffff:127.0.0.1]:7080",
            "0.0.0.0:7080",
            "[::]:7080",
        ] {
            check(own, ANY, false);
        }
        check("127.0.0.1:7081", ANY, true);
        check("127.0.0.1:7081", Allowance::default(), false);
        // Documentation addresses are nobody's, this host's included.
        check("203.0.113.9:7080", ANY, true);
        check("1.1.1.1:443", Allowance::default(), true);
        let exempt = Allowance {
            private: false,
            exempt: Some("127.0.0.1:7080".parse().unwrap()),
        };
        check("127.0.0.1:7080", exempt, true);
    }
}
