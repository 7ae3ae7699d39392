//! Who may call: members of the cluster, over a connection that proves who they are, and only if they meant to call us.

use tokio::sync::watch;
use tonic::{Extensions, Status};

use super::machine::Applied;
use crate::state::ServerId;

/// The member at the other end of a connection, as its certificate says. The node adds it to the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub ServerId);

/// Checks every call between members.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) me: ServerId,
    pub(crate) applied: watch::Receiver<Applied>,
}

impl Guard {
    /// # Errors
    /// As [`Guard::check_peer`].
    pub(crate) fn check(
        &self,
        extensions: &Extensions,
        from: u64,
        to: u64,
    ) -> Result<ServerId, Status> {
        self.check_peer(extensions.get().copied(), from, to)
    }

    /// The member that calls, for streams whose messages are checked one by one.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`: the caller proves no identity.
    pub(crate) fn peer(&self, extensions: &Extensions) -> Result<Peer, Status> {
        extensions.get().copied().ok_or_else(no_certificate)
    }

    /// # Errors
    /// `PERMISSION_DENIED`: the caller proves no identity, another one than it names, or is no member. `NOT_FOUND`: it was
    /// removed for good, and may tell its people. `FAILED_PRECONDITION`: the call was meant for another member; a leader that replicates to itself because of a wrong address would break Raft.
    pub(crate) fn check_peer(
        &self,
        peer: Option<Peer>,
        from: u64,
        to: u64,
    ) -> Result<ServerId, Status> {
        let Some(Peer(peer)) = peer else {
            return Err(no_certificate());
        };
        if peer.0 != from {
            return Err(Status::permission_denied(format!(
                "server {peer} speaks in the name of server {from}"
            )));
        }
        if to != self.me.0 || peer == self.me {
            return Err(Status::failed_precondition(format!(
                "this is server {}, not server {to}",
                self.me
            )));
        }
        self.check_member(peer)?;
        Ok(peer)
    }

    /// Checks for whom a member passes a call on: it may not have heard yet that this one was removed. 0: for nobody.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`: it is no member. `NOT_FOUND`: it was removed for good.
    pub(crate) fn check_origin(&self, origin: u64) -> Result<(), Status> {
        if origin == 0 {
            return Ok(());
        }
        self.check_member(ServerId(origin))
    }

    fn check_member(&self, peer: ServerId) -> Result<(), Status> {
        let applied = self.applied.borrow();
        let state = &applied.state;
        if state.removed.contains(&peer) {
            return Err(Status::not_found(format!(
                "server {peer} was removed from the cluster for good"
            )));
        }
        // Its certificate is the cluster's, and its number is higher than any that was given in what is applied here: it joined
        // later. It may be the leader, from whom alone this member learns so.
        let joined_later = peer > state.last_server;
        if !joined_later && !state.members.contains_key(&peer) {
            return Err(Status::permission_denied(format!(
                "server {peer} is not a member of the cluster"
            )));
        }
        Ok(())
    }
}

fn no_certificate() -> Status {
    Status::permission_denied("only members of the cluster may call: show a certificate")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tonic::Code;

    use super::*;
    use crate::state::{ClusterState, Incarnation, Member, MemberKind};

    fn member(id: u64) -> (ServerId, Member) {
        let member = Member {
            id: ServerId(id),
            name: format!("server{id}").parse().unwrap(),
            kind: MemberKind::Server,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 9453))],
            certificate: [0; 32],
            incarnation: Incarnation(1),
            is_down: false,
        };
        (member.id, member)
    }

    /// The guard of server 1, which has applied that four numbers were given.
    fn guard(members: &[u64], removed: &[u64]) -> Guard {
        let state = Arc::new(ClusterState {
            last_server: ServerId(4),
            members: members.iter().map(|id| member(*id)).collect(),
            removed: removed.iter().copied().map(ServerId).collect(),
            ..ClusterState::default()
        });
        let (_sender, applied) = watch::channel(Applied {
            position: crate::LogPosition { term: 1, index: 1 },
            state,
        });
        Guard {
            me: ServerId(1),
            applied,
        }
    }

    fn refusal(members: &[u64], peer: Option<u64>, from: u64, to: u64) -> Option<Code> {
        guard(members, &[])
            .check_peer(peer.map(|id| Peer(ServerId(id))), from, to)
            .err()
            .map(|status| status.code())
    }

    #[test]
    fn regression_a_relay_lends_its_name_to_nobody_who_was_removed() {
        let guard = guard(&[1, 2, 3], &[4]);
        let refusal = |origin| guard.check_origin(origin).err().map(|status| status.code());
        assert_eq!(refusal(0), None, "the caller asks for itself");
        assert_eq!(refusal(3), None);
        assert_eq!(refusal(4), Some(Code::NotFound), "removed");
        let guard = self::guard(&[1, 2], &[4]);
        let refusal = guard.check_origin(3).err().map(|status| status.code());
        assert_eq!(refusal, Some(Code::PermissionDenied), "never a member");
    }

    /// A leader that joined while this member was away, or after what a new member has applied so far, was refused for good:
    /// only from its leader could the member have learnt who it is.
    #[test]
    fn regression_who_joined_later_than_what_is_applied_here_may_call() {
        assert_eq!(refusal(&[1, 2], Some(5), 5, 1), None);
    }

    #[test]
    fn only_members_that_mean_us_may_call() {
        assert_eq!(refusal(&[1, 2], Some(2), 2, 1), None);
        assert_eq!(
            refusal(&[1, 2], None, 2, 1),
            Some(Code::PermissionDenied),
            "no certificate"
        );
        assert_eq!(
            refusal(&[1, 2], Some(2), 3, 1),
            Some(Code::PermissionDenied),
            "somebody else's name"
        );
        assert_eq!(
            refusal(&[1, 2], Some(3), 3, 1),
            Some(Code::PermissionDenied),
            "no member"
        );
        assert_eq!(
            refusal(&[1, 2], Some(2), 2, 3),
            Some(Code::FailedPrecondition),
            "meant for another"
        );
        assert_eq!(
            refusal(&[1, 2], Some(1), 1, 1),
            Some(Code::FailedPrecondition),
            "ourselves"
        );
    }
}
