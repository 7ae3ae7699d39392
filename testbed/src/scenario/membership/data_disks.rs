//! State directories of data servers that were wiped, put back to an earlier state, or lost their log, while the module serves.
//! The replicated data are elsewhere, and stay as they are.

use super::{
    CHANGE_DEADLINE, GOES_ON, GOES_ON_DEADLINE, SERVED_DEADLINE, ask, copy, join, must, refused,
    token, wait, wait_fresh, wait_members,
};
use crate::cluster::MODULE;
use crate::scenario::arena::Arena;
use crate::scenario::figures::Figures;
use anyhow::ensure;
use std::fs;
use std::path::Path;

/// Whose state directory is hurt.
#[derive(Debug, Clone, Copy)]
enum Role {
    Primary,
    Secondary,
}

/// What happened to a state directory while its server was off.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Restored,
    LogLost,
    Wiped,
}

/// Goal: the state directory of the secondary is wiped, restored or lacks its log: its daemon takes part in nothing and says the
/// way out, the module serves on, and the way out brings both copies in sync.
pub(in crate::scenario) fn old_disk_of_secondary(arena: &mut Arena) -> anyhow::Result<Figures> {
    every_harm(arena, Role::Secondary)
}

/// Goal: as for the secondary, for a primary that lost power; the other server has taken over.
pub(in crate::scenario) fn old_disk_of_primary(arena: &mut Arena) -> anyhow::Result<Figures> {
    every_harm(arena, Role::Primary)
}

fn every_harm(arena: &mut Arena, role: Role) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let (victim, survivor) = match role {
        Role::Primary => (primary, other),
        Role::Secondary => (other, primary),
    };
    let old = arena.lab().site().directory().join("old-disk");
    let cut = arena.lab_mut().power_cut(&victim)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    copy(&arena.lab().root(&victim).join("var"), &old)?;
    arena.bring_back(&victim, &mut figures)?;
    for harm in [Harm::Restored, Harm::LogLost, Harm::Wiped] {
        give_role(arena, &victim, role)?;
        let cut = arena.lab_mut().power_cut(&victim)?.done_ns;
        arena.wait_served(cut, SERVED_DEADLINE)?;
        hurt(&arena.lab().root(&victim).join("var"), &old, harm)?;
        arena.lab_mut().power_on(&victim)?;
        arena.lab_mut().start_daemon(&victim)?;
        arena.cluster().wait_answers(&victim)?;
        let began = wait::boot_ns();
        way_out(arena, &victim, &survivor, harm)?;
        arena.converge(&victim, began, &mut figures)?;
    }
    figures.set("cases", 3.0);
    Ok(figures)
}

fn give_role(arena: &Arena, victim: &str, role: Role) -> anyhow::Result<()> {
    let primary = arena.ready()?;
    let has_it = match role {
        Role::Primary => primary == victim,
        Role::Secondary => primary != victim,
    };
    if !has_it {
        ask(arena, &primary, &["module", "swap", "-m", MODULE])?;
        wait::until("the roles", CHANGE_DEADLINE, || match arena.primary() {
            Ok(now) if now != primary => Ok(()),
            Ok(now) => Err(format!("{now} is primary")),
            Err(error) => Err(format!("{error:#}")),
        })?;
    }
    Ok(())
}

fn hurt(var: &Path, old: &Path, harm: Harm) -> anyhow::Result<()> {
    match harm {
        Harm::Restored => {
            fs::remove_dir_all(var)?;
            fs::rename(old, var)?;
        }
        Harm::LogLost => fs::remove_dir_all(var.join("lib/sidekick/raft"))?,
        Harm::Wiped => fs::remove_dir_all(var)?,
    }
    Ok(())
}

/// The daemon takes part in nothing, the survivor serves alone, and what the texts say to type is typed.
fn way_out(arena: &Arena, victim: &str, survivor: &str, harm: Harm) -> anyhow::Result<()> {
    match harm {
        Harm::Restored => refused(arena, victim, "restored from an old copy")?,
        Harm::LogLost => refused(arena, victim, "forgot its vote")?,
        Harm::Wiped => wait_fresh(arena, victim)?,
    }
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(survivor)
    })?;
    ensure!(
        state.primary == survivor && state.in_sync == [survivor.to_owned()],
        "{harm:?}: {survivor} should serve alone: primary {}, in sync [{}]",
        state.primary,
        state.in_sync.join(" ")
    );
    match harm {
        Harm::Restored | Harm::LogLost => {
            ask(arena, victim, &["cluster", "leave", "--alone", "--yes"])?;
            wait_fresh(arena, victim)?;
        }
        Harm::Wiped => {}
    }
    wait_members(arena, survivor, "the loss to be noticed", |state| {
        let lost = |m: &api::v1::MemberReply| m.name == victim && m.is_down;
        state.has_quorum && state.members.iter().any(lost)
    })?;
    let token = token(arena, survivor, false)?;
    let without = join(arena, survivor, victim, &token, &[])?;
    ensure!(
        !without.is_success() && without.stderr.contains("--replaces"),
        "{harm:?}: the name is taken, and the text should say what to do: {}",
        without.summary()
    );
    let joined = join(arena, survivor, victim, &token, &["--replaces", victim])?;
    must("the server joins again", &joined)
}
