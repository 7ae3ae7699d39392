//! A refused call: what is true, why, and what to type next, carried in the details of the gRPC status.

use api::v1::Explained;
use consensus::{ProposeError, ReadError};
use prost::Message as _;
use tonic::{Code, Status};

/// What a server types that is a member no more.
pub(super) const REJOIN: &str = "skcli cluster leave --alone    then    skcli cluster join ADDRESS TOKEN --replaces ITS-NAME ...";
/// Why nothing can be decided.
pub(super) const NO_MAJORITY: &str = "no majority of the voters answers this server";

/// A call that was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    what: String,
    why: String,
    next: String,
}

impl Refusal {
    /// The caller asked for something that cannot be, whatever the state: a wrong name, a wrong value.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, what, why)
    }

    /// It could be done in another situation.
    pub fn not_now(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, what, why)
    }

    /// Something named does not exist.
    pub fn unknown(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::NotFound, what, why)
    }

    /// Nobody could do it: no leader, no answer.
    pub fn unavailable(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, what, why)
    }

    /// This server itself failed.
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::Internal, what, why)
    }

    /// The caller may not.
    pub fn forbidden(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, what, why)
    }

    /// Another server refused: its words, with its name.
    pub fn passed_on(what: &str, server: &str, status: &Status) -> Self {
        let explained = Explained::decode(status.details())
            .ok()
            .filter(|explained| !explained.what.is_empty());
        match explained {
            Some(explained) => Self::new(
                status.code(),
                what,
                format!("{server} says: {}", explained.why),
            )
            .next(explained.next_command),
            None => Self::new(
                status.code(),
                what,
                format!("{server}: {}", status.message()),
            ),
        }
    }

    fn new(code: Code, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: why.into(),
            next: String::new(),
        }
    }

    /// One more reason.
    pub fn also(mut self, why: &str) -> Self {
        self.why = format!("{}; {why}", self.why);
        self
    }

    /// What to type next.
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = command.into();
        self
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let text = format!("{}: {}", refusal.what, refusal.why);
        let details = Explained {
            what: refusal.what,
            why: refusal.why,
            next_command: refusal.next,
        };
        Status::with_details(refusal.code, text, details.encode_to_vec().into())
    }
}

/// A proposal that did not get through, as the answer to `what`.
pub(super) fn not_proposed(what: &str, error: &ProposeError) -> Refusal {
    match error {
        ProposeError::Rejected(rejection) => Refusal::not_now(what, rejection.to_string()),
        ProposeError::NoLeader { .. } => {
            Refusal::unavailable(what, error.to_string()).next("skcli cluster state")
        }
        ProposeError::Stopped => {
            Refusal::failed(what, error.to_string()).next("journalctl -u sidekick")
        }
        ProposeError::TimedOut { .. } => {
            Refusal::unavailable(what, format!("{error}; it may still be done"))
                .next("skcli cluster events")
        }
        ProposeError::Removed { .. } => Refusal::not_now(what, error.to_string()).next(REJOIN),
    }
}

/// Why it is not known what is committed, as the answer to `what`.
pub(super) fn not_read(what: &str, error: &ReadError) -> Refusal {
    match error {
        ReadError::NoLeader { .. } => {
            Refusal::unavailable(what, error.to_string()).next("skcli cluster state")
        }
        ReadError::Stopped => {
            Refusal::failed(what, error.to_string()).next("journalctl -u sidekick")
        }
        ReadError::Removed { .. } => Refusal::not_now(what, error.to_string()).next(REJOIN),
    }
}

/// The error with all its causes, in one line.
pub(super) fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

#[cfg(test)]
mod tests {
    use consensus::state::ServerId;

    use super::*;

    /// Of a server that was removed it was said that there is no leader, and to look at the state of the cluster.
    #[test]
    fn regression_who_was_removed_reads_what_to_type() {
        let by = ServerId(3);
        let refusals = [
            not_proposed("nothing was done", &ProposeError::Removed { by }),
            not_read("nothing was done", &ReadError::Removed { by }),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code, Code::FailedPrecondition);
            assert_eq!(
                refusal.why,
                "server 3 says that this server was removed from the cluster for good"
            );
            assert_eq!(refusal.next, REJOIN);
        }
    }
}
