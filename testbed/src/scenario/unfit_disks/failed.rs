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

/// Size of the disk, and of its blocks.
const IMAGE_MIB: u32 = 64;
const BLOCK_BYTES: u32 = 4096;
/// Room below the disk.
const ROOM_BYTES: &str = "72m";
/// The file that has no room on the disk any more.
const WRITTEN: &str = "written";

/// Goal: a primary whose disk fails hands over, its copy is written anew, and what the other server had acknowledged is on that disk
/// then, not only in the memory of the kernel, which calls what it could not write clean.
pub(in crate::scenario) fn failed_disk_of_primary(arena: &mut Arena) -> anyhow::Result<Figures> {
    thin_disk(arena, Role::Primary)
}

/// Goal: as for the primary, for the secondary: the primary goes on alone.
pub(in crate::scenario) fn failed_disk_of_secondary(arena: &mut Arena) -> anyhow::Result<Figures> {
    thin_disk(arena, Role::Secondary)
}

/// A thin disk without room for the blocks of one file while the module serves; it is taken off and put on again before it is read.
fn thin_disk(arena: &mut Arena, role: Role) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let survivor = arena.ready()?;
    let victim = arena.cluster().other(&survivor)?;
    let directory = replicated_directory(arena.lab()).display().to_string();
    let thin = format!("{directory}-thin");
    let put_on = format!(
        "set -e; umount -l {directory} 2>/dev/null || true; mkdir {thin}; mount -t tmpfs -o size={ROOM_BYTES} none {thin}; cd {thin}; \
         dd if=/dev/zero of=image bs=1M count={IMAGE_MIB} 2>/dev/null; mkfs.ext4 -qF -b {BLOCK_BYTES} -E nodiscard image; \
         dd if=image of=image bs=1M conv=notrunc 2>/dev/null; mkdir below; mount -o loop image below; rmdir below/lost+found; \
         cp -a {directory}/. below/; mount --bind below {directory}"
    );
    restarted(arena, &victim, &put_on, &mut figures)?;
    give_role(arena, &survivor, &victim, role)?;
    let write = |how: &str| format!("dd if=/dev/urandom of={WRITTEN} bs=64k count=128 conv={how}");
    arena.run_on_mount(&write("fsync"), COMMAND_DEADLINE)?;
    let take_room = format!(
        "set -e; cd {thin}; filefrag -b{BLOCK_BYTES} -v below/{WRITTEN} | \
         sed -n 's/^ *[0-9]*: *[0-9]*\\.\\. *[0-9]*: *\\([0-9]*\\)\\.\\. *[0-9]*: *\\([0-9]*\\):.*/\\1 \\2/p' >extents; test -s extents; \
         while read start count; do fallocate -p -o $((start * {BLOCK_BYTES})) -l $((count * {BLOCK_BYTES})) image; done <extents; \
         dd if=/dev/zero of=filler bs=64k 2>/dev/null || true"
    );
    shell(arena, &victim, &take_room)?;

    let failed = wait::boot_ns();
    let before = arena.cluster().module_state(&survivor)?.epoch;
    // The primary whose disk fails answers nothing more.
    let overwrite = format!("{} && sync {WRITTEN} || true", write("notrunc"));
    arena.run_on_mount(&overwrite, COMMAND_DEADLINE)?;
    wait_struck_off(arena, &survivor, before)?;
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
        "set -e; cd {thin}; umount -l {directory}; umount {directory}; umount below; mount -o loop image below; sha256sum <below/{WRITTEN}"
    );
    let on_disk = shell(arena, &victim, &again)?.stdout;
    let whole = arena.lab().data_below(&survivor).join("app").join(WRITTEN);
    let whole = Command::new("sha256sum")
        .stdin(std::fs::File::open(whole)?)
        .output()?;
    ensure!(
        on_disk.as_bytes() == whole.stdout,
        "{WRITTEN} is not on the disk of {victim} although its copy counted"
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

/// Each change of who leads or counts is an epoch of its own, however soon the copy counts again.
fn wait_struck_off(arena: &Arena, survivor: &str, before: u64) -> anyhow::Result<()> {
    wait::until("the failed copy to be struck off", SERVED_DEADLINE, || {
        let state = arena.cluster().module_state(survivor);
        let epoch = state.map_err(|error| format!("{error:#}"))?.epoch;
        if epoch > before {
            Ok(())
        } else {
            Err(format!("epoch {epoch}"))
        }
    })?;
    Ok(())
}
