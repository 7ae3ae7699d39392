//! Scenarios in which too much is lost at once: the service waits, starts by itself in the right order, and loses nothing.

use super::arena::{Arena, ms_since};
use super::failover::SERVED_DEADLINE;
use super::figures::Figures;
use crate::wait;
use anyhow::{Context as _, ensure};
use api::v1::ModuleState;
use rand::seq::SliceRandom as _;
use std::time::Duration;

/// A server that may not start says so within this time.
const WAITS_DEADLINE: Duration = Duration::from_secs(30);
/// And does not change its mind for this time.
const STAYS_WAITING: Duration = Duration::from_secs(4);
/// Writes that only the later primary has.
const WRITES_ALONE: u64 = 100;
/// Time for them.
const ALONE_DEADLINE: Duration = Duration::from_secs(60);

/// Goal: everything loses power and returns in an order chosen by the seed; the service starts by itself.
pub(super) fn blackout(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut names = names(arena);
    names.shuffle(&mut arena.random);
    returning(arena, &names)
}

/// Goal: the order of return does not matter. Method: all six.
pub(super) fn blackout_every_order(arena: &mut Arena) -> anyhow::Result<Figures> {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let mut worst = Figures::default();
    let names = names(arena);
    for order in ORDERS {
        let order = order.map(|index| names[index].clone());
        let figures = returning(arena, &order)
            .with_context(|| format!("they returned in the order {}", order.join(", ")))?;
        for (name, value) in figures.iter() {
            worst.set(name, value.max(worst.get(name).unwrap_or(0.0)));
        }
        arena.audit()?;
    }
    Ok(worst)
}

fn names(arena: &Arena) -> Vec<String> {
    let servers = arena.lab().servers().iter();
    servers.map(|server| server.name().to_owned()).collect()
}

/// Everything loses power and returns in this order.
fn returning(arena: &mut Arena, names: &[String]) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.ready()?;
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let cut = arena.lab_mut().power_cut_all(&all)?.done_ns;
    let returned = wait::boot_ns();
    for name in names {
        arena.lab_mut().power_on(name)?;
        arena.lab_mut().start_daemon(name)?;
    }
    arena.wait_served(cut, SERVED_DEADLINE)?;
    figures.set("served_after_return_ms", ms_since(returned));
    let primary = arena.primary()?;
    let secondary = arena.cluster().other(&primary)?;
    arena.converge(&secondary, returned, &mut figures)?;
    Ok(figures)
}

/// Goal: a copy that missed acknowledged writes is not promoted, even when its server is the only one there; it says for whom
/// it waits.
pub(super) fn stale_server_starts_first(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let stale = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&stale)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(WRITES_ALONE, ALONE_DEADLINE)?;
    arena.lab_mut().power_cut_all(&[&primary, "w"])?;
    for name in [stale.as_str(), "w"] {
        arena.lab_mut().power_on(name)?;
        arena.lab_mut().start_daemon(name)?;
    }
    let detail = wait::until("WAIT, and for whom", WAITS_DEADLINE, || {
        let own = arena
            .cluster()
            .own_state(&stale)
            .map_err(|e| format!("{e:#}"))?;
        if own.state() == ModuleState::Wait && own.detail.contains(&primary) {
            Ok(own.detail)
        } else {
            Err(format!("{:?}: {}", own.state(), own.detail))
        }
    })?;
    tracing::info!(stale, detail, "the stale server waits");
    let state = || arena.state_of(&stale);
    wait::stays("the stale server", STAYS_WAITING, state, |state| {
        ensure!(
            state == ModuleState::Wait,
            "the stale server left WAIT without {primary}: {state:?}"
        );
        Ok(())
    })?;
    let returned = wait::boot_ns();
    arena.lab_mut().power_on(&primary)?;
    arena.lab_mut().start_daemon(&primary)?;
    arena.wait_served(returned, SERVED_DEADLINE)?;
    figures.set("served_after_return_ms", ms_since(returned));
    arena.converge(&stale, returned, &mut figures)?;
    Ok(figures)
}
