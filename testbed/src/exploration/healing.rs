//! After the faults: what must come back by itself.

use consensus::state::{Command, Incarnation, Standing};
use node::core::partnership::{Move, Stream};

use super::actions::{apply_on, crash, restart, round};
use super::model::{Moment, Opinion};
use super::world::{A, B, NAMES, W, World, id, module};

/// Rounds after which a cluster that is going to settle has settled.
const ROUNDS_MAX: usize = 6;

/// Tries every return: of all, in every order, and of one whole copy with the witness. What fails, if anything.
pub(super) fn healing_fails(world: &mut World, now: Moment) -> Option<String> {
    if world.bug.is_some() {
        return None;
    }
    for order in [[A, B, W], [B, A, W], [W, B, A], [W, A, B]] {
        for is_blackout in [false, true] {
            let mut then = now;
            if is_blackout {
                blackout(world, &mut then);
            }
            return_all(world, &mut then, &order);
            if let Some(what) = unserved(world, &then, &[A, B]) {
                return Some(format!(
                    "{what} although all returned in the order {order:?} (blackout: {is_blackout})"
                ));
            }
        }
    }
    for (survivor, lost) in [(A, B), (B, A)] {
        if !world.record(now.committed).in_sync.contains(&id(survivor)) {
            continue;
        }
        let mut then = now;
        blackout(world, &mut then);
        if world
            .record(now.committed)
            .received_only
            .contains(&id(survivor))
        {
            continue; // R16: what it had only received is gone; it waits for the other one.
        }
        return_all(world, &mut then, &[survivor, W]);
        for voter in [survivor, W] {
            declare(world, &mut then, voter, lost);
        }
        return_all(world, &mut then, &[survivor, W]);
        if let Some(what) = unserved(world, &then, &[survivor]) {
            return Some(format!(
                "{what} although {} returned with the witness",
                NAMES[survivor]
            ));
        }
    }
    None
}

fn blackout(world: &World, then: &mut Moment) {
    for node in [A, B, W] {
        if then.nodes[node].is_up {
            crash(world, then, node);
        }
    }
}

fn unserved(world: &mut World, now: &Moment, by: &[usize]) -> Option<String> {
    let serving: Vec<usize> = by
        .iter()
        .copied()
        .filter(|server| now.serves(world, *server))
        .collect();
    match serving.as_slice() {
        [] => Some("nobody serves".to_owned()),
        [one] if now.acknowledged & !now.copies[*one].data != 0 => {
            Some(format!("{} serves without a write", NAMES[*one]))
        }
        [_] => None,
        [_, ..] => Some("two serve".to_owned()),
    }
}

/// The members come back in this order and do what nodes do, until nothing changes; nothing they sent before arrives.
fn return_all(world: &mut World, then: &mut Moment, order: &[usize]) {
    then.on_the_way = [None; 2];
    for node in order {
        if !then.nodes[*node].is_up {
            restart(then, *node);
        }
        then.copies
            .iter_mut()
            .for_each(|copy| copy.is_quiet = false);
    }
    for _ in 0..ROUNDS_MAX {
        for node in order {
            let incarnation = Incarnation(u64::from(then.nodes[*node].run));
            commit(
                world,
                then,
                Command::ServerStarted {
                    server: id(*node),
                    incarnation,
                },
            );
            apply_on(world, then, *node, then.committed);
        }
        for voter in order {
            for server in order
                .iter()
                .filter(|server| **server != W && *server != voter)
            {
                withdraw(world, then, *voter, *server);
                apply_on(world, then, *voter, then.committed);
                apply_on(world, then, *server, then.committed);
                then.granted[*voter][*server] = then.may_grant(world, *voter, *server);
            }
        }
        for server in order.iter().filter(|server| **server != W) {
            apply_on(world, then, *server, then.committed);
            act(world, then, *server);
            apply_on(world, then, *server, then.committed);
        }
    }
}

fn act(world: &mut World, then: &mut Moment, server: usize) {
    let record = world.record(then.nodes[server].applied);
    let (module, epoch) = (module(), record.epoch);
    let command = match record.standing(id(server)) {
        Standing::Primary { .. } => {
            match then.next_move(world, server, record, Stream::Down) {
                Move::DropPeer => {}
                Move::Attach { .. } | Move::AddPeer | Move::Wait => return,
            }
            then.copies[server].on_disk = then.copies[server].data;
            Command::DropSecondary {
                module,
                epoch,
                primary: id(server),
                server: id(1 - server),
            }
        }
        Standing::NoPrimary { may_lead: true, .. } => Command::TakeOver {
            module,
            epoch,
            server: id(server),
        },
        Standing::NoPrimary { .. }
        | Standing::InSyncSecondary { .. }
        | Standing::Outdated { .. }
        | Standing::FirstStart
        | Standing::NotHere => return,
    };
    commit(world, then, command);
}

fn declare(world: &mut World, then: &mut Moment, voter: usize, server: usize) {
    let number = then.nodes[voter].rounds[server] + 1;
    let incarnation = world.state(then.committed).members[&id(server)].incarnation;
    let evidence = String::new();
    let round = round(then, voter, number);
    commit(
        world,
        then,
        Command::Declare {
            voter: id(voter),
            round,
            server: id(server),
            incarnation,
            evidence,
        },
    );
}

fn withdraw(world: &mut World, then: &mut Moment, voter: usize, server: usize) {
    if let Opinion::Declared { number } = then.nodes[voter].opinions[server] {
        let round = round(then, voter, number);
        commit(
            world,
            then,
            Command::Withdraw {
                voter: id(voter),
                round,
                server: id(server),
            },
        );
    }
}

fn commit(world: &mut World, then: &mut Moment, command: Command) {
    let sent = world.send(command);
    if let Some(committed) = world.apply(then.committed, sent) {
        then.committed = committed;
    }
}
