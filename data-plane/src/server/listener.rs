//! Where clients knock: one listener for each worker, all on one port.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted, per worker.
const BACKLOG: i32 = 1_024;

/// One listener for each worker.
pub(super) fn listen_shared(
    address: SocketAddr,
    count: usize,
) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    // Sockets that share a port would share it with another process of ours, too; a
    // first one that does not share finds out whether the port is free.
    let probe = listen(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    let listeners = (0..count)
        .map(|_| listen(address, true))
        .collect::<io::Result<_>>()?;
    Ok((address, listeners))
}

/// One listener.
pub(super) fn listen(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets no new connection begin, while those that have begun still come in.
///
/// A listener that is closed resets what waits to be accepted, and however fast one
/// accepts and closes, something may come between. So first the system is told to drop the
/// packet that opens a connection (SYN without ACK) and no other. Its client sends it
/// again after a second and finds the listener closed, or the next process there.
#[cfg(target_os = "linux")]
pub(super) fn close_door(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};

    // Classic BPF over the packet from its TCP header on, where byte 13 holds the flags.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const NOTHING: u32 = 0;
    const WHOLE: u32 = u32::MAX;
    let program = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, NOTHING),
        SockFilter::new(RETURN, 0, 0, WHOLE),
    ];
    if let Err(err) = SockRef::from(listener).attach_filter(&program) {
        tracing::warn!(error = %err, "connections may be reset that begin at this moment");
    }
}

/// Elsewhere there is no such filter.
#[cfg(not(target_os = "linux"))]
pub(super) fn close_door(_listener: &TcpListener) {}
