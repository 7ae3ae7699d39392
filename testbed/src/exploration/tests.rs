use clap::ValueEnum as _;

use super::{Outcome, case_for, cases, explore};
use crate::planted::Bug;

/// States of each case in a test run; more by `testbed explore --states`.
const STATES_MAX: usize = 60_000;

fn holds(number: usize) {
    let (name, case) = cases(STATES_MAX)[number];
    match explore(case) {
        Outcome::Holds {
            states,
            is_complete,
            ..
        } => println!("{name}: {states} states, complete: {is_complete}"),
        Outcome::Violated { what, trace, .. } => {
            panic!("{name}: {what}\n  {}", trace.join("\n  "))
        }
    }
}

#[test]
fn roles_hold_from_in_sync() {
    [0, 2, 4].into_iter().for_each(holds);
}

#[test]
fn roles_hold_from_alone() {
    [1, 3].into_iter().for_each(holds);
}

#[test]
fn roles_hold_with_acknowledgement_on_receipt() {
    [5, 6, 7].into_iter().for_each(holds);
}

/// Every order of events of a case that ends: no fault, three planned changes, two writes. With one fault no bound was found within
/// which the search ends (6 million states, 64 s).
#[test]
fn cases_without_faults_are_explored_to_their_end() {
    for (name, mut case) in [0, 1, 7].map(|number| cases(STATES_MAX).swap_remove(number)) {
        case.bounds.faults = 0;
        case.bounds.crashes = 0;
        case.bounds.planned = 3;
        case.bounds.writes = 2;
        match explore(case) {
            Outcome::Holds {
                is_complete: true,
                states,
                depth,
            } => println!("{name}: {states} states, depth {depth}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn every_planted_bug_within_reach_is_found() {
    for bug in Bug::value_variants() {
        let Some(case) = case_for(*bug, 10 * STATES_MAX) else {
            continue;
        };
        match explore(case) {
            Outcome::Holds { states, .. } => panic!("{bug:?} not found in {states} states"),
            Outcome::Violated { what, trace, .. } => {
                println!("{bug:?}: {what} after {}", trace.join(", "));
            }
        }
    }
}
