//! Breadth first: the first violation found is one of the shortest.

use std::collections::HashMap;

use consensus::state::AckMode;

use crate::actions::followers;
use crate::healing::healing_fails;
use crate::model::{Bounds, Bug, Moment};
use crate::world::{Begin, FIRST_EPOCH, World};

/// Healing is tried from every n-th state: it takes longer than everything else.
const HEALED_EVERY: usize = 7;

pub(crate) enum Outcome {
    Holds { states: usize, is_complete: bool },
    Violated { what: String, trace: Vec<String> },
}

pub(crate) fn explore(
    ack: AckMode,
    begin: Begin,
    bug: Bug,
    bounds: Bounds,
    states_max: usize,
) -> Outcome {
    let mut world = World::new(bug);
    let committed = world.begin(ack, begin);
    let first = Moment::begin(committed, FIRST_EPOCH as u8, begin == Begin::InSync);
    let mut seen: Vec<(Moment, usize, String)> = vec![(first, 0, String::new())];
    let mut numbers: HashMap<Moment, ()> = HashMap::from([(first, ())]);
    let mut next = 0;
    while next < seen.len() && seen.len() < states_max {
        let moment = seen[next].0;
        if next % HEALED_EVERY == 0
            && let Some(what) = healing_fails(&mut world, moment)
        {
            return Outcome::Violated {
                what,
                trace: trace(&seen, next),
            };
        }
        for (name, follower) in followers(&mut world, moment, bounds) {
            if numbers.insert(follower, ()).is_some() {
                continue;
            }
            seen.push((follower, next, name));
            if let Some(what) = follower.violation(&world) {
                let last = seen.len() - 1;
                return Outcome::Violated {
                    what,
                    trace: trace(&seen, last),
                };
            }
        }
        next += 1;
    }
    Outcome::Holds {
        states: seen.len(),
        is_complete: next == seen.len(),
    }
}

fn trace(seen: &[(Moment, usize, String)], last: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = last;
    while at != 0 {
        names.push(seen[at].2.clone());
        at = seen[at].1;
    }
    names.reverse();
    names
}
