//! Sockets of the common port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 256;
/// An idle connection is probed after this time, and then this often.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEPALIVE_RETRIES: u32 = 3;
/// A connection whose other end acknowledges nothing for this long is over.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A listening socket. The address need not be on this machine yet: a LAN that is down when the
/// daemon starts must not keep it from starting.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether a daemon could listen at this address now. Must be called within a runtime.
///
/// # Errors
/// What the system says against it.
pub(crate) fn try_listen(address: SocketAddr) -> io::Result<()> {
    listen(address).map(drop)
}

/// Whether this machine has the address now.
pub(crate) fn is_here(mut address: SocketAddr) -> bool {
    address.set_port(0);
    std::net::UdpSocket::bind(address).is_ok()
}

/// Options of every connection, accepted or dialled: small messages leave at once, and a dead peer
/// is noticed.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_EVERY)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))
}
