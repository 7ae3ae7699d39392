//! A raw packet socket on one interface: whole Ethernet frames out and in.
#![expect(
    unsafe_code,
    reason = "neither socket2 nor rustix can name the address of a packet socket"
)]

use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Sends and receives whole Ethernet frames on one interface.
pub(crate) struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens a socket on the interface with this index that receives frames of one Ethernet type,
    /// or with `None` only sends.
    ///
    /// # Errors
    /// Those of the system: no right to do so (`CAP_NET_RAW`), no such interface.
    pub(crate) fn open(interface: u32, receive: Option<u16>) -> io::Result<PacketSocket> {
        // Protocol 0 until bound: frames of other interfaces must not be queued in between.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.bind(&link_address(interface, receive.unwrap_or(0))?)?;
        Ok(PacketSocket { socket })
    }

    /// Queues one frame for sending; never waits (a full queue is `WouldBlock`).
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket
            .send_with_flags(frame, libc::MSG_DONTWAIT)
            .map(drop)
    }

    /// Receives one frame into `buffer`; `None` when none came within `wait`.
    pub(crate) fn receive<'b>(
        &self,
        buffer: &'b mut [u8],
        wait: Duration,
    ) -> io::Result<Option<&'b [u8]>> {
        // The system reads a timeout of zero as "for ever".
        self.socket
            .set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        match (&self.socket).read(buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

fn link_address(interface: u32, ether_type: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(interface)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index too large"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address of this platform, smaller than the zeroed storage.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ether_type.to_be();
    link.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the family is AF_PACKET and `length` bytes are initialised as its `sockaddr_ll`.
    Ok(unsafe { SockAddr::new(storage, length) })
}
