//! The links between members: one-way, per LAN and per kind of connection, each with its own troubles.

use super::clock::MS;
use super::message::{Channel, Place};
use super::random::Random;

pub(super) const LANS_MAX: usize = 2;
/// The two servers that hold the copies, a witness, and two servers more.
pub(super) const PLACES_MAX: usize = 5;

/// Retransmission of a lost segment of a connection.
const RETRANSMIT: u64 = 200 * MS;

/// One direction of one connection between two members on one LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) lan: usize,
}

#[derive(Debug)]
pub(super) struct Network {
    /// Members of the cluster.
    pub(super) places: usize,
    pub(super) lans: usize,
    /// How many faults cut each of them now.
    cuts: [[[[u8; 3]; PLACES_MAX]; PLACES_MAX]; LANS_MAX],
    /// Microseconds.
    pub(super) latency_us: (u64, u64),
    pub(super) loss_percent: u64,
    pub(super) duplicate_percent: u64,
    pub(super) straggler_percent: u64,
}

impl Network {
    pub(super) fn new(places: usize, lans: usize) -> Self {
        Self {
            places,
            lans,
            cuts: [[[[0; 3]; PLACES_MAX]; PLACES_MAX]; LANS_MAX],
            latency_us: (80, 400),
            loss_percent: 0,
            duplicate_percent: 0,
            straggler_percent: 0,
        }
    }

    pub(super) fn cut(&mut self, link: Link, channel: Channel) {
        self.cuts[link.lan][link.from][link.to][channel as usize] += 1;
    }

    pub(super) fn mend(&mut self, link: Link, channel: Channel) {
        let cuts = &mut self.cuts[link.lan][link.from][link.to][channel as usize];
        *cuts = cuts.saturating_sub(1);
    }

    pub(super) fn mend_all(&mut self) {
        *self = Self::new(self.places, self.lans);
    }

    /// A message sent now arrives after these delays: none when it is lost, two when it is duplicated.
    pub(super) fn delays(&self, link: Link, channel: Channel, random: &mut Random) -> Vec<u64> {
        let mut delays = Vec::with_capacity(2);
        if self.cuts[link.lan][link.from][link.to][channel as usize] != 0 {
            return delays;
        }
        if random.chance(self.loss_percent) {
            // Heartbeats are worth nothing when late, and their connection is soon replaced.
            if channel == Channel::Beats || random.chance(30) {
                return delays;
            }
            delays.push(RETRANSMIT + self.delay(random));
        } else {
            delays.push(self.delay(random));
        }
        if channel != Channel::Mirror && random.chance(self.duplicate_percent) {
            delays.push(self.delay(random));
        }
        delays
    }

    fn delay(&self, random: &mut Random) -> u64 {
        let (low, high) = self.latency_us;
        let mut delay = random.between(low, high) * 1000;
        if random.chance(self.straggler_percent) {
            delay += random.between(5, 900) * MS;
        }
        delay
    }
}
