//! A primary that was removed while it ran alone and heard nobody.

use super::{
    CHANGE_DEADLINE, ask, hold, join, must, refused, token, wait, wait_fresh, wait_members,
};
use crate::cluster::MODULE;
use crate::lab::topology;
use crate::oracle::wire::Wire;
use crate::scenario::arena::Arena;
use crate::scenario::figures::Figures;
use anyhow::{bail, ensure};
use api::v1::ModuleState;
use std::net::IpAddr;
use std::time::Duration;

/// A server that was told to go does not come back within this time.
const STAYS_AWAY: Duration = Duration::from_secs(4);

/// Goal: an operator gives up a primary that runs alone and cut off, and makes the other server primary; when the links are
/// mended the former one stops, for good, and the virtual address has one owner. Method: the wire at the switch.
pub(in crate::scenario) fn removed_while_alone(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    if arena.cluster().module_state("s1").is_err() {
        arena.cluster().install(arena.application(), "s1")?;
    }
    let former = arena.primary()?;
    let other = arena.cluster().other(&former)?;
    let host = arena.lab().server(&former)?.node().host;
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (topology::virtual_v4(), topology::virtual_v6()) else {
        bail!("the topology has one virtual address of each kind");
    };

    arena.lab_mut().power_cut(&other)?;
    wait_alone(arena, &former)?;
    arena.lab().isolate(&former)?;
    arena.lab_mut().power_on(&other)?;
    arena.lab_mut().start_daemon(&other)?;
    arena.cluster().wait_answers(&other)?;
    wait_members(arena, &other, "the loss to be noticed", |state| {
        state.has_quorum && state.members.iter().any(|m| m.name == former && m.is_down)
    })?;
    ask(
        arena,
        &other,
        &["cluster", "remove", &former, "--accept-loss", "--yes"],
    )?;
    ask(arena, &other, &["module", "prim", "-m", MODULE])?;
    wait_alone(arena, &other)?;
    // On its island nothing has changed, as R6 wants it.
    wait_alone(arena, &former)?;
    ensure!(
        has_address(arena, &former, v4)?,
        "{former} does not serve alone"
    );

    let wire = Wire::start(&arena.lab().switch_network()?, v4, v6)?;
    arena.lab().heal()?;
    let healed = wait::boot_ns();
    wait::until("the former primary to stop", CHANGE_DEADLINE, || {
        refused(arena, &former, "removed from the cluster").map_err(|e| format!("{e:#}"))?;
        match has_address(arena, &former, v4) {
            Ok(false) => Ok(()),
            Ok(true) => Err(format!("{former} has the virtual address")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    let stopped = wait::boot_ns();
    figures.set("stopped_ms", (stopped - healed) as f64 / 1e6);
    // Told once it stays away, also when it is started where nobody tells it again.
    arena.lab_mut().kill_daemon(&former)?;
    arena.lab().isolate(&former)?;
    arena.lab_mut().start_daemon(&former)?;
    arena.cluster().wait_answers(&former)?;
    refused(arena, &former, "removed from the cluster")?;
    arena.lab().heal()?;
    hold(stopped, STAYS_AWAY);
    ensure!(
        wire.first_claim(host, stopped).is_none() && !has_address(arena, &former, v4)?,
        "two owners of the virtual address: {:?}",
        wire.tenures()
    );
    wait_alone(arena, &other)?;
    joins_again(arena, &former, &other)?;
    Ok(figures)
}

/// The way back: a new member with a second copy.
fn joins_again(arena: &mut Arena, former: &str, other: &str) -> anyhow::Result<()> {
    ask(arena, former, &["cluster", "leave", "--alone", "--yes"])?;
    wait_fresh(arena, former)?;
    let token = token(arena, other, false)?;
    must("it joins again", &join(arena, other, former, &token, &[])?)?;
    let place = ["module", "place", "-m", MODULE, "--server", former];
    ask(arena, other, &place)?;
    let leads = arena.primary()?;
    ensure!(leads == other, "{leads} leads, not {other}");
    Ok(())
}

fn wait_alone(arena: &Arena, server: &str) -> anyhow::Result<()> {
    let cluster = arena.cluster();
    cluster
        .wait_state(server, &[ModuleState::Alone], CHANGE_DEADLINE)
        .map(drop)
}

fn has_address(arena: &Arena, server: &str, ip: std::net::Ipv4Addr) -> anyhow::Result<bool> {
    let command = ["ip", "-4", "-o", "addr", "show"];
    let shown = arena.lab().exec(server, &command, CHANGE_DEADLINE)?;
    must("ip addr", &shown)?;
    Ok(shown.stdout.contains(&format!(" {ip}/")))
}
