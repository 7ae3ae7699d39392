//! Modules are installed, changed, started, stopped and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::ClusterState;
use super::super::command::Accepted;
use super::super::directories;
use super::super::events::EventKind;
use super::super::ids::{EventId, ModuleName, PackageHash, ServerId};
use super::super::mirror::{ADDRESSES_MAX, AckMode, MODULES_MAX, MirrorRecord, Wanted};
use super::super::rejection::{Rejection, RunningConflict};
use super::Entry;
use super::roles::leads_alone;

/// What a package says about a module, as far as the cluster must know it.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) package: PackageHash,
    pub(super) ack: AckMode,
    pub(super) directories: &'a [String],
    pub(super) addresses: &'a [IpAddr],
    pub(super) heart_timeout_ms: Option<u32>,
}

impl ClusterState {
    pub(super) fn install_module(
        &mut self,
        entry: Entry<'_>,
        name: &ModuleName,
        servers: [ServerId; 2],
        settings: Settings<'_>,
    ) -> Result<Accepted, Rejection> {
        if self.modules.contains_key(name) {
            return Err(Rejection::ModuleExists {
                module: name.clone(),
            });
        }
        if self.modules.len() >= MODULES_MAX {
            return Err(Rejection::ModulesFull);
        }
        let [first, second] = servers;
        let servers_named = [self.server(first)?.who(), self.server(second)?.who()];
        if first == second {
            return Err(Rejection::SameServerTwice {
                server: self.named(first),
            });
        }
        let directories = self.check_directories(name, servers, settings.directories)?;
        self.check_addresses(name, settings.addresses)?;
        let epoch = self.epoch_floor.next();
        let kind = EventKind::ModuleInstalled {
            servers: servers_named,
        };
        let last_cause = self.record(entry, Some((name, epoch)), kind, None);
        let record = MirrorRecord {
            name: name.clone(),
            installation: entry.index,
            servers,
            epoch,
            primary: None,
            in_sync: BTreeSet::new(),
            received_only: BTreeSet::new(),
            identical: false,
            diverged: BTreeMap::new(),
            unfilled: BTreeSet::new(),
            wanted: BTreeMap::from(servers.map(|server| (server, Wanted::Stopped))),
            ack: settings.ack,
            package: settings.package,
            directories,
            addresses: settings.addresses.to_vec(),
            heart_timeout_ms: settings.heart_timeout_ms,
            last_cause,
        };
        self.modules.insert(name.clone(), record);
        Ok(Accepted::Done)
    }

    pub(super) fn reconfigure_module(
        &mut self,
        entry: Entry<'_>,
        name: &ModuleName,
        settings: Settings<'_>,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(name)?;
        let directories = self.check_directories(name, record.servers, settings.directories)?;
        self.check_addresses(name, settings.addresses)?;
        let mut changed = record.clone();
        changed.package = settings.package;
        changed.addresses = settings.addresses.to_vec();
        changed.heart_timeout_ms = settings.heart_timeout_ms;
        changed.ack = settings.ack;
        changed.directories = directories;
        if changed == *record {
            return Ok(Accepted::Unchanged);
        }
        let has_moved = changed.directories != record.directories;
        if has_moved && is_running(record) {
            return Err(Rejection::ModuleRunning {
                module: name.clone(),
                why: RunningConflict::Directories,
            });
        }
        // Two whole copies of the old directories say nothing about the new ones; with one, it is clear which leads.
        let first_start_again = has_moved && changed.in_sync.len() > 1;
        if has_moved {
            changed.diverged.clear();
            // Beside a whole copy that leads, the other server's new directories hold a copy of nothing yet.
            let others = changed
                .hosts()
                .filter(|host| !changed.in_sync.contains(host));
            changed.unfilled = match changed.in_sync.len() {
                1 => others.collect(),
                _ => BTreeSet::new(),
            };
        }
        if first_start_again {
            changed.in_sync.clear();
            changed.epoch = record.epoch.next();
        }
        // One that took over with what it had only received acknowledges nothing with the other copy, and will drop it: that one
        // received nothing, and must count should the primary start anew (R16).
        if let (Some(primary), AckMode::Receipt) = (changed.primary, changed.ack)
            && !changed.received_only.contains(&primary)
        {
            let others = changed.in_sync.iter().filter(|server| **server != primary);
            changed.received_only.extend(others.copied());
        }
        let epoch = changed.epoch;
        let event = self.record(
            entry,
            Some((name, epoch)),
            EventKind::ModuleReconfigured { first_start_again },
            None,
        );
        if first_start_again {
            changed.last_cause = event;
        }
        self.modules.insert(name.clone(), changed);
        Ok(Accepted::Done)
    }

    pub(super) fn uninstall_module(
        &mut self,
        entry: Entry<'_>,
        name: &ModuleName,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(name)?;
        if is_running(record) {
            return Err(Rejection::ModuleRunning {
                module: name.clone(),
                why: RunningConflict::Uninstall,
            });
        }
        let epoch = record.epoch;
        self.epoch_floor = self.epoch_floor.max(epoch);
        self.modules.remove(name);
        self.record(
            entry,
            Some((name, epoch)),
            EventKind::ModuleUninstalled,
            None,
        );
        Ok(Accepted::Done)
    }

    /// Stopping the primary changes its roles when it has stopped: it steps down. Stopping a secondary changes them
    /// here, so that no writer waits for it.
    pub(super) fn set_wanted(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        wanted: Wanted,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(module)?;
        self.check_of_module(record, server)?;
        if record.wanted_on(server) == wanted {
            return Ok(Accepted::Unchanged);
        }
        let epoch = record.epoch;
        if let Some(record) = self.modules.get_mut(module) {
            record.wanted.insert(server, wanted);
        }
        let kind = EventKind::WantedChanged {
            server: self.named(server),
            wanted,
        };
        let cause = self.record(entry, Some((module, epoch)), kind, None);
        match wanted {
            Wanted::Started => self.reconsider(entry, module, cause),
            Wanted::Stopped => self.on_stopped(entry, module, server, cause),
        }
        Ok(Accepted::Done)
    }

    fn on_stopped(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        cause: EventId,
    ) {
        let Some(record) = self.modules.get(module) else {
            return;
        };
        let Some(primary) = record.primary.filter(|primary| *primary != server) else {
            return;
        };
        if !record.in_sync.contains(&server) {
            // An addition of it that is on its way must not make the right of the only whole copy hang on a lease (R6).
            return self.end_proposals(module);
        }
        if !self.may_lose_secondary(record, primary, server) {
            return;
        }
        let kind = EventKind::SecondaryStopped {
            primary: self.named(primary),
            server: self.named(server),
        };
        self.change_roles(entry, module, leads_alone(primary, kind, Some(cause)));
    }

    /// Directories overlap only where the modules share a server.
    pub(super) fn check_directories(
        &self,
        name: &ModuleName,
        servers: [ServerId; 2],
        given: &[String],
    ) -> Result<Vec<String>, Rejection> {
        let given = directories::checked(given)?;
        let shares = |other: &&MirrorRecord| {
            other.name != *name && other.hosts().any(|host| servers.contains(&host))
        };
        for other in self.modules.values().filter(shares) {
            for theirs in &other.directories {
                if let Some(directory) =
                    given.iter().find(|ours| directories::overlap(ours, theirs))
                {
                    return Err(Rejection::DirectoryOverlaps {
                        directory: directory.clone(),
                        other: Some(other.name.clone()),
                        other_directory: theirs.clone(),
                    });
                }
            }
        }
        Ok(given)
    }

    fn check_addresses(&self, name: &ModuleName, given: &[IpAddr]) -> Result<(), Rejection> {
        if given.len() > ADDRESSES_MAX {
            return Err(Rejection::AddressesMany { given: given.len() });
        }
        for (position, address) in given.iter().enumerate() {
            if let Some(by) = self.owner_of(name, &given[..position], *address) {
                return Err(Rejection::AddressTaken {
                    address: *address,
                    by,
                });
            }
        }
        Ok(())
    }

    fn owner_of(&self, name: &ModuleName, earlier: &[IpAddr], address: IpAddr) -> Option<String> {
        if earlier.contains(&address) {
            return Some("this module already, it was given twice".to_owned());
        }
        let others = self.modules.values().filter(|other| other.name != *name);
        let module = others
            .filter(|other| other.addresses.contains(&address))
            .map(|m| format!("module {}", m.name));
        let members = self
            .members
            .values()
            .filter(|m| m.addresses.iter().any(|a| a.ip() == address));
        module
            .chain(members.map(|m| format!("{} {}", m.kind, m.name)))
            .next()
    }
}

fn is_running(record: &MirrorRecord) -> bool {
    record.primary.is_some()
        || record
            .wanted
            .values()
            .any(|wanted| *wanted == Wanted::Started)
}
