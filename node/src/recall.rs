//! Before a member takes part again it asks the others what they remember of it (R12).
//!
//! Its own disk cannot tell that it is an old copy. The others can: they know the newest run that was committed, and what each
//! member said of its log. Whoever does not answer within a moment is not waited for: after a blackout nobody remembers, and
//! everybody must be able to start.

use std::net::SocketAddr;
use std::time::Duration;

use api::peer::v1::RecallRequest;
use api::peer::v1::peer_client::PeerClient;
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
    pub(crate) log_index: u64,
    /// It was removed from the cluster for good.
    pub(crate) is_removed: bool,
}

impl Memories {
    fn and(self, other: Memories) -> Memories {
        Memories {
            incarnation: self.incarnation.max(other.incarnation),
            log_index: self.log_index.max(other.log_index),
            is_removed: self.is_removed || other.is_removed,
        }
    }
}

/// Asks all at once.
pub(crate) async fn recall(dialer: &MemberDialer, others: &[Known]) -> Memories {
    let asked = others.iter().map(|other| async move {
        let answer = ask(dialer, ServerId(other.id), &other.addresses);
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        answer.ok().flatten().unwrap_or_default()
    });
    let answers = join_all(asked).await;
    answers.into_iter().fold(Memories::default(), Memories::and)
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
                log_index: reply.log_index,
                is_removed: false,
            })
        }
        Err(status) => Some(Memories {
            is_removed: status.code() == Code::NotFound,
            ..Memories::default()
        }),
    }
}
