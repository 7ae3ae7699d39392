//! Leases and declarations at given times. The unit of time in these tests is the millisecond.

mod hearts;
mod lease;
mod skew;
mod voters;
mod watcher;

use crate::state::tests::script::Script;
use crate::state::{Incarnation, ServerId};

use super::*;

const S1: ServerId = ServerId(1);
const S2: ServerId = ServerId(2);
const W3: ServerId = ServerId(3);

/// A grant of the default profile.
const GRANTED: Option<u64> = Some(1_500_000_000);
const GRANT: Verdict = Verdict::Grant {
    lease_ns: 1_500_000_000,
};

fn ms(ms: u64) -> BootTime {
    BootTime(ms * 1_000_000)
}

fn trio() -> Script {
    let mut script = Script::new();
    script.set_up("cluster s1 s2 w3");
    script
}

fn run(number: u64) -> Incarnation {
    Incarnation(number)
}
