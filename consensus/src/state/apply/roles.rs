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
        self.check_filled(record, server)?;
        self.check_up(module, server)?;
        if let Some(record) = self.modules.get_mut(module) {
            record.wanted.insert(server, Wanted::Started);
            // What the other server has in its directory is no copy of this one before it was brought up to date once.
            if record.in_sync.is_empty() {
                record.unfilled.extend(record.peer_of(server));
            }
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
        let (in_sync, received_only) = match reason {
            // A clean stop ends with both disks synced.
            StepDownReason::Stopped | StepDownReason::ApplicationFailed => {
                (record.in_sync.clone(), BTreeSet::new())
            }
            StepDownReason::DiskFailed => without_failed_disk(record, server, next),
        };
        let kind = EventKind::SteppedDown {
            server: self.named(server),
            reason,
            next: next.map(|next| self.named(next)),
        };
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

    pub(super) fn check_up(&self, module: &ModuleName, server: ServerId) -> Result<(), Rejection> {
        if self.is_down(server) {
            return Err(Rejection::CountsAsDown {
                module: module.clone(),
                server: self.named(server),
            });
        }
        Ok(())
    }

    /// A new server does not lead over the only data that is left, however old.
    fn check_filled(&self, record: &MirrorRecord, server: ServerId) -> Result<(), Rejection> {
        let peer = record.peer_of(server);
        match peer.filter(|peer| !record.unfilled.contains(peer)) {
            Some(peer) if record.unfilled.contains(&server) => Err(Rejection::NoCopyYet {
                module: record.name.clone(),
                server: self.named(server),
                other: self.named(peer),
            }),
            Some(_) | None => Ok(()),
        }
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

/// Whose copy counts once the disk of `server`, the primary, failed (R11): the in-sync set, and who of it only received.
///
/// The last whole copy stays on record even on a bad disk: there is no better one. So it is while the other one holds
/// the newest writes in memory only (R16): until that one leads, alive and with everything on its disk, it may be gone.
fn without_failed_disk(
    record: &MirrorRecord,
    server: ServerId,
    next: Option<ServerId>,
) -> (BTreeSet<ServerId>, BTreeSet<ServerId>) {
    let others: BTreeSet<ServerId> = record
        .in_sync
        .iter()
        .copied()
        .filter(|other| *other != server)
        .collect();
    if others.is_empty() {
        return (record.in_sync.clone(), BTreeSet::new());
    }
    match next {
        Some(next) if record.received_only.contains(&next) => {
            (record.in_sync.clone(), BTreeSet::from([next]))
        }
        None if !others.is_disjoint(&record.received_only) => {
            (BTreeSet::from([server]), BTreeSet::new())
        }
        Some(_) | None => (others, BTreeSet::new()),
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
fn received_by(ack: AckMode, secondary: ServerId) -> BTreeSet<ServerId> {
    match ack {
        AckMode::Disk => BTreeSet::new(),
        AckMode::Receipt => BTreeSet::from([secondary]),
    }
}
