//! Who counts as down, and what that does to the roles (R7).

use std::collections::BTreeSet;

use super::super::ClusterState;
use super::super::command::Accepted;
use super::super::events::EventKind;
use super::super::ids::{EventId, Incarnation, ModuleName, ServerId, Who};
use super::super::members::{Declaration, Round};
use super::super::rejection::Rejection;
use super::{Entry, cut};

/// Which voter speaks of whom, in which round.
#[derive(Clone, Copy)]
pub(super) struct Statement {
    pub(super) voter: ServerId,
    pub(super) round: Round,
    pub(super) server: ServerId,
}

impl ClusterState {
    pub(super) fn declare(
        &mut self,
        entry: Entry<'_>,
        statement: Statement,
        incarnation: Incarnation,
        evidence: &str,
    ) -> Result<Accepted, Rejection> {
        let Statement {
            voter,
            round,
            server,
        } = statement;
        let who = self.member(server)?.who();
        let by = self.check_voter(statement)?;
        if !self.all_voters().contains(&voter) {
            return Err(Rejection::NotVoter { voter: by });
        }
        if voter == server {
            return Err(Rejection::DeclaresItself { server: who });
        }
        self.check_run(server, incarnation)?;
        if self
            .withdrawals
            .get(&server)
            .and_then(|w| w.get(&voter))
            .is_some_and(|taken_back| round <= *taken_back)
        {
            return Err(Rejection::StaleRound {
                voter: by,
                server: who,
            });
        }
        let by_voter = self.declarations.entry(server).or_default();
        if by_voter.contains_key(&voter) {
            return Ok(Accepted::Unchanged);
        }
        by_voter.insert(
            voter,
            Declaration {
                incarnation,
                round,
                evidence: cut(evidence),
            },
        );
        let declared = self.record(
            entry,
            None,
            EventKind::Declared {
                voter: by,
                server: who,
            },
            None,
        );
        self.conclude(entry, Some(declared));
        Ok(Accepted::Done)
    }

    pub(super) fn withdraw(
        &mut self,
        entry: Entry<'_>,
        statement: Statement,
    ) -> Result<Accepted, Rejection> {
        let Statement {
            voter,
            round,
            server,
        } = statement;
        let who = self.member(server)?.who();
        let by = self.check_voter(statement)?;
        let taken_back = self.withdrawals.entry(server).or_default();
        let is_newer = taken_back
            .get(&voter)
            .is_none_or(|earlier| *earlier < round);
        if is_newer {
            // Kept also when there is no declaration: one of this round may still be on its way.
            taken_back.insert(voter, round);
        }
        let by_voter = self.declarations.entry(server).or_default();
        let ends = by_voter
            .get(&voter)
            .is_some_and(|declaration| declaration.round <= round);
        if ends {
            by_voter.remove(&voter);
            let withdrawn = self.record(
                entry,
                None,
                EventKind::Withdrawn {
                    voter: by,
                    server: who,
                },
                None,
            );
            self.conclude(entry, Some(withdrawn));
        }
        self.declarations.retain(|_, by_voter| !by_voter.is_empty());
        Ok(if ends || is_newer {
            Accepted::Done
        } else {
            Accepted::Unchanged
        })
    }

    pub(super) fn server_started(
        &mut self,
        entry: Entry<'_>,
        server: ServerId,
        incarnation: Incarnation,
    ) -> Result<Accepted, Rejection> {
        let member = self.member(server)?;
        let (who, current) = (member.who(), member.incarnation);
        if incarnation == current {
            return Ok(Accepted::Unchanged);
        }
        if incarnation < current {
            return Err(Rejection::OldIncarnation {
                server: who,
                given: incarnation,
                current,
            });
        }
        if let Some(member) = self.members.get_mut(&server) {
            member.incarnation = incarnation;
            member.is_down = false;
        }
        // They spoke of the former run.
        self.declarations.remove(&server);
        self.withdrawals.remove(&server);
        // No lease before the new run knows what the former one gave away.
        self.role_change_index.insert(server, entry.index);
        // Nothing is left of the leases of the former run.
        self.shortest_hearts.remove(&server);
        let started = self.record(
            entry,
            None,
            EventKind::ServerStarted {
                server: who,
                incarnation,
            },
            None,
        );
        for module in self.modules_of(server) {
            self.on_started(entry, &module, server, started);
            self.reconsider(entry, &module, started);
        }
        Ok(Accepted::Done)
    }

    /// Concludes from the declarations who counts as down, and gives the roles of the dead to the living.
    pub(super) fn conclude(&mut self, entry: Entry<'_>, cause: Option<EventId>) {
        let changed: Vec<ServerId> = self
            .members
            .values()
            .filter(|m| m.is_down != self.is_declared(m.id))
            .map(|m| m.id)
            .collect();
        for server in changed {
            let is_down = !self.is_down(server);
            if let Some(member) = self.members.get_mut(&server) {
                member.is_down = is_down;
            }
            if is_down {
                self.on_down(entry, server, cause)
            } else {
                self.on_up(entry, server, cause)
            }
        }
    }

    fn on_down(&mut self, entry: Entry<'_>, server: ServerId, cause: Option<EventId>) {
        // Even without a role here and now: it must see this entry before it counts on anything again.
        self.role_change_index.insert(server, entry.index);
        let (declared_by, seen) = self.declared_by(server);
        let entry = Entry {
            evidence: &seen,
            ..entry
        };
        let voters = self.voters().len();
        let kind = EventKind::ServerDown {
            server: self.named(server),
            declared_by,
            voters,
        };
        let down = self.record(entry, None, kind, cause);
        for module in self.modules_of(server) {
            self.on_member_down(entry, &module, server, down);
            self.reconsider(entry, &module, down);
        }
    }

    fn on_up(&mut self, entry: Entry<'_>, server: ServerId, cause: Option<EventId>) {
        let up = self.record(
            entry,
            None,
            EventKind::ServerUp {
                server: self.named(server),
            },
            cause,
        );
        for module in self.modules_of(server) {
            self.reconsider(entry, &module, up);
        }
    }

    /// A majority of the voters declares the present run of `server`; while voters are being replaced, also a majority of
    /// the former ones, who may still be granting leases.
    pub(in super::super) fn is_declared(&self, server: ServerId) -> bool {
        let declared_by: BTreeSet<ServerId> = self
            .valid_declarations(server)
            .map(|(voter, _)| voter)
            .collect();
        self.electorates()
            .all(|electorate| electorate.intersection(&declared_by).count() > electorate.len() / 2)
    }

    fn valid_declarations(
        &self,
        server: ServerId,
    ) -> impl Iterator<Item = (ServerId, &Declaration)> {
        let voters = self.all_voters();
        let run = self.members.get(&server).map(|member| member.incarnation);
        let by_voter = self.declarations.get(&server).into_iter().flatten();
        by_voter
            .filter(move |(voter, declaration)| {
                voters.contains(voter) && Some(declaration.incarnation) == run
            })
            .map(|(voter, declaration)| (*voter, declaration))
    }

    /// Who declares it, and what they saw.
    fn declared_by(&self, server: ServerId) -> (Vec<Who>, String) {
        let declared_by = self.named_all(self.valid_declarations(server).map(|(voter, _)| voter));
        let seen: Vec<&str> = self
            .valid_declarations(server)
            .map(|(_, d)| d.evidence.as_str())
            .collect();
        (declared_by, seen.join(". "))
    }

    pub(super) fn modules_of(&self, server: ServerId) -> Vec<ModuleName> {
        self.modules
            .values()
            .filter(|module| module.servers.contains(&server))
            .map(|m| m.name.clone())
            .collect()
    }

    /// A voter speaks in its present run: what a former run proposed may arrive late, and its author has forgotten it.
    fn check_voter(&self, statement: Statement) -> Result<Who, Rejection> {
        let who = self.member(statement.voter)?.who();
        self.check_run(statement.voter, statement.round.incarnation)?;
        Ok(who)
    }

    fn check_run(&self, server: ServerId, given: Incarnation) -> Result<(), Rejection> {
        let member = self.member(server)?;
        let (who, current) = (member.who(), member.incarnation);
        match given.cmp(&current) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Rejection::OldIncarnation {
                server: who,
                given,
                current,
            }),
            std::cmp::Ordering::Greater => Err(Rejection::UnknownIncarnation {
                server: who,
                given,
                current,
            }),
        }
    }
}
