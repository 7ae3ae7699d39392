//! Random histories: whatever is proposed, in whatever order.

use proptest::prelude::*;

use crate::state::*;

/// Commands of one history.
const COMMANDS_MAX: usize = 60;

fn begin() -> ClusterState {
    let mut script = super::script::Script::new();
    script.set_up("cluster s1 s2 w3");
    script.set_up("module db s1 s2");
    script.set_up("module web s1 s2 ack=receipt");
    script.set_up("running db s1 s2");
    script.set_up("running web s2 s1");
    script.state
}

fn server() -> impl Strategy<Value = ServerId> {
    (1..=4u64).prop_map(ServerId)
}

fn module() -> impl Strategy<Value = ModuleName> {
    prop_oneof![Just("db"), Just("web"), Just("x")].prop_map(|name| name.parse().unwrap())
}

fn small() -> impl Strategy<Value = u64> {
    1..=3u64
}

fn round() -> impl Strategy<Value = Round> {
    (small(), small()).prop_map(|(run, number)| Round {
        incarnation: Incarnation(run),
        number,
    })
}

fn reason() -> impl Strategy<Value = StepDownReason> {
    prop_oneof![
        Just(StepDownReason::Stopped),
        Just(StepDownReason::ApplicationFailed),
        Just(StepDownReason::DiskFailed)
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![3 => Just(Wanted::Started), 1 => Just(Wanted::Stopped)]
}

fn ack() -> impl Strategy<Value = AckMode> {
    prop_oneof![Just(AckMode::Disk), Just(AckMode::Receipt)]
}

fn heart() -> impl Strategy<Value = Option<u32>> {
    proptest::option::of(prop_oneof![Just(0), Just(500), Just(u32::MAX)])
}

fn directories() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(
        prop_oneof![Just("/srv/db"), Just("/srv/web"), Just("/a"), Just("/")],
        1..3,
    )
    .prop_map(|list| list.into_iter().map(str::to_owned).collect())
}

/// A command as it is drawn: the epoch is an offset to the one in force, since a wrong one is refused by one rule only.
fn command() -> impl Strategy<Value = (Command, u8)> {
    let epoch = Epoch(0);
    let package = PackageHash([7; 32]);
    let evidence = String::new;
    let roles = prop_oneof![
        (module(), server()).prop_map(move |(module, server)| Command::ClaimFirst {
            module,
            epoch,
            server
        }),
        (module(), server(), server()).prop_map(move |(module, primary, server)| {
            Command::DropSecondary {
                module,
                epoch,
                primary,
                server,
            }
        }),
        (module(), server(), server()).prop_map(move |(module, primary, server)| {
            Command::AddSecondary {
                module,
                epoch,
                primary,
                server,
            }
        }),
        (module(), server(), server()).prop_map(move |(module, from, to)| Command::Switchover {
            module,
            epoch,
            from,
            to
        }),
        (module(), server(), reason()).prop_map(move |(module, server, reason)| {
            Command::StepDown {
                module,
                epoch,
                server,
                reason,
            }
        }),
        (module(), server()).prop_map(move |(module, server)| Command::TakeOver {
            module,
            epoch,
            server
        }),
        (module(), server()).prop_map(move |(module, server)| Command::Force {
            module,
            epoch,
            server,
            reason: "drill".to_owned(),
        }),
        (module(), server()).prop_map(move |(module, server)| Command::DiscardDiverged {
            module,
            server,
            since: epoch,
        }),
        (module(), server()).prop_map(move |(module, server)| Command::ApplicationStarted {
            module,
            epoch,
            server,
            after_ms: 1,
        }),
    ];
    let presence = prop_oneof![
        (server(), small()).prop_map(|(server, run)| Command::ServerStarted {
            server,
            incarnation: Incarnation(run)
        }),
        (server(), round(), server(), small()).prop_map(move |(voter, round, server, run)| {
            Command::Declare {
                voter,
                round,
                server,
                incarnation: Incarnation(run),
                evidence: evidence(),
            }
        }),
        (server(), round(), server()).prop_map(|(voter, round, server)| Command::Withdraw {
            voter,
            round,
            server
        }),
    ];
    let modules = prop_oneof![
        (module(), server(), wanted()).prop_map(|(module, server, wanted)| Command::SetWanted {
            module,
            server,
            wanted
        }),
        (module(), server(), server(), ack(), directories(), heart()).prop_map(
            move |(name, a, b, ack, directories, heart_timeout_ms)| {
                Command::InstallModule {
                    name,
                    servers: [a, b],
                    package,
                    ack,
                    directories,
                    addresses: Vec::new(),
                    heart_timeout_ms,
                }
            }
        ),
        (module(), ack(), directories(), heart()).prop_map(
            move |(name, ack, directories, heart_timeout_ms)| {
                Command::ReconfigureModule {
                    name,
                    package,
                    ack,
                    directories,
                    addresses: Vec::new(),
                    heart_timeout_ms,
                }
            }
        ),
        module().prop_map(|name| Command::UninstallModule { name }),
        server().prop_map(|server| Command::RemoveMember { server }),
    ];
    (
        prop_oneof![5 => roles, 4 => presence, 1 => modules],
        prop_oneof![9 => Just(0u8), 1 => Just(1u8)],
    )
}

fn at_epoch(state: &ClusterState, command: Command, behind: u8) -> Command {
    let mut command = command;
    if let Command::ClaimFirst { module, epoch, .. }
    | Command::DropSecondary { module, epoch, .. }
    | Command::AddSecondary { module, epoch, .. }
    | Command::Switchover { module, epoch, .. }
    | Command::StepDown { module, epoch, .. }
    | Command::TakeOver { module, epoch, .. }
    | Command::Force { module, epoch, .. } = &mut command
    {
        let current = state.modules.get(module).map_or(1, |record| record.epoch.0);
        *epoch = Epoch(current.saturating_sub(u64::from(behind)));
    }
    command
}

/// What must be true of each step, whatever the command was.
fn check_step(
    before: &ClusterState,
    after: &ClusterState,
    is_refused: bool,
    forced: Option<&ModuleName>,
) -> Result<(), TestCaseError> {
    after
        .validate()
        .map_err(|violation| TestCaseError::fail(violation.to_string()))?;
    if is_refused {
        prop_assert_eq!(before, after);
    }
    prop_assert!(after.last_server >= before.last_server);
    prop_assert!(after.removed.is_superset(&before.removed));
    for (server, member) in &after.members {
        let shortest = |state: &ClusterState| state.shortest_hearts.get(server).copied();
        let asked = after.heart_timeout_ms(*server);
        prop_assert!(asked.is_none_or(|asked| shortest(after).is_some_and(|least| least <= asked)));
        if before.knows_run(*server, member.incarnation) && shortest(before).is_some() {
            prop_assert!(shortest(after).is_some() && shortest(after) <= shortest(before));
        }
    }
    for (name, record) in &after.modules {
        let Some(earlier) = before.modules.get(name) else {
            prop_assert!(record.epoch > before.epoch_floor && record.in_sync.is_empty());
            continue;
        };
        prop_assert!(record.epoch >= earlier.epoch);
        let roles = |r: &MirrorRecord| (r.primary, r.in_sync.clone());
        if roles(record) != roles(earlier) {
            prop_assert!(
                record.epoch > earlier.epoch,
                "roles of {} changed within an epoch",
                name
            );
            prop_assert!(record.last_cause > earlier.last_cause);
        }
        if forced == Some(name) {
            // The one exception, and what it gives up is on record.
            prop_assert!(is_refused || record.diverged.keys().eq(earlier.in_sync.iter()));
            continue;
        }
        if let Some(primary) = record.primary.filter(|_| !earlier.in_sync.is_empty()) {
            prop_assert!(
                earlier.in_sync.contains(&primary),
                "{} leads {} without a whole copy",
                primary,
                name
            );
        }
        let is_first_start = earlier.in_sync.is_empty() || record.in_sync.is_empty();
        let grew: Vec<_> = record.in_sync.difference(&earlier.in_sync).collect();
        prop_assert!(is_first_start || grew.is_empty() || earlier.primary == record.primary);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_leads_to_a_valid_state(history in proptest::collection::vec(command(), 1..COMMANDS_MAX)) {
        let mut state = begin();
        let mut log = Vec::new();
        for (index, (command, behind)) in (100u64..).zip(history) {
            let command = at_epoch(&state, command, behind);
            let proposal = Proposal { command, author: "s1".into(), evidence: "test".into(), at_unix_ms: index };
            let before = state.clone();
            let result = state.apply(index, &proposal);
            let forced = match &proposal.command {
                Command::Force { module, .. } if result.is_ok() => Some(module),
                _ => None,
            };
            check_step(&before, &state, result.is_err(), forced)?;
            log.push((index, proposal, result));
        }
        // Members replay the same log, some of them from a snapshot.
        let encoded = postcard::to_stdvec(&state).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<ClusterState>(&encoded).unwrap(), &state);
        let mut replayed = begin();
        for (index, proposal, result) in &log {
            let encoded = postcard::to_stdvec(proposal).unwrap();
            let decoded: Proposal = postcard::from_bytes(&encoded).unwrap();
            let again = replayed.apply(*index, &decoded);
            let encoded = postcard::to_stdvec(&again).unwrap();
            let decoded: Result<Accepted, Rejection> = postcard::from_bytes(&encoded).unwrap();
            prop_assert_eq!(&decoded, result);
        }
        prop_assert_eq!(replayed, state);
    }
}

#[test]
fn events_are_bounded() {
    let mut script = super::script::Script::new();
    script.set_up("cluster s1 s2 w3");
    for _ in 0..EVENTS_MAX {
        script.must("declare s1 by w3");
        script.must("withdraw s1 by w3");
    }
    assert_eq!(script.state.events.len(), EVENTS_MAX);
    script.state.validate().unwrap();
}

/// A module that goes leaves a floor for new ones; those that stay may be far below it.
#[test]
fn regression_epoch_of_a_module_that_stays_may_be_below_the_floor() {
    let mut script = super::script::Script::new();
    script.set_up("cluster s1 s2 w3");
    script.set_up("module db s1 s2");
    script.set_up("module web s1 s2");
    script.set_up("running web s1 s2");
    script.must("want web s2 stopped");
    script.must("want web s1 stopped");
    script.must("stepdown web s1 stopped");
    script.must("uninstall web");
    let state = &script.state;
    assert!(
        state
            .modules
            .values()
            .all(|db| db.epoch < state.epoch_floor)
    );
    assert_eq!(state.validate(), Ok(()));
}
