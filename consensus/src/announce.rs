//! Tells the cluster of this start: until that is applied, this run has no lease and its declarations do not count.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::clock;
use crate::raft::machine::Applied;
use crate::raft::proposals::{ProposeError, Proposer};
use crate::state::{Command, Incarnation, Proposal, ServerId};

/// Time for one attempt.
const DEADLINE: Duration = Duration::from_secs(2);
/// Pause after a refusal: a member that is no longer one, or an incarnation that went back.
const PAUSE: Duration = Duration::from_secs(2);

/// Proposes the start until the state knows it.
pub(crate) async fn announce(
    me: ServerId,
    incarnation: Incarnation,
    proposer: Proposer,
    mut applied: watch::Receiver<Applied>,
) {
    loop {
        // A member that joins or creates the cluster names its run in that very entry.
        if applied
            .wait_for(|applied| applied.state.members.contains_key(&me))
            .await
            .is_err()
        {
            return;
        }
        if applied.borrow().state.knows_run(me, incarnation) {
            return;
        }
        let proposal = Proposal {
            command: Command::ServerStarted {
                server: me,
                incarnation,
            },
            author: format!("server {me}"),
            evidence: "its daemon has started".into(),
            at_unix_ms: clock::unix_ms(),
        };
        match proposer.propose(proposal, DEADLINE).await {
            Ok(_) => {
                info!(%incarnation, "start announced");
                return;
            }
            Err(ProposeError::Rejected(rejection)) => {
                warn!(%rejection, "start of this server refused");
                sleep(PAUSE).await;
            }
            Err(ProposeError::NoLeader { .. } | ProposeError::TimedOut { .. }) => {}
            Err(ProposeError::Stopped) => return,
        }
    }
}
