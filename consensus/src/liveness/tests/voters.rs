//! Voters change while members lag behind: no lease granted under the old voters outlives a takeover decided under the new.

use proptest::prelude::*;

use crate::state::{ClusterState, Proposal};

use super::*;

/// Server 2 leads; the witness is removed, and neither server 2 nor the witness has applied that.
struct Removal {
    script: Script,
    behind: ClusterState,
    holder: LeaseHolder,
}

fn removal() -> Removal {
    let mut script = trio();
    script.set_up("module db s1 s2");
    script.must("want db s1 started");
    script.must("claim db s2");
    script.must("add db s1 by s2");
    let behind = script.state.clone();
    script.must("remove w3");
    let mut holder = LeaseHolder::new(Timing::default(), S2, run(1));
    holder.on_answer(W3, ms(9900), GRANTED, ms(10_000));
    Removal {
        script,
        behind,
        holder,
    }
}

#[test]
fn regression_a_removed_voter_that_does_not_know_it_still_counts_for_who_does_not_know_it_either() {
    let Removal {
        mut script,
        behind,
        holder,
    } = removal();
    assert!(
        holder.valid_until(&behind, ms(10_000)).is_some(),
        "server 2 and the witness are a majority to each other"
    );
    script.must("declare s2 by s1");
    assert!(
        !script.state.members[&S2].is_down,
        "the one voter that is left must not decide alone yet"
    );
    // Whoever knows of the change needs both the old and the new voters.
    assert_eq!(holder.valid_until(&script.state, ms(10_000)), None);
}

#[test]
fn replaced_voters_keep_their_say_until_a_majority_of_them_knew_for_longer_than_a_lease() {
    let Removal { mut script, .. } = removal();
    let replaced_at = script.index;
    let mut watcher = Watcher::new(Timing::default(), S1, run(1), ms(0));
    watcher.on_applied(&script.state, ms(0));
    let hear = |watcher: &mut Watcher, now: u64, applied: u64| {
        let heartbeat = Heartbeat {
            from: S2,
            incarnation: run(1),
            sent: ms(now),
            applied,
            lan: 0,
        };
        watcher.on_heartbeat(&heartbeat, ms(now))
    };
    for now in (100..=5000).step_by(100) {
        let verdict = hear(&mut watcher, now, replaced_at - 1);
        assert_eq!(
            verdict,
            Verdict::NoGrant(NoGrant::Behind),
            "no lease without the new voters"
        );
        assert_eq!(watcher.on_tick(ms(now)), []);
    }
    // Server 2 has applied it; nothing happens before a lease and its margin have passed since that was heard.
    let mut proposed_at = None;
    for now in (5100..=8000).step_by(100) {
        assert_eq!(hear(&mut watcher, now, replaced_at), GRANT);
        for action in watcher.on_tick(ms(now)) {
            assert!(
                matches!(action, Action::ProposeSettle { replaced_at: at, .. } if at == replaced_at)
            );
            proposed_at.get_or_insert(now);
        }
    }
    assert_eq!(proposed_at, Some(7000));
    script.must("declare s2 by s1");
    assert!(!script.state.members[&S2].is_down);
    script.must(&format!("settle at_entry={replaced_at}"));
    assert!(
        script.state.members[&S2].is_down,
        "server 1 alone decides from now on"
    );
}

#[test]
fn regression_a_new_voter_counts_everyone_as_heard() {
    let mut pair = Script::new();
    pair.set_up("cluster s1 s2");
    let mut watcher = Watcher::new(Timing::default(), S2, run(1), ms(0));
    watcher.on_applied(&pair.state, ms(0));
    // A learner is sent no heartbeats in a larger cluster, and has no opinion.
    for now in (100..=60_000).step_by(100) {
        assert_eq!(watcher.on_tick(ms(now)), []);
    }
    pair.must("token w witness");
    pair.must("join w w3 witness");
    watcher.on_applied(&pair.state, ms(60_000));
    for now in (60_100..=61_800).step_by(100) {
        assert_eq!(watcher.on_tick(ms(now)), [], "at {now}");
    }
    assert_eq!(watcher.on_tick(ms(61_900)).len(), 2, "both are silent");
}

/// What happens in one step of 50 ms.
#[derive(Debug, Clone)]
enum Happening {
    /// A link is cut or mended, both ways.
    Link(usize, usize, bool),
    /// Whether a member applies what is committed.
    Applies(usize, bool),
    /// A line for the script; refused when it does not fit.
    Change(&'static str),
    /// The primary adds its secondary again.
    Add,
    Nothing,
}

/// Members of the worlds below, by position: s1, s2, w3, s4, s5; the last two join and leave.
const MEMBERS: [ServerId; 5] = [S1, S2, W3, ServerId(4), ServerId(5)];

fn happening() -> impl Strategy<Value = Happening> {
    let member = || 0..MEMBERS.len();
    prop_oneof![
        3 => (member(), member(), any::<bool>()).prop_map(|(a, b, cut)| Happening::Link(a, b, cut)),
        3 => (member(), any::<bool>()).prop_map(|(member, does)| Happening::Applies(member, does)),
        1 => prop_oneof![
            Just("remove w3"),
            Just("join t4 s4 server"),
            Just("join t5 s5 server"),
            Just("remove s4"),
            Just("remove s5"),
        ].prop_map(Happening::Change),
        2 => Just(Happening::Add),
        12 => Just(Happening::Nothing),
    ]
}

/// One member: what it has applied, and its two cores.
struct Member {
    applied: usize,
    applies: bool,
    state: ClusterState,
    watcher: Watcher,
    holder: LeaseHolder,
}

/// Everything is committed the moment it is proposed, whoever proposes it: worse than any Raft.
struct World {
    script: Script,
    log: Vec<Proposal>,
    members: Vec<Member>,
    cut: [[bool; 5]; 5],
    now: u64,
    takeovers: u32,
}

impl World {
    fn new() -> World {
        let mut world = World {
            script: Script::new(),
            log: Vec::new(),
            members: Vec::new(),
            cut: [[false; 5]; 5],
            now: 0,
            takeovers: 0,
        };
        let lines = [
            "init s1",
            "token t2 server",
            "join t2 s2 server",
            "token w witness",
            "join w w3 witness",
            "token t4 server",
            "token t5 server",
            "install db s1 s2",
            "want db s2 started",
            "claim db s1",
            "add db s2 by s1",
        ];
        for line in lines {
            world.commit_line(line);
        }
        world.members = MEMBERS
            .iter()
            .map(|me| Member {
                applied: 0,
                applies: true,
                state: ClusterState::default(),
                watcher: Watcher::new(Timing::default(), *me, run(1), ms(0)),
                holder: LeaseHolder::new(Timing::default(), *me, run(1)),
            })
            .collect();
        world
    }

    fn commit_line(&mut self, line: &str) {
        let proposal = self.script.proposal(line);
        self.commit(proposal);
    }

    fn commit(&mut self, proposal: Proposal) {
        self.script.index += 1;
        let before = self.primary();
        // Refused or not: it has its place in the log.
        let _ = self.script.state.apply(self.script.index, &proposal);
        self.script.state.validate().unwrap();
        self.takeovers += u32::from(before.is_some() && before != self.primary());
        self.log.push(proposal);
    }

    fn primary(&self) -> Option<ServerId> {
        let record = self.script.state.modules.values().next();
        record.and_then(|record| record.primary)
    }

    fn apply_at(&mut self, position: usize) {
        let member = &mut self.members[position];
        while member.applies && member.applied < self.log.len() {
            let _ = member
                .state
                .apply(member.applied as u64 + 1, &self.log[member.applied]);
            member.applied += 1;
            member.watcher.on_applied(&member.state, ms(self.now));
        }
    }

    fn beat(&mut self, from: usize, to: usize) {
        let is_sent = self.members[from].state.all_voters().contains(&MEMBERS[to]);
        if from == to || self.cut[from][to] || !is_sent {
            return;
        }
        let heartbeat = Heartbeat {
            from: MEMBERS[from],
            incarnation: run(1),
            sent: ms(self.now),
            applied: self.members[from].applied as u64,
            lan: 0,
        };
        let verdict = self.members[to]
            .watcher
            .on_heartbeat(&heartbeat, ms(self.now));
        let holder = &mut self.members[from].holder;
        holder.on_answer(MEMBERS[to], ms(self.now), verdict.lease_ns(), ms(self.now));
    }

    fn step(&mut self, happening: &Happening) {
        self.now += 50;
        match happening {
            Happening::Link(a, b, is_cut) => {
                self.cut[*a][*b] = *is_cut;
                self.cut[*b][*a] = *is_cut;
            }
            Happening::Applies(member, does) => self.members[*member].applies = *does,
            Happening::Change(line) => {
                let is_possible = line.strip_prefix("remove ").is_none_or(|name| {
                    self.script
                        .state
                        .members
                        .values()
                        .any(|m| m.name.as_str() == name)
                });
                if is_possible {
                    self.commit_line(line);
                }
            }
            Happening::Add => self.add_secondary(),
            Happening::Nothing => {}
        }
        (0..MEMBERS.len()).for_each(|position| self.apply_at(position));
        for from in 0..MEMBERS.len() {
            (0..MEMBERS.len()).for_each(|to| self.beat(from, to));
        }
        self.verify();
        for (position, me) in MEMBERS.into_iter().enumerate() {
            for action in self.members[position].watcher.on_tick(ms(self.now)) {
                let (command, evidence) = action.into_command(me);
                self.commit(Proposal {
                    command,
                    author: String::new(),
                    evidence,
                    at_unix_ms: 0,
                });
            }
        }
        self.verify();
    }

    /// Only by a primary that has applied everything and applies this at once: open additions are another story (R6).
    fn add_secondary(&mut self) {
        let Some(primary) = self.primary() else {
            return;
        };
        let position = primary.0 as usize - 1;
        let member = &self.members[position];
        if member.applies && member.applied == self.log.len() {
            let other = ServerId(3 - primary.0);
            self.commit_line(&format!("add db s{other} by s{primary}"));
        }
    }

    /// Whoever thinks that it leads and holds a lease does lead.
    fn verify(&self) {
        for (position, member) in self.members.iter().enumerate() {
            let me = MEMBERS[position];
            let Some(record) = member.state.modules.values().next() else {
                continue;
            };
            let is_alone = record.in_sync.len() == 1;
            let lease = member.holder.valid_until(&member.state, ms(self.now));
            let may_serve = is_alone || lease.is_some_and(|until| until > ms(self.now));
            if record.primary == Some(me) && may_serve {
                assert_eq!(
                    self.primary(),
                    Some(me),
                    "server {me} serves at {} by entry {} of {}",
                    self.now,
                    member.applied,
                    self.log.len()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_lease_outlives_a_takeover_while_voters_come_and_go(
        happenings in proptest::collection::vec(happening(), 100..600)
    ) {
        let mut world = World::new();
        happenings.iter().for_each(|happening| world.step(happening));
    }
}

/// The property above is worth something only if roles do move in such worlds.
#[test]
fn roles_move_in_a_world_whose_primary_is_cut_off() {
    let mut world = World::new();
    world.step(&Happening::Nothing);
    (1..5).for_each(|other| world.step(&Happening::Link(0, other, true)));
    (0..60).for_each(|_| world.step(&Happening::Nothing));
    assert_eq!(world.primary(), Some(S2));
    assert_eq!(world.takeovers, 1);
}
