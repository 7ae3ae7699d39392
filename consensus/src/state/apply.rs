//! Applying an entry: the order of the log made into members, roles and history.
//!
//! Every arm checks first and changes after, so that a refused command leaves no trace. Roles change through one
//! door, [`ClusterState::change_roles`], which alone makes an epoch grow together with its event.

mod force;
mod lost;
mod membership;
mod modules;
mod presence;
mod roles;
mod succession;
mod voters;

use std::collections::BTreeSet;

use super::ClusterState;
use super::command::{Accepted, Command, Proposal};
use super::events::{EVENTS_MAX, EVIDENCE_MAX, Event, EventKind};
use super::ids::{Epoch, EventId, MemberName, ModuleName, ServerId, Who};
use super::members::{Member, MemberKind};
use super::mirror::MirrorRecord;
use super::rejection::Rejection;

/// Where a command stands in the log, and who made it.
#[derive(Clone, Copy)]
struct Entry<'a> {
    index: u64,
    author: &'a str,
    evidence: &'a str,
    at_unix_ms: u64,
}

/// New roles of a module, and the event that says why.
struct RoleChange {
    primary: Option<ServerId>,
    in_sync: BTreeSet<ServerId>,
    received_only: BTreeSet<ServerId>,
    kind: EventKind,
    cause: Option<EventId>,
}

impl ClusterState {
    /// Applies the entry at `index` of the log. Total and deterministic: no clock, no I/O, no panic.
    ///
    /// # Errors
    /// The command was refused, and nothing changed.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Result<Accepted, Rejection> {
        let entry = Entry {
            index,
            author: &proposal.author,
            evidence: &proposal.evidence,
            at_unix_ms: proposal.at_unix_ms,
        };
        if let Command::InitCluster { info, first } = &proposal.command {
            return self.init_cluster(entry, info, first);
        }
        if self.cluster.is_none() {
            return Err(Rejection::NoCluster);
        }
        let accepted = self.apply_in_cluster(entry, &proposal.command)?;
        self.note_hearts();
        Ok(accepted)
    }

    fn apply_in_cluster(
        &mut self,
        entry: Entry<'_>,
        command: &Command,
    ) -> Result<Accepted, Rejection> {
        match command {
            Command::InitCluster { info, first } => self.init_cluster(entry, info, first),
            Command::CreateToken {
                token,
                witness,
                expires_at_unix_s,
            } => self.create_token(entry, *token, *witness, *expires_at_unix_s),
            Command::AddMember { token, member } => self.add_member(entry, *token, member),
            Command::SetCertificate {
                server,
                certificate,
            } => self.set_certificate(entry, *server, *certificate),
            Command::RemoveMember { server } => self.remove_member(entry, *server),
            Command::ServerStarted {
                server,
                incarnation,
            } => self.server_started(entry, *server, *incarnation),
            Command::Declare {
                voter,
                round,
                server,
                incarnation,
                evidence,
            } => {
                let statement = presence::Statement {
                    voter: *voter,
                    round: *round,
                    server: *server,
                };
                self.declare(entry, statement, *incarnation, evidence)
            }
            Command::Withdraw {
                voter,
                round,
                server,
            } => self.withdraw(
                entry,
                presence::Statement {
                    voter: *voter,
                    round: *round,
                    server: *server,
                },
            ),
            Command::InstallModule {
                name,
                servers,
                package,
                ack,
                directories,
                addresses,
                heart_timeout_ms,
            } => {
                let settings = modules::Settings {
                    package: *package,
                    ack: *ack,
                    directories,
                    addresses,
                    heart_timeout_ms: *heart_timeout_ms,
                };
                self.install_module(entry, name, *servers, settings)
            }
            Command::ReconfigureModule {
                name,
                package,
                ack,
                directories,
                addresses,
                heart_timeout_ms,
            } => {
                let settings = modules::Settings {
                    package: *package,
                    ack: *ack,
                    directories,
                    addresses,
                    heart_timeout_ms: *heart_timeout_ms,
                };
                self.reconfigure_module(entry, name, settings)
            }
            Command::UninstallModule { name } => self.uninstall_module(entry, name),
            Command::SetWanted {
                module,
                server,
                wanted,
            } => self.set_wanted(entry, module, *server, *wanted),
            Command::ClaimFirst {
                module,
                epoch,
                server,
            } => self.claim_first(entry, module, *epoch, *server),
            Command::DropSecondary {
                module,
                epoch,
                primary,
                server,
            } => self.drop_secondary(entry, module, *epoch, *primary, *server),
            Command::AddSecondary {
                module,
                epoch,
                primary,
                server,
            } => self.add_secondary(entry, module, *epoch, *primary, *server),
            Command::Switchover {
                module,
                epoch,
                from,
                to,
            } => self.switchover(entry, module, *epoch, *from, *to),
            Command::StepDown {
                module,
                epoch,
                server,
                reason,
            } => self.step_down(entry, module, *epoch, *server, *reason),
            Command::TakeOver {
                module,
                epoch,
                server,
            } => self.take_over(entry, module, *epoch, *server),
            Command::Force {
                module,
                epoch,
                server,
                reason,
            } => self.force(entry, module, *epoch, *server, reason),
            Command::DiscardDiverged {
                module,
                server,
                since,
            } => self.discard_diverged(entry, module, *server, *since),
            Command::ApplicationStarted {
                module,
                epoch,
                server,
                after_ms,
            } => self.application_started(entry, module, *epoch, *server, *after_ms),
            Command::ForgetMember {
                server,
                accept_loss,
            } => self.forget_member(entry, *server, *accept_loss),
            Command::ReplaceMember {
                token,
                member,
                replaces,
                accept_loss,
            } => {
                let gone = lost::Gone {
                    server: *replaces,
                    accept_loss: *accept_loss,
                };
                self.replace_member(entry, *token, member, gone)
            }
            Command::PlaceCopy { module, server } => self.place_copy(entry, module, *server),
            Command::ChangeMember {
                server,
                name,
                addresses,
            } => self.change_member(entry, *server, name, addresses),
            Command::SettleVoters { replaced_at } => Ok(self.settle_voters(entry, *replaced_at)),
        }
    }

    /// Adds an event; the oldest makes room.
    fn record(
        &mut self,
        entry: Entry<'_>,
        module: Option<(&ModuleName, Epoch)>,
        kind: EventKind,
        cause: Option<EventId>,
    ) -> EventId {
        self.last_event = self.last_event.next();
        while self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            id: self.last_event,
            entry: entry.index,
            at_unix_ms: entry.at_unix_ms,
            module: module.map(|(name, _)| name.clone()),
            epoch: module.map(|(_, epoch)| epoch),
            kind,
            author: cut(entry.author),
            evidence: cut(entry.evidence),
            cause,
        });
        self.last_event
    }

    /// The one door through which roles change (R1).
    fn change_roles(&mut self, entry: Entry<'_>, module: &ModuleName, change: RoleChange) {
        let Some(epoch) = self.modules.get(module).map(|record| record.epoch.next()) else {
            return;
        };
        let last_cause = self.record(entry, Some((module, epoch)), change.kind, change.cause);
        if let Some(record) = self.modules.get_mut(module) {
            record.epoch = epoch;
            record.primary = change.primary;
            record.identical = false;
            // With one whole copy left there is no better one to wait for.
            let is_shared = change.in_sync.len() > 1 && change.primary.is_some();
            record.received_only = if is_shared {
                change.received_only
            } else {
                BTreeSet::new()
            };
            record.in_sync = change.in_sync;
            // Whoever is whole again has nothing of its own any more.
            record
                .diverged
                .retain(|server, _| !record.in_sync.contains(server));
            record
                .unfilled
                .retain(|server| !record.in_sync.contains(server));
            record.last_cause = last_cause;
        }
    }

    /// A member by its number, for a sentence; records name only members that exist.
    fn named(&self, server: ServerId) -> Who {
        self.who(server).unwrap_or_else(|| Who {
            id: server,
            name: MemberName::of_unknown(server),
        })
    }

    fn named_all(&self, servers: impl IntoIterator<Item = ServerId>) -> Vec<Who> {
        servers
            .into_iter()
            .map(|server| self.named(server))
            .collect()
    }

    fn is_down(&self, server: ServerId) -> bool {
        self.members
            .get(&server)
            .is_none_or(|member| member.is_down)
    }

    fn member(&self, server: ServerId) -> Result<&Member, Rejection> {
        match self.members.get(&server) {
            Some(member) => Ok(member),
            None if self.removed.contains(&server) => Err(Rejection::RemovedServer { server }),
            None => Err(Rejection::UnknownServer { server }),
        }
    }

    fn server(&self, server: ServerId) -> Result<&Member, Rejection> {
        let member = self.member(server)?;
        match member.kind {
            MemberKind::Server => Ok(member),
            MemberKind::Witness => Err(Rejection::NotAServer {
                member: member.who(),
            }),
        }
    }

    fn module(&self, module: &ModuleName) -> Result<&MirrorRecord, Rejection> {
        self.modules
            .get(module)
            .ok_or_else(|| Rejection::UnknownModule {
                module: module.clone(),
            })
    }

    /// The compare of the compare-and-set (R1).
    fn module_at(&self, module: &ModuleName, given: Epoch) -> Result<&MirrorRecord, Rejection> {
        let record = self.module(module)?;
        let current = record.epoch;
        if given == current {
            Ok(record)
        } else {
            Err(Rejection::StaleEpoch {
                module: module.clone(),
                given,
                current,
            })
        }
    }

    fn check_of_module(&self, record: &MirrorRecord, server: ServerId) -> Result<(), Rejection> {
        let member = self.server(server)?;
        if record.servers.contains(&server) {
            return Ok(());
        }
        let servers = self.named_all(record.hosts());
        Err(Rejection::NotOfModule {
            module: record.name.clone(),
            server: member.who(),
            servers,
        })
    }
}

/// Texts of others are kept short: the whole state is in every snapshot.
fn cut(text: &str) -> String {
    text.chars().take(EVIDENCE_MAX).collect()
}
