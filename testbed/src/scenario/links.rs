//! Scenarios in which links and LANs fail and every server lives.

use super::arena::{Arena, hold, ms_since};
use super::excuse;
use super::figures::Figures;
use crate::cluster::MODULE;
use crate::lab::{Direction, LANS};
use crate::matrix::expectation::State;
use crate::matrix::links::Cuts;
use crate::oracle::{leaks, roles};
use crate::wait;
use anyhow::ensure;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use std::fs;
use std::time::Duration;

/// A lost LAN stays lost for so long.
const LAN_LOST: Duration = Duration::from_secs(6);
/// A writer waits no longer: two pings missed (350 ms), looked at every 100 ms, and a connection made.
const OTHER_LAN_STALL_MS_MAX: f64 = 800.0;
/// The service is seen to go on over the other LAN within this time.
const OTHER_LAN_DEADLINE: Duration = Duration::from_secs(20);
/// The link is up, or down, for so long at a time.
const FLAP_MS: std::ops::RangeInclusive<u64> = 200..=5000;
/// How long the link flaps when nothing else was asked for.
const FLAPPING: Duration = Duration::from_secs(600);
/// What a primary says when its stream has moved.
const GOES_ON_ELSEWHERE: &str = "the stream goes on over another connection";
/// A LAN on which something was heard so recently is alive.
const HEARD_MS: u64 = 500;
/// What a daemon may have grown by after minutes of flapping.
const GROWTH_KIB_MAX: u64 = 48 << 10;

/// Goal: cutting the link of the pair never stops the service and never moves a role that need not move. Method: the cell of
/// the matrix, in a state chosen by the seed, with the leader wherever it is.
pub(super) fn pair_link_cut(arena: &mut Arena) -> anyhow::Result<Figures> {
    let states = [State::Mirrored, State::Reintegrating, State::Switchover];
    let state = *states.choose(&mut arena.random).unwrap_or(&State::Mirrored);
    crate::matrix::play_in(arena, state, Cuts::pair())
}

/// Goal: one LAN less is no event: no role moves, no copy leaves the in-sync set, and the writer waits no longer than it takes to
/// doubt a connection and to open one over the other LAN. Method: each LAN in turn, so also the one that the stream uses.
pub(super) fn one_lan_lost(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let moved = || -> anyhow::Result<usize> {
        let log = fs::read_to_string(arena.lab().server(&primary)?.log())?;
        Ok(log.matches(GOES_ON_ELSEWHERE).count())
    };
    let before = moved()?;
    let mut stall = 0.0_f64;
    for lan in LANS {
        stall = stall.max(lose_one(arena, &primary, lan)?);
    }
    figures.set("stall_ms", stall);
    ensure!(
        moved()? > before,
        "{primary} never went on over another connection: the LAN of its stream was not lost"
    );
    Ok(figures)
}

/// The longest gap of the client, in milliseconds.
fn lose_one(arena: &Arena, primary: &str, lan: usize) -> anyhow::Result<f64> {
    let before = arena.cluster().module_state(primary)?;
    let cut = arena.lose_lan(lan)?;
    let settled = arena.wait_served(cut, OTHER_LAN_DEADLINE);
    hold(cut, LAN_LOST);
    let settled = settled.and_then(|_| arena.wait_settled(wait::boot_ns(), OTHER_LAN_DEADLINE));
    let gap = arena.recorder()?.longest_gap_ms(cut, wait::boot_ns());
    let after = arena.cluster().module_state(primary);
    arena.lab().heal()?;
    let (settled, after) = (settled?, after?);
    excuse::ensure(settled == primary, || {
        format!("LAN {lan} was lost and the primary moved from {primary} to {settled}")
    })?;
    excuse::ensure(after.epoch == before.epoch, || {
        let (before, after) = (before.epoch, after.epoch);
        format!("LAN {lan} was lost and the record changed from epoch {before} to {after}")
    })?;
    excuse::ensure(gap <= OTHER_LAN_STALL_MS_MAX, || {
        format!("LAN {lan} was lost and a writer waited for {gap:.0} ms")
    })?;
    arena.ready()?;
    // Both LANs are in use again before the next one goes.
    wait::until("every LAN to be heard", OTHER_LAN_DEADLINE, || {
        let state = arena.cluster().cluster_state(primary);
        let state = state.map_err(|e| format!("{e:#}"))?;
        let others = state.members.iter().filter(|m| m.name != primary);
        let mut lans = others.flat_map(|m| &m.lans);
        if lans.all(|lan| lan.heard_age_ms < HEARD_MS) {
            Ok(())
        } else {
            Err(format!("{:?}", state.members))
        }
    })?;
    Ok(gap)
}

/// Goal: a link that comes and goes moves no role and makes nothing grow. Method: the link of the pair, up and down for times
/// chosen by the seed, for `--minutes`.
pub(super) fn flapping_link(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let events = arena.all_events()?.len();
    let resident = [
        resident_kib(arena, &primary)?,
        resident_kib(arena, &secondary)?,
    ];
    let length = arena.length.unwrap_or(FLAPPING).as_secs_f64() * 1000.0;
    let began = wait::boot_ns();
    let mut flaps = 0;
    while ms_since(began) < length {
        let down = Duration::from_millis(arena.random.random_range(FLAP_MS));
        let up = Duration::from_millis(arena.random.random_range(FLAP_MS));
        let cut = arena.lab().cut_all(&pair(&primary, &secondary), &LANS)?;
        hold(cut, down);
        arena.lab().heal()?;
        hold(wait::boot_ns(), up);
        // The cluster keeps only the newest events.
        arena.all_events()?;
        flaps += 1;
    }
    let ended = wait::boot_ns();
    arena.wait_settled(ended, super::arena::CONVERGE_DEADLINE)?;
    figures.set("converge_ms", ms_since(ended));
    figures.set("flaps", f64::from(flaps));
    figures.set("gap_ms", arena.recorder()?.longest_gap_ms(began, ended));
    let all = arena.all_events()?;
    let order = roles::primaries(MODULE, all.get(events..).unwrap_or_default());
    excuse::ensure(order.iter().all(|name| *name == primary), || {
        let then = order.join(", ");
        format!("roles moved while the link flapped: {primary}, then {then}")
    })?;
    let now = [
        resident_kib(arena, &primary)?,
        resident_kib(arena, &secondary)?,
    ];
    let grown = now.iter().zip(resident).map(|(n, b)| n.saturating_sub(b));
    let grown = grown.max().unwrap_or(0);
    figures.set("growth_kib", grown as f64);
    ensure!(
        grown <= GROWTH_KIB_MAX,
        "a daemon grew by {grown} KiB over {flaps} flaps"
    );
    Ok(figures)
}

fn pair<'a>(one: &'a str, other: &'a str) -> [Direction<'a>; 2] {
    let direction = |from, to| Direction { from, to };
    [direction(one, other), direction(other, one)]
}

fn resident_kib(arena: &Arena, server: &str) -> anyhow::Result<u64> {
    Ok(leaks::holdings(arena.lab(), server)?.resident_kib)
}
