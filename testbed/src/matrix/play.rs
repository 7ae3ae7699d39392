//! One cell, played: bring the mirror into its state, cut, look, heal, converge, audit.

use super::Cell;
use super::expectation::{Service, State, expected};
use super::links::{Cuts, Place};
use super::{MOVE_MS_MAX, STALL_MS_MAX};
use crate::cluster::MODULE;
use crate::lab::{Direction, LANS};
use crate::oracle::{Application, Load, roles};
use crate::scenario::excuse::Excuses;
use crate::scenario::figures::Figures;
use crate::scenario::{Arena, excuse, hold, ms_since};
use crate::wait;
use anyhow::{Context as _, ensure};
use api::v1::{ModuleState, Quality};
use parking_lot::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows every few milliseconds are enough to see a gap, and leave the processor to several labs.
const LOAD: Load = Load {
    writers: 2,
    rest: Duration::from_millis(10),
};
/// Bytes that have to be compared in a reintegration: enough that it is not over before the links are cut.
const BULK_MIB: u32 = 256;
const BULK_DEADLINE: Duration = Duration::from_secs(60);
/// A cut lasts at least this long: every lease has run out, every declaration has been made, and their consequences.
const CUT: Duration = Duration::from_secs(4);
/// The deadline of waiting; the limits above are checked after it.
const SERVED_DEADLINE: Duration = Duration::from_secs(20);
/// The last lease has run out this long after the cut: the lease, and what was still under way over connections that were open.
const LEASE_NS_MAX: u64 = 2_100_000_000;
/// Mirrored again after healing, by itself.
const CONVERGE_DEADLINE: Duration = Duration::from_secs(30);
/// A state that a cell begins with is reached in this time.
const PREPARE_DEADLINE: Duration = Duration::from_secs(30);
/// The leader moves away from a voter that it does not hear within this time.
const LEADER_DEADLINE: Duration = Duration::from_secs(15);
const LEADER_ATTEMPTS: u32 = 4;
/// A switchover with this application takes about so long; the cut comes at any moment of it.
const SWITCHOVER_MS: u64 = 500;
const SWAP_DEADLINE: Duration = Duration::from_secs(90);

/// A lab for many cells: mirrored, under load, with something to bring up to date.
pub(super) fn arena(seed: u64) -> anyhow::Result<Arena> {
    let mut arena = Arena::formed(Application::Ledger, seed)?;
    arena.load = LOAD;
    match arena.start_module() {
        Ok(()) => Ok(arena),
        Err(error) => Err(error.context(arena.evidence())),
    }
}

/// Something that takes a while to compare.
fn ensure_bulk(arena: &Arena) -> anyhow::Result<()> {
    let script = format!("test -e bulk || head -c {BULK_MIB}M /dev/urandom >bulk");
    arena.run_on_mount(&script, BULK_DEADLINE)?;
    Ok(())
}

/// The voters of a cell by their names.
struct Voters {
    primary: String,
    secondary: String,
}

impl Voters {
    fn now(arena: &Arena) -> anyhow::Result<Voters> {
        let primary = arena.ready()?;
        Ok(Voters {
            secondary: arena.cluster().other(&primary)?,
            primary,
        })
    }

    fn name(&self, place: Place) -> &str {
        match place {
            Place::Primary => &self.primary,
            Place::Secondary => &self.secondary,
            Place::Witness => "w",
        }
    }
}

/// Plays one cell. The lab is mirrored and under load before and after.
///
/// # Errors
/// The first promise that was broken.
pub(super) fn play(
    arena: &mut Arena,
    excuses: &Mutex<Excuses>,
    cell: Cell,
) -> anyhow::Result<Figures> {
    let began = wait::boot_ns();
    let round = |arena: &mut Arena| {
        let voters = Voters::now(arena)?;
        move_leader(arena, voters.name(cell.leader)).context("move the leader")?;
        arena.ready()?;
        play_in(arena, cell.state, cell.cuts)
    };
    let audit = |arena: &mut Arena| arena.audit_since(began).map(drop).context("audit");
    excuse::play(arena, excuses, &[], round, audit)
}

/// Brings the mirror into a state, cuts, looks, heals and waits until it is mirrored again, with the leader wherever it is.
///
/// # Errors
/// The first promise that was broken.
pub(crate) fn play_in(arena: &mut Arena, state: State, cuts: Cuts) -> anyhow::Result<Figures> {
    let voters = Voters::now(arena)?;
    if state == State::Reintegrating {
        ensure_bulk(arena)?;
    }
    let before = arena.all_events()?.len();
    let swap = prepare(arena, state, &voters).context("prepare the state")?;
    let mut figures = Figures::default();
    let looked = cut_and_look(arena, (state, cuts), &voters, &mut figures);
    // Whatever was seen, the links heal: the evidence of a failure is asked over them.
    arena.lab().heal()?;
    let healed = wait::boot_ns();
    // What may be excused leaves a lab in which the cell can be played again.
    let looked = excuse::later(looked)?;
    converge(arena, (state, healed), &voters, swap).context("after healing")?;
    looked?;
    figures.set("converge_ms", ms_since(healed));
    verify_calm(arena, (state, cuts), &voters, before)?;
    Ok(figures)
}

/// Makes a voter the leader by nothing but cuts: a leader that misses a voter hands over to one that hears it (R17).
///
/// # Errors
/// It does not move there, or does not stay.
pub(crate) fn move_leader(arena: &Arena, wanted: &str) -> anyhow::Result<()> {
    for _ in 0..LEADER_ATTEMPTS {
        let leader = wait::until("one leader in everybody's eyes", LEADER_DEADLINE, || {
            arena.cluster().leader().map_err(|e| format!("{e:#}"))
        })?;
        if leader == wanted {
            return Ok(());
        }
        let servers = arena.lab().servers();
        let missed = servers
            .iter()
            .map(crate::lab::Server::name)
            .find(|name| *name != leader && *name != wanted)
            .context("two voters beside the leader")?;
        arena.lab().cut_all(&both_ways(&leader, missed), &LANS)?;
        let moved = wait::until("another leader", LEADER_DEADLINE, || {
            match arena.cluster().leader_as_seen_by(wanted) {
                Ok(now) if now == wanted => Ok(()),
                Ok(now) => Err(format!("{now} leads")),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        arena.lab().heal()?;
        moved?;
    }
    anyhow::bail!("the leader does not stay on {wanted}")
}

fn both_ways<'a>(one: &'a str, other: &'a str) -> [Direction<'a>; 2] {
    let direction = |from, to| Direction { from, to };
    [direction(one, other), direction(other, one)]
}

/// An operator's command that is under way.
type Running = JoinHandle<anyhow::Result<wait::Finished>>;

fn prepare(arena: &mut Arena, state: State, voters: &Voters) -> anyhow::Result<Option<Running>> {
    let secondary = arena.cluster().skcli(&voters.secondary)?;
    match state {
        State::Mirrored => Ok(None),
        State::Alone => {
            secondary.json(&["module", "stop", "-m", MODULE])?;
            wait_alone(arena, voters)?;
            Ok(None)
        }
        State::Reintegrating => {
            secondary.json(&["module", "stop", "-m", MODULE])?;
            wait_alone(arena, voters)?;
            secondary.json(&["module", "start", "-m", MODULE])?;
            wait_reintegrating(arena, voters)?;
            Ok(None)
        }
        State::Switchover => {
            let skcli = arena.cluster().skcli(&voters.primary)?;
            let delay = rand::Rng::random_range(&mut arena.random, 0..SWITCHOVER_MS);
            let began = wait::boot_ns();
            let running =
                std::thread::spawn(move || skcli.try_run(&["module", "swap", "-m", MODULE]));
            hold(began, Duration::from_millis(delay));
            Ok(Some(running))
        }
    }
}

fn wait_alone(arena: &Arena, voters: &Voters) -> anyhow::Result<()> {
    let alone = [ModuleState::Alone];
    arena
        .cluster()
        .wait_state(&voters.primary, &alone, PREPARE_DEADLINE)?;
    // A stopped module is red: it is not ready for anything.
    wait::until("STOP on the secondary", PREPARE_DEADLINE, || {
        match arena.state_of(&voters.secondary) {
            Ok(ModuleState::Stop) => Ok(()),
            Ok(state) => Err(format!("{state:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    Ok(())
}

fn wait_reintegrating(arena: &Arena, voters: &Voters) -> anyhow::Result<()> {
    wait::until("a running reintegration", PREPARE_DEADLINE, || {
        let state = arena.cluster().module_state(&voters.primary);
        let state = state.map_err(|e| format!("{e:#}"))?;
        let own = state.servers.iter().find(|s| s.server == voters.secondary);
        let own = own.ok_or("no such server")?;
        let is_under_way = own.state() == ModuleState::Second
            && own.quality() == Quality::Transient
            && own.resync_bytes_total > 0;
        if is_under_way {
            Ok(())
        } else {
            Err(crate::cluster::observe::summary(&state))
        }
    })?;
    Ok(())
}

fn cut_and_look(
    arena: &Arena,
    (state, cuts): (State, Cuts),
    voters: &Voters,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let directions: Vec<Direction<'_>> = cuts
        .directions()
        .map(|(from, to)| Direction {
            from: voters.name(from),
            to: voters.name(to),
        })
        .collect();
    let cut = arena.lab().cut_all(&directions, &LANS)?;
    let service = expected(state, cuts);
    match service {
        Service::Stays | Service::Somewhere => {
            arena.wait_served(cut, SERVED_DEADLINE)?;
        }
        Service::Moves => {
            arena.wait_served_by(&voters.secondary, cut, SERVED_DEADLINE)?;
        }
        Service::Waits => {}
    }
    hold(cut, CUT);
    let gap = arena.recorder()?.longest_gap_ms(cut, wait::boot_ns());
    figures.set("gap_ms", gap);
    let limit = match service {
        Service::Stays => STALL_MS_MAX,
        Service::Moves | Service::Somewhere => MOVE_MS_MAX,
        // A switchover may have left one copy before the cut, and that one may serve.
        Service::Waits if state == State::Switchover => return Ok(()),
        Service::Waits => return verify_waits(arena, cut),
    };
    excuse::ensure(gap <= limit, || {
        format!(
            "the service {service}, and the longest gap was {gap:.0} ms; the limit is {limit:.0} ms"
        )
    })?;
    if service == Service::Stays {
        let state = arena.cluster().module_state(&voters.primary)?;
        excuse::ensure(state.primary == voters.primary, || {
            format!(
                "the service should stay on {}: {}",
                voters.primary,
                crate::cluster::observe::summary(&state)
            )
        })?;
    }
    Ok(())
}

/// Nobody serves once the last lease has run out, until the links heal.
fn verify_waits(arena: &Arena, cut: u64) -> anyhow::Result<()> {
    let expired = cut + LEASE_NS_MAX;
    let served = arena
        .recorder()?
        .acknowledged_between(expired, wait::boot_ns());
    ensure!(
        served == 0,
        "no majority could talk and two copies were in sync, yet {served} rows were acknowledged later than {} ms after the cut",
        LEASE_NS_MAX / 1_000_000
    );
    Ok(())
}

/// Mirrored again without an operator; where the module was stopped on one server, that server stays stopped until it is
/// started for the next cell.
fn converge(
    arena: &Arena,
    (state, healed): (State, u64),
    voters: &Voters,
    swap: Option<Running>,
) -> anyhow::Result<()> {
    match state {
        State::Mirrored | State::Reintegrating => {}
        State::Alone => {
            wait_alone(arena, voters)?;
            let secondary = arena.cluster().skcli(&voters.secondary)?;
            secondary.json(&["module", "start", "-m", MODULE])?;
        }
        State::Switchover => {
            let swap = swap.context("a switchover was asked for")?;
            wait::until("the end of the swap command", SWAP_DEADLINE, || {
                if swap.is_finished() {
                    Ok(())
                } else {
                    Err("it still waits".to_owned())
                }
            })?;
            // Whether it succeeded depends on the moment of the cut: what counts is the service.
            let ended = swap
                .join()
                .map_err(|_| anyhow::anyhow!("the command's thread panicked"))??;
            tracing::info!(ended = ended.summary(), "swap");
        }
    }
    arena.wait_settled(healed, CONVERGE_DEADLINE)?;
    Ok(())
}

/// No ping-pong: the role moved as often as the cell asks for, and not more.
fn verify_calm(
    arena: &Arena,
    (state, cuts): (State, Cuts),
    voters: &Voters,
    events_before: usize,
) -> anyhow::Result<()> {
    let events = arena.all_events()?;
    let new = events.get(events_before..).unwrap_or_default();
    let mut order = vec![voters.primary.clone()];
    order.extend(roles::primaries(MODULE, new));
    order.dedup();
    let moves = order.len() - 1;
    let allowed = match expected(state, cuts) {
        Service::Stays => 0..=0,
        Service::Moves => 1..=1,
        // The switchover, and back when its target is the one that was cut off.
        Service::Somewhere => 0..=2,
        // Both copies are whole, so either may lead after healing; a switchover may have been committed before the cut.
        Service::Waits if state == State::Switchover => 0..=2,
        Service::Waits => 0..=1,
    };
    excuse::ensure(allowed.contains(&moves), || {
        format!(
            "the primaries were {}: {moves} moves, allowed are {allowed:?}",
            order.join(", ")
        )
    })?;
    Ok(())
}
