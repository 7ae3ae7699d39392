//! One tenure as primary: the gate, the writes that wait, the stream to the peer and the partnership.
//!
//! The right comes from `node::core::right`, the next move about the peer from `node::core::partnership`, and which
//! write may be answered from `fs_mirror`'s core; what is here is their shell in virtual time.

use std::time::Duration;

use consensus::liveness::BootTime;
use consensus::state::{Command, Epoch, MirrorRecord, Wanted};
use fs_mirror::replication::core::{Answer, Core, Event};
use fs_mirror::replication::shipping::Ticket;
use node::core::address_times::{AddressTimes, Renewal, wait_before_adding};
use node::core::hand_over::Ending;
use node::core::partnership::{Facts, Move, Stream, next_move};
use node::core::plan::Stage;
use node::core::right::Right;

use super::clock::{MS, SECOND};
use super::copy::{PARTS, part_of};
use super::desk::Desk;
use super::gate::Gate;
use super::message::{Mirror, Payload};
use super::oracle::Broken;
use super::outside::Happening;
use super::proposals::Purpose;
use crate::planted::Bug;

const PING_AFTER: u64 = 150 * MS;
const PEER_SILENCE_MAX: u64 = SECOND;
const GREETING_MAX: u64 = 2 * SECOND;
const HANDOVER_SESSION_MAX: u64 = 2 * SECOND;
const HOLD_PATIENCE: u64 = 5 * SECOND;
const HANDOVER_RETRY: u64 = 30 * MS;
const ATTACH_RETRY: u64 = 300 * MS;
/// The kernel keeps an address for this long after its last renewal.
const ADDRESS_LIFE_MS: (u64, u64) = (1000, 1140);
const ADDRESS_RENEW_EVERY: u64 = 300 * MS;
/// Writes of the application that wait at a time.
const WAITING_MAX: usize = 4;

#[derive(Debug)]
struct Waiting {
    write: u32,
    ticket: Ticket,
    is_written: bool,
}

#[derive(Debug)]
struct Session {
    id: u64,
    sent: u64,
    acked: u64,
    heard: BootTime,
    pinged: BootTime,
    /// The next part of the tree to send; `PARTS`: all were sent.
    next_part: u32,
    barrier: Option<u64>,
    /// As the partnership knows it.
    has_caught_up: bool,
}

#[derive(Debug)]
enum Line {
    Down {
        retry_at: BootTime,
    },
    Dialing {
        session: u64,
        until: BootTime,
        is_identical: bool,
    },
    Up(Session),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partner {
    Idle,
    Holding(Hold),
    Proposing { epoch: Epoch },
    News { epoch: Epoch, until: BootTime },
    Ended,
}

/// Until when what was acknowledged before the gate closed has to be at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    epoch: Epoch,
    seq: u64,
    until: BootTime,
    is_ours: bool,
}

#[derive(Debug)]
pub(super) struct Tenure {
    pub(super) id: u32,
    pub(super) stage: Stage,
    pub(super) gate: Gate,
    pub(super) disk_failed: bool,
    core: Core,
    adopted: Epoch,
    started: BootTime,
    may_begin_identical: bool,
    line: Line,
    partner: Partner,
    writes: Vec<Waiting>,
    renewed: Option<BootTime>,
    /// No address before this time.
    addresses_from: BootTime,
    drains_at: Option<u64>,
}

impl Tenure {
    pub(super) fn mount(
        id: u32,
        epoch: Epoch,
        counts_peer: bool,
        is_first_tenure: bool,
        desk: &mut Desk<'_>,
    ) -> Option<Self> {
        if epoch < desk.copy.epoch {
            return None;
        }
        desk.copy.epoch = epoch;
        let mut tenure = Self {
            id,
            stage: Stage::Mounted,
            gate: Gate::Closed,
            disk_failed: false,
            core: Core::new(counts_peer),
            adopted: epoch,
            started: desk.now,
            may_begin_identical: is_first_tenure,
            line: Line::Down { retry_at: desk.now },
            partner: Partner::Idle,
            writes: Vec::new(),
            renewed: None,
            addresses_from: desk.now.plus_ns(address_wait_ns(desk)),
            drains_at: None,
        };
        tenure.adjust(desk);
        Some(tenure)
    }

    /// The gate follows the right, as `node::agent::warden` does it.
    pub(super) fn adjust(&mut self, desk: &mut Desk<'_>) {
        if self.gate == Gate::Fenced {
            return;
        }
        let standing = desk.standing();
        let right = desk
            .record()
            .map_or(Right::None, |record| standing.right(record));
        self.gate = match right {
            Right::None => Gate::Closed,
            Right::WhileLeased if desk.out.bug == Some(Bug::FencedByRole) && desk.leads_raft => {
                Gate::Forever
            }
            Right::WhileLeased => Gate::Until(desk.lease_until),
            Right::Forever => Gate::Forever,
        };
        desk.out.must_check = true;
        self.answer_writes(desk);
    }

    pub(super) fn fence(&mut self, desk: &mut Desk<'_>) {
        self.gate = Gate::Fenced;
        self.core.on(Event::Fenced);
        self.writes.clear();
        self.end_session(desk);
        self.drop_address(desk);
    }

    pub(super) fn drop_address(&mut self, desk: &mut Desk<'_>) {
        *desk.address_until = BootTime(0);
        self.renewed = None;
    }

    pub(super) fn add_address(&mut self, desk: &mut Desk<'_>) {
        self.renewed = Some(BootTime(0));
        self.renew_address(desk);
    }

    /// As the keeper of addresses does it, with the rest of the right.
    fn renew_address(&mut self, desk: &mut Desk<'_>) {
        let Some(renewed) = self.renewed else { return };
        if desk.now < self.addresses_from {
            return;
        }
        let times = AddressTimes::of_lease(Duration::from_nanos(desk.lease_ns()));
        let left = self.gate.remaining_ns(desk.now);
        match times.renewal(left.map(Duration::from_nanos)) {
            Renewal::Drop => *desk.address_until = BootTime(0),
            Renewal::Skip => {}
            Renewal::Renew if desk.now.ns_since(renewed) < ADDRESS_RENEW_EVERY => {}
            Renewal::Renew => {
                let (low, high) = ADDRESS_LIFE_MS;
                let life = desk.out.random.between(low, high) * MS;
                *desk.address_until = desk.now.plus_ns(life);
                self.renewed = Some(desk.now);
                desk.out.must_check = true;
            }
        }
    }

    /// What has to be looked at regularly.
    pub(super) fn on_tick(&mut self, desk: &mut Desk<'_>) {
        self.renew_address(desk);
        let now = desk.now;
        let lost = match &mut self.line {
            Line::Up(session) if now.ns_since(session.heard) > PEER_SILENCE_MAX => true,
            Line::Up(session) if now.ns_since(session.pinged) >= PING_AFTER => {
                session.pinged = now;
                self.ship(Payload::Ping, desk);
                false
            }
            Line::Dialing { until, .. } if now >= *until => true,
            Line::Up(_) | Line::Dialing { .. } | Line::Down { .. } => false,
        };
        if lost {
            self.lose_line(desk);
        }
        self.work(desk);
        self.answer_writes(desk);
    }

    fn lose_line(&mut self, desk: &mut Desk<'_>) {
        let retry = match &self.line {
            Line::Up(session) => {
                let session = session.id;
                desk.note(format_args!("session {session} lost"));
                self.core.on(Event::SessionLost { session });
                0
            }
            Line::Dialing {
                is_identical: true, ..
            } => HANDOVER_RETRY,
            Line::Dialing { .. } | Line::Down { .. } => ATTACH_RETRY,
        };
        self.line = Line::Down {
            retry_at: desk.now.plus_ns(retry),
        };
    }

    pub(super) fn end_session(&mut self, desk: &mut Desk<'_>) {
        if !matches!(self.line, Line::Down { .. }) {
            self.lose_line(desk);
        }
    }

    fn ship(&mut self, payload: Payload, desk: &mut Desk<'_>) -> u64 {
        let Line::Up(session) = &mut self.line else {
            return 0;
        };
        session.sent += 1;
        let (id, seq, epoch) = (session.id, session.sent, self.adopted);
        desk.send(
            id,
            Mirror::Frame {
                seq,
                epoch,
                payload,
            },
        );
        seq
    }

    pub(super) fn has_partnership_ended(&self) -> bool {
        self.partner == Partner::Ended
    }

    /// The partnership: one task, ended for ever when the record names another primary.
    pub(super) fn work(&mut self, desk: &mut Desk<'_>) {
        if self.partner == Partner::Ended || self.gate == Gate::Fenced {
            return;
        }
        let record = desk
            .record()
            .filter(|record| record.primary == Some(desk.me));
        let Some(record) = record else {
            self.partner = Partner::Ended;
            return;
        };
        // Whoever holds for an addition, or waits for the outcome of a proposal, looks at the record afterwards.
        if self.is_partner_busy(record, desk) {
            return;
        }
        self.adopt(record, desk);
        let stream = match &self.line {
            Line::Down { retry_at } if desk.now < *retry_at => return,
            Line::Dialing { .. } => return,
            Line::Down { .. } => Stream::Down,
            Line::Up(session) if session.has_caught_up => Stream::CaughtUp,
            Line::Up(_) => Stream::Attached,
        };
        let facts = Facts {
            me: desk.me,
            is_fresh: desk.is_fresh,
            stream,
            addition_open: desk.standing().addition_open,
            peer_is_down: desk.peer_is_down(),
            may_begin_identical: self.may_begin_identical
                && desk.now.ns_since(self.started) < HANDOVER_SESSION_MAX,
            is_adopted: true,
            has_failed_disk: self.disk_failed && desk.out.bug != Some(Bug::WholeCopyDropped),
        };
        match next_move(record, facts) {
            Move::Attach { identical } => self.dial(record, identical, desk),
            Move::DropPeer => self.drop_peer(record, desk),
            Move::AddPeer => self.add_peer(record, desk),
            Move::Wait => {}
        }
    }

    fn adopt(&mut self, record: &MirrorRecord, desk: &mut Desk<'_>) {
        if self.adopted == record.epoch {
            return;
        }
        desk.copy.epoch = desk.copy.epoch.max(record.epoch);
        self.adopted = record.epoch;
        let counts_peer = desk.standing().counts_peer(record);
        self.core.on(Event::RecordSet { counts_peer });
        self.answer_writes(desk);
    }

    fn is_partner_busy(&mut self, record: &MirrorRecord, desk: &mut Desk<'_>) -> bool {
        match self.partner {
            Partner::Idle => false,
            Partner::Ended => true,
            Partner::Holding(hold) => {
                self.hold(hold, desk);
                true
            }
            Partner::Proposing { .. }
                if desk.proposals.is_pending(Purpose::Partner(desk.module)) =>
            {
                true
            }
            Partner::Proposing { epoch } => {
                let until = desk.now.plus_ns(ATTACH_RETRY);
                self.partner = Partner::News { epoch, until };
                record.epoch == epoch
            }
            Partner::News { epoch, until } if record.epoch == epoch && desk.now < until => true,
            Partner::News { .. } => {
                self.partner = Partner::Idle;
                false
            }
        }
    }

    fn dial(&mut self, record: &MirrorRecord, is_identical: bool, desk: &mut Desk<'_>) {
        let peer = consensus::state::ServerId(desk.peer() as u64 + 1);
        if record.wanted_on(peer) != Wanted::Started {
            self.line = Line::Down {
                retry_at: desk.now.plus_ns(ATTACH_RETRY),
            };
            return;
        }
        *desk.next_session += 1;
        let session = *desk.next_session;
        self.line = Line::Dialing {
            session,
            until: desk.now.plus_ns(GREETING_MAX),
            is_identical,
        };
        let epoch = record.epoch;
        desk.send(
            session,
            Mirror::Hello {
                epoch,
                is_identical,
            },
        );
    }

    pub(super) fn on_hello_answer(&mut self, id: u64, is_accepted: bool, desk: &mut Desk<'_>) {
        let Line::Dialing {
            session,
            is_identical,
            ..
        } = self.line
        else {
            return;
        };
        if session != id {
            return;
        }
        let is_identical_still = !is_identical || self.core.may_begin_in_sync();
        if !is_accepted || !is_identical_still || self.gate == Gate::Fenced {
            self.lose_line(desk);
            return;
        }
        self.core.on(Event::Attached {
            session,
            in_sync: is_identical,
        });
        desk.note(format_args!(
            "session {session} attached, identical: {is_identical}"
        ));
        self.line = Line::Up(Session {
            id,
            sent: 0,
            acked: 0,
            heard: desk.now,
            pinged: desk.now,
            next_part: if is_identical { PARTS } else { 0 },
            barrier: None,
            has_caught_up: is_identical,
        });
        if !is_identical {
            self.schedule_part(desk);
        }
    }

    fn schedule_part(&mut self, desk: &mut Desk<'_>) {
        if let Line::Up(session) = &self.line {
            let wait = desk.out.random.between(5, 80) * MS;
            let (module, session) = (desk.module, session.id);
            desk.later(wait, Happening::SendPart { module, session });
        }
    }

    /// The next part of the tree goes out, in the order of the stream.
    pub(super) fn send_part(&mut self, id: u64, desk: &mut Desk<'_>) {
        let Line::Up(session) = &mut self.line else {
            return;
        };
        if session.id != id {
            return;
        }
        let part = session.next_part;
        if part < PARTS {
            session.next_part += 1;
            let writes = desk.copy.memory.of_part(part);
            self.ship(Payload::Part { part, writes }, desk);
            self.schedule_part(desk);
        } else {
            let seq = self.ship(Payload::Barrier, desk);
            if let Line::Up(session) = &mut self.line {
                session.barrier = Some(seq);
            }
        }
    }

    pub(super) fn on_ack(&mut self, id: u64, seq: u64, desk: &mut Desk<'_>) {
        let Line::Up(session) = &mut self.line else {
            return;
        };
        if session.id != id {
            return;
        }
        session.heard = desk.now;
        session.acked = session.acked.max(seq);
        if session.barrier.is_some_and(|barrier| seq >= barrier) {
            session.barrier = None;
            session.has_caught_up = true;
            self.core.on(Event::Resynced { session: id });
            desk.note(format_args!("session {id}: the peer has everything"));
        }
        self.work(desk);
        self.answer_writes(desk);
    }

    /// R4. What was only received here, and led to, is on the disk before.
    fn drop_peer(&mut self, record: &MirrorRecord, desk: &mut Desk<'_>) {
        if self.disk_failed && record.in_sync.len() > 1 {
            desk.out.oracle.report(Broken::WholeCopyStruckOff {
                module: desk.name.to_string(),
                primary: desk.me.to_string(),
            });
        }
        if record.received_only.contains(&desk.me) {
            desk.copy.sync();
        }
        let command = Command::DropSecondary {
            module: desk.name.clone(),
            epoch: record.epoch,
            primary: desk.me,
            server: consensus::state::ServerId(desk.peer() as u64 + 1),
        };
        self.propose(
            record.epoch,
            command,
            "the stream to the secondary is down",
            desk,
        );
    }

    fn propose(&mut self, epoch: Epoch, command: Command, evidence: &str, desk: &mut Desk<'_>) {
        desk.propose(Purpose::Partner(desk.module), command, evidence);
        self.partner = Partner::Proposing { epoch };
    }

    /// R10, and the first half of R6.
    fn add_peer(&mut self, record: &MirrorRecord, desk: &mut Desk<'_>) {
        if desk.copy.addition == Some(record.epoch) {
            self.propose_addition(record.epoch, desk);
            return;
        }
        let is_ours = self.core.record() == fs_mirror::replication::core::Record::Alone;
        if desk.out.bug != Some(Bug::AdditionForgotten) {
            self.core.on(Event::AdditionHeld);
        }
        let Line::Up(_) = &self.line else {
            return;
        };
        let hold = Hold {
            epoch: record.epoch,
            // What the peer acknowledged in a former run proves nothing.
            seq: self.ship(Payload::Barrier, desk),
            until: desk.now.plus_ns(HOLD_PATIENCE),
            is_ours,
        };
        self.partner = Partner::Holding(hold);
        self.hold(hold, desk);
    }

    fn hold(&mut self, hold: Hold, desk: &mut Desk<'_>) {
        let is_acked = match &self.line {
            Line::Up(session) if session.has_caught_up => session.acked >= hold.seq,
            Line::Up(_) | Line::Dialing { .. } | Line::Down { .. } => {
                self.abandon(hold, desk);
                return;
            }
        };
        if is_acked {
            // Durable before the proposal leaves, and the gate obeys both records.
            desk.copy.addition = Some(hold.epoch);
            self.adjust(desk);
            self.propose_addition(hold.epoch, desk);
        } else if desk.now >= hold.until {
            self.abandon(hold, desk);
        }
    }

    fn abandon(&mut self, hold: Hold, desk: &mut Desk<'_>) {
        if hold.is_ours {
            self.core.on(Event::AdditionAbandoned);
        }
        self.partner = Partner::News {
            epoch: hold.epoch,
            until: desk.now.plus_ns(ATTACH_RETRY),
        };
        self.answer_writes(desk);
    }

    fn propose_addition(&mut self, epoch: Epoch, desk: &mut Desk<'_>) {
        let command = Command::AddSecondary {
            module: desk.name.clone(),
            epoch,
            primary: desk.me,
            server: consensus::state::ServerId(desk.peer() as u64 + 1),
        };
        let evidence = "every block compared, in lock-step";
        self.propose(epoch, command, evidence, desk);
    }

    /// The application changes something.
    pub(super) fn begin_write(&mut self, desk: &mut Desk<'_>) {
        let may_begin = self.gate.is_open(desk.now)
            && !self.core.holds_changes()
            && self.writes.len() < WAITING_MAX;
        if !may_begin {
            return;
        }
        let write = desk.out.oracle.next_write(desk.module);
        desk.copy.memory.insert(write);
        let ticket = match &self.line {
            Line::Up(session) if part_of(write) < session.next_part => {
                let session = session.id;
                let seq = self.ship(Payload::Write(write), desk);
                Ticket::Shipped { session, seq }
            }
            Line::Up(_) => Ticket::NotShipped,
            Line::Dialing { .. } | Line::Down { .. } => {
                self.core.on_unshipped();
                Ticket::NotShipped
            }
        };
        self.writes.push(Waiting {
            write,
            ticket,
            is_written: false,
        });
        let (module, tenure) = (desk.module, self.id);
        let wait = desk.out.disk_latency(desk.place);
        desk.later(
            wait,
            Happening::Written {
                module,
                tenure,
                write,
            },
        );
    }

    pub(super) fn on_written(&mut self, write: u32, desk: &mut Desk<'_>) {
        if self.disk_failed {
            self.writes.retain(|waiting| waiting.write != write);
            return;
        }
        desk.copy.disk.insert(write);
        if let Some(waiting) = self
            .writes
            .iter_mut()
            .find(|waiting| waiting.write == write)
        {
            waiting.is_written = true;
        }
        self.answer_writes(desk);
    }

    /// Answers what the core lets be answered, as long as the gate is open.
    fn answer_writes(&mut self, desk: &mut Desk<'_>) {
        if !self.gate.is_open(desk.now) || self.writes.is_empty() {
            return;
        }
        let (session, acked) = match &self.line {
            Line::Up(session) => (session.id, session.acked),
            Line::Dialing { .. } | Line::Down { .. } => (0, 0),
        };
        let core = self.core;
        let bug = desk.out.bug;
        let is_due = |waiting: &Waiting| {
            if !waiting.is_written {
                return false;
            }
            match (core.answer(waiting.ticket), waiting.ticket) {
                _ if bug == Some(Bug::AcknowledgeFirst) => true,
                (Answer::Now, _) => true,
                (Answer::AfterAck, Ticket::Shipped { session: of, seq }) => {
                    of == session && acked >= seq
                }
                (Answer::AfterAck, Ticket::NotShipped) => false,
                (Answer::AfterRecord | Answer::Fenced, _) => false,
            }
        };
        let mut due = Vec::new();
        self.writes.retain(|waiting| {
            let is_due = is_due(waiting);
            if is_due {
                due.push(waiting.write);
            }
            !is_due
        });
        for write in due {
            desk.out.acknowledge(desk.place, desk.module, write);
        }
    }

    /// Every acknowledged write on both copies and both disks: `None` while that is under way.
    pub(super) fn drain(&mut self, desk: &mut Desk<'_>) -> Option<Ending> {
        self.answer_writes(desk);
        if self.drains_at.is_none() {
            self.drains_at = Some(self.ship(Payload::Barrier, desk));
        }
        let barrier = self.drains_at?;
        let is_confirmed = match &self.line {
            Line::Up(session) if barrier != 0 => {
                if session.acked < barrier {
                    return None;
                }
                self.core.waits_for_peer()
            }
            Line::Up(_) | Line::Dialing { .. } | Line::Down { .. } => false,
        };
        if !self.writes.is_empty() {
            return None;
        }
        desk.copy.sync();
        Some(Ending {
            is_confirmed,
            is_clean: true,
        })
    }

    pub(super) fn forget_drain(&mut self) {
        self.drains_at = None;
    }

    pub(super) fn is_settled(&self) -> bool {
        self.stage == Stage::Serving
    }
}

/// As `node::agent` does it at the begin of a tenure.
fn address_wait_ns(desk: &Desk<'_>) -> u64 {
    let wait = desk.record().map_or(Duration::ZERO, |record| {
        wait_before_adding(desk.profile, desk.state, record, desk.me)
    });
    wait.as_nanos() as u64
}
