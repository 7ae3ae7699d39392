//! More members than vote.

use super::{GOES_ON, GOES_ON_DEADLINE, ask, join, must, token, wait, wait_fresh, wait_members};
use crate::scenario::arena::{Arena, hold};
use crate::scenario::excuse;
use crate::scenario::failover::other_serves;
use crate::scenario::figures::Figures;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// A loss that should change nothing would have done so by then.
const LEASE_AND_MORE: Duration = Duration::from_secs(4);

/// Goal: in a cluster of seven, five vote and two learn. The loss of a learner, and of two voters at once, moves no role; with a
/// learner down the other server takes over from a primary that loses power as fast as ever; a voter leaves, a learner votes in
/// its place, and whoever joins next learns.
pub(in crate::scenario) fn seven_members(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    wait_five_vote(arena, &primary, 7)?;
    let hosts = arena.cluster().server_names();
    let bystanders = |is_voter: bool| -> anyhow::Result<Vec<String>> {
        let members = arena.cluster().cluster_state(&primary)?.members;
        let some = members
            .into_iter()
            .filter(|m| m.is_voter == is_voter && !m.is_witness && !hosts.contains(&m.name));
        Ok(some.map(|m| m.name).take(2).collect())
    };
    let (voters, learner) = (bystanders(true)?, bystanders(false)?);
    let learner = learner.into_iter().take(1).collect::<Vec<_>>();

    nothing_happens(arena, &primary, &learner)?;
    let cut = arena.lab_mut().power_cut(&primary)?;
    other_serves(arena, &other, cut, &mut figures)?;
    arena.bring_back(&primary, &mut figures)?;
    let primary = arena.ready()?;
    nothing_happens(arena, &primary, &voters)?;

    for server in voters.iter().chain(&learner) {
        arena.lab_mut().power_on(server)?;
        arena.lab_mut().start_daemon(server)?;
    }
    arena.wait_members()?;
    let leaves = voters.first().context("nobody only votes")?;
    ask(arena, leaves, &["cluster", "leave", "--yes"])?;
    wait_five_vote(arena, &primary, 6)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let token = token(arena, &primary, false)?;
    wait_fresh(arena, leaves)?;
    must(
        "it joins again",
        &join(arena, &primary, leaves, &token, &[])?,
    )?;
    wait_five_vote(arena, &primary, 7)?;
    let state = arena.cluster().cluster_state(&primary)?;
    let back = state.members.iter().find(|m| m.name == *leaves);
    ensure!(back.is_some_and(|m| !m.is_voter), "{leaves} should learn");
    Ok(figures)
}

fn wait_five_vote(arena: &Arena, asked: &str, members: usize) -> anyhow::Result<()> {
    wait_members(arena, asked, "five voters", |state| {
        let voting = state.members.iter().filter(|m| m.is_voter).count();
        (state.members.len(), voting) == (members, 5)
    })
}

/// These lose power, and the service goes on where it is.
fn nothing_happens(arena: &mut Arena, primary: &str, lost: &[String]) -> anyhow::Result<()> {
    let before = arena.cluster().module_state(primary)?.epoch;
    for server in lost {
        arena.lab_mut().power_cut(server)?;
    }
    let cut = wait::boot_ns();
    wait_members(arena, primary, "the loss to be noticed", |state| {
        let is_missed = |name: &String| state.members.iter().any(|m| m.name == *name && m.is_down);
        lost.iter().all(is_missed)
    })?;
    hold(cut, LEASE_AND_MORE);
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let epoch = arena.cluster().module_state(primary)?.epoch;
    excuse::ensure(epoch == before, || {
        format!("{lost:?} lost: epoch {before} became {epoch}")
    })?;
    Ok(())
}
