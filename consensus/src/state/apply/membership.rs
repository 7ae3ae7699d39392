//! Members come by token and leave for good.

use std::net::SocketAddr;

use super::super::ClusterState;
use super::super::command::Accepted;
use super::super::events::EventKind;
use super::super::ids::{EventId, MemberName, ModuleName, ServerId};
use super::super::members::{
    ClusterInfo, LANS_MAX, MEMBERS_MAX, Member, MemberKind, NewMember, TOKENS_MAX, Token,
};
use super::super::rejection::Rejection;
use super::Entry;

impl ClusterState {
    pub(super) fn init_cluster(
        &mut self,
        entry: Entry<'_>,
        info: &ClusterInfo,
        first: &NewMember,
    ) -> Result<Accepted, Rejection> {
        if let Some(cluster) = &self.cluster {
            // The same creation twice: its author did not hear the first answer.
            return if cluster == info {
                Ok(Accepted::Unchanged)
            } else {
                Err(Rejection::ClusterExists {
                    name: cluster.name.clone(),
                })
            };
        }
        if first.kind == MemberKind::Witness {
            return Err(Rejection::WitnessFirst);
        }
        self.check_new_member(first, None)?;
        self.cluster = Some(info.clone());
        let created = self.record(
            entry,
            None,
            EventKind::ClusterCreated {
                name: info.name.clone(),
            },
            None,
        );
        let server = self.insert_member(entry, first, Some(created));
        Ok(Accepted::MemberAdded(server))
    }

    pub(super) fn create_token(
        &mut self,
        entry: Entry<'_>,
        token: [u8; 32],
        witness: bool,
        expires_at_unix_s: u64,
    ) -> Result<Accepted, Rejection> {
        if self.tokens.contains_key(&token) {
            return Err(Rejection::TokenExists);
        }
        let now_unix_s = entry.at_unix_ms / 1000;
        if expires_at_unix_s <= now_unix_s {
            return Err(Rejection::TokenExpired { expires_at_unix_s });
        }
        let is_expired = |token: &Token| token.expires_at_unix_s <= now_unix_s;
        if self
            .tokens
            .values()
            .filter(|token| !is_expired(token))
            .count()
            >= TOKENS_MAX
        {
            return Err(Rejection::TokensFull);
        }
        // Expired tokens are kept as long as there is room: "expired" is a better answer than "unknown".
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.retain(|_, token| !is_expired(token));
        }
        self.tokens.insert(
            token,
            Token {
                witness,
                expires_at_unix_s,
                used_by: None,
            },
        );
        let kind = if witness {
            MemberKind::Witness
        } else {
            MemberKind::Server
        };
        self.record(entry, None, EventKind::TokenCreated { kind }, None);
        Ok(Accepted::Done)
    }

    pub(super) fn add_member(
        &mut self,
        entry: Entry<'_>,
        token: [u8; 32],
        member: &NewMember,
    ) -> Result<Accepted, Rejection> {
        if let Some(already) = self.check_token(entry, token, member)? {
            return Ok(Accepted::MemberAdded(already));
        }
        self.check_new_member(member, None)?;
        self.check_voters_may_change()?;
        let voters = self.voters();
        let server = self.admit(entry, token, member, None);
        self.on_voters_changed(entry, voters);
        self.conclude(entry, None);
        Ok(Accepted::MemberAdded(server))
    }

    /// The member comes in, and the token is used up.
    pub(super) fn admit(
        &mut self,
        entry: Entry<'_>,
        token: [u8; 32],
        member: &NewMember,
        cause: Option<EventId>,
    ) -> ServerId {
        let server = self.insert_member(entry, member, cause);
        if let Some(token) = self.tokens.get_mut(&token) {
            token.used_by = Some(server);
        }
        server
    }

    /// The token lets this member in; the number it already has when it has come in by this token before.
    pub(super) fn check_token(
        &self,
        entry: Entry<'_>,
        token: [u8; 32],
        member: &NewMember,
    ) -> Result<Option<ServerId>, Rejection> {
        let known = self.tokens.get(&token).ok_or(Rejection::TokenUnknown)?;
        if let Some(by) = known.used_by {
            // The same join twice: the joiner did not hear the first answer.
            if self
                .members
                .get(&by)
                .is_some_and(|m| m.certificate == member.certificate)
            {
                return Ok(Some(by));
            }
            return Err(Rejection::TokenUsed {
                by: self.named(by).to_string(),
            });
        }
        if known.expires_at_unix_s <= entry.at_unix_ms / 1000 {
            return Err(Rejection::TokenExpired {
                expires_at_unix_s: known.expires_at_unix_s,
            });
        }
        match (known.witness, member.kind) {
            (true, MemberKind::Server) => Err(Rejection::TokenForWitness),
            (false, MemberKind::Witness) => Err(Rejection::TokenForServer),
            (true, MemberKind::Witness) | (false, MemberKind::Server) => Ok(None),
        }
    }

    pub(super) fn insert_member(
        &mut self,
        entry: Entry<'_>,
        new: &NewMember,
        cause: Option<EventId>,
    ) -> ServerId {
        let id = self.last_server.next();
        self.last_server = id;
        let NewMember {
            name,
            kind,
            addresses,
            certificate,
            incarnation,
        } = new.clone();
        let member = Member {
            id,
            name,
            kind,
            addresses,
            certificate,
            incarnation,
            is_down: false,
        };
        let kind = EventKind::MemberAdded {
            member: member.who(),
            kind,
        };
        self.members.insert(id, member);
        self.record(entry, None, kind, cause);
        id
    }

    /// `instead_of`: whose name and addresses are free, because it goes in the same moment.
    pub(super) fn check_new_member(
        &self,
        new: &NewMember,
        instead_of: Option<ServerId>,
    ) -> Result<(), Rejection> {
        if self.members.len() >= MEMBERS_MAX || self.last_server.0 == u64::MAX {
            return Err(Rejection::MembersFull);
        }
        self.check_name(&new.name, instead_of)?;
        for member in self.members.values().filter(|m| Some(m.id) != instead_of) {
            if new.kind == MemberKind::Witness && member.kind == MemberKind::Witness {
                return Err(Rejection::WitnessExists {
                    name: member.name.clone(),
                });
            }
        }
        self.check_certificate(&new.certificate)?;
        self.check_member_addresses(&new.name, &new.addresses, instead_of)
    }

    fn check_name(&self, name: &MemberName, except: Option<ServerId>) -> Result<(), Rejection> {
        let is_taken = |member: &Member| member.name == *name && Some(member.id) != except;
        if self.members.values().any(is_taken) {
            return Err(Rejection::NameTaken { name: name.clone() });
        }
        Ok(())
    }

    fn check_member_addresses(
        &self,
        name: &MemberName,
        addresses: &[SocketAddr],
        except: Option<ServerId>,
    ) -> Result<(), Rejection> {
        if addresses.is_empty() || addresses.len() > LANS_MAX {
            return Err(Rejection::AddressCount {
                given: addresses.len(),
            });
        }
        for (lan, address) in addresses.iter().enumerate() {
            if addresses[..lan].contains(address) {
                return Err(Rejection::AddressInUse {
                    address: *address,
                    by: name.clone(),
                });
            }
            self.check_address(*address, except)?;
        }
        Ok(())
    }

    /// A member is called otherwise, or is found elsewhere. Its number and its certificate stay.
    pub(super) fn change_member(
        &mut self,
        entry: Entry<'_>,
        server: ServerId,
        name: &MemberName,
        addresses: &[SocketAddr],
    ) -> Result<Accepted, Rejection> {
        let before = self.member(server)?.clone();
        if before.name == *name && before.addresses == addresses {
            return Ok(Accepted::Unchanged);
        }
        self.check_name(name, Some(server))?;
        self.check_member_addresses(name, addresses, Some(server))?;
        if let Some(member) = self.members.get_mut(&server) {
            member.name = name.clone();
            member.addresses = addresses.to_vec();
        }
        let kind = EventKind::MemberChanged {
            before: before.who(),
            now: self.named(server),
            addresses: addresses.to_vec(),
        };
        self.record(entry, None, kind, None);
        Ok(Accepted::Done)
    }

    fn check_address(
        &self,
        address: SocketAddr,
        except: Option<ServerId>,
    ) -> Result<(), Rejection> {
        if let Some(by) = self
            .members
            .values()
            .find(|m| m.addresses.contains(&address) && Some(m.id) != except)
        {
            return Err(Rejection::AddressInUse {
                address,
                by: by.name.clone(),
            });
        }
        match self
            .modules
            .values()
            .find(|module| module.addresses.contains(&address.ip()))
        {
            None => Ok(()),
            Some(module) => Err(Rejection::AddressTaken {
                address: address.ip(),
                by: format!("module {}", module.name),
            }),
        }
    }

    fn check_certificate(&self, certificate: &[u8; 32]) -> Result<(), Rejection> {
        match self
            .members
            .values()
            .find(|m| m.certificate == *certificate)
        {
            None => Ok(()),
            Some(by) => Err(Rejection::CertificateInUse {
                by: by.name.clone(),
            }),
        }
    }

    pub(super) fn set_certificate(
        &mut self,
        entry: Entry<'_>,
        server: ServerId,
        certificate: [u8; 32],
    ) -> Result<Accepted, Rejection> {
        if self.member(server)?.certificate == certificate {
            return Ok(Accepted::Unchanged);
        }
        self.check_certificate(&certificate)?;
        if let Some(member) = self.members.get_mut(&server) {
            member.certificate = certificate;
        }
        let member = self.named(server);
        self.record(entry, None, EventKind::CertificateChanged { member }, None);
        Ok(Accepted::Done)
    }

    pub(super) fn remove_member(
        &mut self,
        entry: Entry<'_>,
        server: ServerId,
    ) -> Result<Accepted, Rejection> {
        let who = self.member(server)?.who();
        let (hosted, needed): (Vec<ModuleName>, Vec<ModuleName>) = self
            .modules_of(server)
            .into_iter()
            .partition(|module| self.can_do_without(module, server));
        if !needed.is_empty() {
            return Err(Rejection::ServerHasModules {
                server: who,
                modules: needed,
            });
        }
        self.check_not_last_server(server)?;
        self.check_voters_may_change()?;
        for module in hosted {
            self.give_up_copy(entry, &module, server);
        }
        let voters = self.voters();
        let removed = self.take_out(entry, server);
        self.on_voters_changed(entry, voters);
        self.conclude(entry, Some(removed));
        Ok(Accepted::Done)
    }

    pub(super) fn check_not_last_server(&self, server: ServerId) -> Result<(), Rejection> {
        let other_server = |m: &Member| m.kind == MemberKind::Server && m.id != server;
        if self.members.values().any(other_server) {
            Ok(())
        } else {
            Err(Rejection::LastServer {
                server: self.named(server),
            })
        }
    }

    /// Removes a member and everything that was said by it or about it. What follows from that is left to the caller: the
    /// voters have changed, and others may count as down or up now.
    pub(super) fn take_out(&mut self, entry: Entry<'_>, server: ServerId) -> EventId {
        let who = self.named(server);
        self.members.remove(&server);
        self.removed.insert(server);
        self.declarations.remove(&server);
        self.withdrawals.remove(&server);
        self.role_change_index.remove(&server);
        self.shortest_hearts.remove(&server);
        for by_voter in self.declarations.values_mut() {
            by_voter.remove(&server);
        }
        for by_voter in self.withdrawals.values_mut() {
            by_voter.remove(&server);
        }
        self.record(entry, None, EventKind::MemberRemoved { member: who }, None)
    }
}
