//! Everything outside the members: what will happen and when, the network, the disks, and the one who checks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::faults::Deed;
use super::message::{Channel, Message, Payload, Place};
use super::network::{Link, Network, PLACES_MAX};
use super::oracle::Oracle;
use super::raft::Entry;
use super::random::Random;
use super::trace::Trace;
use crate::planted::Bug;

/// The members, as traces call them.
pub(super) const NAMES: [&str; PLACES_MAX] = ["a", "b", "w", "x", "y"];

/// What happens to one run of one daemon.
#[derive(Debug)]
pub(super) enum Happening {
    Tick,
    DiskDone,
    StepDone {
        module: usize,
    },
    ScriptDone {
        module: usize,
        tenure: u32,
    },
    Write {
        module: usize,
        tenure: u32,
    },
    Written {
        module: usize,
        tenure: u32,
        write: u32,
    },
    SendPart {
        module: usize,
        session: u64,
    },
    Stored {
        module: usize,
        session: u64,
        ack: Option<u64>,
        payload: Payload,
    },
}

#[derive(Debug)]
pub(super) enum Event {
    Of {
        place: Place,
        run: u32,
        what: Happening,
    },
    Deliver {
        from: Place,
        to: Place,
        message: Message,
    },
    Deed(Deed),
    Heal,
    Check,
}

#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) at: u64,
    order: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything outside the members.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) now: u64,
    pub(super) queue: BinaryHeap<Reverse<Scheduled>>,
    pub(super) order: u64,
    pub(super) network: Network,
    /// When the last frame of each stream arrives: a stream keeps its order.
    pub(super) stream_last: [[u64; PLACES_MAX]; PLACES_MAX],
    pub(super) disks_us: [(u64, u64); PLACES_MAX],
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) oracle: Oracle,
    pub(super) bug: Option<Bug>,
    /// Something that the checks look at has changed.
    pub(super) must_check: bool,
    pub(super) acknowledged: u64,
}

impl Outside {
    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Scheduled { at, order, event }));
    }

    pub(super) fn later(&mut self, place: Place, run: u32, wait: u64, what: Happening) {
        self.schedule(self.now + wait, Event::Of { place, run, what });
    }

    pub(super) fn send(&mut self, from: Place, to: Place, lan: usize, message: Message) {
        let channel = message.channel();
        let link = Link { from, to, lan };
        let delays = self.network.delays(link, channel, &mut self.random);
        for delay in delays {
            let mut at = self.now + delay;
            if channel == Channel::Mirror {
                at = at.max(self.stream_last[from][to] + 1);
                self.stream_last[from][to] = at;
            }
            let message = message.clone();
            self.schedule(at, Event::Deliver { from, to, message });
        }
    }

    pub(super) fn disk_latency(&mut self, place: Place) -> u64 {
        let (low, high) = self.disks_us[place];
        self.random.between(low, high) * 1000
    }

    pub(super) fn on_committed(&mut self, index: usize, entry: &Entry) {
        if self.oracle.on_committed(index, entry, self.bug) {
            self.must_check = true;
            let name = entry.proposal.as_ref().map(|proposal| {
                let text = format!("{:?}", proposal.command);
                text.chars().take(120).collect::<String>()
            });
            let name = name.unwrap_or_else(|| "leader's first entry".to_owned());
            self.trace
                .note(self.now, format_args!("committed {index}: {name}"));
        }
    }

    pub(super) fn check_applied(&mut self, place: Place, index: usize, digest: u64) {
        self.oracle.check_applied(NAMES[place], index, digest);
    }

    pub(super) fn acknowledge(&mut self, place: Place, module: usize, write: u32) {
        self.oracle.modules[module].acknowledged.insert(write);
        self.acknowledged += 1;
        self.must_check = true;
        self.trace.detail(
            self.now,
            format_args!("{} acknowledges {module}#{write}", NAMES[place]),
        );
    }
}
