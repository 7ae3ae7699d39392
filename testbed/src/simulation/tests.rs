use super::batch;
use super::command_line::told;
use super::{Options, simulate};

/// Seeds of a test run; more by `testbed simulate`.
const SEEDS: u64 = 2000;
/// Seeds that are run twice.
const TWICE: u64 = 40;

#[test]
fn no_seed_breaks_a_property() {
    let totals = batch::run(1..1 + SEEDS, Options::default(), false).unwrap();
    let told: String = totals
        .failures
        .iter()
        .take(3)
        .map(|failure| told(failure, None))
        .collect();
    assert!(totals.failures.is_empty(), "{told}");
    // Not vacuous: each kind of fault was hit, and the service moved.
    let rarest = totals.faults.values().min().copied();
    assert!(rarest >= Some(SEEDS / 50), "{:?}", totals.faults);
    assert!(totals.failovers > SEEDS / 2, "{}", totals.failovers);
    assert!(totals.acknowledged > 50 * SEEDS, "{}", totals.acknowledged);
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    let options = Options {
        bug: None,
        keeps_trace: true,
    };
    for seed in 1..=TWICE {
        let (first, second) = (
            simulate(seed, options).unwrap(),
            simulate(seed, options).unwrap(),
        );
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.digest, second.digest, "seed {seed}");
    }
}
