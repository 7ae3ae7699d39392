//! Who leads a module, and whose copy is whole (R3 to R6, R10, R11, R16, R18).

use std::collections::BTreeSet;

use super::super::ClusterState;
use super::super::command::{Accepted, StepDownReason};
use super::super::events::EventKind;
use super::super::ids::{Epoch, EventId, ModuleName, ServerId};
use super::super::mirror::{AckMode, MirrorRecord, Wanted};
use super::super::rejection::Rejection;
use super::{Entry, RoleChange};

impl ClusterState {
    /// A person says whose copy leads. It also starts the module there: that is what `prim` means.
    pub(super) fn claim_first(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_at(module, epoch)?;
        self.check_of_module(record, server)?;
        if record.primary == Some(server) {
            return Ok(Accepted::Unchanged);
        }
        self.check_no_primary(record, server)?;
        if !record.in_sync.is_empty() && !record.in_sync.contains(&server) {
            return Err(self.not_in_sync(record, server));
        }
        self.check_up(module, server)?;
        if let Some(record) = self.modules.get_mut(module) {
            record.wanted.insert(server, Wanted::Started);
        }
        let kind = EventKind::PrimaryClaimed {
            server: self.named(server),
        };
        self.change_roles(entry, module, leads_alone(server, kind, None));
        Ok(Accepted::Done)
    }

    /// The primary goes on alone (R4). It proposes this also when the other copy is not counted on but may have been
    /// proposed as an addition: the new epoch ends that proposal, wherever it is (R6).
    ///
    /// The order of the log decides between this and a takeover: the second of them meets another epoch.
    ///
    /// With [`AckMode::Receipt`] the primary has everything it ever received on its disk before it proposes this.
    pub(super) fn drop_secondary(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        primary: ServerId,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_as_primary(module, epoch, primary)?;
        self.check_secondary(record, server)?;
        let is_counted_on = record.in_sync.contains(&server);
        let (by, who) = (self.named(primary), self.named(server));
        let kind = match is_counted_on {
            true => EventKind::SecondaryDropped {
                primary: by,
                server: who,
            },
            false => EventKind::AdditionEnded {
                primary: by,
                server: who,
            },
        };
        self.change_roles(entry, module, leads_alone(primary, kind, None));
        Ok(Accepted::Done)
    }

    /// R10: the copies are in lock-step and nothing is pending.
    pub(super) fn add_secondary(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        primary: ServerId,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_as_primary(module, epoch, primary)?;
        self.check_secondary(record, server)?;
        if record.in_sync.contains(&server) {
            return Ok(Accepted::Unchanged);
        }
        self.check_started(record, server)?;
        // A primary that counts as down would lose its role to the very copy it adds.
        self.check_up(module, primary)?;
        self.check_up(module, server)?;
        let change = RoleChange {
            primary: Some(primary),
            in_sync: BTreeSet::from([primary, server]),
            received_only: received_by(record.ack, server),
            kind: EventKind::SecondaryAdded {
                primary: self.named(primary),
                server: self.named(server),
            },
            cause: None,
        };
        self.change_roles(entry, module, change);
        Ok(Accepted::Done)
    }

    /// Both copies are equal and on disk: both stay whole.
    pub(super) fn switchover(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        from: ServerId,
        to: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_as_primary(module, epoch, from)?;
        self.check_secondary(record, to)?;
        if !record.in_sync.contains(&to) {
            return Err(self.not_in_sync(record, to));
        }
        self.check_started(record, to)?;
        self.check_up(module, to)?;
        let change = RoleChange {
            primary: Some(to),
            in_sync: record.in_sync.clone(),
            received_only: received_by(record.ack, from),
            kind: EventKind::SwitchedOver {
                from: self.named(from),
                to: self.named(to),
            },
            cause: None,
        };
        self.change_roles(entry, module, change);
        if let Some(record) = self.modules.get_mut(module) {
            record.identical = true;
        }
        Ok(Accepted::Done)
    }

    /// The primary stopped leading. Its copy stays whole, save when its disk failed: the successor, when it lives,
    /// drops it before it acknowledges anything of its own; when it does not, nothing is lost.
    pub(super) fn step_down(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        server: ServerId,
        reason: StepDownReason,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_as_primary(module, epoch, server)?;
        let next = self.successor(record, server);
        let mut in_sync = record.in_sync.clone();
        match reason {
            StepDownReason::Stopped | StepDownReason::ApplicationFailed => {}
            // The last whole copy stays on record even on a bad disk: there is no better one (R11).
            StepDownReason::DiskFailed if in_sync.len() > 1 => {
                in_sync.remove(&server);
            }
            StepDownReason::DiskFailed => {}
        }
        let kind = EventKind::SteppedDown {
            server: self.named(server),
            reason,
            next: next.map(|next| self.named(next)),
        };
        // A clean stop ends with both disks synced.
        let received_only = BTreeSet::new();
        self.change_roles(
            entry,
            module,
            RoleChange {
                primary: next,
                in_sync,
                received_only,
                kind,
                cause: None,
            },
        );
        Ok(Accepted::Done)
    }

    /// The start rule: nobody leads and this copy is whole.
    pub(super) fn take_over(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_at(module, epoch)?;
        self.check_of_module(record, server)?;
        self.check_no_primary(record, server)?;
        if record.in_sync.is_empty() {
            return Err(Rejection::FirstStart {
                module: module.clone(),
            });
        }
        if !record.in_sync.contains(&server) {
            return Err(self.not_in_sync(record, server));
        }
        self.check_started(record, server)?;
        self.check_up(module, server)?;
        let kind = EventKind::TookOver {
            server: self.named(server),
        };
        self.change_roles(entry, module, leads_alone(server, kind, None));
        Ok(Accepted::Done)
    }

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

    fn end_proposals(&mut self, module: &ModuleName) {
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

    fn successor(&self, record: &MirrorRecord, of: ServerId) -> Option<ServerId> {
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

    fn module_as_primary(
        &self,
        module: &ModuleName,
        epoch: Epoch,
        primary: ServerId,
    ) -> Result<&MirrorRecord, Rejection> {
        let record = self.module_at(module, epoch)?;
        self.check_of_module(record, primary)?;
        if record.primary == Some(primary) {
            return Ok(record);
        }
        let (server, primary) = (self.named(primary), record.primary.map(|p| self.named(p)));
        Err(Rejection::NotPrimary {
            module: module.clone(),
            server,
            primary,
        })
    }

    fn check_secondary(&self, record: &MirrorRecord, server: ServerId) -> Result<(), Rejection> {
        self.check_of_module(record, server)?;
        if record.primary == Some(server) {
            return Err(Rejection::IsPrimary {
                module: record.name.clone(),
                server: self.named(server),
            });
        }
        Ok(())
    }

    /// The way is free for `server`; when the primary is down, the reason why `server` does not lead already.
    fn check_no_primary(&self, record: &MirrorRecord, server: ServerId) -> Result<(), Rejection> {
        let Some(primary) = record.primary else {
            return Ok(());
        };
        if self.is_down(primary) && primary != server {
            if !record.in_sync.contains(&server) {
                return Err(self.not_in_sync(record, server));
            }
            self.check_started(record, server)?;
            self.check_up(&record.name, server)?;
        }
        Err(Rejection::PrimaryExists {
            module: record.name.clone(),
            primary: self.named(primary),
        })
    }

    fn check_up(&self, module: &ModuleName, server: ServerId) -> Result<(), Rejection> {
        if self.is_down(server) {
            return Err(Rejection::CountsAsDown {
                module: module.clone(),
                server: self.named(server),
            });
        }
        Ok(())
    }

    fn check_started(&self, record: &MirrorRecord, server: ServerId) -> Result<(), Rejection> {
        match record.wanted_on(server) {
            Wanted::Started => Ok(()),
            Wanted::Stopped => Err(Rejection::StoppedThere {
                module: record.name.clone(),
                server: self.named(server),
            }),
        }
    }

    fn not_in_sync(&self, record: &MirrorRecord, server: ServerId) -> Rejection {
        let holders = self.named_all(record.in_sync.iter().copied());
        Rejection::NotInSync {
            module: record.name.clone(),
            server: self.named(server),
            holders,
        }
    }
}

pub(super) fn leads_alone(
    primary: ServerId,
    kind: EventKind,
    cause: Option<EventId>,
) -> RoleChange {
    RoleChange {
        primary: Some(primary),
        in_sync: BTreeSet::from([primary]),
        received_only: BTreeSet::new(),
        kind,
        cause,
    }
}

/// A secondary that answers on receipt holds the newest writes in memory only.
pub(super) fn received_by(ack: AckMode, secondary: ServerId) -> BTreeSet<ServerId> {
    match ack {
        AckMode::Disk => BTreeSet::new(),
        AckMode::Receipt => BTreeSet::from([secondary]),
    }
}
