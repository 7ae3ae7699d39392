//! The real `Watcher` and `LeaseHolder`, asked in the abstract time of the exploration.
//!
//! A voter that has proposed a declaration is made by letting a watcher wait in silence; one that has not, by a watcher
//! that has just applied the same state.

use consensus::liveness::{BootTime, Heartbeat, LeaseHolder, NoGrant, Timing, Verdict, Watcher};
use consensus::state::{ClusterState, Incarnation};

use super::world::{Applied, id};
use crate::planted::Bug;

/// Any time will do; the machine is not just booted.
const NOW: BootTime = BootTime(1_000_000_000_000);

/// Would this voter grant a lease to that server?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// What the voter has applied.
    pub(super) applied: Applied,
    pub(super) voter: usize,
    pub(super) voter_run: u8,
    /// It has proposed a declaration, and not applied its withdrawal.
    pub(super) has_declared: bool,
    pub(super) server: usize,
    pub(super) server_run: u8,
    /// The index the server has applied.
    pub(super) server_applied: u64,
}

pub(super) fn would_grant(state: &ClusterState, asked: Asked, bug: Option<Bug>) -> bool {
    let timing = Timing::default();
    let (me, run) = (id(asked.voter), Incarnation(u64::from(asked.voter_run)));
    let mut watcher = Watcher::new(timing, me, run, NOW);
    watcher.on_applied(state, NOW);
    let mut now = NOW;
    if asked.has_declared {
        let looks = timing.declare_after_ns() / timing.heartbeat_ns + 2;
        for _ in 0..looks {
            now = now.plus_ns(timing.heartbeat_ns);
            watcher.on_tick(now);
        }
    }
    let applied = match bug {
        Some(Bug::LeaseOnStaleRecord) => u64::MAX,
        _ => asked.server_applied,
    };
    let heartbeat = Heartbeat {
        from: id(asked.server),
        incarnation: Incarnation(u64::from(asked.server_run)),
        sent: now,
        applied,
        lan: 0,
    };
    match (watcher.on_heartbeat(&heartbeat, now), bug) {
        (Verdict::NoGrant(NoGrant::Declared), Some(Bug::LeaseWhileDeclared)) => true,
        (
            Verdict::NoGrant(NoGrant::RunNotKnown | NoGrant::OwnStartNotApplied),
            Some(Bug::RunUnannounced),
        ) => true,
        (verdict, _) => verdict.lease_ns().is_some(),
    }
}

pub(super) fn holds_lease(
    state: &ClusterState,
    run: u8,
    server: usize,
    mask: u8,
    bug: Option<Bug>,
) -> bool {
    let me = id(server);
    let mut run = Incarnation(u64::from(run));
    if bug == Some(Bug::RunUnannounced) {
        run = state
            .members
            .get(&me)
            .map_or(run, |member| member.incarnation);
    }
    let profile = Timing::default();
    let mut holder = LeaseHolder::new(profile, me, run);
    for voter in (0..3).filter(|voter| mask & (1 << voter) != 0) {
        holder.on_answer(id(voter), NOW, Some(profile.lease_ns), NOW);
    }
    holder
        .valid_until(state, NOW)
        .is_some_and(|until| until > NOW)
}
