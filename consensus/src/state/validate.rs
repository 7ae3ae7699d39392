//! What is true of every cluster state, checked after each entry in tests.

use thiserror::Error;

use super::ClusterState;
use super::events::EVENTS_MAX;
use super::ids::{ModuleName, ServerId};
use super::members::{Member, MemberKind};
use super::mirror::MirrorRecord;

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
    /// `in_sync` or `received_only` names others than the module's servers, `received_only` or `identical` says
    /// something about two copies where there are not two, or a copy is whole and diverged or not there yet.
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
        self.validate_members()?;
        self.modules
            .values()
            .try_for_each(|record| self.validate_module(record))?;
        self.validate_events()
    }

    fn validate_members(&self) -> Result<(), Violation> {
        for (server, member) in &self.members {
            let server = *server;
            if server > self.last_server || self.removed.contains(&server) {
                return Err(Violation::Number { server });
            }
            let twin = |other: &&Member| {
                other.id != server
                    && (other.name == member.name
                        || other.certificate == member.certificate
                        || other
                            .addresses
                            .iter()
                            .any(|address| member.addresses.contains(address)))
            };
            if member.id != server || self.members.values().any(|other| twin(&other)) {
                return Err(Violation::MemberNotUnique { server });
            }
            if member.is_down != self.is_declared(server) {
                return Err(Violation::Down { server });
            }
        }
        Ok(())
    }

    fn validate_module(&self, record: &MirrorRecord) -> Result<(), Violation> {
        let module = || record.name.clone();
        let is_server = |server: &ServerId| {
            self.members
                .get(server)
                .is_some_and(|member| member.kind == MemberKind::Server)
        };
        if record.servers[0] == record.servers[1] || !record.hosts().all(|host| is_server(&host)) {
            return Err(Violation::Servers { module: module() });
        }
        let is_shared = record.in_sync.len() == 2 && record.primary.is_some();
        if !record
            .in_sync
            .iter()
            .all(|server| record.servers.contains(server))
            || !record.received_only.is_subset(&record.in_sync)
            || !(record.received_only.is_empty() || is_shared)
            || (record.identical && !is_shared)
            || record
                .diverged
                .keys()
                .chain(&record.unfilled)
                .any(|server| !record.servers.contains(server) || record.in_sync.contains(server))
        {
            return Err(Violation::InSync { module: module() });
        }
        if record
            .primary
            .is_some_and(|primary| !record.in_sync.contains(&primary))
        {
            return Err(Violation::Primary { module: module() });
        }
        if self.has_idle_successor(record) {
            return Err(Violation::SuccessorIdle { module: module() });
        }
        Ok(())
    }

    fn validate_events(&self) -> Result<(), Violation> {
        let ids: Vec<_> = self.events.iter().map(|event| event.id).collect();
        let in_order = ids.windows(2).all(|pair| pair[0].next() == pair[1]);
        let newest = ids.last().copied().unwrap_or_default();
        let causes_precede = self
            .events
            .iter()
            .all(|event| event.cause.is_none_or(|cause| cause < event.id));
        if ids.len() > EVENTS_MAX || !in_order || newest != self.last_event || !causes_precede {
            return Err(Violation::Events);
        }
        Ok(())
    }
}
