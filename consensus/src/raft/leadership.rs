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

/// Runs until Raft stops. `silence`: how long a voter must be unheard here before leadership moves.
pub(crate) async fn hand_over(
    me: ServerId,
    raft: Raft,
    applied: watch::Receiver<Applied>,
    heard: Arc<Heard>,
    silence: Duration,
) {
    let mut last_hand_over: Option<Instant> = None;
    loop {
        sleep(LOOK_INTERVAL).await;
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let is_cooling = last_hand_over.is_some_and(|at| at.elapsed() < COOL_DOWN);
        if !metrics.state.is_leader() || is_cooling {
            continue;
        }
        let voters = applied.borrow().state.voters();
        let hears = voters
            .iter()
            .copied()
            .filter(|id| heard.age_any(*id).is_some_and(|age| age <= silence))
            .collect();
        let reports = voters.iter().map(|id| (*id, heard.report(*id))).collect();
        if let Some(successor) = better_leader(me, &voters, &hears, &reports) {
            info!(%successor, "hand leadership to a voter that reaches more voters");
            last_hand_over = Some(Instant::now());
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
