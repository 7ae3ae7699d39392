//! Who leads the log (rule R17). A leader that cannot reach a voter that others reach hands leadership over: otherwise cutting
//! one link would keep the voter behind it from proposing anything. A leader whose server counts as lost is replaced at once:
//! modules may have made its lease shorter than Raft's own patience, and nothing takes over before there is another leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::machine::Applied;
use super::membership::{Configured, configured};
use super::types::Raft;
use crate::heard::Heard;
use crate::liveness::Timing;
use crate::state::ServerId;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After a hand-over this member does not hand over again for so long: links that flap must not make leadership flap.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// A hand-over that has not ended the term by then is repeated: a leader that hands over proposes nothing and has no way back.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// Voters offer themselves one after the other, so that they do not split the votes.
const BETWEEN_CANDIDATES: Duration = Duration::from_millis(150);

/// Who should lead instead of a leader that hears `hears`, given what the other voters report: the voter that hears the most,
/// if it hears somebody the leader does not, and misses nobody the leader hears. The leader must hear it.
#[must_use]
pub fn better_leader(
    me: ServerId,
    voters: &BTreeSet<ServerId>,
    hears: &BTreeSet<ServerId>,
    reports: &BTreeMap<ServerId, BTreeSet<ServerId>>,
) -> Option<ServerId> {
    let reach = |server: ServerId, heard: &BTreeSet<ServerId>| {
        let mut reach: BTreeSet<ServerId> = heard.intersection(voters).copied().collect();
        reach.insert(server);
        reach
    };
    let mine = reach(me, hears);
    let candidates = reports
        .iter()
        .filter(|(server, _)| **server != me && mine.contains(server));
    let better = candidates.map(|(server, heard)| (reach(*server, heard), *server));
    let better =
        better.filter(|(theirs, _)| theirs.is_superset(&mine) && theirs.len() > mine.len());
    better
        .max_by_key(|(theirs, server)| (theirs.len(), std::cmp::Reverse(*server)))
        .map(|(_, server)| server)
}

/// What a leader knows when it looks for a better one.
struct Outlook {
    configured: Configured,
    /// The voters that this member hears.
    hears: BTreeSet<ServerId>,
    /// Whom every other voter hears.
    reports: BTreeMap<ServerId, BTreeSet<ServerId>>,
}

impl Outlook {
    fn of(me: ServerId, configured: Configured, heard: &Heard, silence: Duration) -> Outlook {
        let voters = configured.voters.iter().copied().map(ServerId);
        let others: Vec<ServerId> = voters.filter(|id| *id != me).collect();
        let is_heard = |id: &ServerId| heard.age_any(*id).is_some_and(|age| age <= silence);
        Outlook {
            hears: others.iter().copied().filter(is_heard).collect(),
            reports: others.iter().map(|id| (*id, heard.report(*id))).collect(),
            configured,
        }
    }

    /// Who should lead and can. A leader that hands over proposes nothing any more and cannot take that back, so the successor
    /// must be sure to be elected: it votes in the configuration that Raft uses, which follows the cluster state with some
    /// delay, it has the whole log, and it reaches a majority of every set of voters.
    fn successor(&self, me: ServerId) -> Option<ServerId> {
        let voters = self
            .configured
            .voters
            .iter()
            .copied()
            .map(ServerId)
            .collect();
        better_leader(me, &voters, &self.hears, &self.reports)
            .filter(|ServerId(id)| self.configured.complete.contains(id))
            .filter(|successor| self.is_electable(*successor))
    }

    fn is_electable(&self, successor: ServerId) -> bool {
        let heard = self.reports.get(&successor);
        let is_reached = |id: &&u64| {
            **id == successor.0 || heard.is_some_and(|heard| heard.contains(&ServerId(**id)))
        };
        let mut sets = self.configured.sets.iter();
        sets.all(|set| set.iter().filter(is_reached).count() > set.len() / 2)
    }
}

/// A hand-over that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HandOver {
    term: u64,
    successor: ServerId,
    at: Instant,
}

/// To whom the leader of `term` hands over now. `better`: who should lead; `hears`: the voters that this member hears.
///
/// A request that was lost, or that came before the successor had the whole log, leaves a leader that only waits: it must be
/// asked again, of whoever can be reached now.
fn next_successor(
    last: Option<HandOver>,
    term: u64,
    now: Instant,
    better: Option<ServerId>,
    hears: &BTreeSet<ServerId>,
) -> Option<ServerId> {
    let Some(last) = last else { return better };
    let since = now.duration_since(last.at);
    if last.term != term {
        return better.filter(|_| since >= COOL_DOWN);
    }
    if since < REPEAT_AFTER {
        return None;
    }
    let same = Some(last.successor).filter(|same| hears.contains(same));
    better.or(same).or_else(|| hears.first().copied())
}

/// Runs until Raft stops. `silence`: how long a voter must be unheard here before leadership moves.
pub(crate) async fn hand_over(me: ServerId, raft: Raft, heard: Arc<Heard>, silence: Duration) {
    let mut last: Option<HandOver> = None;
    loop {
        sleep(LOOK_INTERVAL).await;
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return;
        }
        if !metrics.state.is_leader() {
            continue;
        }
        let outlook = Outlook::of(me, configured(&metrics), &heard, silence);
        let better = outlook.successor(me);
        let (term, now) = (metrics.current_term, Instant::now());
        if let Some(successor) = next_successor(last, term, now, better, &outlook.hears) {
            info!(%successor, term, "hand leadership to a voter that reaches more voters");
            last = Some(HandOver {
                term,
                successor,
                at: now,
            });
            if raft.trigger().transfer_leader(successor.0).await.is_err() {
                return;
            }
        }
    }
}

/// Runs until Raft stops. Where the leader's silence is long enough for its server to count as lost, and for Raft to let go of
/// it, this member asks for an election instead of waiting for Raft's timer. It asks for votes first (pre-vote), so whoever still
/// hears the leader, or has more of the log, keeps it from disturbing anything. `asked` counts how often.
pub(crate) async fn replace_lost_leader(
    me: ServerId,
    raft: Raft,
    heard: Arc<Heard>,
    applied: watch::Receiver<Applied>,
    profile: Timing,
    asked: Arc<AtomicU64>,
) {
    let times = raft.config().clone();
    let between_elections = Duration::from_millis(times.election_timeout_min);
    // openraft votes for nobody before that.
    let held = Duration::from_millis(times.election_timeout_max + times.heartbeat_interval);
    let mut pause = LOOK_INTERVAL / 2;
    loop {
        sleep(pause).await;
        pause = LOOK_INTERVAL / 2;
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let others_lead = metrics.current_leader.filter(|leader| *leader != me.0);
        let Some(leader) = others_lead.map(ServerId) else {
            continue;
        };
        let lease = profile.of_server(&applied.borrow().state, leader);
        let patience = held.max(Duration::from_nanos(lease.declare_after_ns()));
        let voters = configured(&metrics).voters;
        let is_my_turn = |silence| is_candidate(me, leader, &voters, silence, patience);
        if heard.age_any(leader).is_some_and(is_my_turn) {
            pause = between_elections;
            asked.fetch_add(1, Ordering::Relaxed);
            if raft.trigger().elect(true).await.is_err() {
                return;
            }
        }
    }
}

/// Whether it is this member's turn to lead in the place of `leader`, which was silent for so long.
fn is_candidate(
    me: ServerId,
    leader: ServerId,
    voters: &BTreeSet<u64>,
    silence: Duration,
    patience: Duration,
) -> bool {
    let mut candidates = voters.iter().filter(|voter| **voter != leader.0);
    candidates
        .position(|voter| *voter == me.0)
        .is_some_and(|turn| silence > patience + BETWEEN_CANDIDATES * turn as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_offer_themselves_one_after_the_other_when_the_leader_is_lost() {
        let turn_comes = |me, silent_ms| {
            let (patience, silence) =
                (Duration::from_millis(805), Duration::from_millis(silent_ms));
            is_candidate(
                ServerId(me),
                ServerId(2),
                &[1, 2, 3].into(),
                silence,
                patience,
            )
        };
        assert!(!turn_comes(1, 805), "it may hold its lease");
        assert!(turn_comes(1, 806));
        assert!(!turn_comes(3, 955), "it is the turn of 1");
        assert!(turn_comes(3, 956));
        assert!(!turn_comes(4, 60_000), "no voter");
        assert!(!turn_comes(2, 60_000), "the leader itself");
    }

    fn ids(ids: &[u64]) -> BTreeSet<ServerId> {
        ids.iter().copied().map(ServerId).collect()
    }

    fn chosen(hears: &[u64], reports: &[(u64, &[u64])]) -> Option<u64> {
        let reports = reports
            .iter()
            .map(|(server, heard)| (ServerId(*server), ids(heard)))
            .collect();
        better_leader(ServerId(1), &ids(&[1, 2, 3]), &ids(hears), &reports).map(|id| id.0)
    }

    #[test]
    fn regression_a_hand_over_that_was_lost_is_repeated_until_the_term_ends() {
        let start = Instant::now();
        let (two, three) = (ServerId(2), ServerId(3));
        let last = HandOver {
            term: 4,
            successor: two,
            at: start,
        };
        let next = |last, term, ms, better, hears: &[u64]| {
            let now = start + Duration::from_millis(ms);
            next_successor(last, term, now, better, &ids(hears))
        };
        assert_eq!(next(None, 4, 0, None, &[2, 3]), None);
        assert_eq!(next(None, 4, 0, Some(two), &[2, 3]), Some(two));
        assert_eq!(next(Some(last), 4, 900, Some(two), &[2]), None, "under way");
        // Whoever should have led is heard, and nobody is better any more: the term must end all the same.
        assert_eq!(next(Some(last), 4, 1000, None, &[2, 3]), Some(two));
        assert_eq!(next(Some(last), 4, 1000, None, &[3]), Some(three));
        assert_eq!(next(Some(last), 4, 1000, Some(three), &[2, 3]), Some(three));
        assert_eq!(next(Some(last), 4, 1000, None, &[]), None, "nobody to ask");
        // In a term of its own a leader that handed over is slow to do it again.
        assert_eq!(next(Some(last), 5, 4900, Some(two), &[2]), None);
        assert_eq!(next(Some(last), 5, 5000, Some(two), &[2]), Some(two));
        assert_eq!(next(Some(last), 5, 5000, None, &[2]), None);
    }

    #[test]
    fn regression_leadership_goes_only_to_a_voter_that_can_be_elected() {
        let configured = |sets: &[&[u64]], complete: &[u64]| Configured {
            members: [1, 2, 3, 4].into(),
            voters: sets.iter().copied().flatten().copied().collect(),
            is_joint: sets.len() > 1,
            sets: sets
                .iter()
                .map(|set| set.iter().copied().collect())
                .collect(),
            caught_up: [1, 2, 3, 4].into(),
            complete: complete.iter().copied().collect(),
        };
        let successor = |configured, reports: &[(u64, &[u64])]| {
            let reports = reports
                .iter()
                .map(|(id, heard)| (ServerId(*id), ids(heard)));
            let outlook = Outlook {
                configured,
                hears: ids(&[2]),
                reports: reports.collect(),
            };
            outlook.successor(ServerId(1)).map(|id| id.0)
        };
        let settled = |complete| configured(&[&[1, 2, 3]], complete);
        let reports: &[(u64, &[u64])] = &[(2, &[1, 3]), (3, &[2])];
        assert_eq!(successor(settled(&[1, 2]), reports), Some(2));
        assert_eq!(successor(settled(&[1]), reports), None, "2 lacks an entry");
        let learning = configured(&[&[1]], &[1, 2, 3]);
        assert_eq!(successor(learning, reports), None, "2 and 3 still learn");
        // 3 is dead, 4 takes its place and reaches the one that the leader does not; and again where it does not.
        let joint = || configured(&[&[1, 3, 4], &[1, 2, 4]], &[1, 2]);
        assert_eq!(successor(joint(), &[(2, &[1, 4]), (4, &[2])]), Some(2));
        let two_are_dead = configured(&[&[1, 3, 5], &[1, 2, 4]], &[1, 2]);
        assert_eq!(successor(two_are_dead, &[(2, &[1, 4]), (4, &[2])]), None);
    }

    #[test]
    fn leadership_moves_only_to_who_reaches_more() {
        assert_eq!(
            chosen(&[2, 3], &[(2, &[1, 3]), (3, &[1, 2])]),
            None,
            "everybody hears everybody"
        );
        assert_eq!(
            chosen(&[3], &[(2, &[]), (3, &[1, 2])]),
            Some(3),
            "the link between 1 and 2 is cut"
        );
        assert_eq!(chosen(&[3], &[(2, &[]), (3, &[1])]), None, "2 is dead");
        assert_eq!(chosen(&[], &[(2, &[]), (3, &[])]), None, "1 is cut off");
        assert_eq!(
            chosen(&[3], &[(2, &[3]), (3, &[2])]),
            None,
            "3 does not hear the leader"
        );
    }
}
