//! Keeps Raft's configuration equal to the cluster state: a task that acts while this member leads.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, EmptyNode, RaftMetrics};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::machine::Applied;
use super::types::{Raft, TypeConfig};
use crate::state::{ClusterState, ServerId};

/// Also without any news the comparison is made again: a learner may have caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A change that hangs, because the quorum is gone, is left to Raft and looked at again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// A learner becomes a voter when it lacks at most so many entries: a voter that is far behind weakens the quorum.
const PROMOTION_LAG_MAX: u64 = 50;

/// The next change of Raft's configuration.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    AddLearner(u64),
    SetVoters(BTreeSet<u64>),
    Forget(BTreeSet<u64>),
}

/// Raft's side of the comparison, as its leader sees it.
pub(super) struct Configured {
    pub(super) members: BTreeSet<u64>,
    pub(super) voters: BTreeSet<u64>,
    /// A change is under way: no other may start.
    pub(super) is_joint: bool,
    /// The sets of which each needs a majority: two while the voters are being changed.
    pub(super) sets: Vec<BTreeSet<u64>>,
    /// Members that hold nearly the whole log.
    pub(super) caught_up: BTreeSet<u64>,
    /// Members that hold the whole log.
    pub(super) complete: BTreeSet<u64>,
}

/// What the cluster state asks of Raft's configuration.
struct Wanted {
    members: BTreeSet<u64>,
    voters: BTreeSet<u64>,
}

impl Wanted {
    fn of(state: &ClusterState) -> Wanted {
        Wanted {
            members: state.members.keys().map(|id| id.0).collect(),
            voters: state.voters().into_iter().map(|ServerId(id)| id).collect(),
        }
    }
}

/// The one step that brings `configured` nearer to `wanted`; the order keeps every configuration in between safe.
fn next_change(wanted: &Wanted, configured: &Configured) -> Option<Change> {
    let Wanted { members, voters } = wanted;
    if configured.is_joint || voters.is_empty() {
        return None;
    }
    if let Some(new) = members.difference(&configured.members).next() {
        return Some(Change::AddLearner(*new));
    }
    let are_ready = voters
        .difference(&configured.voters)
        .all(|id| configured.caught_up.contains(id));
    if *voters != configured.voters && are_ready {
        return Some(Change::SetVoters(voters.clone()));
    }
    let gone: BTreeSet<u64> = configured
        .members
        .difference(members)
        .copied()
        .filter(|id| !configured.voters.contains(id))
        .collect();
    (!gone.is_empty()).then_some(Change::Forget(gone))
}

pub(super) fn configured(metrics: &RaftMetrics<TypeConfig>) -> Configured {
    let stored = &metrics.membership_config;
    let members: BTreeSet<u64> = stored.nodes().map(|(id, _)| *id).collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let holding = |lag_max: u64| {
        let replication = metrics.replication.iter().flatten();
        replication
            .filter(|(_, matched)| matched.is_some_and(|matched| matched.index + lag_max >= last))
            .map(|(id, _)| *id)
            .collect()
    };
    Configured {
        members,
        voters: stored.voter_ids().collect(),
        is_joint: stored.get_joint_config().len() > 1
            || metrics.committed_membership_config.log_id() != stored.log_id(),
        sets: stored.get_joint_config().clone(),
        caught_up: holding(PROMOTION_LAG_MAX),
        complete: holding(0),
    }
}

/// Runs until Raft stops.
pub(crate) async fn maintain(raft: Raft, mut applied: watch::Receiver<Applied>) {
    loop {
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let state = applied.borrow_and_update().state.clone();
        let change = metrics
            .state
            .is_leader()
            .then(|| next_change(&Wanted::of(&state), &configured(&metrics)))
            .flatten();
        if let Some(change) = change {
            info!(?change, "change raft configuration");
            match timeout(CHANGE_TIMEOUT, perform(&raft, change)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => debug!(%error, "raft configuration not changed, will look again"),
                Err(_) => debug!("raft configuration change takes long, will look again"),
            }
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

type ChangeError =
    openraft::errors::RaftError<TypeConfig, openraft::errors::ClientWriteError<TypeConfig>>;

async fn perform(raft: &Raft, change: Change) -> Result<(), ChangeError> {
    match change {
        Change::AddLearner(id) => raft.add_learner(id, EmptyNode::new(), false).await?,
        // Voters that are voters no more stay learners until the state forgets them.
        Change::SetVoters(voters) => raft.change_membership(voters, true).await?,
        Change::Forget(ids) => {
            raft.change_membership(ChangeMembers::RemoveNodes(ids), true)
                .await?
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn configured(members: &[u64], voters: &[u64], caught_up: &[u64]) -> Configured {
        Configured {
            members: ids(members),
            voters: ids(voters),
            is_joint: false,
            sets: vec![ids(voters)],
            caught_up: ids(caught_up),
            complete: ids(caught_up),
        }
    }

    fn change(members: &[u64], voters: &[u64], configured: &Configured) -> Option<Change> {
        next_change(
            &Wanted {
                members: ids(members),
                voters: ids(voters),
            },
            configured,
        )
    }

    #[test]
    fn members_learn_before_they_vote_and_leave_after_they_voted() {
        let joined = change(&[1, 2], &[1], &configured(&[1], &[1], &[1]));
        assert_eq!(joined, Some(Change::AddLearner(2)));
        assert_eq!(
            change(&[1, 2], &[1], &configured(&[1, 2], &[1], &[1])),
            None,
            "a pair has one voter"
        );
        let behind = change(
            &[1, 2, 3],
            &[1, 2, 3],
            &configured(&[1, 2, 3], &[1], &[1, 2]),
        );
        assert_eq!(behind, None, "3 is behind");
        let ready = change(
            &[1, 2, 3],
            &[1, 2, 3],
            &configured(&[1, 2, 3], &[1], &[1, 2, 3]),
        );
        assert_eq!(ready, Some(Change::SetVoters(ids(&[1, 2, 3]))));
        let removed = change(&[1, 2], &[1], &configured(&[1, 2, 3], &[1, 2, 3], &[1, 2]));
        assert_eq!(removed, Some(Change::SetVoters(ids(&[1]))));
        let left = change(&[1, 2], &[1], &configured(&[1, 2, 3], &[1], &[1, 2]));
        assert_eq!(left, Some(Change::Forget(ids(&[3]))));
    }

    #[test]
    fn nothing_changes_during_a_change_or_before_there_is_a_cluster() {
        let joint = Configured {
            is_joint: true,
            ..configured(&[1], &[1], &[1])
        };
        assert_eq!(change(&[1, 2], &[1], &joint), None);
        assert_eq!(change(&[], &[], &configured(&[1], &[1], &[1])), None);
    }
}
