//! A server that is gone for good: its copies are given up, and another server may get its place (R12).

use std::collections::BTreeSet;

use super::super::ClusterState;
use super::super::command::Accepted;
use super::super::events::EventKind;
use super::super::ids::{EventId, ModuleName, ServerId};
use super::super::members::NewMember;
use super::super::mirror::{MirrorRecord, VACANT, Wanted};
use super::super::rejection::Rejection;
use super::{Entry, RoleChange};

/// Who is gone, and at what price.
#[derive(Clone, Copy)]
pub(super) struct Gone {
    pub(super) server: ServerId,
    /// Also where its copy is the only whole one.
    pub(super) accept_loss: bool,
}

impl ClusterState {
    pub(super) fn forget_member(
        &mut self,
        entry: Entry<'_>,
        server: ServerId,
        accept_loss: bool,
    ) -> Result<Accepted, Rejection> {
        self.check_gone(Gone {
            server,
            accept_loss,
        })?;
        self.check_not_last_server(server)?;
        self.check_voters_may_change()?;
        for module in self.modules_of(server) {
            self.give_up_copy(entry, &module, server);
        }
        let voters = self.voters();
        let removed = self.take_out(entry, server);
        self.on_voters_changed(entry, voters);
        self.conclude(entry, Some(removed));
        Ok(Accepted::Done)
    }

    /// One entry, so that nothing can come between the old server's going and the new one's coming.
    pub(super) fn replace_member(
        &mut self,
        entry: Entry<'_>,
        token: [u8; 32],
        member: &NewMember,
        gone: Gone,
    ) -> Result<Accepted, Rejection> {
        if let Some(already) = self.check_token(entry, token, member)? {
            return Ok(Accepted::MemberAdded(already));
        }
        self.check_gone(gone)?;
        let old = self.member(gone.server)?;
        if old.kind != member.kind {
            return Err(Rejection::OtherKind {
                member: old.who(),
                kind: old.kind,
            });
        }
        self.check_new_member(member, Some(gone.server))?;
        self.check_voters_may_change()?;
        let modules = self.modules_of(gone.server);
        let wanted: Vec<Wanted> = modules
            .iter()
            .map(|module| {
                let record = self.modules.get(module);
                record.map_or(Wanted::Stopped, |record| record.wanted_on(gone.server))
            })
            .collect();
        for module in &modules {
            self.give_up_copy(entry, module, gone.server);
        }
        let voters = self.voters();
        let removed = self.take_out(entry, gone.server);
        let server = self.admit(entry, token, member, Some(removed));
        self.on_voters_changed(entry, voters);
        for (module, wanted) in modules.iter().zip(wanted) {
            self.fill_place(entry, module, server, wanted);
        }
        self.conclude(entry, None);
        Ok(Accepted::MemberAdded(server))
    }

    pub(super) fn place_copy(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(module)?;
        let who = self.server(server)?.who();
        if record.servers.contains(&server) {
            return Ok(Accepted::Unchanged);
        }
        if !record.servers.contains(&VACANT) {
            return Err(Rejection::NoVacancy {
                module: module.clone(),
                servers: self.named_all(record.hosts()),
            });
        }
        let directories = record.directories.clone();
        self.check_directories(module, [server, VACANT], &directories)
            .map_err(|why| Rejection::CannotHost {
                module: module.clone(),
                server: who,
                why: Box::new(why),
            })?;
        let wanted = self.wanted_by_hosts(module);
        self.fill_place(entry, module, server, wanted);
        Ok(Accepted::Done)
    }

    /// A new copy runs when the module does.
    fn wanted_by_hosts(&self, module: &ModuleName) -> Wanted {
        let Some(record) = self.modules.get(module) else {
            return Wanted::Stopped;
        };
        let is_started = |host: ServerId| record.wanted_on(host) == Wanted::Started;
        if record.hosts().any(is_started) {
            Wanted::Started
        } else {
            Wanted::Stopped
        }
    }

    /// It is down, and nothing that exists on it only is given up by accident.
    fn check_gone(&self, gone: Gone) -> Result<(), Rejection> {
        let member = self.member(gone.server)?;
        let who = member.who();
        if !member.is_down {
            return Err(Rejection::StillAlive { member: who });
        }
        for module in self.modules_of(gone.server) {
            let Some(record) = self.modules.get(&module) else {
                continue;
            };
            if record.peer_of(gone.server).is_none() {
                return Err(Rejection::LastCopy {
                    server: who,
                    module,
                });
            }
            if !gone.accept_loss && is_last_holder(record, gone.server) {
                return Err(Rejection::LastHolder {
                    server: who,
                    module,
                });
            }
        }
        Ok(())
    }

    /// The module runs elsewhere, with every acknowledged write, or has never run.
    pub(super) fn can_do_without(&self, module: &ModuleName, server: ServerId) -> bool {
        self.modules.get(module).is_none_or(|record| {
            record.primary != Some(server)
                && record.peer_of(server).is_some()
                && !is_last_holder(record, server)
        })
    }

    pub(super) fn give_up_copy(&mut self, entry: Entry<'_>, module: &ModuleName, server: ServerId) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        let in_sync: BTreeSet<ServerId> = record
            .in_sync
            .iter()
            .copied()
            .filter(|holder| *holder != server)
            .collect();
        let change = RoleChange {
            primary: record.primary.filter(|primary| *primary != server),
            received_only: BTreeSet::new(),
            kind: EventKind::CopyGivenUp {
                server: self.named(server),
                holders: self.named_all(in_sync.iter().copied()),
                was_only_whole: is_last_holder(record, server),
            },
            in_sync,
            cause: None,
        };
        self.change_roles(entry, module, change);
        if let Some(record) = self.modules.get_mut(module) {
            record.wanted.remove(&server);
            record.diverged.remove(&server);
            record.unfilled.remove(&server);
            for place in &mut record.servers {
                if *place == server {
                    *place = VACANT;
                }
            }
        }
    }

    fn fill_place(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        wanted: Wanted,
    ) {
        let kind = EventKind::CopyPlaced {
            server: self.named(server),
        };
        let Some(record) = self.modules.get_mut(module) else {
            return;
        };
        let Some(place) = record.servers.iter_mut().find(|place| **place == VACANT) else {
            return;
        };
        *place = server;
        record.unfilled.insert(server);
        record.wanted.insert(server, wanted);
        // What the primary proposed about the former server must not count for the new one.
        record.epoch = record.epoch.next();
        let epoch = record.epoch;
        let _: EventId = self.record(entry, Some((module, epoch)), kind, None);
    }
}

/// Nobody else has every acknowledged write.
fn is_last_holder(record: &MirrorRecord, server: ServerId) -> bool {
    record.in_sync.len() == 1 && record.in_sync.contains(&server)
}
