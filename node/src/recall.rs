//! Before a member takes part again it asks the others what they remember of it (R12).
//!
//! Its own disk cannot tell that it is an old copy. The others can: they know the newest run that was committed, and what each
//! member said of its log. It takes part once so many voters have answered that they are a majority with itself: fewer could do
//! nothing without it. Everybody answers from the moment it listens, also who has just started and remembers little, so that
//! all can start after a blackout. Who cannot be reached, or does not know the asker, has not answered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use api::peer::v1::RecallRequest;
use api::peer::v1::peer_client::PeerClient;
use consensus::LogPosition;
use consensus::state::{Incarnation, ServerId};
use futures_util::future::join_all;
use tonic::Code;

use crate::listener::MemberDialer;
use crate::security::Known;

/// How long the others may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What the others remember of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memories {
    /// The newest run of its daemon that is committed.
    pub(crate) incarnation: Incarnation,
    /// How far its log reached.
    pub(crate) log: LogPosition,
    /// It was removed from the cluster for good.
    pub(crate) is_removed: bool,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recalled {
    /// All that anybody remembers.
    pub(crate) memories: Memories,
    /// Who answered, whatever it remembers.
    pub(crate) answered: BTreeSet<ServerId>,
}

/// Whether so many voters have answered that `me` may take part: with its own vote they are a majority.
pub(crate) fn is_enough(
    voters: &BTreeSet<ServerId>,
    me: ServerId,
    answered: &BTreeSet<ServerId>,
) -> bool {
    let heard = voters
        .iter()
        .filter(|voter| **voter == me || answered.contains(voter));
    heard.count() > voters.len() / 2
}

impl Memories {
    fn and(self, other: Memories) -> Memories {
        Memories {
            incarnation: self.incarnation.max(other.incarnation),
            log: self.log.max(other.log),
            is_removed: self.is_removed || other.is_removed,
        }
    }
}

/// Asks all at once.
pub(crate) async fn recall(dialer: &MemberDialer, others: &[Known]) -> Recalled {
    let asked = others.iter().map(|other| async move {
        let server = ServerId(other.id);
        let answer = tokio::time::timeout(ANSWER_MAX, ask(dialer, server, &other.addresses)).await;
        Some((server, answer.ok()??))
    });
    let mut recalled = Recalled::default();
    for (server, memories) in join_all(asked).await.into_iter().flatten() {
        recalled.memories = recalled.memories.and(memories);
        recalled.answered.insert(server);
    }
    recalled
}

async fn ask(
    dialer: &MemberDialer,
    server: ServerId,
    addresses: &[SocketAddr],
) -> Option<Memories> {
    let channel = dialer.channel(server, addresses).await.ok()?;
    match PeerClient::new(channel).recall(RecallRequest {}).await {
        Ok(reply) => {
            let reply = reply.into_inner();
            Some(Memories {
                incarnation: Incarnation(reply.incarnation),
                log: LogPosition {
                    term: reply.log_term,
                    index: reply.log_index,
                },
                is_removed: false,
            })
        }
        Err(status) if status.code() == Code::NotFound => Some(Memories {
            is_removed: true,
            ..Memories::default()
        }),
        Err(status) => {
            tracing::debug!(%server, %status, "it does not say what it remembers");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_who_was_answered_by_nobody_takes_no_part() {
        let set = |ids: &[u64]| ids.iter().copied().map(ServerId).collect::<BTreeSet<_>>();
        // Voters, who asks, who answered.
        let table: [(&[u64], u64, &[u64], bool); 9] = [
            (&[1, 2, 3], 1, &[], false),
            (&[1, 2, 3], 1, &[3], true),
            (&[1, 2, 3], 1, &[4], false),
            (&[1, 2, 3, 4, 5], 1, &[2], false),
            (&[1, 2, 3, 4, 5], 1, &[2, 5], true),
            // The only voter of a pair needs nobody, the learner needs it.
            (&[1], 1, &[], true),
            (&[1], 2, &[], false),
            (&[1], 2, &[1], true),
            (&[1, 2, 3], 4, &[1], false),
        ];
        for (voters, me, answered, expected) in table {
            let enough = is_enough(&set(voters), ServerId(me), &set(answered));
            assert_eq!(enough, expected, "{voters:?} {me} {answered:?}");
        }
    }
}
