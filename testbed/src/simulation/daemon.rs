//! A running daemon of a member, and what it sees of the others.

use std::collections::{BTreeMap, VecDeque};

use consensus::better_leader;
use consensus::liveness::{BootTime, LeaseHolder, Timing, Watcher};
use consensus::state::ClusterState;

use super::agent::Agent;
use super::clock::{MS, SECOND};
use super::message::Place;
use super::network::{LANS_MAX, PLACES_MAX};
use super::place::id;
use super::proposals::Proposals;
use super::raft::{Raft, Role, Sync, Todo};

/// Between two times that a leader gives its lead to another one.
const HAND_OVER_COOL_DOWN: u64 = 5 * SECOND;
/// A LAN on which nothing was heard for so long counts as silent.
const LAN_SILENT: u64 = 450 * MS;

/// A running daemon: gone with it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) raft: Raft,
    pub(super) syncs: VecDeque<Sync>,
    /// When the disk has done what it was given.
    pub(super) disk_free_at: u64,
    pub(super) state: ClusterState,
    pub(super) applied: usize,
    pub(super) watcher: Watcher,
    pub(super) holder: LeaseHolder,
    pub(super) lease_until: BootTime,
    pub(super) heard: [[Option<BootTime>; LANS_MAX]; PLACES_MAX],
    pub(super) reports: [u8; PLACES_MAX],
    pub(super) beat_due: BootTime,
    /// The lengths of the cluster's profile.
    pub(super) profile: Timing,
    pub(super) handed_over_at: Option<BootTime>,
    pub(super) proposals: Proposals,
    /// Entries of others' proposals in this leader's log: index, term, who asked, under which number.
    pub(super) asked: Vec<(usize, u64, Place, u64)>,
    pub(super) next_session: u64,
    pub(super) agents: Vec<Agent>,
}

impl Daemon {
    /// The members of the cluster.
    pub(super) fn places(&self) -> std::ops::Range<Place> {
        0..self.raft.places
    }

    pub(super) fn hears(&self, place: Place, now: BootTime) -> bool {
        let newest = self.heard[place].iter().flatten().max();
        newest.is_some_and(|heard| now.ns_since(*heard) < LAN_SILENT)
    }

    /// The LAN on which `place` was heard last.
    pub(super) fn best_lan(&self, place: Place) -> usize {
        match self.heard[place] {
            [first, second] if second > first => 1,
            [_, _] => 0,
        }
    }

    /// R17, as the leadership task of `consensus` does it.
    pub(super) fn hand_over_if_better(&mut self, me: Place, now: BootTime, todo: &mut Todo) {
        let is_cooling = self
            .handed_over_at
            .is_some_and(|at| now.ns_since(at) < HAND_OVER_COOL_DOWN);
        if self.raft.role != Role::Leader || is_cooling {
            return;
        }
        let voters = self.state.voters();
        let hears = self
            .places()
            .filter(|place| self.hears(*place, now))
            .map(id)
            .collect();
        let heard_by = |place: Place| {
            let report = if self.hears(place, now) {
                self.reports[place]
            } else {
                0
            };
            let heard = self
                .places()
                .filter(move |other| report & (1 << other) != 0);
            (id(place), heard.map(id).collect())
        };
        let reports: BTreeMap<_, _> = self.places().map(heard_by).collect();
        if let Some(successor) = better_leader(id(me), &voters, &hears, &reports) {
            self.handed_over_at = Some(now);
            self.raft.hand_over(successor.0 as usize - 1, todo);
        }
    }
}
