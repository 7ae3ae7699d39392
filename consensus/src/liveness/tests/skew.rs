//! Clocks that run at different rates: no voter declares a server that may still hold a lease of its.

use proptest::prelude::*;

use super::*;

/// Real nanoseconds to those of a clock that starts anywhere and runs at `rate` parts in 10,000.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: u64,
    rate: u64,
}

impl Clock {
    fn at(self, real_ns: u64) -> BootTime {
        BootTime(self.start + (u128::from(real_ns) * u128::from(self.rate) / 10_000) as u64)
    }
}

fn clock() -> impl Strategy<Value = Clock> {
    (0..1_000_000_000_000_000u64, 9950..=10_050u64).prop_map(|(start, rate)| Clock { start, rate })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lease_is_over_before_its_holder_is_declared(
        of_server in clock(),
        of_voter in clock(),
        lease_ms in 200..10_000u64,
        // How long until the next heartbeat is sent, and how long it travels; ms.
        heartbeats in proptest::collection::vec((1..3000u64, 0..2000u64), 1..30),
    ) {
        let script = trio();
        let timing = Timing::new(lease_ms);
        let mut holder = LeaseHolder::new(timing, S1, run(1));
        let mut watcher = Watcher::new(timing, W3, run(1), of_voter.at(0));
        watcher.on_applied(&script.state, of_voter.at(0));
        let mut arrivals: Vec<(u64, u64)> = Vec::new();
        let mut sent_at = 0;
        for (pause, travel) in heartbeats {
            sent_at += pause * 1_000_000;
            arrivals.push((sent_at + travel * 1_000_000, sent_at));
        }
        arrivals.sort_unstable();
        let end = sent_at + 20_000_000_000;
        let mut real = 0;
        while real < end {
            real += 20_000_000;
            while arrivals.first().is_some_and(|(arrival, _)| *arrival <= real) {
                let (arrival, sent) = arrivals.remove(0);
                let heartbeat = Heartbeat { from: S1, incarnation: run(1), sent: of_server.at(sent), applied: 99, lan: 0 };
                let verdict = watcher.on_heartbeat(&heartbeat, of_voter.at(arrival));
                // The answer travels in no time: the longest lease it can give.
                holder.on_answer(W3, heartbeat.sent, verdict.lease_ns(), of_server.at(arrival));
            }
            let declares = watcher.on_tick(of_voter.at(real)).iter().any(|action| match action {
                Action::ProposeDeclare { server, .. } => *server == S1,
                Action::ProposeWithdraw { .. } | Action::ProposeSettle { .. } => false,
            });
            let until = holder.valid_until(&script.state, of_server.at(real));
            prop_assert!(!declares || until.is_none_or(|until| until <= of_server.at(real)), "declared within a lease");
        }
    }
}
