//! A leader that cannot reach a voter that others reach hands leadership over (rule R17): a task that acts while this member
//! leads. Otherwise cutting one link would keep the voter behind it from proposing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::machine::Applied;
use super::types::Raft;
use crate::heard::Heard;
use crate::state::ServerId;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After a hand-over this member does not hand over again for so long: links that flap must not make leadership flap.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// A hand-over that has not ended the term by then is repeated: a leader that hands over proposes nothing and has no way back.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

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
pub(crate) async fn hand_over(
    me: ServerId,
    raft: Raft,
    applied: watch::Receiver<Applied>,
    heard: Arc<Heard>,
    silence: Duration,
) {
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
        let voters = applied.borrow().state.voters();
        let hears: BTreeSet<ServerId> = voters
            .iter()
            .copied()
            .filter(|id| *id != me && heard.age_any(*id).is_some_and(|age| age <= silence))
            .collect();
        let reports = voters.iter().map(|id| (*id, heard.report(*id))).collect();
        let has_whole_log = |voter: &ServerId| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|all| all.get(&voter.0));
            let matched = matched.and_then(|matched| matched.as_ref().map(|log_id| log_id.index));
            matched == metrics.last_log_index
        };
        // Whoever lacks an entry ignores the request, and the leader that made it has no way back.
        let better = better_leader(me, &voters, &hears, &reports).filter(has_whole_log);
        let (term, now) = (metrics.current_term, Instant::now());
        if let Some(successor) = next_successor(last, term, now, better, &hears) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
