//! One fault, from injection to a mirrored cluster, and what it did to the service.

use super::fault::{Fault, Target};
use crate::cluster::MODULE;
use crate::lab::{Direction, LANS};
use crate::matrix::expectation::{Service, State, expected};
use crate::matrix::links::Place;
use crate::matrix::{MOVE_MS_MAX, STALL_MS_MAX};
use crate::scenario::{Arena, hold};
use crate::wait;
use anyhow::{Context as _, ensure};
use rand::seq::SliceRandom as _;
use std::time::Duration;

/// The client is served again within this time where somebody must serve.
const SERVED_DEADLINE: Duration = Duration::from_secs(30);
/// Mirrored again after the fault, by itself.
pub(super) const CONVERGE_DEADLINE: Duration = Duration::from_secs(90);
/// A daemon that was asked to end has handed over and ended.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(60);
/// A freeze that is longer than this costs the primary its role: lease, declaration, one commit (R7). A shorter one may.
const LEASE_SURELY_OVER: Duration = Duration::from_millis(3500);
/// A freeze that is shorter than this costs nobody anything: the lease lasts longer.
const LEASE_SURELY_VALID: Duration = Duration::from_millis(1200);

/// The members at the moment of a fault.
pub(super) struct Cast {
    pub(super) primary: String,
    pub(super) secondary: String,
    pub(super) leader: String,
}

impl Cast {
    fn name(&self, target: Target) -> &str {
        match target {
            Target::Primary => &self.primary,
            Target::Secondary => &self.secondary,
            Target::Witness => "w",
            Target::Leader => &self.leader,
        }
    }

    fn place(&self, place: Place) -> &str {
        match place {
            Place::Primary => &self.primary,
            Place::Secondary => &self.secondary,
            Place::Witness => "w",
        }
    }
}

/// What a fault must do to the service, given who is hit; `None`: the length of the fault is on the edge.
pub(super) fn must_do(fault: Fault, cast: &Cast) -> Option<Service> {
    let hits_primary = |target| cast.name(target) == cast.primary;
    let moves_if = |is_hit| {
        if is_hit {
            Service::Moves
        } else {
            Service::Stays
        }
    };
    match fault {
        Fault::PowerCut(target)
        | Fault::Kill(target)
        | Fault::Isolate(target, _)
        | Fault::Restart(target) => Some(moves_if(hits_primary(target))),
        Fault::Freeze(target, _) if !hits_primary(target) => Some(Service::Stays),
        Fault::Freeze(_, time) if time > LEASE_SURELY_OVER => Some(Service::Moves),
        Fault::Freeze(_, time) if time < LEASE_SURELY_VALID => Some(Service::Stays),
        Fault::Freeze(..) => None,
        Fault::Links(cuts, _) => Some(expected(State::Mirrored, cuts)),
        Fault::LanLost(..) => Some(Service::Stays),
        Fault::Swap => Some(Service::Moves),
        Fault::Blackout => Some(Service::Somewhere),
    }
}

/// Injects the fault, waits for what must come of it, and ends it. Answers boot time of the injection.
pub(super) fn inject(arena: &mut Arena, fault: Fault, cast: &Cast) -> anyhow::Result<u64> {
    match fault {
        Fault::PowerCut(target) => {
            let name = cast.name(target);
            let cut = arena.lab_mut().power_cut(name)?.asked_ns;
            see(arena, fault, cast, cut)?;
            power_on(arena, name)?;
            Ok(cut)
        }
        Fault::Kill(target) => {
            let name = cast.name(target);
            let cut = arena.lab_mut().kill_daemon(name)?;
            see(arena, fault, cast, cut)?;
            arena.lab_mut().start_daemon(name)?;
            Ok(cut)
        }
        Fault::Restart(target) => {
            let name = cast.name(target);
            let asked = arena.lab_mut().terminate_daemon(name, TERMINATE_DEADLINE)?;
            see(arena, fault, cast, asked)?;
            arena.lab_mut().start_daemon(name)?;
            Ok(asked)
        }
        Fault::Freeze(target, time) => freeze(arena, fault, cast, (target, time)),
        Fault::Isolate(target, time) => {
            let cut = arena.lab().isolate(cast.name(target))?;
            lasting(arena, fault, cast, (cut, time))
        }
        Fault::Links(cuts, time) => {
            let direction = |(from, to)| Direction {
                from: cast.place(from),
                to: cast.place(to),
            };
            let directions: Vec<_> = cuts.directions().map(direction).collect();
            let cut = arena.lab().cut_all(&directions, &LANS)?;
            lasting(arena, fault, cast, (cut, time))
        }
        Fault::LanLost(lan, time) => {
            let cut = arena.lose_lan(lan)?;
            lasting(arena, fault, cast, (cut, time))
        }
        Fault::Swap => {
            let asked = wait::boot_ns();
            let skcli = arena.cluster().skcli(&cast.primary)?;
            skcli.json(&["module", "swap", "-m", MODULE])?;
            see(arena, fault, cast, asked)?;
            Ok(asked)
        }
        Fault::Blackout => blackout(arena),
    }
}

fn power_on(arena: &mut Arena, name: &str) -> anyhow::Result<()> {
    arena.lab_mut().power_on(name)?;
    arena.lab_mut().start_daemon(name)
}

/// Cuts that last for a while and are healed whatever was seen.
fn lasting(
    arena: &Arena,
    fault: Fault,
    cast: &Cast,
    (cut, time): (u64, Duration),
) -> anyhow::Result<u64> {
    let seen = see(arena, fault, cast, cut);
    hold(cut, time);
    arena.lab().heal()?;
    seen?;
    Ok(cut)
}

fn freeze(
    arena: &Arena,
    fault: Fault,
    cast: &Cast,
    (target, time): (Target, Duration),
) -> anyhow::Result<u64> {
    let name = cast.name(target);
    let cut = arena.lab().freeze_daemon(name)?;
    let seen = arena
        .lab()
        .verify_frozen(name)
        .and_then(|()| see(arena, fault, cast, cut));
    hold(cut, time);
    arena.lab().continue_daemon(name)?;
    seen?;
    Ok(cut)
}

fn blackout(arena: &mut Arena) -> anyhow::Result<u64> {
    let mut names: Vec<String> = arena
        .lab()
        .servers()
        .iter()
        .map(|server| server.name().to_owned())
        .collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let cut = arena.lab_mut().power_cut_all(&all)?.asked_ns;
    names.shuffle(&mut arena.random);
    for name in &names {
        power_on(arena, name)?;
    }
    arena.wait_served(cut, SERVED_DEADLINE)?;
    Ok(cut)
}

/// Waits for what the service must do while the fault lasts.
fn see(arena: &Arena, fault: Fault, cast: &Cast, cut: u64) -> anyhow::Result<()> {
    match must_do(fault, cast) {
        Some(Service::Stays | Service::Somewhere) => {
            arena.wait_served(cut, SERVED_DEADLINE)?;
        }
        Some(Service::Moves) => {
            arena
                .wait_served_by(&cast.secondary, cut, SERVED_DEADLINE)
                .with_context(|| format!("{} should take over", cast.secondary))?;
        }
        Some(Service::Waits) | None => {}
    }
    Ok(())
}

/// The role moved where it had to, and stayed where it could.
pub(super) fn verify_moves(fault: Fault, cast: &Cast, order: &[String]) -> anyhow::Result<()> {
    let moves = order.len().saturating_sub(1);
    let is_allowed = match must_do(fault, cast) {
        Some(Service::Stays) => moves == 0,
        Some(Service::Moves) => moves == 1,
        // Both copies are whole, so either may lead after healing.
        Some(Service::Waits) | None => moves <= 1,
        // Whoever returns first may lead until the other one is back.
        Some(Service::Somewhere) => moves <= 2,
    };
    ensure!(
        is_allowed,
        "{fault}: the primaries were {}",
        order.join(", ")
    );
    Ok(())
}

/// The client waited no longer than the promise allows (default profile).
pub(super) fn verify_gap(fault: Fault, cast: &Cast, gap_ms: f64) -> anyhow::Result<()> {
    let limit = match must_do(fault, cast) {
        Some(Service::Stays) => STALL_MS_MAX,
        Some(Service::Moves) | None => MOVE_MS_MAX,
        // As long as nobody may serve, or nobody has power; who must serve in the end was waited for.
        Some(Service::Waits | Service::Somewhere) => return Ok(()),
    };
    ensure!(
        gap_ms <= limit,
        "{fault}: the longest gap was {gap_ms:.0} ms, the limit is {limit:.0} ms"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(leader: &str) -> Cast {
        Cast {
            primary: "s2".to_owned(),
            secondary: "s1".to_owned(),
            leader: leader.to_owned(),
        }
    }

    #[test]
    fn whoever_leads_raft_only_matters_when_it_is_the_primary() {
        let fault = Fault::PowerCut(Target::Leader);
        assert_eq!(must_do(fault, &cast("s2")), Some(Service::Moves));
        assert_eq!(must_do(fault, &cast("w")), Some(Service::Stays));
    }

    #[test]
    fn a_role_that_moved_for_no_reason_is_found() {
        let order = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let stays = Fault::LanLost(2, Duration::from_secs(5));
        verify_moves(stays, &cast("w"), &order(&["s2"])).expect("nothing happened");
        verify_moves(stays, &cast("w"), &order(&["s2", "s1"])).expect_err("it moved");
        let moves = Fault::Kill(Target::Primary);
        verify_moves(moves, &cast("w"), &order(&["s2", "s1"])).expect("a failover");
        verify_moves(moves, &cast("w"), &order(&["s2", "s1", "s2"])).expect_err("ping-pong");
    }
}
