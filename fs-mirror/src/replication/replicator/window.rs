//! The changes of a session that the peer has not acknowledged yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::replication::stats::LatencyHistogram;

/// The peer acknowledged what was never shipped, or twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("acknowledgement of change {seq}, which is not in flight")]
pub struct NotInFlight {
    /// What it named.
    pub seq: u64,
}

/// Shipped changes in order. Acknowledgements come in any order.
#[derive(Debug)]
pub(super) struct Window<C> {
    /// Number of the first slot. Invariant: the first slot is not acknowledged.
    base: u64,
    slots: VecDeque<Slot<C>>,
    frames_in_flight: usize,
    bytes_in_flight: usize,
}

#[derive(Debug)]
struct Slot<C> {
    bytes: usize,
    is_acked: bool,
    /// Syncs a whole file system: may take long without being a sign of a slow peer.
    is_barrier: bool,
    shipped_at: Instant,
    completion: Option<C>,
}

impl<C> Window<C> {
    pub(super) fn new() -> Window<C> {
        Window {
            base: 1,
            slots: VecDeque::new(),
            frames_in_flight: 0,
            bytes_in_flight: 0,
        }
    }

    /// Number of the next change.
    pub(super) fn next_seq(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Adds the next change.
    pub(super) fn push(&mut self, bytes: usize, is_barrier: bool, now: Instant) {
        self.slots.push_back(Slot {
            bytes,
            is_acked: false,
            is_barrier,
            shipped_at: now,
            completion: None,
        });
        self.frames_in_flight += 1;
        self.bytes_in_flight += bytes;
    }

    /// Takes an acknowledgement and gives the request that waited for it.
    pub(super) fn on_ack(
        &mut self,
        seq: u64,
        now: Instant,
        latency: &mut LatencyHistogram,
    ) -> Result<Option<C>, NotInFlight> {
        let slot = self
            .slot(seq)
            .filter(|slot| !slot.is_acked)
            .ok_or(NotInFlight { seq })?;
        slot.is_acked = true;
        latency.record(now.saturating_duration_since(slot.shipped_at));
        let (bytes, completion) = (slot.bytes, slot.completion.take());
        self.frames_in_flight -= 1;
        self.bytes_in_flight -= bytes;
        while self.slots.front().is_some_and(|slot| slot.is_acked) {
            self.slots.pop_front();
            self.base += 1;
        }
        Ok(completion)
    }

    /// Keeps `completion` until `seq` is acknowledged; gives it back when it already is.
    pub(super) fn wait(&mut self, seq: u64, completion: C) -> Option<C> {
        match self.slot(seq) {
            Some(slot) if !slot.is_acked => {
                assert!(
                    slot.completion.is_none(),
                    "two requests wait for change {seq}"
                );
                slot.completion = Some(completion);
                None
            }
            Some(_) | None => Some(completion),
        }
    }

    /// Takes every request that waits.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = C> + '_ {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.completion.take())
    }

    /// Whether everything up to `seq` is acknowledged.
    pub(super) fn is_acked_through(&self, seq: u64) -> bool {
        self.base > seq
    }

    pub(super) fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// Slots kept, acknowledged ones behind an unacknowledged one included: that is what costs memory.
    pub(super) fn frames(&self) -> usize {
        self.slots.len()
    }

    /// A change that has waited longer than `limit`, or longer than `barrier_limit` when it is a barrier.
    pub(super) fn overdue(
        &self,
        now: Instant,
        limit: Duration,
        barrier_limit: Duration,
    ) -> Option<u64> {
        let is_overdue = |slot: &Slot<C>| {
            let limit = if slot.is_barrier {
                barrier_limit
            } else {
                limit
            };
            now.saturating_duration_since(slot.shipped_at) > limit
        };
        // Slots are in order of time: the first of each kind is the oldest of it.
        let oldest = |is_barrier: bool| {
            self.slots
                .iter()
                .position(|slot| !slot.is_acked && slot.is_barrier == is_barrier)
        };
        let overdue = [false, true]
            .into_iter()
            .filter_map(oldest)
            .find(|index| is_overdue(&self.slots[*index]))?;
        Some(self.base + overdue as u64)
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Slot<C>> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(changes: usize) -> Window<&'static str> {
        let mut window = Window::new();
        for _ in 0..changes {
            window.push(100, false, Instant::now());
        }
        window
    }

    fn ack(
        window: &mut Window<&'static str>,
        seq: u64,
    ) -> Result<Option<&'static str>, NotInFlight> {
        window.on_ack(seq, Instant::now(), &mut LatencyHistogram::default())
    }

    #[test]
    fn acknowledgements_come_in_any_order() {
        let mut window = window(3);
        assert_eq!(window.wait(1, "first"), None);
        assert_eq!(window.wait(3, "third"), None);
        assert_eq!(ack(&mut window, 3), Ok(Some("third")));
        assert_eq!(window.frames(), 3);
        assert!(!window.is_acked_through(1));
        assert_eq!(ack(&mut window, 1), Ok(Some("first")));
        assert!(window.is_acked_through(1) && !window.is_acked_through(2));
        assert_eq!(ack(&mut window, 2), Ok(None));
        assert!(window.is_acked_through(3));
        assert_eq!(
            (window.frames(), window.bytes_in_flight(), window.next_seq()),
            (0, 0, 4)
        );
    }

    #[test]
    fn a_request_that_comes_after_its_acknowledgement_is_given_back() {
        let mut window = window(2);
        assert_eq!(ack(&mut window, 2), Ok(None));
        assert_eq!(window.wait(2, "late"), Some("late"));
        assert_eq!(ack(&mut window, 1), Ok(None));
        assert_eq!(window.wait(1, "later"), Some("later"));
    }

    #[test]
    fn what_is_not_in_flight_cannot_be_acknowledged() {
        let mut window = window(2);
        assert_eq!(ack(&mut window, 2), Ok(None));
        for seq in [0, 2, 3, u64::MAX] {
            assert_eq!(ack(&mut window, seq), Err(NotInFlight { seq }));
        }
    }

    #[test]
    fn barriers_may_take_longer() {
        let start = Instant::now();
        let (limit, barrier_limit) = (Duration::from_secs(30), Duration::from_secs(600));
        let mut window: Window<()> = Window::new();
        window.push(1, true, start);
        window.push(1, false, start + Duration::from_secs(40));
        let overdue =
            |seconds| window.overdue(start + Duration::from_secs(seconds), limit, barrier_limit);
        assert_eq!(overdue(60), None);
        assert_eq!(overdue(71), Some(2));
        window
            .on_ack(2, start, &mut LatencyHistogram::default())
            .unwrap();
        let overdue =
            |seconds| window.overdue(start + Duration::from_secs(seconds), limit, barrier_limit);
        assert_eq!(overdue(600), None);
        assert_eq!(overdue(601), Some(1));
    }
}
