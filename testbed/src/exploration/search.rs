//! Breadth first: the first violation found is one of the shortest.
//!
//! States are remembered by a fingerprint of 64 bits, as model checkers do: at ten million states the chance that two
//! share one is about one in half a million.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use consensus::state::AckMode;

use super::actions::{What, followers};
use super::healing::healing_fails;
use super::model::{Bounds, Moment};
use super::settled::settled;
use super::world::{Begin, FIRST_EPOCH, World};
use crate::planted::Bug;

/// Healing is tried from every n-th state: it takes longer than everything else.
const HEALED_EVERY: usize = 13;

/// A fingerprint is as good as its own hash.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Seen = HashSet<u64, BuildHasherDefault<Identity>>;

/// What is explored: how writes are acknowledged, what it begins with, how far it goes, and the bug planted into it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// When the secondary's answer counts.
    pub ack: AckMode,
    /// The roles it begins with.
    pub begin: Begin,
    /// How far it goes.
    pub bounds: Bounds,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// States after which it gives up.
    pub states_max: usize,
}

/// What an exploration came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing is wrong with any state reached.
    Holds {
        /// How many.
        states: usize,
        /// The longest way to a state that was looked at.
        depth: usize,
        /// There are no others within the bounds.
        is_complete: bool,
    },
    /// A property does not hold.
    Violated {
        /// Which.
        what: String,
        /// The steps that lead there.
        trace: Vec<String>,
        /// States reached before.
        states: usize,
    },
}

/// All states reached, each with the one it was reached from.
#[derive(Default)]
struct Reached {
    prints: Vec<u64>,
    parents: Vec<u32>,
    seen: Seen,
}

impl Reached {
    /// The number of a state that is new.
    fn add(&mut self, moment: &Moment, parent: u32) -> Option<u32> {
        let print = fingerprint(moment);
        if !self.seen.insert(print) {
            return None;
        }
        self.prints.push(print);
        self.parents.push(parent);
        u32::try_from(self.prints.len() - 1).ok()
    }
}

fn fingerprint(moment: &Moment) -> u64 {
    let mut hasher = DefaultHasher::new();
    moment.hash(&mut hasher);
    hasher.finish()
}

/// Explores one case.
pub fn explore(case: Case) -> Outcome {
    explore_observed(case, &mut |_, _| ())
}

/// Explores one case and shows each moment reached to `observe`.
pub(super) fn explore_observed(
    case: Case,
    observe: &mut dyn FnMut(&mut World, &Moment),
) -> Outcome {
    let mut world = World::new(case.bug);
    let committed = world.begin(case.ack, case.begin);
    let first = Moment::begin(committed, FIRST_EPOCH as u8, case.begin == Begin::InSync);
    let first = settled(&mut world, first);
    observe(&mut world, &first);
    let mut reached = Reached::default();
    reached.add(&first, 0);
    let mut layer = vec![(0, first)];
    let mut depth = 0;
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (number, moment) in std::mem::take(&mut layer) {
            if (number as usize).is_multiple_of(HEALED_EVERY)
                && let Some(what) = healing_fails(&mut world, moment)
            {
                return violated(what, number, first, &mut world, &reached, case);
            }
            for (_, follower) in followers(&mut world, moment, case.bounds) {
                let Some(follower_number) = reached.add(&follower, number) else {
                    continue;
                };
                if let Some(what) = follower.violation(&mut world) {
                    return violated(what, follower_number, first, &mut world, &reached, case);
                }
                observe(&mut world, &follower);
                next.push((follower_number, follower));
            }
            if reached.prints.len() >= case.states_max {
                return Outcome::Holds {
                    states: reached.prints.len(),
                    depth,
                    is_complete: false,
                };
            }
        }
        layer = next;
        depth += usize::from(!layer.is_empty());
    }
    Outcome::Holds {
        states: reached.prints.len(),
        depth,
        is_complete: true,
    }
}

/// Walks the way again to name its steps.
fn violated(
    what: String,
    last: u32,
    first: Moment,
    world: &mut World,
    reached: &Reached,
    case: Case,
) -> Outcome {
    let mut way = Vec::new();
    let mut at = last;
    while at != 0 {
        way.push(reached.prints[at as usize]);
        at = reached.parents[at as usize];
    }
    let mut moment = first;
    let mut trace = Vec::new();
    while let Some(print) = way.pop() {
        let step: Option<(What, Moment)> = followers(world, moment, case.bounds)
            .into_iter()
            .find(|(_, follower)| fingerprint(follower) == print);
        let Some((step, follower)) = step else { break };
        trace.push(step.told(world));
        moment = follower;
    }
    Outcome::Violated {
        what,
        trace,
        states: reached.prints.len(),
    }
}
