//! Scenarios in which the primary stays.

use super::arena::Arena;
use super::excuse;
use super::failover::SERVED_DEADLINE;
use super::figures::Figures;
use crate::wait;
use anyhow::ensure;
use std::time::Duration;

/// Acknowledged writes that show that the service goes on.
const GOES_ON: u64 = 200;
/// Time for them.
const GOES_ON_DEADLINE: Duration = Duration::from_secs(60);
/// A voter that is back is heard and counted within this time.
const MEMBER_DEADLINE: Duration = Duration::from_secs(30);

/// Goal: the writer waits for the decision to go on alone, and no longer; the secondary is brought up to date later.
pub(super) fn secondary_power_cut(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(&primary)
    })?;
    ensure!(
        state.primary == primary && state.in_sync == [primary.clone()],
        "{primary} should be alone: primary {}, in sync [{}]",
        state.primary,
        state.in_sync.join(" ")
    );
    arena.bring_back(&secondary, &mut figures)?;
    Ok(figures)
}

/// Goal: without the witness nothing happens to the service, and no role changes.
pub(super) fn witness_lost(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let before = arena.cluster().module_state(&primary)?;
    let cut = arena.lab_mut().power_cut("w")?.done_ns;
    wait::until("the witness to be missed", MEMBER_DEADLINE, || {
        is_down(arena, &primary, "w").and_then(|down| {
            if down {
                Ok(())
            } else {
                Err("it is not".to_owned())
            }
        })
    })?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    arena.lab_mut().power_on("w")?;
    arena.lab_mut().start_daemon("w")?;
    wait::until("the witness to be back", MEMBER_DEADLINE, || {
        is_down(arena, &primary, "w").and_then(|down| {
            if down {
                Err("it is down".to_owned())
            } else {
                Ok(())
            }
        })
    })?;
    let after = arena.cluster().module_state(&primary)?;
    excuse::ensure(before.epoch == after.epoch, || {
        let (before, after) = (before.epoch, after.epoch);
        format!("the loss of the witness changed roles: epoch {before} became {after}")
    })?;
    Ok(figures)
}

fn is_down(arena: &Arena, asked: &str, name: &str) -> Result<bool, String> {
    let state = arena
        .cluster()
        .cluster_state(asked)
        .map_err(|e| format!("{e:#}"))?;
    let member = state.members.iter().find(|m| m.name == name);
    Ok(member.ok_or("no such member")?.is_down)
}
