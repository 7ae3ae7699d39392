//! Short pieces of what runs for hours: the slice of the day of the matrix of cuts, a few faults of chaos.

use testbed::cluster::package::Acknowledgement;
use testbed::{chaos, matrix};

fn is_skipped() -> bool {
    let missing = testbed::cluster::missing();
    if let Some(why) = &missing {
        eprintln!("skipped: {why}");
    }
    missing.is_some()
}

/// Goal: all cells in the course of time, a few every day. Method: the matrix itself.
#[test]
fn matrix_slice_of_the_day() {
    if is_skipped() {
        return;
    }
    let options = matrix::Options {
        state: None,
        leader: None,
        cuts: None,
        slice: None,
        today: true,
        labs: 1,
        seed: 1,
        json: false,
    };
    let failed = matrix::perform(&options).unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Goal: the harness of the long run works. Method: a run of two faults.
#[test]
fn chaos_of_two_faults() {
    if is_skipped() {
        return;
    }
    let options = chaos::Options {
        minutes: 5,
        seed: Some(SHORT_FAULTS),
        every: std::time::Duration::ZERO,
        ack: Acknowledgement::Disk,
        faults: Some(2),
        json: false,
        report: None,
        keep: false,
    };
    let campaign = chaos::perform(&options);
    assert!(campaign.failure.is_none(), "{}", campaign.failure.unwrap());
}

/// A seed whose first two faults are quick ones: a daemon killed, a power cut.
const SHORT_FAULTS: u64 = 3;
