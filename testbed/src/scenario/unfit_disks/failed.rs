//! The disk below a replicated directory fails while the module serves.

use super::data::{Role, give_role, restarted};
use super::{COMMAND_DEADLINE, shell};
use crate::cluster::package::replicated_directory;
use crate::scenario::arena::Arena;
use crate::scenario::failover::SERVED_DEADLINE;
use crate::scenario::figures::Figures;
use crate::wait;
use anyhow::ensure;
use std::process::Command;

/// Size of the disk.
const IMAGE_BYTES: &str = "64M";
/// Room below the disk.
const ROOM_BYTES: &str = "72m";
/// A file that the application wrote and never synced.
const UNSYNCED: &str = "unsynced";

/// Goal: a primary whose disk fails hands over, its copy is written anew, and what the other server had acknowledged is on that disk
/// then, not only in the memory of the kernel, which calls what it could not write clean.
pub(in crate::scenario) fn failed_disk_of_primary(arena: &mut Arena) -> anyhow::Result<Figures> {
    thin_disk(arena, Role::Primary)
}

/// Goal: as for the primary, for the secondary: the primary goes on alone.
pub(in crate::scenario) fn failed_disk_of_secondary(arena: &mut Arena) -> anyhow::Result<Figures> {
    thin_disk(arena, Role::Secondary)
}

/// A disk whose room is used up while the module serves; it is taken off and put on again before it is read.
fn thin_disk(arena: &mut Arena, role: Role) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let survivor = arena.ready()?;
    let victim = arena.cluster().other(&survivor)?;
    let directory = replicated_directory(arena.lab()).display().to_string();
    let thin = format!("{directory}-thin");
    // What a file system keeps for itself has its room; free blocks have none, as on a thin volume.
    let put_on = format!(
        "set -e; umount -l {directory} 2>/dev/null || true; mkdir {thin}; mount -t tmpfs -o size={ROOM_BYTES} none {thin}; cd {thin}; \
         truncate -s {IMAGE_BYTES} image; mkfs.ext4 -qF -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 image; \
         dd if=image of=image bs=1M conv=notrunc 2>/dev/null; mkdir below; mount -o loop image below; rmdir below/lost+found; \
         cp -a {directory}/. below/; sync -f below; fstrim below; mount --bind below {directory}"
    );
    restarted(arena, &victim, &put_on, &mut figures)?;
    give_role(arena, &survivor, &victim, role)?;
    let write = format!("dd if=/dev/urandom of={UNSYNCED} bs=64k count=128 2>/dev/null");
    arena.run_on_mount(&write, COMMAND_DEADLINE)?;

    let failed = wait::boot_ns();
    // What the kernel does by itself, sooner or later, before the copy is written anew.
    let fill_and_write_back = format!(
        "dd if=/dev/zero of={thin}/filler bs=64k 2>/dev/null; sync -d {thin}/below/{UNSYNCED} || true"
    );
    shell(arena, &victim, &fill_and_write_back)?;
    wait_struck_off(arena, &survivor)?;
    match role {
        Role::Primary => {
            let served = arena.wait_served_by(&survivor, failed, SERVED_DEADLINE)?;
            figures.set("served_ms", served);
        }
        Role::Secondary => {
            arena.wait_served(wait::boot_ns(), SERVED_DEADLINE)?;
        }
    }
    shell(arena, &victim, &format!("rm {thin}/filler"))?;
    arena.converge(&victim, failed, &mut figures)?;

    arena.lab_mut().kill_daemon(&victim)?;
    let again = format!(
        "set -e; cd {thin}; umount -l {directory}; umount {directory}; umount below; mount -o loop image below; sha256sum <below/{UNSYNCED}"
    );
    let on_disk = shell(arena, &victim, &again)?.stdout;
    let whole = arena.lab().data_below(&survivor).join("app").join(UNSYNCED);
    let whole = Command::new("sha256sum")
        .stdin(std::fs::File::open(whole)?)
        .output()?;
    ensure!(
        on_disk.as_bytes() == whole.stdout,
        "{UNSYNCED} is not on the disk of {victim} although its copy counted"
    );
    let back = format!(
        "set -e; rm -rf {directory}/* {directory}/.[!.]*; cp -a {thin}/below/. {directory}/; umount {thin}/below; umount {thin}; rmdir {thin}"
    );
    shell(arena, &victim, &back)?;
    let began = wait::boot_ns();
    arena.lab_mut().start_daemon(&victim)?;
    arena.converge(&victim, began, &mut figures)?;
    Ok(figures)
}

/// The next sync of the application finds the disk failed.
fn wait_struck_off(arena: &Arena, survivor: &str) -> anyhow::Result<()> {
    wait::until("the failed copy to be struck off", SERVED_DEADLINE, || {
        let state = arena.cluster().module_state(survivor);
        let state = state.map_err(|error| format!("{error:#}"))?;
        if state.in_sync == [survivor.to_owned()] {
            Ok(())
        } else {
            Err(format!("in sync: {}", state.in_sync.join(" ")))
        }
    })?;
    Ok(())
}
