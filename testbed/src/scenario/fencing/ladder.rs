//! The ladder rung by rung: everything softer is broken on purpose on a primary that is cut off, and the next rung must hold (R8).
//!
//! The softest rung, the gate, cannot be broken; what it does alone is tested in `fs-mirror`.

use super::super::arena::{Arena, ms_since};
use super::super::failover::{SERVED_DEADLINE, TAKEOVER_DEADLINE};
use super::super::figures::Figures;
use super::breakage::{Breakage, Rung};
use super::hardware::Hardware;
use super::{SOON, back_to, restart};
use crate::lab::topology;
use crate::wait;
use anyhow::ensure;
use std::time::Duration;

/// The server that is cut off.
const VICTIM: &str = "s1";
/// The ladder is at its end within this time: stop script, kill, abort, a second kill, addresses.
const LADDER_DEADLINE: Duration = Duration::from_secs(40);
/// The lease ends this long after the cut, and a write may be on its way.
const LEASE_MS: f64 = 1500.0;
/// The address is gone by then: the lease, and what is left of a lifetime.
const ADDRESS_MS_MAX: f64 = LEASE_MS + 1200.0;
/// `ip` answers within this time.
const TOOL_DEADLINE: Duration = Duration::from_secs(10);

/// Goal: an address that cannot be removed runs out before another server has it. Method: the kernel refuses to remove it.
pub(in super::super) fn address_stays(arena: &mut Arena) -> anyhow::Result<Figures> {
    climb(arena, Rung::AddressLifetime)
}

/// Goal: a stop script that defies every signal is killed with all it started. Method: such a script, beside the above.
pub(in super::super) fn stop_script_hangs(arena: &mut Arena) -> anyhow::Result<Figures> {
    climb(arena, Rung::Cgroup)
}

/// Goal: a process that left the cgroup writes nothing any more, and nothing waits for one that cannot be killed. Method: a disk
/// that hangs, and a process that goes away and writes on, beside the above.
pub(in super::super) fn processes_survive(arena: &mut Arena) -> anyhow::Result<Figures> {
    climb(arena, Rung::Mount)
}

/// Goal: when nothing softer is left the machine is reset, once. Method: the mount is moved away, beside the above.
pub(in super::super) fn all_rungs_broken(arena: &mut Arena) -> anyhow::Result<Figures> {
    climb(arena, Rung::Watchdog)
}

fn climb(arena: &mut Arena, rung: Rung) -> anyhow::Result<Figures> {
    arena.ready()?;
    let hardware = Hardware::at(&arena.lab().root(VICTIM).join("watchdog"))?;
    arena.lab_mut().may_keep_addresses(VICTIM)?;
    restart(arena, VICTIM)?;
    back_to(arena, VICTIM)?;
    hardware.wait("the watchdog armed", SOON, |seen| seen.is_armed)?;
    arena.ready()?;
    let mut breakage = Breakage::of(arena, VICTIM, rung)?;
    let outcome = cut_off(arena, rung, &hardware, &mut breakage);
    if outcome.is_err() {
        // Nothing of the lab ends while a process waits for its disk.
        breakage.thaw(arena.lab())?;
    }
    outcome
}

fn cut_off(
    arena: &mut Arena,
    rung: Rung,
    hardware: &Hardware,
    breakage: &mut Breakage,
) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let other = arena.cluster().other(VICTIM)?;
    let log_from = log(arena)?.len();
    let cut = arena.lab().isolate(VICTIM)?;
    breakage.complete(arena.lab())?;
    let gone = wait_address_gone(arena)?;
    figures.set("address_gone_ms", gone);
    ensure!(
        gone <= ADDRESS_MS_MAX,
        "the address was on {VICTIM} for {gone:.0} ms after the cut"
    );
    let takeover = arena.wait_takeover(&other, cut, TAKEOVER_DEADLINE)?;
    figures.set("takeover_ms", takeover);
    let served = arena.wait_served_by(&other, cut, SERVED_DEADLINE)?;
    ensure!(
        gone <= served,
        "{other} served after {served:.0} ms, and {VICTIM} had the address for {gone:.0} ms"
    );
    let seen = match rung {
        Rung::AddressLifetime | Rung::Cgroup | Rung::Mount => {
            hardware.wait("the end of the ladder", LADDER_DEADLINE, |seen| {
                !seen.is_armed
            })?
        }
        Rung::Watchdog => hardware.wait("the reset", LADDER_DEADLINE, |seen| seen.resets > 0)?,
    };
    figures.set("ladder_ms", ms_since(cut));
    figures.set("resets", f64::from(seen.resets));
    ensure!(
        seen.resets == u32::from(rung == Rung::Watchdog),
        "the watchdog has reset the server {} times",
        seen.resets
    );
    let said = log(arena)?;
    breakage.verify_tried(arena.lab(), said.get(log_from..).unwrap_or_default())?;
    if let Some(last) = breakage.last_escaped_ns()? {
        let after_cut = (last.saturating_sub(cut)) as f64 / 1e6;
        figures.set("escaped_ms", after_cut);
        ensure!(
            after_cut <= LEASE_MS,
            "a write was acknowledged {after_cut:.0} ms after the cut"
        );
    }
    let began = wait::boot_ns();
    if rung == Rung::Watchdog {
        breakage.thaw(arena.lab())?;
        arena.lab_mut().power_cut(VICTIM)?;
        arena.lab().heal()?;
        arena.lab().keep_addresses(VICTIM, false)?;
        arena.bring_back(VICTIM, &mut figures)?;
    } else {
        breakage.mend(arena.lab())?;
        arena.lab().heal()?;
        arena.converge(VICTIM, began, &mut figures)?;
    }
    if rung == Rung::Mount {
        // The group of what survived goes with the next start: it can lead again.
        back_to(arena, VICTIM)?;
        back_to(arena, &other)?;
    }
    let seen = hardware.seen();
    ensure!(
        seen.resets == u32::from(rung == Rung::Watchdog) && !seen.is_armed,
        "after all is well again: {seen:?}"
    );
    Ok(figures)
}

/// Milliseconds since the call until the kernel of the victim has the address no more. The call is made at the cut.
fn wait_address_gone(arena: &Arena) -> anyhow::Result<f64> {
    let began = wait::boot_ns();
    let addresses = [topology::virtual_v4(), topology::virtual_v6()].map(|ip| format!(" {ip}/"));
    wait::until("the end of the addresses", SOON, || {
        let listed = arena
            .lab()
            .exec(VICTIM, &["ip", "-o", "addr"], TOOL_DEADLINE)
            .map_err(|e| format!("{e:#}"))?;
        let is_here = |ip: &String| listed.stdout.contains(ip.as_str());
        if listed.is_success() && !addresses.iter().any(is_here) {
            Ok(())
        } else {
            Err(listed.summary())
        }
    })?;
    Ok(ms_since(began))
}

fn log(arena: &Arena) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(arena.lab().server(VICTIM)?.log())?)
}
