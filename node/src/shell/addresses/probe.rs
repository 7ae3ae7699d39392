//! Asks the LAN whether somebody already has an address.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressError, Interface};
use crate::shell::frames;
use crate::shell::packet_socket::PacketSocket;

/// How long answers are waited for. RFC 5227 takes seconds, for networks of 2008 and unattended
/// laptops; a takeover cannot, and a LAN that answers later than this has other troubles.
pub const PROBE_WAIT: Duration = Duration::from_millis(200);
/// The question is repeated once in this time, against a lost frame.
const PROBE_EVERY: Duration = Duration::from_millis(60);
/// Longer frames are cut: the beginning says it all.
const FRAME_BYTES_MAX: usize = 2048;

/// Asks whether another machine on the LAN of `interface` has `address`. Blocks for at most `wait`
/// (see [`PROBE_WAIT`]).
///
/// # Errors
/// `InUse` with the hardware address that answered; `System`.
pub fn probe(interface: &Interface, address: IpAddr, wait: Duration) -> Result<(), AddressError> {
    let Some(own) = interface.mac else {
        return Ok(());
    };
    let ether_type = frames::claim_ether_type(address);
    let socket = PacketSocket::open(interface.index, Some(ether_type.0))
        .map_err(AddressError::during("open a packet socket"))?;
    let question = frames::probe(address, own);
    let mut buffer = [0; FRAME_BYTES_MAX];
    let end = Instant::now() + wait;
    let mut ask_at = Instant::now();
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(());
        }
        if now >= ask_at {
            socket
                .send(&question)
                .map_err(AddressError::during("send a probe"))?;
            ask_at = now + PROBE_EVERY;
        }
        let frame = socket
            .receive(&mut buffer, ask_at.min(end).saturating_duration_since(now))
            .map_err(AddressError::during("wait for an answer to a probe"))?;
        if let Some(mac) = frame.and_then(|frame| frames::claim(frame, address, own)) {
            return Err(AddressError::InUse {
                address,
                interface: interface.name.clone(),
                mac,
            });
        }
    }
}
