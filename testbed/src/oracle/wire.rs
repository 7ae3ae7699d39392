//! Who answers for the virtual address, seen at the switch (P2).
//!
//! Every ARP frame, neighbour advertisement and IPv4 packet that claims the virtual address is noted with its source hardware
//! address, which names the server. Tenures are what is left: who claimed, from when to when. Two owners at once show up as a
//! tenure that returns (A, B, A) although the roles did not.

use crate::lab::namespaces::NetworkHandle;
use crate::wait::boot_ns;
use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// `ETH_P_ALL` of the kernel: every frame.
const ALL_FRAMES: u16 = 0x0003;
/// Enough for every header that is looked at.
const FRAME_BYTES: usize = 256;
/// Frames that wait for us.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// The time during which one server claimed the virtual address.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Tenure {
    /// Last byte of the hardware address = host number of the server in the topology.
    pub host: u8,
    /// First claim, boot time.
    pub first_ns: u64,
    /// Last claim, boot time.
    pub last_ns: u64,
    /// Claims seen.
    pub frames: u64,
    /// How it was last claimed.
    pub last_kind: Kind,
}

/// How an address is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Kind {
    /// ARP with the address as sender.
    Arp,
    /// Neighbour advertisement for the address.
    Neighbour,
    /// An IPv4 packet from the address.
    Packet,
}

/// A running capture.
#[derive(Debug)]
pub struct Wire {
    tenures: Arc<Mutex<Vec<Tenure>>>,
    must_stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts to capture at the switch.
    ///
    /// # Errors
    /// The capture socket cannot be made.
    pub fn start(switch: &NetworkHandle, v4: Ipv4Addr, v6: Ipv6Addr) -> anyhow::Result<Wire> {
        let socket = switch.within(|| open(v4))?;
        let tenures = Arc::new(Mutex::new(Vec::new()));
        let must_stop = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&tenures), Arc::clone(&must_stop));
        let thread = std::thread::spawn(move || capture(socket, v4, v6, &seen, &stop));
        Ok(Wire {
            tenures,
            must_stop,
            thread: Some(thread),
        })
    }

    /// All tenures so far.
    pub fn tenures(&self) -> Vec<Tenure> {
        self.tenures.lock().clone()
    }

    /// Boot time of the first claim by a host at or after `after_ns`.
    pub fn first_claim(&self, host: u8, after_ns: u64) -> Option<u64> {
        self.tenures
            .lock()
            .iter()
            .find(|t| t.host == host && t.last_ns >= after_ns)
            .map(|t| t.first_ns.max(after_ns))
    }

    /// The owners on the wire followed the primaries, in their order, and none came back unasked.
    ///
    /// # Errors
    /// Says which tenure is one too many.
    pub fn verify(&self, primaries: &[u8]) -> anyhow::Result<()> {
        verify(&self.tenures(), primaries)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.must_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the capture panicked");
        }
    }
}

fn verify(tenures: &[Tenure], primaries: &[u8]) -> anyhow::Result<()> {
    let mut rest = primaries.iter();
    for tenure in tenures {
        ensure!(
            rest.any(|primary| *primary == tenure.host),
            "two owners of the virtual address on the wire: host {} claimed it {} times ({:?}) when it was not its turn; \
             primaries were {primaries:?}, tenures {tenures:?}",
            tenure.host,
            tenure.frames,
            tenure.last_kind,
        );
    }
    Ok(())
}

fn open(v4: Ipv4Addr) -> anyhow::Result<Socket> {
    let protocol = Protocol::from(i32::from(ALL_FRAMES.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open capture")?;
    socket
        .attach_filter(&filter(v4))
        .context("filter capture")?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Classic BPF: ARP, ICMPv6, and IPv4 from the virtual address. All the rest, the mirror's own traffic above all, never
/// reaches this process.
fn filter(v4: Ipv4Addr) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let accept = u32::try_from(FRAME_BYTES).unwrap_or(u32::MAX);
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 6, 0, 0x0806),
        SockFilter::new(JUMP_EQUAL, 0, 2, 0x0800),
        SockFilter::new(LOAD_WORD, 0, 0, 26),
        SockFilter::new(JUMP_EQUAL, 3, 4, u32::from(v4)),
        SockFilter::new(JUMP_EQUAL, 0, 3, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_EQUAL, 0, 1, 58),
        SockFilter::new(RETURN, 0, 0, accept),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn capture(
    mut socket: Socket,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    seen: &Mutex<Vec<Tenure>>,
    must_stop: &AtomicBool,
) {
    let mut frame = [0_u8; FRAME_BYTES];
    while !must_stop.load(Ordering::Relaxed) {
        // A timeout ends the read too; the loop then looks at the stop flag.
        let Ok(length) = socket.read(&mut frame) else {
            continue;
        };
        if let Some((host, kind)) = claim(&frame[..length], v4, v6) {
            note(&mut seen.lock(), host, kind, boot_ns());
        }
    }
}

/// Does this frame claim the virtual address, and who sent it?
fn claim(frame: &[u8], v4: Ipv4Addr, v6: Ipv6Addr) -> Option<(u8, Kind)> {
    let host = *frame.get(11)?;
    let kind = match frame.get(12..14)? {
        [0x08, 0x06] => (frame.get(28..32)? == v4.octets()).then_some(Kind::Arp),
        [0x08, 0x00] => (frame.get(26..30)? == v4.octets()).then_some(Kind::Packet),
        [0x86, 0xdd] => {
            let is_advertisement = *frame.get(20)? == 58 && *frame.get(54)? == 136;
            (is_advertisement && frame.get(62..78)? == v6.octets()).then_some(Kind::Neighbour)
        }
        _other => None,
    };
    Some((host, kind?))
}

fn note(tenures: &mut Vec<Tenure>, host: u8, kind: Kind, now_ns: u64) {
    match tenures.last_mut() {
        Some(last) if last.host == host => {
            last.last_ns = now_ns;
            last.frames += 1;
            last.last_kind = kind;
        }
        Some(_) | None => tenures.push(Tenure {
            host,
            first_ns: now_ns,
            last_ns: now_ns,
            frames: 1,
            last_kind: kind,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arp(host: u8, sender: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0x5d, 0, 0, 1, host, 0x08, 0x06]);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 2, 2, 0x5d, 0, 0, 1, host]);
        frame.extend(sender.octets());
        frame.extend([0; 10]);
        frame
    }

    #[test]
    fn arp_from_the_address_is_a_claim_and_a_question_is_not() {
        let (v4, v6) = (Ipv4Addr::new(10, 77, 1, 100), Ipv6Addr::LOCALHOST);
        assert_eq!(claim(&arp(1, v4), v4, v6), Some((1, Kind::Arp)));
        let client = Ipv4Addr::new(10, 77, 1, 200);
        assert_eq!(claim(&arp(200, client), v4, v6), None);
        assert_eq!(claim(&[1, 2, 3], v4, v6), None);
    }

    #[test]
    fn owner_that_comes_back_unasked_is_found() {
        let mut tenures = Vec::new();
        for (host, at) in [(1, 1), (1, 2), (2, 3), (1, 4)] {
            note(&mut tenures, host, Kind::Packet, at);
        }
        assert_eq!(tenures.len(), 3);
        verify(&tenures, &[1, 2, 1]).expect("a switch-back explains it");
        let error = verify(&tenures, &[1, 2]).expect_err("host 1 spoke after host 2");
        assert!(error.to_string().contains("two owners"), "{error}");
    }
}
