//! Who asks, as far as a call itself proves it.

use consensus::state::{ClusterState, ServerId};
use tonic::Request;
use tonic::metadata::MetadataValue;

/// Names the member for whom a call is passed on. Whoever gets the call may know better than the relay who was removed.
const ORIGIN: &str = "sidekick-origin";

/// At most two servers have to be members: the one whose certificate is shown, and the one for whom it passes a call on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    shown: Option<ServerId>,
    origin: Option<ServerId>,
}

/// What the cluster state says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    /// Removed for good.
    Removed,
    Unknown,
}

impl Caller {
    /// Who shows a certificate with this request, and whom it names.
    pub(super) fn of<T>(request: &Request<T>) -> Caller {
        let peer = request.extensions().get::<consensus::Peer>();
        let origin = request.metadata().get(ORIGIN);
        Caller {
            shown: peer.map(|peer| peer.0),
            // What is no number names nobody, and nobody is no member.
            origin: origin.map(|origin| ServerId(number(origin).unwrap_or(0))),
        }
    }

    /// Whose certificate is shown.
    pub(super) fn shown(self) -> Option<ServerId> {
        self.shown
    }

    /// For whom the call is passed on, if it is.
    pub(super) fn origin(self) -> Option<ServerId> {
        self.origin
    }
}

impl Standing {
    pub(super) fn of(server: ServerId, state: &ClusterState) -> Standing {
        if state.removed.contains(&server) {
            Standing::Removed
        } else if state.members.contains_key(&server) {
            Standing::Member
        } else {
            Standing::Unknown
        }
    }
}

/// `call`, made for this server itself, or passed on for `origin`.
pub(super) fn request<T>(call: T, origin: Option<ServerId>) -> Request<T> {
    let mut request = Request::new(call);
    if let Some(origin) = origin {
        let metadata = request.metadata_mut();
        metadata.insert(ORIGIN, MetadataValue::from(origin.0));
    }
    request
}

fn number(value: &MetadataValue<tonic::metadata::Ascii>) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_for_whom_it_is_passed_on() {
        assert_eq!(Caller::of(&request((), None)).origin(), None);
        let passed_on = request((), Some(ServerId(7)));
        assert_eq!(Caller::of(&passed_on).origin(), Some(ServerId(7)));
        assert_eq!(
            Caller::of(&passed_on).shown(),
            None,
            "a name proves nothing: only a certificate does"
        );
    }

    #[test]
    fn a_name_that_is_none_is_nobodys() {
        let mut request = Request::new(());
        let forged = MetadataValue::from_static("7; 8");
        request.metadata_mut().insert(ORIGIN, forged);
        assert_eq!(Caller::of(&request).origin(), Some(ServerId(0)));
    }

    #[test]
    fn regression_who_was_removed_stays_so_whoever_passes_his_calls_on() {
        let state = ClusterState {
            removed: [ServerId(4)].into(),
            ..ClusterState::default()
        };
        assert_eq!(Standing::of(ServerId(4), &state), Standing::Removed);
        assert_eq!(Standing::of(ServerId(0), &state), Standing::Unknown);
    }
}
