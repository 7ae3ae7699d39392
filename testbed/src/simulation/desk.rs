//! What the agent of a module sees and can do on its server.

use consensus::liveness::{BootTime, Timing};
use consensus::state::{ClusterState, Command, MirrorRecord, ModuleName, ServerId};
use node::core::right::Standing;

use super::clock::{Clock, SECOND};
use super::copy::Copy;
use super::message::{Message, Mirror, Place};
use super::outside::{Happening, Outside};
use super::place::id;
use super::proposals::{Proposals, Purpose, proposal};
use crate::planted::Bug;

/// How long a proposal looks for a leader.
const PROPOSAL_DEADLINE: u64 = 2 * SECOND;

pub(super) struct Desk<'a> {
    pub(super) place: Place,
    pub(super) me: ServerId,
    pub(super) run: u32,
    pub(super) now: BootTime,
    pub(super) clock: Clock,
    pub(super) module: usize,
    pub(super) name: &'a ModuleName,
    pub(super) state: &'a ClusterState,
    pub(super) is_fresh: bool,
    pub(super) lease_until: BootTime,
    /// The lengths of the cluster's profile.
    pub(super) profile: Timing,
    /// It calls itself the leader of Raft.
    pub(super) leads_raft: bool,
    pub(super) copy: &'a mut Copy,
    /// Until when the kernel keeps the virtual address.
    pub(super) address_until: &'a mut BootTime,
    pub(super) next_session: &'a mut u64,
    pub(super) proposals: &'a mut Proposals,
    pub(super) peer_lan: usize,
    pub(super) out: &'a mut Outside,
}

impl<'a> Desk<'a> {
    pub(super) fn record(&self) -> Option<&'a MirrorRecord> {
        self.state.modules.get(self.name)
    }

    /// How long this server's lease is, as it has applied it.
    pub(super) fn lease_ns(&self) -> u64 {
        self.profile.of_server(self.state, self.me).lease_ns
    }

    pub(super) fn peer(&self) -> Place {
        1 - self.place
    }

    pub(super) fn peer_is_down(&self) -> bool {
        let peer = self.state.members.get(&id(self.peer()));
        peer.is_none_or(|member| member.is_down)
    }

    pub(super) fn standing(&self) -> Standing {
        let addition_open = match self.out.bug {
            Some(Bug::AdditionForgotten) => None,
            _ => self.copy.addition,
        };
        Standing {
            me: self.me,
            is_fresh: self.is_fresh,
            addition_open,
            is_out: false,
        }
    }

    pub(super) fn later(&mut self, local_ns: u64, what: Happening) {
        let wait = self.clock.lasts(local_ns);
        self.out.later(self.place, self.run, wait, what);
    }

    pub(super) fn send(&mut self, session: u64, mirror: Mirror) {
        let message = Message::Mirror {
            module: self.module,
            session,
            mirror,
        };
        let (from, to, lan) = (self.place, self.peer(), self.peer_lan);
        self.out.send(from, to, lan, message);
    }

    pub(super) fn propose(&mut self, purpose: Purpose, command: Command, evidence: &str) {
        let at_unix_ms = self.clock.unix_ms(self.out.now);
        let proposal = proposal(command, self.me, evidence, at_unix_ms);
        let deadline = self.now.plus_ns(PROPOSAL_DEADLINE);
        self.proposals.begin(purpose, proposal, deadline);
    }

    pub(super) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let (now, place, name) = (self.out.now, self.place, self.name);
        let who = super::outside::NAMES[place];
        self.out
            .trace
            .note(now, format_args!("{who} {name}: {what}"));
    }
}
