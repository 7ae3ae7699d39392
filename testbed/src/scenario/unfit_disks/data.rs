//! State directories of data servers that are full or read-only while the module serves. The replicated data are elsewhere.

use super::{
    CANNOT_LOG, DISK_BYTES, NOTICED_DEADLINE, fill, log_of, refused_start, shell, wait_down,
};
use crate::cluster::MODULE;
use crate::scenario::arena::Arena;
use crate::scenario::failover::SERVED_DEADLINE;
use crate::scenario::figures::Figures;
use crate::wait;
use anyhow::ensure;

/// Whose state directory is unfit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Primary,
    Secondary,
}

/// Acknowledged writes that show that the service goes on.
const GOES_ON: u64 = 100;

/// Goal: the state directory of the secondary fills up, then is read-only at a start: the trouble is named, the module serves on
/// alone, and both copies are in sync when the disk is well again.
pub(in crate::scenario) fn unfit_disk_of_secondary(arena: &mut Arena) -> anyhow::Result<Figures> {
    full_then_read_only(arena, Role::Secondary)
}

/// Goal: as for the secondary, for the primary: the other server takes over.
pub(in crate::scenario) fn unfit_disk_of_primary(arena: &mut Arena) -> anyhow::Result<Figures> {
    full_then_read_only(arena, Role::Primary)
}

fn full_then_read_only(arena: &mut Arena, role: Role) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let survivor = arena.ready()?;
    let victim = arena.cluster().other(&survivor)?;
    let state = arena.lab().root(&victim).join("var/lib/sidekick");
    let dir = state.display().to_string();
    let small = format!(
        "cp -a {dir} {dir}.before && mount -t tmpfs -o size={DISK_BYTES},mode=0711 none {dir} && cp -a {dir}.before/. {dir}/"
    );
    restarted(arena, &victim, &small, &mut figures)?;

    give_role(arena, &survivor, &victim, role)?;
    let full = wait::boot_ns();
    let said_before = log_of(arena, &victim).len();
    fill(arena, &victim, &dir)?;
    wait_noticed(arena, &survivor, &victim, said_before)?;
    serves_without(arena, &survivor, &victim, full)?;
    refused_start(arena, &victim, "a full state directory")?;
    let began = wait::boot_ns();
    shell(arena, &victim, &format!("rm {dir}/filler"))?;
    arena.lab_mut().start_daemon(&victim)?;
    arena.converge(&victim, began, &mut figures)?;
    // What the small disk holds is the newest; the older copy below it would be refused.
    let back = format!(
        "cp -a {dir} {dir}.after && umount {dir} && rm -rf {dir} {dir}.before && mv {dir}.after {dir}"
    );
    restarted(arena, &victim, &back, &mut figures)?;

    give_role(arena, &survivor, &victim, role)?;
    let killed = arena.lab_mut().kill_daemon(&victim)?;
    let read_only = format!("mount --bind {dir} {dir} && mount -o remount,bind,ro {dir}");
    shell(arena, &victim, &read_only)?;
    refused_start(arena, &victim, "a read-only state directory")?;
    serves_without(arena, &survivor, &victim, killed)?;
    let began = wait::boot_ns();
    shell(arena, &victim, &format!("umount {dir}"))?;
    arena.lab_mut().start_daemon(&victim)?;
    arena.converge(&victim, began, &mut figures)?;
    figures.set("cases", 2.0);
    Ok(figures)
}

/// Ends the daemon of a secondary, changes something of its machine, starts it, and waits until both copies are in sync.
pub(super) fn restarted(
    arena: &mut Arena,
    server: &str,
    script: &str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    arena.lab_mut().kill_daemon(server)?;
    shell(arena, server, script)?;
    let began = wait::boot_ns();
    arena.lab_mut().start_daemon(server)?;
    arena.converge(server, began, figures)
}

/// The victim is secondary until now.
pub(super) fn give_role(
    arena: &Arena,
    survivor: &str,
    victim: &str,
    role: Role,
) -> anyhow::Result<()> {
    match role {
        Role::Secondary => {}
        Role::Primary => {
            let skcli = arena.cluster().skcli(survivor)?;
            skcli.json(&["module", "swap", "-m", MODULE])?;
            wait::until("the roles", NOTICED_DEADLINE, || match arena.primary() {
                Ok(now) if now == victim => Ok(()),
                Ok(now) => Err(format!("{now} is primary")),
                Err(error) => Err(format!("{error:#}")),
            })?;
        }
    }
    Ok(())
}

/// The daemon of the full disk says why it ends.
fn wait_noticed(
    arena: &Arena,
    survivor: &str,
    victim: &str,
    said_before: usize,
) -> anyhow::Result<()> {
    wait::until("the full disk to be noticed", NOTICED_DEADLINE, || {
        // Every entry needs room.
        let _refused_or_done = arena
            .cluster()
            .skcli(survivor)
            .and_then(|skcli| skcli.try_run(&["cluster", "token", "--valid", "60"]));
        let log = log_of(arena, victim);
        if log.get(said_before..).unwrap_or(&log).contains(CANNOT_LOG) {
            Ok(())
        } else {
            Err(log.lines().last().unwrap_or_default().to_owned())
        }
    })?;
    Ok(())
}

/// The survivor serves alone, and counts the other as down.
fn serves_without(
    arena: &Arena,
    survivor: &str,
    victim: &str,
    since_ns: u64,
) -> anyhow::Result<()> {
    wait_down(arena, survivor, victim, true)?;
    arena.wait_served_by(survivor, since_ns, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(GOES_ON, SERVED_DEADLINE)?;
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(survivor)
    })?;
    ensure!(
        state.primary == survivor && state.in_sync == [survivor.to_owned()],
        "{survivor} should serve alone: primary {}, in sync [{}]",
        state.primary,
        state.in_sync.join(" ")
    );
    Ok(())
}
