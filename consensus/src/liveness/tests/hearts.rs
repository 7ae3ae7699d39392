//! Leases whose lengths change while they are granted.

use proptest::prelude::*;

use crate::state::{ClusterState, Command, PackageHash, Proposal};

use super::*;

/// A module on both servers that asks for `heart_ms`.
fn asking(script: &Script, heart_ms: Option<u32>) -> ClusterState {
    let mut state = script.state.clone();
    for record in state.modules.values_mut() {
        record.heart_timeout_ms = heart_ms;
    }
    state
}

fn with_module() -> Script {
    let mut script = trio();
    script.set_up("module db s1 s2");
    script
}

fn heartbeat(sent: BootTime) -> Heartbeat {
    Heartbeat {
        from: S1,
        incarnation: run(1),
        sent,
        applied: 99,
        lan: 0,
    }
}

fn is_declared(actions: &[Action]) -> bool {
    actions.iter().any(|action| match action {
        Action::ProposeDeclare { server, .. } => *server == S1,
        Action::ProposeWithdraw { .. } | Action::ProposeSettle { .. } => false,
    })
}

#[test]
fn the_lease_of_a_server_is_as_short_as_its_modules_ask() {
    // profile, asked, lease
    let cases = [
        (1500, None, 1500),
        (1500, Some(30_000), 1500),
        (1500, Some(1500), 1500),
        (1500, Some(700), 700),
        (1500, Some(500), 500),
        (1500, Some(0), 500),
        (10_000, Some(u32::MAX), 10_000),
        (10_000, Some(500), 500),
        (500, Some(30_000), 500),
        (500, Some(100), 500),
    ];
    let script = with_module();
    for (profile_ms, asked, lease_ms) in cases {
        let profile = Timing::new(profile_ms);
        let state = asking(&script, asked);
        for server in [S1, S2] {
            let timing = profile.of_server(&state, server);
            assert_eq!(timing, Timing::new(lease_ms), "{profile_ms}, {asked:?}");
        }
        assert_eq!(
            profile.of_server(&state, W3),
            profile,
            "the witness has no module"
        );
    }
}

/// s1 is granted 500 ms, and was granted 1500 ms before; what counts is the longest promise that still stands.
#[test]
fn a_voter_waits_for_the_longest_of_its_promises() {
    let script = with_module();
    let (long, short) = (asking(&script, None), asking(&script, Some(500)));
    let mut watcher = Watcher::new(Timing::default(), W3, run(1), ms(0));
    let mut declared_after = |states: [&ClusterState; 2]| {
        let begin = 10_000;
        watcher = Watcher::new(Timing::default(), W3, run(1), ms(0));
        watcher.on_applied(states[0], ms(begin - 10));
        watcher.on_tick(ms(begin - 10));
        // Its earlier self may have promised anything: everybody is heard until that is over.
        for now in (begin..begin + 3000).step_by(100) {
            watcher.on_heartbeat(&heartbeat(ms(now)), ms(now));
            watcher.on_tick(ms(now));
        }
        watcher.on_applied(states[1], ms(begin + 3000));
        watcher.on_heartbeat(&heartbeat(ms(begin + 3000)), ms(begin + 3000));
        (1..)
            .map(|n| n * 5)
            .find(|after| is_declared(&watcher.on_tick(ms(begin + 3000 + after))))
    };
    // L * 1.01 + 0.3 s after the last heartbeat, or after the last one that was answered with the longer lease.
    assert_eq!(declared_after([&long, &long]), Some(1820));
    assert_eq!(declared_after([&short, &short]), Some(810));
    assert_eq!(declared_after([&long, &short]), Some(1820 - 100));
    assert_eq!(declared_after([&short, &long]), Some(1820));
}

#[test]
fn a_voter_that_just_started_assumes_that_it_promised_the_lease_of_the_profile() {
    let script = with_module();
    let short = asking(&script, Some(500));
    let mut watcher = Watcher::new(Timing::default(), W3, run(1), ms(0));
    watcher.on_applied(&short, ms(0));
    let declared_at = (0..)
        .map(|n| n * 20)
        .find(|now| is_declared(&watcher.on_tick(ms(*now))));
    assert_eq!(declared_at, Some(1820));
}

#[test]
fn a_voter_looks_and_counts_a_pause_as_the_shortest_lease_needs() {
    let script = with_module();
    let mut watcher = Watcher::new(Timing::default(), W3, run(1), ms(0));
    watcher.on_applied(&asking(&script, None), ms(0));
    assert_eq!(watcher.look_ns(), 50_000_000);
    watcher.on_applied(&asking(&script, Some(500)), ms(0));
    assert_eq!(watcher.look_ns(), 20_000_000);
    for now in (0..5000).step_by(100) {
        watcher.on_heartbeat(&heartbeat(ms(now)), ms(now));
        watcher.on_tick(ms(now));
    }
    // 0.6 s are nothing to a lease of 1.5 s, and more than enough for one of 0.5 s.
    assert!(!is_declared(&watcher.on_tick(ms(5600))));
    assert!(
        !is_declared(&watcher.on_tick(ms(5800))),
        "what arrived meanwhile may be unread"
    );
    assert!(!is_declared(&watcher.on_tick(ms(6000))));
    assert!(!is_declared(&watcher.on_tick(ms(6200))));
    assert!(is_declared(&watcher.on_tick(ms(6410))));
}

/// Each answer counts with its own length, whatever came before or after.
#[test]
fn a_lease_is_a_majority_of_grants_each_with_its_own_length() {
    let script = with_module();
    let state = asking(&script, None);
    // Voter, sent, granted ms; the end of the lease at 10,000 ms.
    type Answers<'a> = &'a [(ServerId, u64, u64)];
    let cases: [(Answers<'_>, Option<u64>); 7] = [
        (&[(S2, 9900, 500)], Some(10_400)),
        (&[(S2, 9900, 500), (W3, 9900, 1500)], Some(11_400)),
        (&[(S2, 9000, 1500), (S2, 9900, 500)], Some(10_500)),
        (&[(S2, 9900, 500), (S2, 9000, 1500)], Some(10_500)),
        (&[(S2, 9900, 500), (S2, 9950, 1500)], Some(11_450)),
        (&[(S2, 9950, 500), (S2, 9990, 0)], Some(10_450)),
        // No voter can promise more than the profile.
        (&[(S2, 9900, 60_000)], Some(11_400)),
    ];
    for (answers, until) in cases {
        let mut holder = LeaseHolder::new(Timing::default(), S1, run(1));
        for (voter, sent, granted) in answers {
            let granted = (*granted > 0).then_some(*granted * 1_000_000);
            holder.on_answer(*voter, ms(*sent), granted, ms(10_000));
        }
        let valid = holder.valid_until(&state, ms(10_000));
        assert_eq!(valid.map(|at| at.0 / 1_000_000), until, "{answers:?}");
        let newest = answers.iter().filter(|a| a.2 > 0).map(|a| ms(a.1)).max();
        assert_eq!(holder.heard_at(&state, ms(10_000)), newest, "{answers:?}");
    }
}

/// A sole voter grants itself, as it has applied it.
#[test]
fn a_sole_voter_has_a_lease_of_its_own_length() {
    let mut script = Script::new();
    script.set_up("cluster s1 s2");
    script.set_up("module db s1 s2");
    let holder = LeaseHolder::new(Timing::default(), S1, run(1));
    let until = |heart| holder.valid_until(&asking(&script, heart), ms(10_000));
    assert_eq!(until(None), Some(ms(11_500)));
    assert_eq!(until(Some(800)), Some(ms(10_800)));
}

/// What happens in one step of 20 ms.
#[derive(Debug, Clone)]
enum Happening {
    /// The asked time changes: committed at once, applied by each member when it gets to it.
    Asks(Option<u32>),
    /// Whether a member applies what is committed: s1, s2, w3.
    Applies(usize, bool),
    /// Whether heartbeats of s1 reach a voter, and how long they travel, ms.
    Link(usize, bool, u64),
    /// A voter's daemon starts anew.
    Restart(usize),
    Nothing,
}

fn happening() -> impl Strategy<Value = Happening> {
    let asked = prop_oneof![
        Just(None),
        Just(Some(0)),
        Just(Some(500)),
        Just(Some(900)),
        Just(Some(5000))
    ];
    prop_oneof![
        3 => asked.prop_map(Happening::Asks),
        3 => (0..3usize, any::<bool>()).prop_map(|(member, does)| Happening::Applies(member, does)),
        3 => (1..3usize, any::<bool>(), 0..400u64).prop_map(|(voter, is_cut, travel)| Happening::Link(voter, is_cut, travel)),
        1 => (1..3usize).prop_map(Happening::Restart),
        30 => Just(Happening::Nothing),
    ]
}

/// s1 holds leases granted by s2 and w3; each of the three applies changes of the length when it likes, and has a clock of
/// its own.
struct World {
    profile: Timing,
    script: Script,
    states: Vec<ClusterState>,
    applied: [usize; 3],
    applies: [bool; 3],
    holder: LeaseHolder,
    watchers: [Watcher; 2],
    /// Heartbeats on their way: arrival, voter, sent by the clock of s1.
    under_way: Vec<(u64, usize, BootTime)>,
    is_cut: [bool; 3],
    travel_ms: [u64; 3],
    /// Parts in 1,000 of the clocks: at most half a per cent off, so at most one from each other.
    rates: [u64; 3],
    declared: [bool; 3],
    now_ms: u64,
}

impl World {
    fn new(profile_ms: u64, rates: [u64; 3]) -> World {
        let script = with_module();
        let profile = Timing::new(profile_ms);
        let watcher = |voter| Watcher::new(profile, voter, run(1), ms(0));
        World {
            profile,
            states: vec![script.state.clone()],
            script,
            applied: [0; 3],
            applies: [true; 3],
            holder: LeaseHolder::new(profile, S1, run(1)),
            watchers: [watcher(S2), watcher(W3)],
            under_way: Vec::new(),
            is_cut: [false; 3],
            travel_ms: [0; 3],
            rates,
            declared: [false; 3],
            now_ms: 0,
        }
    }

    fn clock(&self, member: usize) -> BootTime {
        BootTime(self.now_ms * self.rates[member] * 1000)
    }

    fn state(&self, member: usize) -> &ClusterState {
        &self.states[self.applied[member]]
    }

    fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Asks(heart_timeout_ms) => self.reconfigure(*heart_timeout_ms),
            Happening::Applies(member, does) => self.applies[*member] = *does,
            Happening::Link(voter, is_cut, travel) => {
                self.is_cut[*voter] = *is_cut;
                self.travel_ms[*voter] = *travel;
            }
            Happening::Restart(voter) => {
                // What it had on its way to the log counts no more; its former run granted what it granted.
                self.declared[*voter] = false;
                let watcher =
                    Watcher::new(self.profile, self.id(*voter), run(1), self.clock(*voter));
                self.watchers[*voter - 1] = watcher;
                self.applied[*voter] = 0;
            }
            Happening::Nothing => {}
        }
    }

    fn id(&self, member: usize) -> ServerId {
        ServerId(member as u64 + 1)
    }

    fn reconfigure(&mut self, heart_timeout_ms: Option<u32>) {
        let command = Command::ReconfigureModule {
            name: "db".parse().unwrap(),
            package: PackageHash([1; 32]),
            ack: crate::state::AckMode::Disk,
            directories: vec!["/srv/db".to_owned()],
            addresses: Vec::new(),
            heart_timeout_ms,
        };
        let proposal = Proposal {
            command,
            author: String::new(),
            evidence: String::new(),
            at_unix_ms: 0,
        };
        self.script.index += 1;
        self.script
            .state
            .apply(self.script.index, &proposal)
            .unwrap();
        self.states.push(self.script.state.clone());
    }

    fn step(&mut self, happening: &Happening) {
        self.now_ms += 20;
        self.happens(happening);
        for member in 0..3 {
            if self.applies[member] {
                self.applied[member] = self.states.len() - 1;
            }
            if member > 0 {
                let (state, now) = (self.state(member).clone(), self.clock(member));
                self.watchers[member - 1].on_applied(&state, now);
            }
        }
        self.beat();
        self.deliver();
        for voter in [1, 2] {
            let now = self.clock(voter);
            self.declared[voter] |= is_declared(&self.watchers[voter - 1].on_tick(now));
        }
    }

    /// As often as s1 does for the length that it knows.
    fn beat(&mut self) {
        let timing = self.profile.of_server(self.state(0), S1);
        if !self
            .now_ms
            .is_multiple_of((timing.heartbeat_ns / 20_000_000).max(1) * 20)
        {
            return;
        }
        for voter in (1..3).filter(|voter| !self.is_cut[*voter]) {
            let arrival = self.now_ms + self.travel_ms[voter];
            self.under_way.push((arrival, voter, self.clock(0)));
        }
    }

    /// Answers travel in no time: the longest lease they can give.
    fn deliver(&mut self) {
        let now_ms = self.now_ms;
        let (arrived, rest) = self
            .under_way
            .iter()
            .partition(|(arrival, ..)| *arrival <= now_ms);
        self.under_way = rest;
        let arrived: Vec<(u64, usize, BootTime)> = arrived;
        for (_, voter, sent) in arrived {
            let now = self.clock(voter);
            let verdict = self.watchers[voter - 1].on_heartbeat(&heartbeat(sent), now);
            let (id, now) = (self.id(voter), self.clock(0));
            self.holder.on_answer(id, sent, verdict.lease_ns(), now);
        }
    }

    /// "Down" takes both voters, since s1 does not declare itself; a lease takes s1 and one of them.
    fn violation(&self) -> Option<String> {
        let now = self.clock(0);
        let until = self.holder.valid_until(self.state(0), now)?;
        (self.declared[1] && self.declared[2] && until > now).then(|| {
            format!(
                "at {} ms both voters have declared s1, which has a lease until {until}",
                self.now_ms
            )
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Lowered, raised, unknown to one, known to the other, while voters start anew: nobody is declared by a majority
    /// within a lease.
    #[test]
    fn no_change_of_the_length_lets_a_lease_outlive_its_declarations(
        profile_ms in prop_oneof![Just(1500u64), Just(3000), Just(500)],
        rates in [995..=1005u64, 995..=1005, 995..=1005],
        happenings in proptest::collection::vec(happening(), 100..700),
    ) {
        let mut world = World::new(profile_ms, rates);
        for happening in &happenings {
            world.step(happening);
            if let Some(violation) = world.violation() {
                prop_assert!(false, "{}", violation);
            }
            if world.declared[1] && world.declared[2] {
                break;
            }
        }
    }
}
