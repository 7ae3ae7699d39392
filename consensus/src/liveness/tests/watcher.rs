//! A voter's opinions.

use super::*;

/// The witness watches s1 and s2 of a trio.
struct Stage {
    script: Script,
    watcher: Watcher,
    now: u64,
}

impl Stage {
    fn new() -> Self {
        let script = trio();
        let mut watcher = Watcher::new(Timing::default(), W3, run(1), ms(0));
        watcher.on_applied(&script.state, ms(0));
        Self {
            script,
            watcher,
            now: 0,
        }
    }

    fn must(&mut self, line: &str) {
        self.script.must(line);
        self.watcher.on_applied(&self.script.state, ms(self.now));
    }

    /// A heartbeat of the newest state over LAN 0, sent the moment it arrives.
    fn hear(&mut self, from: ServerId, of_run: u64) -> Verdict {
        self.hear_at(from, of_run, self.now, self.script.index)
    }

    fn hear_at(&mut self, from: ServerId, of_run: u64, sent: u64, applied: u64) -> Verdict {
        let heartbeat = Heartbeat {
            from,
            incarnation: run(of_run),
            sent: ms(sent),
            applied,
            lan: 0,
        };
        self.watcher.on_heartbeat(&heartbeat, ms(self.now))
    }

    /// Time passes, with a look every 100 ms; what was proposed, with its time. Those in `talking` are heard.
    fn pass(&mut self, until: u64, talking: &[ServerId]) -> Vec<String> {
        let mut proposed = Vec::new();
        while self.now < until {
            self.now = until.min(self.now + 100);
            for from in talking {
                self.hear(*from, 1);
            }
            for action in self.watcher.on_tick(ms(self.now)) {
                proposed.push(format!("{} {}", self.now, shown(&action)));
            }
        }
        proposed
    }
}

fn shown(action: &Action) -> String {
    match action {
        Action::ProposeDeclare {
            server,
            incarnation,
            round,
            evidence,
        } => {
            format!(
                "declare {server} run {incarnation} round {}.{}: {evidence}",
                round.incarnation, round.number
            )
        }
        Action::ProposeWithdraw {
            server,
            round,
            evidence,
        } => {
            format!(
                "withdraw {server} round {}.{}: {evidence}",
                round.incarnation, round.number
            )
        }
        Action::ProposeSettle {
            replaced_at,
            evidence,
        } => format!("settle {replaced_at}: {evidence}"),
    }
}

#[test]
fn a_silent_member_is_declared_when_its_lease_has_surely_run_out() {
    let mut stage = Stage::new();
    assert_eq!(stage.pass(1000, &[S1, S2]), [""; 0]);
    assert_eq!(
        stage.pass(2800, &[S2]),
        [""; 0],
        "1.8 s of silence are not enough"
    );
    assert_eq!(
        stage.pass(2900, &[S2]),
        [
            "2900 declare 1 run 1 round 1.1: s1 not heard by w3 for 1.9 s on any LAN; last on LAN 1 1.9 s ago"
        ]
    );
}

#[test]
fn a_proposal_is_repeated_every_200_ms_at_most() {
    let mut stage = Stage::new();
    stage.pass(1000, &[S1, S2]);
    let times: Vec<String> = stage
        .pass(3500, &[S2])
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(times, ["2900", "3100", "3300", "3500"]);
    stage.must("declare s1 by w3 round=1");
    assert_eq!(
        stage.pass(9000, &[S2]),
        [""; 0],
        "it is on record: the log does not grow"
    );
}

#[test]
fn a_voter_that_just_started_counts_everyone_as_heard() {
    let mut stage = Stage::new();
    assert_eq!(stage.pass(1800, &[]), [""; 0]);
    let first = stage.pass(1900, &[]);
    assert_eq!(
        first[0],
        "1900 declare 1 run 1 round 1.1: s1 not heard by w3 for 1.9 s on any LAN; never heard since w3 watches it"
    );
    assert_eq!(first.len(), 2);
}

#[test]
fn after_a_declaration_nothing_is_granted_until_the_withdrawal_is_applied() {
    let mut stage = Stage::new();
    stage.pass(100, &[S1, S2]);
    assert_eq!(stage.hear(S1, 1), GRANT);
    assert_eq!(stage.pass(2000, &[S2]).len(), 1);
    // Proposed, perhaps never committed: it may still arrive.
    assert_eq!(stage.hear(S1, 1), Verdict::NoGrant(NoGrant::Declared));
    assert_eq!(
        stage.pass(2200, &[S1, S2]),
        ["2200 withdraw 1 round 1.1: s1 heard again by w3 on LAN 1"]
    );
    assert_eq!(stage.hear(S1, 1), Verdict::NoGrant(NoGrant::Declared));
    stage.must("withdraw s1 by w3 round=1");
    assert_eq!(stage.hear(S1, 1), GRANT);
    // The declaration that was overtaken is refused; the next one is a new round.
    assert!(
        stage
            .script
            .run("declare s1 by w3 round=1")
            .starts_with("refused")
    );
    let again = stage.pass(4200, &[S2]);
    assert!(again[0].contains("declare 1 run 1 round 1.2"), "{again:?}");
}

#[test]
fn after_a_conclusion_the_member_must_have_applied_it() {
    let mut stage = Stage::new();
    stage.pass(2000, &[S2]);
    stage.must("declare s1 by w3 round=1");
    stage.must("declare s1 by s2");
    let concluded = stage.script.index;
    stage.must("withdraw s1 by w3 round=1");
    let now = stage.now;
    assert_eq!(
        stage.hear_at(S1, 1, now, concluded - 1),
        Verdict::NoGrant(NoGrant::Behind)
    );
    assert_eq!(stage.hear_at(S1, 1, now, concluded), GRANT);
}

#[test]
fn a_restarted_voter_keeps_to_what_its_former_run_declared() {
    let mut stage = Stage::new();
    stage.must("declare s1 by w3 round=7");
    stage.watcher = Watcher::new(Timing::default(), W3, run(2), ms(0));
    stage.watcher.on_applied(&stage.script.state, ms(0));
    // Its own start is not committed: something of its former run may be on its way.
    assert_eq!(
        stage.hear(S2, 1),
        Verdict::NoGrant(NoGrant::OwnStartNotApplied)
    );
    assert_eq!(stage.pass(5000, &[]), [""; 0], "nobody would listen");
    stage.must("start w3");
    assert_eq!(stage.hear(S1, 1), Verdict::NoGrant(NoGrant::Declared));
    assert_eq!(stage.hear(S2, 1), GRANT);
    assert_eq!(
        stage.pass(5100, &[S1, S2]),
        ["5100 withdraw 1 round 2.0: s1 heard again by w3 on LAN 1"]
    );
    stage.must("withdraw s1 by w3 round=0");
    assert_eq!(stage.hear(S1, 1), GRANT);
}

#[test]
fn a_restarted_voter_takes_nothing_back_before_it_hears_the_member() {
    let mut stage = Stage::new();
    stage.must("declare s1 by w3");
    stage.must("declare s1 by s2");
    stage.watcher = Watcher::new(Timing::default(), W3, run(2), ms(0));
    stage.must("start w3");
    assert_eq!(stage.pass(1800, &[S2]), [""; 0]);
    assert_eq!(stage.pass(9000, &[S2]), [""; 0], "it is on record already");
    assert!(stage.pass(9100, &[S1, S2])[0].starts_with("9100 withdraw 1"));
}

#[test]
fn old_heartbeats_are_no_sign_of_life() {
    let mut stage = Stage::new();
    stage.pass(1000, &[S2]);
    assert_eq!(stage.hear_at(S1, 1, 500, 99), GRANT);
    assert_eq!(
        stage.hear_at(S1, 1, 500, 99),
        GRANT,
        "the same over another LAN"
    );
    stage.pass(1400, &[S2]);
    assert_eq!(
        stage.hear_at(S1, 1, 499, 99),
        Verdict::NoGrant(NoGrant::Old)
    );
    stage.pass(2800, &[S2]);
    assert_eq!(
        stage.pass(2900, &[S2]).len(),
        1,
        "1.9 s after the newest, whatever came late"
    );
}

#[test]
fn a_new_run_gets_no_lease_before_its_start_is_committed() {
    let mut stage = Stage::new();
    stage.now = 1000;
    assert_eq!(stage.hear(S1, 2), Verdict::NoGrant(NoGrant::RunNotKnown));
    stage.must("start s1");
    assert_eq!(
        stage.hear_at(S1, 2, 1000, stage.script.index - 1),
        Verdict::NoGrant(NoGrant::Behind)
    );
    assert_eq!(stage.hear(S1, 2), GRANT);
    assert_eq!(stage.hear(S1, 1), Verdict::NoGrant(NoGrant::RunOver));
}

#[test]
fn a_new_run_that_cannot_announce_itself_is_declared_in_the_end() {
    let mut stage = Stage::new();
    let mut proposed = Vec::new();
    while stage.now < 5700 {
        stage.now += 100;
        stage.hear(S1, 2);
        stage.hear(S2, 1);
        proposed.extend(stage.watcher.on_tick(ms(stage.now)).iter().map(shown));
    }
    assert_eq!(
        proposed,
        [
            "declare 1 run 1 round 1.1: w3 hears run 2 of s1 for 5.5 s, but its start is not committed"
        ]
    );
    // The start ends what was said of the former run.
    stage.must("start s1");
    assert_eq!(stage.hear(S1, 2), GRANT);
}

#[test]
fn a_voter_that_was_frozen_declares_nobody_for_it() {
    let mut stage = Stage::new();
    stage.pass(1000, &[S1, S2]);
    stage.now = 61_000;
    assert_eq!(stage.watcher.on_tick(ms(stage.now)), []);
    assert_eq!(stage.pass(62_800, &[S1]), [""; 0]);
    assert_eq!(stage.pass(62_900, &[S1]).len(), 1, "s2 is silent since");
}

#[test]
fn a_member_without_a_vote_declares_nobody_but_takes_back_what_it_said() {
    let mut script = trio();
    let mut watcher = Watcher::new(Timing::default(), S2, run(1), ms(0));
    script.must("declare s1 by s2 round=1");
    script.must("remove w3");
    assert!(!script.state.voters().contains(&S2));
    watcher.on_applied(&script.state, ms(0));
    for now in (100..5000).step_by(100) {
        assert_eq!(watcher.on_tick(ms(now)), []);
    }
    let heartbeat = Heartbeat {
        from: S1,
        incarnation: run(1),
        sent: ms(4950),
        applied: 99,
        lan: 1,
    };
    assert_eq!(
        watcher.on_heartbeat(&heartbeat, ms(5000)),
        Verdict::NoGrant(NoGrant::Declared)
    );
    let proposed: Vec<String> = watcher.on_tick(ms(5000)).iter().map(shown).collect();
    assert_eq!(
        proposed,
        ["withdraw 1 round 1.1: s1 heard again by s2 on LAN 2"]
    );
    script.must("withdraw s1 by s2 round=1");
    watcher.on_applied(&script.state, ms(5000));
    assert_eq!(watcher.on_heartbeat(&heartbeat, ms(5100)), GRANT);
}

#[test]
fn strangers_get_nothing() {
    let mut stage = Stage::new();
    assert_eq!(
        stage.hear(ServerId(9), 1),
        Verdict::NoGrant(NoGrant::NotMember)
    );
    assert_eq!(
        stage.hear(W3, 1),
        Verdict::NoGrant(NoGrant::NotMember),
        "nobody watches itself"
    );
}

#[test]
fn a_new_member_is_watched_from_when_it_is_known() {
    let mut stage = Stage::new();
    stage.pass(10_000, &[S1, S2]);
    for name in ["s4", "s5"] {
        stage.must(&format!("token {name} server"));
        stage.must(&format!("join {name} {name} server"));
    }
    assert_eq!(stage.pass(11_800, &[S1, S2]), [""; 0]);
    assert_eq!(stage.pass(11_900, &[S1, S2]).len(), 2);
}

#[test]
fn what_is_proposed_is_accepted() {
    let mut stage = Stage::new();
    stage.now = 1900;
    // Looks in between, so that it does not count as frozen.
    (1..=19).for_each(|tenth| drop(stage.watcher.on_tick(ms(tenth * 90))));
    let actions = stage.watcher.on_tick(ms(stage.now));
    assert_eq!(actions.len(), 2);
    for action in actions {
        let (command, evidence) = action.into_command(W3);
        let proposal = crate::state::Proposal {
            command,
            author: "w3".into(),
            evidence,
            at_unix_ms: 0,
        };
        stage.script.state.apply(100, &proposal).unwrap();
    }
    stage.watcher.on_applied(&stage.script.state, ms(stage.now));
    assert_eq!(stage.script.state.declarations.len(), 2);
    assert_eq!(stage.watcher.heard(S1).count(), 0);
}
