use clap::ValueEnum as _;

use super::Bug;
use super::table::look_for;

/// Seeds within which what only the simulation can find is found; `testbed planted` gives more.
const SEEDS: u64 = 300;

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::value_variants() {
        let found = look_for(*bug, SEEDS).expect("both ran");
        println!("{found:?}");
        if !found.is_found() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
