//! A mirror of two servers without a witness, under load.

use super::{
    CHANGE_DEADLINE, GOES_ON, GOES_ON_DEADLINE, ask, join, must, three_vote, token, wait,
    wait_fresh, wait_members, wipe,
};
use crate::cluster::{MODULE, package};
use crate::scenario::arena::{Arena, hold};
use crate::scenario::failover::SERVED_DEADLINE;
use crate::scenario::figures::Figures;
use anyhow::ensure;
use api::v1::ModuleState;
use std::time::Duration;

/// The only voter of a pair: its first server.
const VOTER: &str = "s1";
/// The other one.
const OTHER: &str = "s2";
/// Whoever would take over wrongly has done so by then.
const STAYS_WAITING: Duration = Duration::from_secs(4);

/// Goal: a pair without a witness loses either server, with the primary on either, and loses no row: it goes on alone when the
/// voter is left, waits and names the voter when it is not, and serves again by itself when that returns.
pub(in crate::scenario) fn pair_under_load(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.ready()?;
    ask(arena, "w", &["cluster", "leave", "--yes"])?;
    wait_members(arena, OTHER, "a pair with one voter", |state| {
        state.members.len() == 2 && state.members.iter().filter(|m| m.is_voter).count() == 1
    })?;

    lead(arena, VOTER)?;
    let cut = arena.lab_mut().power_cut(OTHER)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let stall = arena.recorder()?.longest_gap_ms(cut, wait::boot_ns());
    figures.set("stall_ms", stall);
    arena.bring_back(OTHER, &mut figures)?;

    for primary in [VOTER, OTHER] {
        lead(arena, primary)?;
        voter_is_lost(arena, &mut figures)?;
    }
    let token = token(arena, VOTER, true)?;
    wait_fresh(arena, "w")?;
    must("a witness joins", &join(arena, VOTER, "w", &token, &[])?)?;
    wait_members(arena, VOTER, "three voters", three_vote)?;
    Ok(figures)
}

/// Moves the role where it is not.
fn lead(arena: &Arena, server: &str) -> anyhow::Result<()> {
    if arena.ready()? == server {
        return Ok(());
    }
    let began = wait::boot_ns();
    ask(arena, server, &["module", "swap", "-m", MODULE])?;
    let leads = arena.wait_settled(began, SERVED_DEADLINE)?;
    ensure!(leads == server, "{leads} leads after a swap to {server}");
    Ok(())
}

/// Nobody decides without the voter: nobody serves, the record stays, and the one that is left names it.
fn voter_is_lost(arena: &mut Arena, figures: &mut Figures) -> anyhow::Result<()> {
    let before = arena.cluster().module_state(OTHER)?.epoch;
    arena.lab_mut().power_cut(VOTER)?;
    wait_members(arena, OTHER, "the voter to be named", |state| {
        let names_it = |notice: &String| notice.contains("s1 is the only voter");
        !state.has_quorum && state.notices.iter().any(names_it)
    })?;
    wait::until("nobody to serve", CHANGE_DEADLINE, || {
        let own = arena.cluster().own_state(OTHER);
        let state = own.map_err(|e| format!("{e:#}"))?.state();
        if matches!(state, ModuleState::Prim | ModuleState::Alone) {
            Err(format!("{state:?}"))
        } else {
            Ok(())
        }
    })?;
    let lost = wait::boot_ns();
    hold(lost, STAYS_WAITING);
    let served = arena.recorder()?.first_answered_after(lost);
    ensure!(served.is_none(), "a row was answered without a quorum");
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(OTHER)
    })?;
    let epoch = state.epoch;
    ensure!(
        epoch == before,
        "epoch {before} became {epoch} without a quorum"
    );
    arena.bring_back(VOTER, figures)
}

/// Goal: the only voter of a pair is lost for good. The notice of the other one says what to type; typed, it makes a new cluster
/// around the copy that is left, and every byte of it is there, on both servers in the end.
pub(in crate::scenario) fn pair_starts_anew(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    ask(arena, "w", &["cluster", "leave", "--yes"])?;
    wait_members(arena, OTHER, "a pair with one voter", |state| {
        state.members.len() == 2 && state.members.iter().filter(|m| m.is_voter).count() == 1
    })?;
    arena.cluster().install_bare(VOTER)?;
    let kept = package::replicated_directory(arena.lab()).join("kept");
    in_server(arena, VOTER, &format!("seq 1 100000 > {}", kept.display()))?;
    arena.lab_mut().power_cut(VOTER)?;
    wait_members(arena, OTHER, "the way out to be named", |state| {
        let names_it = |notice: &String| notice.contains("cluster leave --alone");
        !state.has_quorum && state.notices.iter().any(names_it)
    })?;

    ask(arena, OTHER, &["cluster", "leave", "--alone", "--yes"])?;
    wait_fresh(arena, OTHER)?;
    let node = arena.lab().server(OTHER)?.node().clone();
    let own = crate::lab::LANS.map(|lan| node.address(lan).to_string());
    let mut init = vec!["cluster", "init", "anew", "--server", OTHER];
    own.iter().for_each(|each| init.extend(["--address", each]));
    ask(arena, OTHER, &init)?;
    arena.lab_mut().power_on(VOTER)?;
    wipe(arena, VOTER)?;
    let token = token(arena, OTHER, false)?;
    must(
        "a fresh machine joins",
        &join(arena, OTHER, VOTER, &token, &[])?,
    )?;
    arena.cluster().install_bare(OTHER)?;
    let sum = format!("cksum < {}", kept.display());
    let (left, copied) = (
        in_server(arena, OTHER, &sum)?,
        in_server(arena, VOTER, &sum)?,
    );
    ensure!(left == copied, "{OTHER} has {left}, {VOTER} got {copied}");
    let lines = in_server(arena, OTHER, &format!("tail -n 1 {}", kept.display()))?;
    ensure!(lines.trim() == "100000", "what was left ends with {lines}");
    figures.set("cases", 1.0);
    Ok(figures)
}

fn in_server(arena: &Arena, server: &str, script: &str) -> anyhow::Result<String> {
    let done = arena
        .lab()
        .exec(server, &["sh", "-c", script], CHANGE_DEADLINE)?;
    ensure!(done.is_success(), "{script}: {}", done.summary());
    Ok(done.stdout)
}
