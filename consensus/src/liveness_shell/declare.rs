//! Proposes a voter's opinions. One at a time per member: the watcher repeats what was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn};
use tracing::{debug, info};

use crate::clock;
use crate::liveness::Action;
use crate::raft::proposals::{ProposeError, Proposer};
use crate::state::{Proposal, ServerId};

/// After so long an opinion is formed anew rather than insisted on.
const DEADLINE: Duration = Duration::from_secs(1);

/// Runs until the watcher ends.
pub(crate) async fn declare(me: ServerId, proposer: Proposer, mut actions: mpsc::Receiver<Action>) {
    let mut under_way: BTreeMap<Option<ServerId>, JoinHandle<()>> = BTreeMap::new();
    while let Some(action) = actions.recv().await {
        under_way.retain(|_, task| !task.is_finished());
        let server = match &action {
            Action::ProposeDeclare { server, .. } | Action::ProposeWithdraw { server, .. } => {
                Some(*server)
            }
            Action::ProposeSettle { .. } => None,
        };
        under_way
            .entry(server)
            .or_insert_with(|| spawn(propose(me, proposer.clone(), action)));
    }
    under_way.values().for_each(JoinHandle::abort);
}

async fn propose(me: ServerId, proposer: Proposer, action: Action) {
    let (command, evidence) = action.into_command(me);
    info!(evidence, "propose liveness");
    let author = match proposer.applied.borrow().state.members.get(&me) {
        Some(member) => format!("{} {}", member.kind, member.name),
        None => format!("member {me}"),
    };
    let proposal = Proposal {
        command,
        author,
        evidence,
        at_unix_ms: clock::unix_ms(),
    };
    match proposer.propose(proposal, DEADLINE).await {
        Ok(_) => {}
        // Overtaken by events: the member came back, or another opinion was first.
        Err(ProposeError::Rejected(rejection)) => debug!(%rejection, "liveness proposal refused"),
        Err(
            error @ (ProposeError::NoLeader { .. }
            | ProposeError::TimedOut { .. }
            | ProposeError::Removed { .. }
            | ProposeError::Stopped),
        ) => debug!(%error, "liveness proposal not committed, will be repeated"),
    }
}
