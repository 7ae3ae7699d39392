//! Who leads when members start, fall silent and return (R4, R7, R11, R16).

use std::collections::BTreeSet;

use super::super::ClusterState;
use super::super::events::EventKind;
use super::super::ids::{EventId, ModuleName, ServerId};
use super::super::mirror::{MirrorRecord, Wanted};
use super::roles::leads_alone;
use super::{Entry, RoleChange};

impl ClusterState {
    /// A member of the module started anew: its sessions are over, and its former run leads nothing.
    pub(super) fn on_started(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        started: EventId,
    ) {
        let Some(record) = self.modules.get_mut(module) else {
            return;
        };
        record.identical = false;
        let record = &*record;
        let peer = record
            .peer_of(server)
            .filter(|peer| record.in_sync.contains(peer));
        match (record.primary, peer) {
            (Some(_), Some(holder)) if record.received_only.contains(&server) => {
                self.forget_received(entry, module, server, holder, started);
            }
            (Some(primary), _) if primary == server => {
                self.on_primary_started(entry, module, server, started)
            }
            // The former run may have been proposed as an addition: that proposal must not count for the new one.
            (Some(_), _) if !record.in_sync.contains(&server) => self.end_proposals(module),
            // A whole copy on a disk is still whole after a start. The primary, if it lives, drops it itself.
            (Some(_), _) | (None, _) => {}
        }
    }

    /// R16: what it had only received is gone.
    fn forget_received(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        holder: ServerId,
        started: EventId,
    ) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        let primary = match record.primary {
            Some(primary) if primary == server => {
                Some(holder).filter(|h| self.can_lead(record, *h))
            }
            other => other,
        };
        let change = RoleChange {
            primary,
            in_sync: BTreeSet::from([holder]),
            received_only: BTreeSet::new(),
            kind: EventKind::SecondaryForgot {
                server: self.named(server),
                holder: self.named(holder),
            },
            cause: Some(started),
        };
        self.change_roles(entry, module, change);
    }

    /// The other one leads at once if it may. Both copies stay whole until the new primary, alive, drops this one:
    /// should it be dead as well, not yet declared, whoever of the two comes back first leads with everything.
    fn on_primary_started(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        started: EventId,
    ) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        let (primary, kind) = match self.successor(record, server) {
            Some(to) => (
                to,
                EventKind::HandedOver {
                    from: self.named(server),
                    to: self.named(to),
                },
            ),
            // The epoch grows: nothing its former run proposed counts any more, above all no open addition (R6).
            None => (
                server,
                EventKind::PrimaryResumed {
                    server: self.named(server),
                },
            ),
        };
        let change = RoleChange {
            primary: Some(primary),
            in_sync: record.in_sync.clone(),
            received_only: record.received_only.clone(),
            kind,
            cause: Some(started),
        };
        self.change_roles(entry, module, change);
    }

    /// What was proposed for the epoch before is refused from now on.
    pub(super) fn end_proposals(&mut self, module: &ModuleName) {
        if let Some(record) = self.modules.get_mut(module) {
            record.epoch = record.epoch.next();
        }
    }

    /// A member of the module counts as down from now on; whether the other one leads, [`Self::reconsider`] decides.
    pub(super) fn on_member_down(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        down: EventId,
    ) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        match record.primary {
            Some(primary) if primary == server => {
                if self.successor(record, server).is_none() {
                    let holders = self.named_all(record.in_sync.iter().copied());
                    let rests = |peer: &ServerId| {
                        *peer != server && record.wanted_on(*peer) == Wanted::Stopped
                    };
                    let resting = self.named_all(record.in_sync.iter().copied().filter(rests));
                    let kind = EventKind::NoSuccessor {
                        primary: self.named(server),
                        holders,
                        resting,
                    };
                    let epoch = record.epoch;
                    self.record(entry, Some((module, epoch)), kind, Some(down));
                }
            }
            Some(primary) if self.may_lose_secondary(record, primary, server) => {
                let kind = EventKind::SecondaryDropped {
                    primary: self.named(primary),
                    server: self.named(server),
                };
                self.change_roles(entry, module, leads_alone(primary, kind, Some(down)));
            }
            Some(_) | None => {}
        }
    }

    /// The secondary may leave the in-sync set without a word of the primary: the primary counts as up, and its own
    /// copy does not depend on its memory.
    pub(super) fn may_lose_secondary(
        &self,
        record: &MirrorRecord,
        primary: ServerId,
        secondary: ServerId,
    ) -> bool {
        record.in_sync.contains(&secondary)
            && primary != secondary
            && !self.is_down(primary)
            && !record.received_only.contains(&primary)
    }

    /// A primary that counts as down is replaced as soon as another whole copy may lead.
    pub(super) fn reconsider(&mut self, entry: Entry<'_>, module: &ModuleName, cause: EventId) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        let Some(from) = record.primary.filter(|primary| self.is_down(*primary)) else {
            return;
        };
        let Some(to) = self.successor(record, from) else {
            return;
        };
        let kind = EventKind::FailedOver {
            from: self.named(from),
            to: self.named(to),
        };
        let mut change = leads_alone(to, kind, Some(cause));
        if record.received_only.contains(&to) {
            // R16: it may be gone as well by now, and with it what it had only received. The dead primary's copy
            // stays on record until the new one, alive and with everything on its disk, drops it.
            change.in_sync = record.in_sync.clone();
            change.received_only = BTreeSet::from([to]);
        }
        self.change_roles(entry, module, change);
    }

    /// Another server that may lead: its copy is whole, it counts as up, and the module is wanted there.
    pub(super) fn successor(&self, record: &MirrorRecord, of: ServerId) -> Option<ServerId> {
        record
            .in_sync
            .iter()
            .copied()
            .find(|server| *server != of && self.can_lead(record, *server))
    }

    fn can_lead(&self, record: &MirrorRecord, server: ServerId) -> bool {
        record.in_sync.contains(&server)
            && record.wanted_on(server) == Wanted::Started
            && !self.is_down(server)
    }

    pub(in super::super) fn has_idle_successor(&self, record: &MirrorRecord) -> bool {
        record
            .primary
            .is_some_and(|p| self.is_down(p) && self.successor(record, p).is_some())
    }
}
