//! Tells the neighbours on a LAN where an address is now: gratuitous ARP, unsolicited
//! neighbour advertisements.
//!
//! One lost frame would leave a client with the old server for minutes, so the announcement is
//! repeated. Nothing here waits: the owner asks when the next one is due and calls `send_due`.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::addresses::Interface;
use super::frames;
use super::packet_socket::PacketSocket;

/// When an announcement is sent, counted from the moment the address was added.
pub const ANNOUNCE_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];

/// Which repetitions are still to be sent. Pure: the time since the start is an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    sent: usize,
}

impl Schedule {
    /// The time since the start at which the next one is due; `None` after the last.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        ANNOUNCE_AT.get(self.sent).copied()
    }

    /// Whether one is to be sent now. Several missed ones count as one: a repetition is there for
    /// frames lost on the way, not for time that passed.
    pub fn take_due(&mut self, since_start: Duration) -> bool {
        let due = ANNOUNCE_AT.partition_point(|at| *at <= since_start);
        let is_due = due > self.sent;
        self.sent = self.sent.max(due);
        is_due
    }
}

/// Announces one address on one interface.
pub struct Announcer {
    socket: PacketSocket,
    frames: Vec<Vec<u8>>,
}

impl Announcer {
    /// Prepares the frames and the socket. `None` for an interface without hardware addresses
    /// (loopback, a tunnel): nobody there keeps a table that could be stale.
    ///
    /// # Errors
    /// Those of opening a packet socket.
    pub fn new(interface: &Interface, address: IpAddr) -> io::Result<Option<Announcer>> {
        let Some(mac) = interface.mac else {
            return Ok(None);
        };
        Ok(Some(Announcer {
            socket: PacketSocket::open(interface.index, None)?,
            frames: frames::announcement(address, mac),
        }))
    }

    /// Sends the announcement once, without waiting.
    ///
    /// # Errors
    /// Those of sending: the interface is down, its queue is full.
    pub fn send(&self) -> io::Result<()> {
        self.frames
            .iter()
            .try_for_each(|frame| self.socket.send(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repetition_is_sent_once_and_missed_ones_count_as_one() {
        let ms = Duration::from_millis;
        let mut schedule = Schedule::default();
        assert!(schedule.take_due(ms(0)));
        assert!(!schedule.take_due(ms(99)));
        assert_eq!(schedule.next(), Some(ms(100)));
        assert!(schedule.take_due(ms(100)));
        assert!(schedule.take_due(ms(3000)), "500 ms and 2 s at once");
        assert!(!schedule.take_due(ms(3001)));
        assert!(schedule.take_due(ms(10_000)));
        assert_eq!(schedule.next(), None);
        assert!(!schedule.take_due(ms(100_000)));
    }
}
