//! Disks that cannot be written, below state directories and replicated ones: the daemon says so, answers for nothing it does not hold,
//! and the cluster goes on.

mod data;
mod failed;

pub(super) use data::{unfit_disk_of_primary, unfit_disk_of_secondary};
pub(super) use failed::{failed_disk_of_primary, failed_disk_of_secondary};

use super::arena::Arena;
use super::figures::Figures;
use crate::lab::NodeKind;
use crate::wait::{self, Finished};
use anyhow::ensure;
use std::time::Duration;

/// A command inside a node ends within this time.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// A daemon whose disk is full notices within this time, and one that is back is heard.
const NOTICED_DEADLINE: Duration = Duration::from_secs(60);
/// Small enough to be filled at once, large enough for a log.
const DISK_BYTES: &str = "16m";
/// What the daemon of a full disk says.
const CANNOT_LOG: &str = "cannot keep its log";

/// Goal: a full disk under a voter's log ends its daemon with a clear text, and nothing it had acknowledged is missing when
/// there is room again; a state directory that is read-only is named at the start. Method: a small file system under the
/// witness's state.
pub(super) fn unfit_disks(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let state = arena.lab().root("w").join("var/lib/sidekick");
    let dir = state.display().to_string();
    arena.lab_mut().kill_daemon("w")?;
    let small = format!(
        "cp -a {dir} {dir}.before && mount -t tmpfs -o size={DISK_BYTES},mode=0711 none {dir} && cp -a {dir}.before/. {dir}/"
    );
    shell(arena, "w", &small)?;
    start(arena)?;
    fill(arena, "w", &dir)?;
    wait::until(
        "the daemon to notice that its disk is full",
        NOTICED_DEADLINE,
        || {
            // Every entry needs room.
            let _refused_or_done = arena
                .cluster()
                .skcli("s1")
                .and_then(|skcli| skcli.try_run(&["cluster", "token", "--valid", "60"]));
            let log = log_of(arena, "w");
            if log.contains(CANNOT_LOG) {
                Ok(())
            } else {
                Err(log.lines().last().unwrap_or_default().to_owned())
            }
        },
    )?;
    wait_down(arena, "s1", "w", true)?;
    ensure!(
        arena.cluster().cluster_state("s1")?.has_quorum,
        "two of three voters are a majority"
    );
    refused_start(arena, "w", "a full state directory")?;

    shell(arena, "w", &format!("rm {dir}/filler"))?;
    start(arena)?;
    arena.lab_mut().kill_daemon("w")?;
    // What the small disk holds is the newest; the older copy below it would be refused.
    let back = format!(
        "cp -a {dir} {dir}.after && umount {dir} && rm -rf {dir} {dir}.before && mv {dir}.after {dir}"
    );
    shell(arena, "w", &back)?;
    shell(
        arena,
        "w",
        &format!("mount --bind {dir} {dir} && mount -o remount,bind,ro {dir}"),
    )?;
    refused_start(arena, "w", "a read-only state directory")?;
    shell(arena, "w", &format!("umount {dir}"))?;
    start(arena)?;
    figures.set("cases", 3.0);
    Ok(figures)
}

fn shell(arena: &Arena, server: &str, script: &str) -> anyhow::Result<Finished> {
    let done = arena
        .lab()
        .exec(server, &["sh", "-c", script], COMMAND_DEADLINE)?;
    ensure!(done.is_success(), "{script}: {}", done.summary());
    Ok(done)
}

fn fill(arena: &Arena, server: &str, dir: &str) -> anyhow::Result<()> {
    let script = format!("dd if=/dev/zero of={dir}/filler bs=4k 2>/dev/null; test -s {dir}/filler");
    shell(arena, server, &script).map(drop)
}

/// Starts the daemon and waits until its start is committed: from then on its log is in use.
fn start(arena: &mut Arena) -> anyhow::Result<()> {
    let before = starts(arena)?;
    arena.lab_mut().start_daemon("w")?;
    wait::until(
        "the start of the witness",
        NOTICED_DEADLINE,
        || match starts(arena) {
            Ok(now) if now > before => Ok(()),
            Ok(now) => Err(format!("{now} starts")),
            Err(error) => Err(format!("{error:#}")),
        },
    )?;
    wait_down(arena, "s1", "w", false)
}

fn starts(arena: &Arena) -> anyhow::Result<usize> {
    let events = arena.cluster().events_of("s1")?;
    let is_start = |event: &&api::v1::EventReply| event.text.starts_with("daemon of w started");
    Ok(events.iter().filter(is_start).count())
}

/// The daemon does not start, and names the directory.
fn refused_start(arena: &Arena, server: &str, what: &str) -> anyhow::Result<()> {
    let sknode = crate::lab::program("sknode")?.display().to_string();
    let root = arena.lab().root(server).display().to_string();
    // Never the machine's own watchdog.
    let mut command = vec![sknode.as_str(), "--root", &root, "--watchdog", "none"];
    match arena.lab().server(server)?.node().kind {
        NodeKind::Witness => command.push("--witness"),
        NodeKind::Server => {}
    }
    let started = arena.lab().exec(server, &command, COMMAND_DEADLINE)?;
    ensure!(
        !started.is_success()
            && started.status.is_some()
            && started.stderr.contains("var/lib/sidekick"),
        "{what}: the daemon should refuse to start and name it: {}",
        started.summary()
    );
    ensure!(
        !started.stderr.contains("panicked"),
        "{what}: {}",
        started.stderr
    );
    Ok(())
}

fn log_of(arena: &Arena, server: &str) -> String {
    let log = arena
        .lab()
        .server(server)
        .map(|server| server.log().to_owned());
    log.ok()
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default()
}

fn wait_down(arena: &Arena, asked: &str, server: &str, is_down: bool) -> anyhow::Result<()> {
    let what = if is_down {
        format!("{server} to be missed")
    } else {
        format!("{server} to be heard")
    };
    wait::until(&what, NOTICED_DEADLINE, || {
        let state = arena
            .cluster()
            .cluster_state(asked)
            .map_err(|e| format!("{e:#}"))?;
        let found = state.members.iter().find(|m| m.name == server);
        if found.is_some_and(|member| member.is_down == is_down) {
            Ok(())
        } else {
            Err(format!("{:?}", state.members))
        }
    })?;
    Ok(())
}
