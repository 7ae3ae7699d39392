//! Everything that may happen next.

use consensus::state::{AckMode, Command, Incarnation, Round, Standing, StepDownReason};
use fs_mirror::replication::core::{Event, Record};
use node::core::partnership::{Move, Stream};

use super::model::{Bounds, Moment, Opinion, SESSION};
use super::settled::settled;
use super::world::{A, Applied, B, FIRST_EPOCH, NAMES, W, World, id, module, node};
use crate::planted::Bug;

/// Opinions of one voter on one server in one run.
const ROUNDS_MAX: u8 = 2;

/// Moments that may follow, each with what happened. The name is made only when somebody reads it.
pub(super) struct Followers<'a> {
    world: &'a mut World,
    bounds: Bounds,
    pub(super) moments: Vec<(What, Moment)>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Crashes(usize),
    Restarts(usize),
    Applies(usize),
    Writes(usize),
    Ships(usize),
    Syncs(usize),
    Proposed(super::world::Sent),
    Committed(super::world::Sent),
}

impl What {
    pub(super) fn told(self, world: &World) -> String {
        match self {
            Self::Crashes(node) => format!("crash {}", NAMES[node]),
            Self::Restarts(node) => format!("restart {}", NAMES[node]),
            Self::Applies(node) => format!("{} applies", NAMES[node]),
            Self::Writes(server) => format!("{} writes", NAMES[server]),
            Self::Ships(server) => format!("{} ships", NAMES[server]),
            Self::Syncs(server) => format!("{} syncs", NAMES[server]),
            Self::Proposed(sent) => format!("proposed: {}", shown(world.command(sent))),
            Self::Committed(sent) => format!("committed: {}", shown(world.command(sent))),
        }
    }
}

/// All moments that may follow `now`.
pub(super) fn followers(world: &mut World, now: Moment, bounds: Bounds) -> Vec<(What, Moment)> {
    let mut out = Followers {
        world,
        bounds,
        moments: Vec::new(),
    };
    for node in [A, B, W] {
        out.crash_or_restart(now, node);
        if now.nodes[node].is_up {
            out.start(now, node);
            out.learn(now, node);
            for server in [A, B].into_iter().filter(|server| *server != node) {
                out.voter(now, node, server);
            }
        }
    }
    for server in [A, B].into_iter().filter(|server| now.nodes[*server].is_up) {
        out.write(now, server);
        out.roles(now, server);
    }
    out.log(now);
    let epoch_max = FIRST_EPOCH + u64::from(bounds.epochs);
    let Followers {
        world, mut moments, ..
    } = out;
    moments.retain(|(_, moment)| world.record(moment.committed).epoch.0 <= epoch_max);
    moments
}

pub(super) fn crash(world: &World, then: &mut Moment, node: usize) {
    then.nodes[node].is_up = false;
    then.nodes[node].opinions = [Opinion::Alive; 2];
    then.nodes[node].rounds = [0; 2];
    if node == W {
        return;
    }
    // A new run holds no lease; what the node granted to others stays granted.
    [A, B, W]
        .into_iter()
        .for_each(|voter| then.granted[voter][node] = false);
    let applied = then.nodes[node].applied;
    let copy = &mut then.copies[node];
    copy.data = copy.on_disk;
    if world.bug == Some(Bug::AdditionForgottenOverRestart) {
        copy.note = 0;
    }
    copy.begin_role(leads_with_peer(world, applied, node, copy.note));
    then.copies[1 - node].lose_session();
}

/// As primary of this record, it has a peer in the in-sync set, or an addition may have put it there.
fn leads_with_peer(world: &World, applied: Applied, server: usize, note: u8) -> bool {
    let record = world.record(applied);
    let may_be_added = record.epoch.0 == u64::from(note);
    record.primary == Some(id(server)) && (record.in_sync.len() > 1 || may_be_added)
}

pub(super) fn restart(then: &mut Moment, node: usize) {
    then.nodes[node].is_up = true;
    then.nodes[node].run += 1;
}

pub(super) fn apply_on(world: &World, then: &mut Moment, node: usize, applied: Applied) {
    let before = then.nodes[node].applied;
    then.nodes[node].applied = applied;
    let (record, former) = (world.record(applied), world.record(before));
    if node != W && record.epoch != former.epoch {
        let (leads, led) = (
            record.primary == Some(id(node)),
            former.primary == Some(id(node)),
        );
        let counts_peer = leads_with_peer(world, applied, node, then.copies[node].note);
        let copy = &mut then.copies[node];
        if leads && led && !copy.is_quiet {
            copy.core.on(Event::RecordSet { counts_peer });
        } else {
            copy.begin_role(counts_peer);
        }
        if leads && !led {
            // Whoever leads follows nobody any more.
            then.copies[1 - node].lose_session();
        }
        let copy = &mut then.copies[node];
        if leads && record.identical && !copy.has_session && copy.core.may_begin_in_sync() {
            copy.attach(true);
        }
        copy.fence = copy.fence.max(record.epoch.0 as u8);
    }
    for server in [A, B].into_iter().filter(|server| *server != node) {
        opinion_on(world, then, node, server, before);
    }
}

/// As `liveness::Watcher::on_applied`.
fn opinion_on(world: &World, then: &mut Moment, voter: usize, server: usize, before: Applied) {
    let state = world.state(then.nodes[voter].applied);
    let run = |applied| world.state(applied).members[&id(server)].incarnation;
    let mut opinion = then.nodes[voter].opinions[server];
    if run(before) != run(then.nodes[voter].applied) {
        opinion = Opinion::Alive;
    }
    let of_me = Incarnation(u64::from(then.nodes[voter].run));
    let withdrawn = state
        .withdrawals
        .get(&id(server))
        .and_then(|w| w.get(&id(voter)));
    if let (Opinion::Declared { number }, Some(withdrawn)) = (opinion, withdrawn)
        && (Round {
            incarnation: of_me,
            number: u64::from(number),
        }) <= *withdrawn
    {
        opinion = Opinion::Alive;
    }
    let declared = state
        .declarations
        .get(&id(server))
        .and_then(|d| d.get(&id(voter)));
    if opinion == Opinion::Alive && declared.is_some() {
        opinion = Opinion::Declared {
            number: then.nodes[voter].rounds[server],
        };
    }
    then.nodes[voter].opinions[server] = opinion;
}

pub(super) fn round(now: &Moment, voter: usize, number: u8) -> Round {
    Round {
        incarnation: Incarnation(u64::from(now.nodes[voter].run)),
        number: u64::from(number),
    }
}

/// The peer refuses older epochs for ever (R3).
fn peer_accepts(world: &World, now: &Moment, server: usize) -> bool {
    let peer = 1 - server;
    now.nodes[peer].is_up && now.copies[peer].fence <= now.epoch(world, server)
}

fn ship(world: &World, then: &mut Moment, server: usize) {
    let peer = 1 - server;
    let (epoch, data) = (then.epoch(world, server), then.copies[server].data);
    then.copies[peer].fence = epoch;
    then.copies[peer].data |= data;
    if world.record(then.nodes[server].applied).ack == AckMode::Disk {
        then.copies[peer].on_disk = then.copies[peer].data;
    }
    then.copies[server].peer_has = data;
}

/// The copy is made whole, the primary obeys both records, and the note is on disk before the proposal is made (R6).
fn prepare_addition(world: &World, then: &mut Moment, server: usize) {
    let peer = 1 - server;
    let epoch = then.epoch(world, server);
    if !then.copies[server].has_session {
        then.copies[server].attach(false);
    }
    then.copies[peer].data = 0;
    ship(world, then, server);
    then.copies[peer].on_disk = then.copies[peer].data;
    let copy = &mut then.copies[server];
    copy.core.on(Event::Resynced { session: SESSION });
    if world.bug != Some(Bug::AdditionForgotten) {
        copy.core.on(Event::AdditionHeld);
    }
    copy.note = epoch;
}

impl Followers<'_> {
    fn add(&mut self, what: What, then: Moment) {
        let then = settled(self.world, then);
        self.moments.push((what, then));
    }

    fn crash_or_restart(&mut self, now: Moment, node: usize) {
        let mut then = now;
        let may_crash = now.crashes < self.bounds.crashes && now.faults < self.bounds.faults;
        if !now.nodes[node].is_up {
            restart(&mut then, node);
            self.add(What::Restarts(node), then);
        } else if may_crash {
            then.crashes += 1;
            then.faults += 1;
            crash(self.world, &mut then, node);
            self.add(What::Crashes(node), then);
        }
    }

    fn start(&mut self, now: Moment, node: usize) {
        let incarnation = Incarnation(u64::from(now.nodes[node].run));
        let state = self.world.state(now.nodes[node].applied);
        if !state.knows_run(id(node), incarnation) {
            let server = id(node);
            self.send(
                now,
                Command::ServerStarted {
                    server,
                    incarnation,
                },
            );
        }
    }

    fn learn(&mut self, now: Moment, node: usize) {
        if now.nodes[node].applied != now.committed && now.has_quorum() {
            let mut then = now;
            apply_on(self.world, &mut then, node, now.committed);
            self.add(What::Applies(node), then);
        }
    }

    fn voter(&mut self, now: Moment, voter: usize, server: usize) {
        let node = now.nodes[voter];
        let state = self.world.state(node.applied);
        let incarnation = state.members[&id(server)].incarnation;
        let is_known = state.knows_run(id(voter), Incarnation(u64::from(node.run)));
        match node.opinions[server] {
            Opinion::Alive if is_known => self.declare(now, voter, server, incarnation),
            Opinion::Declared { number } if is_known => {
                let command = Command::Withdraw {
                    voter: id(voter),
                    round: round(&now, voter, number),
                    server: id(server),
                };
                self.send(now, command);
            }
            Opinion::Alive | Opinion::Declared { .. } => {}
        }
    }

    /// A server falls silent for a voter. It is one fault, however many voters notice it while one of them says so.
    fn declare(&mut self, now: Moment, voter: usize, server: usize, incarnation: Incarnation) {
        let said_by_another = [A, B, W].into_iter().any(|other| {
            other != server
                && other != voter
                && matches!(now.nodes[other].opinions[server], Opinion::Declared { .. })
        });
        let mut then = now;
        then.faults += u8::from(!said_by_another);
        let number = now.nodes[voter].rounds[server] + 1;
        if then.faults > self.bounds.faults || number > ROUNDS_MAX {
            return;
        }
        // Every lease it granted has run out: that is what it waited for.
        let waits = !matches!(
            self.world.bug,
            Some(Bug::TakeoverBeforeGrace | Bug::LeaseFromReceipt)
        );
        if waits {
            then.granted[voter][server] = false;
        }
        then.nodes[voter].rounds[server] = number;
        then.nodes[voter].opinions[server] = Opinion::Declared { number };
        let evidence = String::new();
        let command = Command::Declare {
            voter: id(voter),
            round: round(&now, voter, number),
            server: id(server),
            incarnation,
            evidence,
        };
        self.send(then, command);
    }

    fn write(&mut self, now: Moment, server: usize) {
        let copy = now.copies[server];
        let may_write = now.written < self.bounds.writes && !copy.core.holds_changes();
        if may_write && now.serves(self.world, server) {
            let mut then = now;
            let bit = 1 << now.written;
            then.written += 1;
            let copy = &mut then.copies[server];
            copy.data |= bit;
            copy.on_disk |= bit;
            copy.waiting |= bit;
            if copy.has_session {
                copy.shipped |= bit;
            } else {
                copy.core.on_unshipped();
            }
            self.add(What::Writes(server), then);
        }
        let record = self.world.record(now.nodes[server].applied);
        let ships = record.primary == Some(id(server)) && copy.has_session;
        let is_new = copy.data & !copy.peer_has != 0;
        if ships && is_new && peer_accepts(self.world, &now, server) {
            let mut then = now;
            ship(self.world, &mut then, server);
            self.add(What::Ships(server), then);
        }
        if copy.on_disk != copy.data {
            let mut then = now;
            then.copies[server].on_disk = copy.data;
            self.add(What::Syncs(server), then);
        }
    }

    fn roles(&mut self, now: Moment, server: usize) {
        let record = self.world.record(now.nodes[server].applied).clone();
        let (module, epoch) = (module(), record.epoch);
        let is_known = now.knows_run(self.world, server, server);
        match record.standing(id(server)) {
            Standing::Primary { alone } => {
                self.partnership(now, server, &record);
                self.planned(now, server, &record, alone);
            }
            Standing::NoPrimary { may_lead: true, .. } if is_known => {
                let server = id(server);
                self.send(
                    now,
                    Command::TakeOver {
                        module,
                        epoch,
                        server,
                    },
                );
            }
            Standing::NoPrimary { .. }
            | Standing::InSyncSecondary { .. }
            | Standing::Outdated { .. }
            | Standing::FirstStart
            | Standing::NotHere => {}
        }
    }

    /// What the partnership of a primary does next: without a stream, which may break at any time, and with one that has
    /// brought the peer up to date.
    fn partnership(&mut self, now: Moment, server: usize, record: &consensus::state::MirrorRecord) {
        let peer = 1 - server;
        let (module, epoch) = (module(), record.epoch);
        let (primary, secondary) = (id(server), id(peer));
        let is_known = now.knows_run(self.world, server, server);
        match now.next_move(self.world, server, record, Stream::Down) {
            Move::DropPeer if is_known => {
                let mut then = now;
                let copy = &mut then.copies[server];
                copy.on_disk = copy.data;
                copy.lose_session();
                let command = Command::DropSecondary {
                    module: module.clone(),
                    epoch,
                    primary,
                    server: secondary,
                };
                self.send(then, command);
            }
            Move::DropPeer | Move::Attach { .. } | Move::AddPeer | Move::Wait => {}
        }
        let is_held = now.copies[server].core.record() == Record::Proposed;
        let may_resync = now.serves(self.world, server) && peer_accepts(self.world, &now, server);
        match now.next_move(self.world, server, record, Stream::CaughtUp) {
            Move::AddPeer if may_resync && !is_held => {
                let mut then = now;
                prepare_addition(self.world, &mut then, server);
                let command = Command::AddSecondary {
                    module,
                    epoch,
                    primary,
                    server: secondary,
                };
                self.send(then, command);
            }
            Move::AddPeer | Move::DropPeer | Move::Attach { .. } | Move::Wait => {}
        }
    }

    fn planned(
        &mut self,
        now: Moment,
        server: usize,
        record: &consensus::state::MirrorRecord,
        alone: bool,
    ) {
        let peer = 1 - server;
        let (module, epoch) = (module(), record.epoch);
        let copy = now.copies[server];
        let has_all = copy.has_session && copy.data & !copy.peer_has == 0;
        let is_settled =
            !copy.core.counts_on_memory_of_peer() || self.world.bug == Some(Bug::PeerUnsynced);
        let is_drained = has_all || !copy.has_session && is_settled;
        let may_stop = now.planned < self.bounds.planned
            && now.serves(self.world, server)
            && copy.core.record() != Record::Proposed
            && is_drained;
        if !may_stop {
            return;
        }
        let mut then = now;
        then.planned += 1;
        then.copies[server].is_quiet = true;
        then.copies[server].waiting = 0;
        then.copies[server].on_disk = copy.data;
        if copy.has_session {
            then.copies[peer].on_disk = now.copies[peer].data;
        }
        let reason = StepDownReason::Stopped;
        let command = Command::StepDown {
            module: module.clone(),
            epoch,
            server: id(server),
            reason,
        };
        self.send(then, command);
        if !alone && now.nodes[peer].is_up {
            let command = Command::Switchover {
                module,
                epoch,
                from: id(server),
                to: id(peer),
            };
            self.send(then, command);
        }
    }

    /// A proposal goes on its way; when it arrives, and whether, is open. Where there is no room, it or another is lost.
    fn send(&mut self, then: Moment, command: Command) {
        let sent = self.world.send(command);
        if then.on_the_way.contains(&Some(sent)) {
            self.add(What::Proposed(sent), then);
            return;
        }
        let is_full = !then.on_the_way.contains(&None);
        for slot in 0..if is_full { then.on_the_way.len() } else { 1 } {
            // Sorted: what is free comes first.
            let mut sends = then;
            sends.on_the_way[slot] = Some(sent);
            sends.on_the_way.sort_unstable();
            self.add(What::Proposed(sent), sends);
        }
        if is_full {
            self.add(What::Proposed(sent), then);
        }
    }

    fn log(&mut self, now: Moment) {
        for slot in 0..now.on_the_way.len() {
            let Some(sent) = now.on_the_way[slot] else {
                continue;
            };
            let mut then = now;
            then.on_the_way[slot] = None;
            then.on_the_way.sort_unstable();
            if now.has_quorum()
                && let Some(committed) = self.world.apply(now.committed, sent)
            {
                self.add(What::Committed(sent), Moment { committed, ..then });
            }
        }
    }
}

fn shown(command: &Command) -> String {
    let name = |server| NAMES[node(server)];
    match command {
        Command::ServerStarted { server, .. } => format!("{} started", name(*server)),
        Command::Declare { voter, server, .. } => {
            format!("{} declares {}", name(*voter), name(*server))
        }
        Command::Withdraw { voter, server, .. } => {
            format!("{} withdraws {}", name(*voter), name(*server))
        }
        Command::DropSecondary { primary, .. } => format!("{} alone", name(*primary)),
        Command::AddSecondary { server, .. } => format!("{} added", name(*server)),
        Command::Switchover { to, .. } => format!("switchover to {}", name(*to)),
        Command::StepDown { server, .. } => format!("{} steps down", name(*server)),
        Command::TakeOver { server, .. } => format!("{} takes over", name(*server)),
        other => format!("{other:?}"),
    }
}
