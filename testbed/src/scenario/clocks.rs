//! Scenarios in which the servers' clocks disagree, jump and drift. Leases count boot time alone, so nothing may happen.

use super::arena::{Arena, hold};
use super::excuse;
use super::failover::SERVED_DEADLINE;
use super::figures::Figures;
use crate::lab::WallClock;
use crate::wait;
use anyhow::Context as _;
use std::time::Duration;

/// An hour, either way.
const HOUR_S: i64 = 3600;
/// After each step of a clock: longer than a lease, so that whatever it breaks is seen.
const LOOK: Duration = Duration::from_millis(2500);
/// A clock that jumps all the time does so for this long.
const STROBE: Duration = Duration::from_secs(2);
const STROBE_INTERVAL: Duration = Duration::from_millis(20);
/// One per cent, the margin of the leases.
const DRIFT_PPM: i64 = 10_000;
/// A clock that nobody counts with stops no writer.
const STALL_MS_MAX: f64 = 1000.0;
/// Seconds that the machines seem to have been up for longer than this one.
const OLDER_S: [i64; 3] = [10 * 86_400, 0, 1000 * 86_400];

/// Goal: steps of an hour either way, a clock that jumps all the time, and drift move no role and stop no writer; with clocks
/// two hours apart a failover is a failover. Method: a wall clock of its own for each server.
pub(super) fn clock_steps(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.lab_mut().own_wall_clocks()?;
    restart_all(arena)?;
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let before = arena.cluster().module_state(&primary)?.epoch;
    let began = wait::boot_ns();
    for (name, offset_s) in [
        (&primary, HOUR_S),
        (&secondary, -HOUR_S),
        (&primary, -HOUR_S),
        (&secondary, HOUR_S),
    ] {
        step(arena, name, offset_s, 0)?;
        hold(wait::boot_ns(), LOOK);
    }
    strobe(arena, &primary)?;
    step(arena, &primary, HOUR_S, DRIFT_PPM)?;
    step(arena, &secondary, -HOUR_S, -DRIFT_PPM)?;
    step(arena, "w", HOUR_S, 0)?;
    hold(wait::boot_ns(), LOOK * 2);
    let stall = arena.recorder()?.longest_gap_ms(began, wait::boot_ns());
    figures.set("stall_ms", stall);
    let after = arena.cluster().module_state(&primary)?.epoch;
    excuse::ensure(before == after, || {
        format!("clocks moved a role: epoch {before} became {after}")
    })?;
    excuse::ensure(stall <= STALL_MS_MAX, || {
        format!("clocks stopped the writers for {stall:.0} ms")
    })?;
    failover(arena, &primary, &secondary, &mut figures).context("clocks two hours apart")?;
    for name in [primary.as_str(), &secondary, "w"] {
        step(arena, name, 0, 0)?;
    }
    Ok(figures)
}

/// Goal: machines that have been up for different times agree on leases, and one that seems to have been up for less after a
/// restart than before is no problem. Method: time namespaces.
pub(super) fn boot_clocks_differ(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let names: Vec<String> = names(arena);
    for (name, older_s) in names.iter().zip(OLDER_S) {
        arena.lab_mut().set_boot_offset(name, older_s)?;
    }
    restart_all(arena)?;
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let began = wait::boot_ns();
    hold(began, LOOK);
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(began, wait::boot_ns()),
    );
    arena.lab_mut().set_boot_offset(&primary, 0)?;
    failover(arena, &primary, &secondary, &mut figures)?;
    for name in &names {
        arena.lab_mut().set_boot_offset(name, 0)?;
    }
    Ok(figures)
}

fn names(arena: &Arena) -> Vec<String> {
    let servers = arena.lab().servers().iter();
    servers.map(|server| server.name().to_owned()).collect()
}

/// Every daemon is started anew, one after the other, so that it sees its new clock.
fn restart_all(arena: &mut Arena) -> anyhow::Result<()> {
    for name in names(arena) {
        arena.ready()?;
        arena.lab_mut().kill_daemon(&name)?;
        let killed = wait::boot_ns();
        arena.lab_mut().start_daemon(&name)?;
        arena.wait_settled(killed, super::arena::CONVERGE_DEADLINE)?;
        arena.wait_members()?;
    }
    Ok(())
}

fn step(arena: &Arena, name: &str, offset_s: i64, drift_ppm: i64) -> anyhow::Result<()> {
    let clock = WallClock {
        offset_s,
        drift_ppm,
    };
    arena.lab().set_wall_clock(name, clock)
}

fn strobe(arena: &Arena, name: &str) -> anyhow::Result<()> {
    let began = wait::boot_ns();
    let mut offset_s = HOUR_S;
    while super::arena::ms_since(began) < STROBE.as_secs_f64() * 1000.0 {
        step(arena, name, offset_s, 0)?;
        offset_s = -offset_s;
        hold(wait::boot_ns(), STROBE_INTERVAL);
    }
    Ok(())
}

fn failover(
    arena: &mut Arena,
    primary: &str,
    secondary: &str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let cut = arena.lab_mut().kill_daemon(primary)?;
    let served = arena.wait_served_by(secondary, cut, SERVED_DEADLINE)?;
    figures.set("served_ms", served);
    let began = wait::boot_ns();
    arena.lab_mut().start_daemon(primary)?;
    arena.converge(primary, began, figures)
}
