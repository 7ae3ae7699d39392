//! Everything that may happen next.

use consensus::state::{AckMode, Command, Incarnation, Round, Standing, StepDownReason};

use crate::model::{Bounds, Bug, Moment, Opinion};
use crate::world::{A, Applied, B, FIRST_EPOCH, NAMES, W, World, id, module};

type Followers = Vec<(String, Moment)>;

pub(crate) fn followers(world: &mut World, now: Moment, bounds: Bounds) -> Followers {
    let mut out = Vec::new();
    for node in [A, B, W] {
        crash_or_restart(now, node, bounds, &mut out);
        if now.nodes[node].is_up {
            start(world, now, node, &mut out);
            learn(world, now, node, &mut out);
            for server in [A, B].into_iter().filter(|server| *server != node) {
                voter(world, now, node, server, bounds, &mut out);
            }
        }
    }
    for server in [A, B].into_iter().filter(|server| now.nodes[*server].is_up) {
        write(world, now, server, bounds, &mut out);
        roles(world, now, server, bounds, &mut out);
    }
    log(world, now, &mut out);
    out.retain(|(_, moment)| {
        world.record(moment.committed).epoch.0 <= FIRST_EPOCH + u64::from(bounds.epochs)
    });
    out
}

fn crash_or_restart(now: Moment, node: usize, bounds: Bounds, out: &mut Followers) {
    let mut then = now;
    if !now.nodes[node].is_up {
        restart(&mut then, node);
        out.push((format!("restart {}", NAMES[node]), then));
    } else if now.crashes < bounds.crashes {
        then.crashes += 1;
        crash(&mut then, node);
        out.push((format!("crash {}", NAMES[node]), then));
    }
}

pub(crate) fn crash(then: &mut Moment, node: usize) {
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
    let copy = &mut then.copies[node];
    copy.data = copy.on_disk;
    copy.is_adding = false;
    copy.is_quiet = false;
    for copy in &mut then.copies {
        copy.peer_has = 0;
        copy.has_session = false;
    }
}

pub(crate) fn restart(then: &mut Moment, node: usize) {
    then.nodes[node].is_up = true;
    then.nodes[node].run += 1;
}

fn start(world: &mut World, now: Moment, node: usize, out: &mut Followers) {
    let incarnation = Incarnation(u64::from(now.nodes[node].run));
    if !world
        .state(now.nodes[node].applied)
        .knows_run(id(node), incarnation)
    {
        send(
            world,
            now,
            Command::ServerStarted {
                server: id(node),
                incarnation,
            },
            out,
        );
    }
}

fn learn(world: &World, now: Moment, node: usize, out: &mut Followers) {
    if now.nodes[node].applied != now.committed && now.has_quorum() {
        let mut then = now;
        apply_on(world, &mut then, node, now.committed);
        out.push((format!("{} applies", NAMES[node]), then));
    }
}

pub(crate) fn apply_on(world: &World, then: &mut Moment, node: usize, applied: Applied) {
    let before = then.nodes[node].applied;
    then.nodes[node].applied = applied;
    let (record, former) = (world.record(applied), world.record(before));
    if node != W && record.epoch != former.epoch {
        let copy = &mut then.copies[node];
        let leads_on = former.primary == Some(id(node)) && copy.has_session;
        copy.has_session = record.primary == Some(id(node)) && (leads_on || record.identical);
        copy.peer_has = 0;
        copy.is_adding = false;
        copy.may_have_proposed = false;
        copy.is_quiet = false;
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

fn voter(
    world: &mut World,
    now: Moment,
    voter: usize,
    server: usize,
    bounds: Bounds,
    out: &mut Followers,
) {
    let node = now.nodes[voter];
    let incarnation = world.state(node.applied).members[&id(server)].incarnation;
    let is_known = world
        .state(node.applied)
        .knows_run(id(voter), Incarnation(u64::from(node.run)));
    match node.opinions[server] {
        Opinion::Alive if is_known && now.declarations < bounds.declarations => {
            let mut then = now;
            then.declarations += 1;
            then.granted[voter][server] = false;
            let number = node.rounds[server] + 1;
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
            send(world, then, command, out);
        }
        Opinion::Declared { number } if is_known => {
            let command = Command::Withdraw {
                voter: id(voter),
                round: round(&now, voter, number),
                server: id(server),
            };
            send(world, now, command, out);
        }
        Opinion::Alive | Opinion::Declared { .. } => {}
    }
    if now.nodes[server].is_up
        && !now.granted[voter][server]
        && may_grant(world, &now, voter, server)
    {
        let mut then = now;
        then.granted[voter][server] = true;
        out.push((format!("{} grants {}", NAMES[voter], NAMES[server]), then));
    }
}

pub(crate) fn round(now: &Moment, voter: usize, number: u8) -> Round {
    Round {
        incarnation: Incarnation(u64::from(now.nodes[voter].run)),
        number: u64::from(number),
    }
}

/// As `liveness::Watcher::on_heartbeat`.
pub(crate) fn may_grant(world: &World, now: &Moment, voter: usize, server: usize) -> bool {
    let state = world.state(now.nodes[voter].applied);
    let needed = state
        .role_change_index
        .get(&id(server))
        .copied()
        .unwrap_or(0);
    let is_behind =
        world.index(now.nodes[server].applied) < needed && world.bug != Bug::LeaseOnStaleRecord;
    let is_declared =
        now.nodes[voter].opinions[server] != Opinion::Alive && world.bug != Bug::LeaseWhileDeclared;
    now.knows_run(world, voter, voter)
        && now.knows_run(world, voter, server)
        && !is_declared
        && !is_behind
}

fn write(world: &World, now: Moment, server: usize, bounds: Bounds, out: &mut Followers) {
    let name = NAMES[server];
    let record = world.record(now.nodes[server].applied);
    if now.serves(world, server) {
        if now.written < bounds.writes {
            let mut then = now;
            let bit = 1 << now.written;
            then.written += 1;
            then.copies[server].data |= bit;
            then.copies[server].on_disk |= bit;
            out.push((format!("{name} writes"), then));
        }
        let copy = now.copies[server];
        let done = if now.needs_peer(world, server) {
            copy.data & copy.peer_has
        } else {
            copy.data
        };
        if done & !now.acknowledged != 0 {
            let mut then = now;
            then.acknowledged |= done;
            out.push((format!("{name} acknowledges"), then));
        }
    }
    let ships = record.primary == Some(id(server)) && now.copies[server].has_session;
    let is_new = now.copies[server].data & !now.copies[server].peer_has != 0;
    if ships && is_new && peer_accepts(world, &now, server) {
        let mut then = now;
        ship(world, &mut then, server);
        out.push((format!("{name} ships"), then));
    }
    let copy = now.copies[server];
    if copy.on_disk != copy.data {
        let mut then = now;
        then.copies[server].on_disk = copy.data;
        out.push((format!("{name} syncs"), then));
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

fn roles(world: &mut World, now: Moment, server: usize, bounds: Bounds, out: &mut Followers) {
    let peer = 1 - server;
    let record = world.record(now.nodes[server].applied).clone();
    let (module, epoch) = (module(), record.epoch);
    let is_known = now.knows_run(world, server, server);
    let copy = now.copies[server];
    match record.standing(id(server)) {
        Standing::Primary { alone } => {
            if is_known && (!alone || copy.is_adding) {
                let mut then = now;
                then.copies[server].on_disk = copy.data;
                then.copies[server].has_session = false;
                send(
                    world,
                    then,
                    Command::DropSecondary {
                        module: module.clone(),
                        epoch,
                        primary: id(server),
                        server: id(peer),
                    },
                    out,
                );
            }
            if alone
                && is_known
                && !copy.is_adding
                && now.serves(world, server)
                && peer_accepts(world, &now, server)
            {
                let mut then = now;
                resync(world, &mut then, server);
                send(
                    world,
                    then,
                    Command::AddSecondary {
                        module: module.clone(),
                        epoch,
                        primary: id(server),
                        server: id(peer),
                    },
                    out,
                );
            }
            let is_drained = !now.needs_peer(world, server) || copy.data & !copy.peer_has == 0;
            if now.serves(world, server)
                && !copy.is_adding
                && is_drained
                && now.planned < bounds.planned
            {
                let mut then = now;
                then.planned += 1;
                then.copies[server].is_quiet = true;
                let reason = StepDownReason::Stopped;
                send(
                    world,
                    then,
                    Command::StepDown {
                        module: module.clone(),
                        epoch,
                        server: id(server),
                        reason,
                    },
                    out,
                );
                if !alone && now.nodes[peer].is_up {
                    then.copies[peer].on_disk = now.copies[peer].data;
                    send(
                        world,
                        then,
                        Command::Switchover {
                            module,
                            epoch,
                            from: id(server),
                            to: id(peer),
                        },
                        out,
                    );
                }
            }
        }
        Standing::NoPrimary { may_lead: true, .. } if is_known => {
            send(
                world,
                now,
                Command::TakeOver {
                    module,
                    epoch,
                    server: id(server),
                },
                out,
            );
        }
        Standing::NoPrimary { .. }
        | Standing::InSyncSecondary { .. }
        | Standing::Outdated { .. }
        | Standing::FirstStart
        | Standing::NotHere => {}
    }
}

/// The copy is made whole; the proposal is noted on disk before it is made (R6).
fn resync(world: &World, then: &mut Moment, server: usize) {
    let peer = 1 - server;
    then.copies[peer].data = 0;
    ship(world, then, server);
    then.copies[peer].on_disk = then.copies[peer].data;
    then.copies[server].has_session = true;
    then.copies[server].is_adding = true;
    then.copies[server].may_have_proposed = true;
}

/// A proposal goes on its way; when it arrives, and whether, is open.
fn send(world: &mut World, mut then: Moment, command: Command, out: &mut Followers) {
    let name = format!("proposed: {}", shown(&command));
    let sent = world.send(command);
    if then.on_the_way.contains(&Some(sent)) {
        return;
    }
    if let Some(free) = then.on_the_way.iter_mut().find(|slot| slot.is_none()) {
        *free = Some(sent);
        then.on_the_way.sort_unstable();
        out.push((name, then));
    }
}

fn log(world: &mut World, now: Moment, out: &mut Followers) {
    for slot in 0..now.on_the_way.len() {
        let Some(sent) = now.on_the_way[slot] else {
            continue;
        };
        let mut then = now;
        then.on_the_way[slot] = None;
        then.on_the_way.sort_unstable();
        let name = shown(world.command(sent));
        if now.has_quorum()
            && let Some(committed) = world.apply(now.committed, sent)
        {
            out.push((format!("committed: {name}"), Moment { committed, ..then }));
        }
        out.push((format!("lost or refused: {name}"), then));
    }
}

fn shown(command: &Command) -> String {
    match command {
        Command::ServerStarted { server, .. } => {
            format!("{} started", NAMES[crate::world::node(*server)])
        }
        Command::Declare { voter, server, .. } => {
            format!(
                "{} declares {}",
                NAMES[crate::world::node(*voter)],
                NAMES[crate::world::node(*server)]
            )
        }
        Command::Withdraw { voter, server, .. } => {
            format!(
                "{} withdraws {}",
                NAMES[crate::world::node(*voter)],
                NAMES[crate::world::node(*server)]
            )
        }
        Command::DropSecondary { primary, .. } => {
            format!("{} alone", NAMES[crate::world::node(*primary)])
        }
        Command::AddSecondary { server, .. } => {
            format!("{} added", NAMES[crate::world::node(*server)])
        }
        Command::Switchover { to, .. } => {
            format!("switchover to {}", NAMES[crate::world::node(*to)])
        }
        Command::StepDown { server, .. } => {
            format!("{} steps down", NAMES[crate::world::node(*server)])
        }
        Command::TakeOver { server, .. } => {
            format!("{} takes over", NAMES[crate::world::node(*server)])
        }
        other => format!("{other:?}"),
    }
}
