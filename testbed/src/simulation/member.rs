//! One member: what is on its disk, and its daemon, which may run, stand still or be gone.

use std::collections::VecDeque;
use std::sync::Arc;

use consensus::liveness::{BootTime, Heartbeat, LeaseHolder, NoGrant, Timing, Verdict, Watcher};
use consensus::state::{ClusterState, Command, Incarnation};

use super::agent::Agent;
use super::clock::{Clock, MS, SECOND};
use super::copy::Copy;
use super::daemon::Daemon;
use super::desk::Desk;
use super::genesis::Genesis;
use super::message::{Beat, Message, Place};
use super::network::{LANS_MAX, PLACES_MAX};
use super::oracle::{digest, planted_apply};
use super::outside::{Event, Happening, NAMES, Outside};
use super::place::{holds_copies, id};
use super::proposals::{Proposals, Purpose, proposal};
use super::raft::{self, Raft, Role, Todo};
use crate::planted::Bug;

const TICK: u64 = 50 * MS;
const START_DEADLINE: u64 = 5 * SECOND;
const OPINION_DEADLINE: u64 = SECOND;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) clock: Clock,
    /// On its disk.
    pub(super) durable: raft::Durable,
    pub(super) incarnation: Incarnation,
    /// Per module; empty on the witness.
    pub(super) copies: Vec<Copy>,
    /// Its store was lost: it may not come back under its number (R12).
    pub(super) is_wiped: bool,
    /// What was on the disk that was wiped.
    pub(super) lost: raft::Durable,
    /// Kept by the kernel, whatever the daemon does.
    pub(super) address_until: Vec<BootTime>,
    /// Grows with each start of the daemon: what an earlier one had planned does not happen.
    pub(super) run: u32,
    pub(super) is_frozen: bool,
    pub(super) backlog: Vec<Event>,
    pub(super) daemon: Option<Daemon>,
}

impl Member {
    pub(super) fn new(place: Place, clock: Clock, genesis: &Genesis, modules: usize) -> Self {
        let copies = if holds_copies(place) { modules } else { 0 };
        Self {
            place,
            clock,
            durable: genesis.durable.clone(),
            incarnation: Incarnation(1),
            copies: vec![Copy::default(); copies],
            is_wiped: false,
            lost: raft::Durable::default(),
            address_until: vec![BootTime(0); copies],
            run: 0,
            is_frozen: false,
            backlog: Vec::new(),
            daemon: None,
        }
    }

    pub(super) fn now(&self, out: &Outside) -> BootTime {
        self.clock.boot_time(out.now)
    }

    pub(super) fn is_up(&self) -> bool {
        self.daemon.is_some()
    }

    /// The daemon starts.
    pub(super) fn boot(&mut self, genesis: &Genesis, out: &mut Outside) {
        if self.is_up() || (self.is_wiped && out.bug != Some(Bug::NumberReused)) {
            return;
        }
        self.run += 1;
        self.incarnation = self.incarnation.next();
        self.is_frozen = false;
        // Before it says that it has started: from then on another server may lead.
        self.address_until
            .iter_mut()
            .for_each(|until| *until = BootTime(0));
        let (me, now) = (id(self.place), self.now(out));
        let profile = Timing::new(genesis.lease_ms);
        let watched = match out.bug {
            Some(Bug::TakeoverBeforeGrace) => Timing {
                lease_ns: profile.lease_ns / 3,
                ..profile
            },
            _ => profile,
        };
        if out.bug == Some(Bug::AdditionForgottenOverRestart) {
            self.copies.iter_mut().for_each(|copy| copy.addition = None);
        }
        let (state, applied) = if self.durable.log.len() < genesis.durable.log.len() {
            (ClusterState::default(), 0)
        } else {
            (genesis.state.clone(), genesis.durable.log.len())
        };
        self.daemon = Some(Daemon {
            raft: Raft::new(
                self.place,
                genesis.places,
                &self.durable,
                now,
                &mut out.random,
                out.bug,
            ),
            syncs: VecDeque::new(),
            disk_free_at: out.now,
            state,
            applied,
            watcher: Watcher::new(watched, me, self.incarnation, now),
            holder: LeaseHolder::new(profile, me, self.incarnation),
            lease_until: BootTime(0),
            heard: [[None; LANS_MAX]; PLACES_MAX],
            reports: [0; PLACES_MAX],
            beat_due: now,
            profile,
            handed_over_at: None,
            proposals: Proposals::new(u64::from(self.run) << 32),
            asked: Vec::new(),
            next_session: self.incarnation.0 << 32,
            agents: self.copies.iter().map(|_| Agent::new()).collect(),
        });
        out.trace.note(
            out.now,
            format_args!("{} starts, run {}", NAMES[self.place], self.incarnation),
        );
        self.settle(genesis, out);
        let wait = out.random.between(0, 50) * MS;
        out.later(self.place, self.run, wait, Happening::Tick);
    }

    /// The daemon is gone; with `power_is_cut` also what was not synced, the addresses and the clock.
    pub(super) fn crash(&mut self, power_is_cut: bool, out: &mut Outside) {
        self.daemon = None;
        self.run += 1;
        self.is_frozen = false;
        self.backlog.clear();
        if power_is_cut {
            self.copies
                .iter_mut()
                .for_each(|copy| copy.memory = copy.disk.clone());
            self.address_until
                .iter_mut()
                .for_each(|until| *until = BootTime(0));
            self.clock.reboot(out.now);
        }
        out.must_check = true;
    }

    /// The disk with everything on it is gone.
    pub(super) fn wipe(&mut self, out: &mut Outside) {
        self.crash(true, out);
        self.is_wiped = true;
        self.lost = std::mem::take(&mut self.durable);
        self.copies
            .iter_mut()
            .for_each(|copy| *copy = Copy::default());
    }

    pub(super) fn on_happening(&mut self, what: Happening, genesis: &Genesis, out: &mut Outside) {
        match what {
            Happening::Tick => self.on_tick(genesis, out),
            Happening::DiskDone => self.on_disk_done(out),
            Happening::StepDone { module } => {
                self.at_desk(module, genesis, out, |agent, desk| agent.on_step_done(desk));
            }
            Happening::ScriptDone { module, tenure } => {
                self.at_desk(module, genesis, out, |agent, desk| {
                    agent.on_script_done(tenure, desk);
                });
            }
            Happening::Write { module, tenure } => {
                self.at_desk(module, genesis, out, |agent, desk| {
                    agent.on_application(tenure, desk);
                });
            }
            Happening::Written {
                module,
                tenure,
                write,
            } => self.at_desk(module, genesis, out, |agent, desk| {
                agent.on_written(tenure, write, desk);
            }),
            Happening::SendPart { module, session } => {
                self.at_desk(module, genesis, out, |agent, desk| {
                    agent.send_part(session, desk);
                });
            }
            Happening::Stored {
                module,
                session,
                ack,
                payload,
            } => self.at_desk(module, genesis, out, |agent, desk| {
                agent.on_stored(session, ack, &payload, desk);
            }),
        }
        self.settle(genesis, out);
    }

    pub(super) fn on_message(
        &mut self,
        from: Place,
        message: Message,
        genesis: &Genesis,
        out: &mut Outside,
    ) {
        let now = self.now(out);
        match message {
            Message::Beat(beat) => self.on_beat(from, beat, now, out),
            Message::BeatAnswer {
                lan,
                sent,
                lease_ns,
            } => self.on_beat_answer(from, lan, sent, lease_ns, now, genesis, out),
            Message::Raft(message) => {
                let mut todo = Todo::default();
                if let Some(daemon) = &mut self.daemon {
                    daemon
                        .raft
                        .on_message(from, message, now, &mut out.random, &mut todo);
                }
                self.perform(todo, out);
            }
            Message::Propose {
                id,
                origin,
                is_relayed,
                proposal,
            } => self.on_propose(id, origin, is_relayed, proposal, out),
            Message::Answered { id, is_decided } => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.proposals.on_answer(id, is_decided, now);
                }
            }
            Message::Mirror {
                module,
                session,
                mirror,
            } => self.at_desk(module, genesis, out, |agent, desk| {
                agent.on_mirror(session, mirror, desk);
            }),
        }
        self.settle(genesis, out);
    }

    /// The agent of `module`, with everything it may use.
    pub(super) fn at_desk(
        &mut self,
        module: usize,
        genesis: &Genesis,
        out: &mut Outside,
        act: impl FnOnce(&mut Agent, &mut Desk<'_>),
    ) {
        let now = self.now(out);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        let peer_lan = daemon.best_lan(1 - self.place.min(1));
        let (Some(copy), Some(address_until), Some(name)) = (
            self.copies.get_mut(module),
            self.address_until.get_mut(module),
            genesis.modules.get(module),
        ) else {
            return;
        };
        let me = id(self.place);
        let is_fresh =
            out.bug == Some(Bug::RunUnannounced) || daemon.state.knows_run(me, self.incarnation);
        let mut desk = Desk {
            place: self.place,
            me,
            run: self.run,
            now,
            clock: self.clock,
            module,
            name,
            state: &daemon.state,
            is_fresh,
            lease_until: daemon.lease_until,
            profile: daemon.profile,
            leads_raft: daemon.raft.role == Role::Leader,
            copy,
            address_until,
            next_session: &mut daemon.next_session,
            proposals: &mut daemon.proposals,
            peer_lan,
            out,
        };
        if let Some(agent) = daemon.agents.get_mut(module) {
            act(agent, &mut desk);
        }
    }

    pub(super) fn each_agent(
        &mut self,
        genesis: &Genesis,
        out: &mut Outside,
        act: impl Fn(&mut Agent, &mut Desk<'_>),
    ) {
        for module in 0..self.copies.len() {
            self.at_desk(module, genesis, out, &act);
        }
    }

    fn on_tick(&mut self, genesis: &Genesis, out: &mut Outside) {
        let now = self.now(out);
        let mut todo = Todo::default();
        if let Some(daemon) = &mut self.daemon {
            daemon.raft.on_tick(now, &mut out.random, &mut todo);
            daemon.hand_over_if_better(self.place, now, &mut todo);
        }
        self.perform(todo, out);
        self.send_beats(now, out);
        self.look_around(now, out);
        self.publish_lease(now, genesis, out);
        self.each_agent(genesis, out, |agent, desk| agent.on_tick(desk));
        out.later(
            self.place,
            self.run,
            self.clock.lasts(TICK),
            Happening::Tick,
        );
    }

    fn send_beats(&mut self, now: BootTime, out: &mut Outside) {
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if now < daemon.beat_due {
            return;
        }
        let timing = daemon.profile.of_server(&daemon.state, id(self.place));
        daemon.beat_due = now.plus_ns(timing.heartbeat_ns);
        let mut hears = 0;
        for place in daemon.places() {
            if daemon.hears(place, now) {
                hears |= 1 << place;
            }
        }
        for to in daemon.places().filter(|to| *to != self.place) {
            for lan in 0..out.network.lans {
                let beat = Beat {
                    incarnation: self.incarnation,
                    sent: now,
                    applied: daemon.applied as u64,
                    lan,
                    hears,
                };
                out.send(self.place, to, lan, Message::Beat(beat));
            }
        }
    }

    /// Declarations, withdrawals, and the start of this run.
    fn look_around(&mut self, now: BootTime, out: &mut Outside) {
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        let (me, unix_ms) = (id(self.place), self.clock.unix_ms(out.now));
        if !daemon.state.knows_run(me, self.incarnation) {
            let command = Command::ServerStarted {
                server: me,
                incarnation: self.incarnation,
            };
            let start = proposal(command, me, "daemon started", unix_ms);
            let deadline = now.plus_ns(START_DEADLINE);
            daemon.proposals.begin(Purpose::Start, start, deadline);
        }
        for action in daemon.watcher.on_tick(now) {
            let (command, evidence) = action.into_command(me);
            let about = match &command {
                Command::Declare { server, .. } | Command::Withdraw { server, .. } => *server,
                _ => continue,
            };
            let opinion = proposal(command, me, &evidence, unix_ms);
            let deadline = now.plus_ns(OPINION_DEADLINE);
            let purpose = Purpose::Opinion(about);
            daemon.proposals.begin(purpose, opinion, deadline);
        }
    }

    /// A person at this member asks for something.
    pub(super) fn ask(&mut self, command: Command, out: &Outside) {
        let now = self.now(out);
        let unix_ms = self.clock.unix_ms(out.now);
        if let Some(daemon) = &mut self.daemon {
            let asked = proposal(command, id(self.place), "asked by a person", unix_ms);
            let deadline = now.plus_ns(OPINION_DEADLINE);
            daemon.proposals.begin(Purpose::Operator, asked, deadline);
        }
    }

    fn on_beat(&mut self, from: Place, beat: Beat, now: BootTime, out: &mut Outside) {
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        daemon.heard[from][beat.lan] = Some(now);
        daemon.reports[from] = beat.hears;
        let applied = match out.bug {
            Some(Bug::LeaseOnStaleRecord) => u64::MAX,
            _ => beat.applied,
        };
        let heartbeat = Heartbeat {
            from: id(from),
            incarnation: beat.incarnation,
            sent: beat.sent,
            applied,
            lan: beat.lan,
        };
        let verdict = daemon.watcher.on_heartbeat(&heartbeat, now);
        let full = daemon.profile.of_server(&daemon.state, id(from)).lease_ns;
        let lease_ns = match (verdict, out.bug) {
            (Verdict::NoGrant(NoGrant::Declared), Some(Bug::LeaseWhileDeclared)) => Some(full),
            (
                Verdict::NoGrant(NoGrant::RunNotKnown | NoGrant::OwnStartNotApplied),
                Some(Bug::RunUnannounced),
            ) => Some(full),
            // What it waits for is a third of this.
            (Verdict::Grant { .. }, Some(Bug::TakeoverBeforeGrace)) => Some(full),
            (Verdict::Grant { .. }, Some(Bug::LeaseLongerThanWaited)) => {
                Some(daemon.profile.lease_ns)
            }
            (verdict, _) => verdict.lease_ns(),
        };
        let answer = Message::BeatAnswer {
            lan: beat.lan,
            sent: beat.sent,
            lease_ns,
        };
        out.send(self.place, from, beat.lan, answer);
    }

    #[expect(clippy::too_many_arguments, reason = "an answer as it arrived")]
    fn on_beat_answer(
        &mut self,
        from: Place,
        lan: usize,
        sent: BootTime,
        lease_ns: Option<u64>,
        now: BootTime,
        genesis: &Genesis,
        out: &mut Outside,
    ) {
        if let Some(daemon) = &mut self.daemon {
            daemon.heard[from][lan] = Some(now);
            let sent = match out.bug {
                Some(Bug::LeaseFromReceipt) => now,
                _ => sent,
            };
            daemon.holder.on_answer(id(from), sent, lease_ns, now);
        }
        self.publish_lease(now, genesis, out);
    }

    fn publish_lease(&mut self, now: BootTime, genesis: &Genesis, out: &mut Outside) {
        let incarnation = self.incarnation;
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        let until = match out.bug {
            Some(Bug::RunUnannounced) => {
                let mut state = daemon.state.clone();
                if let Some(me) = state.members.get_mut(&id(self.place)) {
                    me.incarnation = incarnation;
                }
                daemon.holder.valid_until(&state, now)
            }
            _ => daemon.holder.valid_until(&daemon.state, now),
        };
        let until = until.unwrap_or_default();
        if daemon.lease_until != until {
            daemon.lease_until = until;
            self.each_agent(genesis, out, |agent, desk| agent.on_lease(desk));
        }
    }

    fn on_propose(
        &mut self,
        number: u64,
        origin: Place,
        is_relayed: bool,
        proposal: Arc<consensus::state::Proposal>,
        out: &mut Outside,
    ) {
        let now = self.now(out);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if daemon.raft.role == Role::Leader {
            let mut todo = Todo::default();
            let index = daemon.raft.append(Some(proposal), now, &mut todo);
            let term = daemon.raft.term;
            daemon.asked.push((index, term, origin, number));
            self.perform(todo, out);
            return;
        }
        match daemon.raft.leader {
            Some(leader) if !is_relayed && leader != self.place && leader != origin => {
                let lan = daemon.best_lan(leader);
                let message = Message::Propose {
                    id: number,
                    origin,
                    is_relayed: true,
                    proposal,
                };
                out.send(self.place, leader, lan, message);
            }
            Some(_) | None => {
                let lan = daemon.best_lan(origin);
                let message = Message::Answered {
                    id: number,
                    is_decided: false,
                };
                out.send(self.place, origin, lan, message);
            }
        }
    }

    fn perform(&mut self, todo: Todo, out: &mut Outside) {
        let now = self.now(out);
        let mut todos = VecDeque::from([todo]);
        while let Some(Todo { sends, syncs }) = todos.pop_front() {
            let Some(daemon) = &mut self.daemon else {
                return;
            };
            for (to, message) in sends {
                if to == self.place {
                    let mut more = Todo::default();
                    daemon
                        .raft
                        .on_message(to, message, now, &mut out.random, &mut more);
                    todos.push_back(more);
                } else {
                    let lan = daemon.best_lan(to);
                    out.send(self.place, to, lan, Message::Raft(message));
                }
            }
            for sync in syncs {
                let is_empty = sync.is_empty(daemon.syncs.back(), &self.durable);
                if daemon.syncs.is_empty() && is_empty {
                    let sends = sync.finish(&mut self.durable);
                    let syncs = Vec::new();
                    todos.push_back(Todo { sends, syncs });
                    continue;
                }
                daemon.syncs.push_back(sync);
                let latency = if is_empty {
                    0
                } else {
                    out.disk_latency(self.place)
                };
                daemon.disk_free_at = daemon.disk_free_at.max(out.now) + latency;
                let wait = daemon.disk_free_at - out.now;
                out.later(self.place, self.run, wait, Happening::DiskDone);
            }
        }
    }

    fn on_disk_done(&mut self, out: &mut Outside) {
        let sync = self
            .daemon
            .as_mut()
            .and_then(|daemon| daemon.syncs.pop_front());
        if let Some(sync) = sync {
            let sends = sync.finish(&mut self.durable);
            let syncs = Vec::new();
            self.perform(Todo { sends, syncs }, out);
        }
    }

    /// Applies what is committed and sends what is to be proposed.
    pub(super) fn settle(&mut self, genesis: &Genesis, out: &mut Outside) {
        let mut has_changed = false;
        while self.apply_next(out) {
            has_changed = true;
        }
        if has_changed {
            let now = self.now(out);
            self.publish_lease(now, genesis, out);
            self.each_agent(genesis, out, |agent, desk| agent.on_change(desk));
        }
        self.send_proposals(out);
    }

    fn apply_next(&mut self, out: &mut Outside) -> bool {
        let now = self.now(out);
        let unix_ms = self.clock.unix_ms(out.now);
        let Some(daemon) = &mut self.daemon else {
            return false;
        };
        if daemon.applied >= daemon.raft.commit {
            return false;
        }
        let Some(entry) = daemon.raft.log.get(daemon.applied).cloned() else {
            return false;
        };
        daemon.applied += 1;
        let index = daemon.applied;
        out.on_committed(index, &entry);
        if let Some(proposal) = &entry.proposal {
            planted_apply(&mut daemon.state, index, proposal, out.bug, unix_ms);
        }
        out.check_applied(self.place, index, digest(&daemon.state));
        daemon.watcher.on_applied(&daemon.state, now);
        let mut answers = Vec::new();
        daemon.asked.retain(|(asked, term, origin, number)| {
            if *asked > index {
                return true;
            }
            if *asked == index && *term == entry.term {
                answers.push((*origin, *number));
            }
            false
        });
        for (origin, number) in answers {
            if origin == self.place {
                daemon.proposals.on_answer(number, true, now);
                continue;
            }
            let lan = daemon.best_lan(origin);
            let message = Message::Answered {
                id: number,
                is_decided: true,
            };
            out.send(self.place, origin, lan, message);
        }
        true
    }

    fn send_proposals(&mut self, out: &mut Outside) {
        let now = self.now(out);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        let leader = match daemon.raft.role {
            Role::Leader => Some(self.place),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => daemon.raft.leader,
        };
        let due = daemon.proposals.due(leader, now);
        let Some(leader) = leader.filter(|_| !due.is_empty()) else {
            return;
        };
        if leader == self.place {
            for (number, proposal) in due {
                self.on_propose(number, self.place, false, proposal, out);
            }
            self.settle_own(out);
            return;
        }
        // Around a link that is silent.
        let through = if daemon.hears(leader, now) {
            leader
        } else {
            daemon
                .places()
                .find(|place| *place != self.place && *place != leader && daemon.hears(*place, now))
                .unwrap_or(leader)
        };
        let lan = daemon.best_lan(through);
        for (number, proposal) in due {
            let message = Message::Propose {
                id: number,
                origin: self.place,
                is_relayed: false,
                proposal,
            };
            out.send(self.place, through, lan, message);
        }
    }

    /// A lone disk may have committed at once.
    fn settle_own(&mut self, out: &mut Outside) {
        while self.apply_next(out) {}
    }

    pub(super) fn modules_shown(&self) -> String {
        let agents = self.daemon.iter().flat_map(|daemon| &daemon.agents);
        let shown: Vec<String> = agents.map(Agent::shown).collect();
        if self.is_up() {
            shown.join("; ")
        } else {
            "down".to_owned()
        }
    }
}
