//! Who answers for the virtual address, seen at the switch (P2).
//!
//! Every ARP frame, neighbour advertisement and packet that claims the virtual address is noted with its source hardware
//! address, which names the server. Tenures are what is left: who claimed, from when to when. Two owners at once show up as a
//! tenure that returns (A, B, A) although the roles did not.

use crate::lab::namespaces::NetworkHandle;
use crate::wait::boot_ns;
use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// `ETH_P_ALL` of the kernel: every frame.
const ALL_FRAMES: u16 = 0x0003;
/// Enough for every header that is looked at.
const FRAME_BYTES: usize = 256;
/// Frames between two questions to the kernel whether it lost some.
const FRAMES_PER_LOOK: usize = 1000;
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
    /// A packet from the address.
    Packet,
}

/// A running capture.
#[derive(Debug)]
pub struct Wire {
    tenures: Arc<Mutex<Vec<Tenure>>>,
    /// Frames that the kernel could not keep for us.
    missed: Arc<AtomicU64>,
    must_stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts to capture at the switch.
    ///
    /// # Errors
    /// The capture socket cannot be made.
    pub fn start(switch: &NetworkHandle, v4: Ipv4Addr, v6: Ipv6Addr) -> anyhow::Result<Wire> {
        let socket = switch.within(|| open(v4, v6))?;
        let tenures = Arc::new(Mutex::new(Vec::new()));
        let must_stop = Arc::new(AtomicBool::new(false));
        let missed = Arc::new(AtomicU64::new(0));
        let (seen, stop) = (Arc::clone(&tenures), Arc::clone(&must_stop));
        let lost = Arc::clone(&missed);
        let thread = std::thread::spawn(move || {
            let mut socket = socket;
            while !stop.load(Ordering::Relaxed) {
                capture(&mut socket, v4, v6, &seen);
                lost.fetch_add(newly_missed(&socket), Ordering::Relaxed);
            }
        });
        Ok(Wire {
            tenures,
            missed,
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
    /// Says which tenure is one too many; nobody claimed the address, or the capture missed frames.
    pub fn verify(&self, primaries: &[u8]) -> anyhow::Result<()> {
        let missed = self.missed.load(Ordering::Relaxed);
        ensure!(
            missed == 0,
            "the capture at the switch missed {missed} frames: who owned the virtual address is not known"
        );
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
    ensure!(
        !tenures.is_empty(),
        "nobody claimed the virtual address on the wire, although the module served"
    );
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

fn open(v4: Ipv4Addr, v6: Ipv6Addr) -> anyhow::Result<Socket> {
    let protocol = Protocol::from(i32::from(ALL_FRAMES.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open capture")?;
    socket
        .attach_filter(&filter(v4, v6))
        .context("filter capture")?;
    // Past the limit for everybody: a lab is run by root, and what is missed here is not known.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Classic BPF: ARP, ICMPv6, and packets from the virtual addresses. All the rest, the mirror's own traffic above all, never
/// reaches this process.
fn filter(v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let accept = u32::try_from(FRAME_BYTES).unwrap_or(u32::MAX);
    let bits = v6.to_bits();
    let word = |index: u32| u32::try_from((bits >> (96 - 32 * index)) & 0xffff_ffff).unwrap_or(0);
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 14, 0, 0x0806),
        SockFilter::new(JUMP_EQUAL, 0, 2, 0x0800),
        SockFilter::new(LOAD_WORD, 0, 0, 26),
        SockFilter::new(JUMP_EQUAL, 11, 12, u32::from(v4)),
        SockFilter::new(JUMP_EQUAL, 0, 11, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_EQUAL, 8, 0, 58),
        SockFilter::new(LOAD_WORD, 0, 0, 22),
        SockFilter::new(JUMP_EQUAL, 0, 7, word(0)),
        SockFilter::new(LOAD_WORD, 0, 0, 26),
        SockFilter::new(JUMP_EQUAL, 0, 5, word(1)),
        SockFilter::new(LOAD_WORD, 0, 0, 30),
        SockFilter::new(JUMP_EQUAL, 0, 3, word(2)),
        SockFilter::new(LOAD_WORD, 0, 0, 34),
        SockFilter::new(JUMP_EQUAL, 0, 1, word(3)),
        SockFilter::new(RETURN, 0, 0, accept),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Notes claims until no frame has come for a moment, or many have.
fn capture(socket: &mut Socket, v4: Ipv4Addr, v6: Ipv6Addr, seen: &Mutex<Vec<Tenure>>) {
    let mut frame = [0_u8; FRAME_BYTES];
    for _ in 0..FRAMES_PER_LOOK {
        // A timeout ends the read too.
        let Ok(length) = socket.read(&mut frame) else {
            return;
        };
        if let Some((host, kind)) = claim(&frame[..length], v4, v6) {
            note(&mut seen.lock(), host, kind, boot_ns());
        }
    }
}

/// Frames the kernel could not keep for this socket since it was asked last. All count when it does not answer.
#[expect(
    unsafe_code,
    reason = "no safe crate here knows PACKET_STATISTICS; the kernel writes at most the size it is given"
)]
fn newly_missed(socket: &Socket) -> u64 {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(0);
    // SAFETY: both pointers are to live values of this function, and `length` is the size of the first.
    let answered = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut statistics).cast(),
            &raw mut length,
        )
    };
    if answered == 0 {
        u64::from(statistics.tp_drops)
    } else {
        tracing::warn!(error = %std::io::Error::last_os_error(), "the capture does not know what it missed");
        1
    }
}

/// Does this frame claim the virtual address, and who sent it?
fn claim(frame: &[u8], v4: Ipv4Addr, v6: Ipv6Addr) -> Option<(u8, Kind)> {
    let host = *frame.get(11)?;
    let kind = match frame.get(12..14)? {
        [0x08, 0x06] => (frame.get(28..32)? == v4.octets()).then_some(Kind::Arp),
        [0x08, 0x00] => (frame.get(26..30)? == v4.octets()).then_some(Kind::Packet),
        [0x86, 0xdd] => {
            let is_from_it = frame.get(22..38)? == v6.octets();
            let is_advertisement = *frame.get(20)? == 58 && *frame.get(54)? == 136;
            if is_advertisement && frame.get(62..78)? == v6.octets() {
                Some(Kind::Neighbour)
            } else {
                is_from_it.then_some(Kind::Packet)
            }
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
    fn packet_from_the_ipv6_address_is_a_claim() {
        let (v4, v6) = (
            Ipv4Addr::LOCALHOST,
            "fd00::100".parse::<Ipv6Addr>().expect("an address"),
        );
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0x5d, 0, 0, 1, 2, 0x86, 0xdd]);
        frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
        frame.extend(v6.octets());
        frame.extend([0; 36]);
        assert_eq!(claim(&frame, v4, v6), Some((2, Kind::Packet)));
        assert_eq!(claim(&frame, v4, Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn silence_on_the_wire_is_a_failure() {
        let error = verify(&[], &[1]).expect_err("somebody served");
        assert!(error.to_string().contains("nobody claimed"), "{error}");
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
