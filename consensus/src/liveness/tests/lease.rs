//! The right to serve, as granted.

use super::*;

#[test]
fn the_lengths_follow_from_the_lease() {
    // lease, heartbeat, declared after
    let cases = [
        (1500, 150, 1815),
        (500, 83, 805),
        (10_000, 150, 10_400),
        (1, 33, 502),
        (1_000_000, 150, 60_900),
    ];
    for (lease_ms, heartbeat_ms, declare_ms) in cases {
        let timing = Timing::new(lease_ms);
        assert_eq!(
            timing.heartbeat_ns / 1_000_000,
            heartbeat_ms,
            "heartbeat for {lease_ms}"
        );
        assert_eq!(
            timing.declare_after_ns() / 1_000_000,
            declare_ms,
            "declaration for {lease_ms}"
        );
        assert!(timing.declare_after_ns() > timing.lease_ns + timing.lease_ns / 100);
    }
    assert_eq!(Timing::default(), Timing::new(1500));
}

/// Answers that arrived at 10,000 ms: voter, when the heartbeat was sent, granted.
fn valid_until(script: &Script, answers: &[(ServerId, u64, bool)]) -> Option<u64> {
    let mut holder = LeaseHolder::new(Timing::default(), S1, run(1));
    for (voter, sent, is_granted) in answers {
        let lease_ns = GRANTED.filter(|_| *is_granted);
        holder.on_answer(*voter, ms(*sent), lease_ns, ms(10_000));
    }
    holder
        .valid_until(&script.state, ms(10_000))
        .map(|at| at.0 / 1_000_000)
}

#[test]
fn a_lease_is_a_majority_of_grants_counted_from_the_sending() {
    let trio = trio();
    // Its own vote and one more are two of three.
    assert_eq!(valid_until(&trio, &[]), None);
    assert_eq!(valid_until(&trio, &[(S2, 9000, true)]), Some(10_500));
    assert_eq!(
        valid_until(&trio, &[(S2, 9000, true), (W3, 9500, true)]),
        Some(11_000)
    );
    // Answers may arrive in any order, and one without a grant takes nothing back.
    assert_eq!(
        valid_until(&trio, &[(S2, 9500, true), (S2, 9000, true)]),
        Some(11_000)
    );
    assert_eq!(
        valid_until(&trio, &[(S2, 9000, true), (S2, 9500, false)]),
        Some(10_500)
    );
    assert_eq!(valid_until(&trio, &[(S2, 9500, false)]), None);
    // Nonsense: an echo of what was not sent yet, a grant by nobody known.
    assert_eq!(valid_until(&trio, &[(S2, 10_001, true)]), None);
    assert_eq!(valid_until(&trio, &[(ServerId(9), 9000, true)]), None);
    assert_eq!(valid_until(&trio, &[(S1, 9000, true)]), None);
}

#[test]
fn five_voters_need_two_grants_beside_their_own() {
    let mut five = Script::new();
    five.set_up("cluster s1 s2 s3 s4 s5");
    assert_eq!(valid_until(&five, &[(ServerId(2), 9000, true)]), None);
    assert_eq!(
        valid_until(
            &five,
            &[(ServerId(2), 9000, true), (ServerId(5), 9900, true)]
        ),
        Some(10_500)
    );
}

#[test]
fn a_pair_without_a_witness_depends_on_its_first_server() {
    let mut pair = Script::new();
    pair.set_up("cluster s1 s2");
    assert_eq!(valid_until(&pair, &[]), Some(11_500));
    let mut second = LeaseHolder::new(Timing::default(), S2, run(1));
    assert_eq!(second.valid_until(&pair.state, ms(10_000)), None);
    second.on_answer(S1, ms(9000), GRANTED, ms(10_000));
    assert_eq!(
        second.valid_until(&pair.state, ms(10_000)),
        Some(ms(10_500))
    );
}

#[test]
fn a_run_the_cluster_does_not_know_has_no_lease() {
    let mut trio = trio();
    let mut holder = LeaseHolder::new(Timing::default(), S1, run(2));
    holder.on_answer(S2, ms(9000), GRANTED, ms(10_000));
    assert_eq!(holder.valid_until(&trio.state, ms(10_000)), None);
    trio.must("start s1");
    assert_eq!(
        holder.valid_until(&trio.state, ms(10_000)),
        Some(ms(10_500))
    );
    trio.must("start s1");
    assert_eq!(
        holder.valid_until(&trio.state, ms(10_000)),
        None,
        "a newer run is known"
    );
}
