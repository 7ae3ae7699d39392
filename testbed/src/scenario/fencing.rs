//! The upper rungs of fencing, with the softer ones broken on purpose (R8).
//!
//! What is tested elsewhere: the gate and the abort of the mount (`fs-mirror`), the finite lifetime of an address that is not
//! removed (`node`: `address_lives_while_renewed_and_expires_when_renewals_stop`; on the wire: `primary_daemon_frozen`).

use super::arena::{Arena, ms_since};
use super::figures::Figures;
use crate::cluster::{MODULE, package};
use crate::wait;
use anyhow::{Context as _, ensure};
use api::v1::ModuleState;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

/// A state is reached within this time.
const SOON: Duration = Duration::from_secs(60);
/// Everything of the former role is gone within this time of the loss of the lease: the stop script's 3 s and a bit.
const FENCED_MS_MAX: f64 = 12_000.0;
/// A watchdog is told of life every second; after so long without it the machine would be about to be reset.
const SILENT: Duration = Duration::from_secs(4);

/// Starts processes that ignore every polite signal, some in sessions of their own, and one that leaves the cgroup.
const START: &str = r#"#!/bin/bash
trap '' TERM HUP INT
for n in 1 2 3; do
    bash -c 'trap "" TERM HUP INT; cd "$SK_DIRECTORY"; while :; do echo x >>defiant; sleep 0.05; done' defiant &
    setsid bash -c 'trap "" TERM HUP INT; while :; do sleep 0.05; done' defiant &
done
exit 0
"#;
/// Ignores being told to end, and forks.
const STOP: &str = r#"#!/bin/bash
trap '' TERM HUP INT
while :; do
    bash -c 'trap "" TERM HUP INT; sleep 1000' defiant &
    sleep 0.05
done
"#;

/// Goal: a stop script that ignores TERM and forks, over an application that does the same, keeps nothing of the module alive on
/// a server that lost its lease. Method: cut the primary off.
pub(super) fn stop_script_defies(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    if arena.cluster().module_state("s1").is_err() {
        let package = write_defiant(arena)?;
        arena.cluster().install_package(&package, "s1")?;
    }
    let primary = arena.primary()?;
    let other = arena.cluster().other(&primary)?;
    ensure!(
        defiant(arena, &primary)? >= 6,
        "the application does not run"
    );
    let cut = arena.lab().isolate(&primary)?;
    arena
        .cluster()
        .wait_state(&other, &[ModuleState::Alone], SOON)?;
    wait::until("the end of every process", SOON, || {
        match defiant(arena, &primary) {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("{count} processes")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    figures.set("fenced_ms", ms_since(cut));
    ensure!(
        ms_since(cut) < FENCED_MS_MAX,
        "fencing took {:.0} ms",
        ms_since(cut)
    );
    arena.lab().heal()?;
    arena.cluster().wait_mirrored(SOON)?;
    Ok(figures)
}

fn write_defiant(arena: &Arena) -> anyhow::Result<std::path::PathBuf> {
    let directory = package::write_bare(arena.lab())?;
    let path = directory.join("conf/userconfig.xml");
    let text = fs::read_to_string(&path)?;
    fs::write(
        &path,
        text.replace(
            "</service>",
            "<user nicestoptimeout=\"2s\" forcestoptimeout=\"2s\"/></service>",
        ),
    )?;
    fs::create_dir_all(directory.join("bin"))?;
    for (name, text) in [("start_prim", START), ("stop_prim", STOP)] {
        let script = directory.join("bin").join(name);
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(directory)
}

/// How many processes of the application or its scripts live on a server.
fn defiant(arena: &Arena, server: &str) -> anyhow::Result<usize> {
    let done = arena
        .lab()
        .exec(server, &["ps", "-e", "-o", "args="], SOON)?;
    let is_ours = |line: &&str| {
        ["defiant", "bin/start_prim", "bin/stop_prim"]
            .iter()
            .any(|word| line.contains(word))
    };
    Ok(done.stdout.lines().filter(is_ours).count())
}

/// Goal: a watchdog is armed before the role and disarmed after it, and gets no sign of life from a daemon that is frozen or
/// killed. Method: a fifo for the device; whoever reads it is the hardware, and cuts the power.
pub(super) fn watchdog_silent(arena: &mut Arena) -> anyhow::Result<Figures> {
    let device = arena.lab().root("s1").join("watchdog");
    let mut hardware = Hardware::at(&device)?;
    restart(arena)?;
    ensure!(hardware.heard()?.is_empty(), "armed without a role");
    if arena.cluster().module_state("s1").is_err() {
        arena.cluster().install_bare("s1")?;
    }
    ensure!(arena.primary()? == "s1");
    hardware.wait_for_life()?;
    // Left in order: disarmed. And armed again with the role.
    let swap = ["module", "swap", "-m", MODULE];
    arena.cluster().skcli("s1")?.run(&swap)?;
    arena.cluster().wait_mirrored(SOON)?;
    ensure!(
        hardware.heard()?.ends_with('V'),
        "not disarmed after the role"
    );
    arena.cluster().skcli("s1")?.run(&swap)?;
    arena.cluster().wait_mirrored(SOON)?;
    hardware.wait_for_life()?;
    // Killed and started again: what it armed is disarmed, since nothing of it lives.
    arena.lab_mut().kill_daemon("s1")?;
    hardware.heard()?;
    restart(arena)?;
    wait::until("disarming by the next daemon", SOON, || {
        match hardware.heard() {
            Ok(heard) if heard.contains('V') => Ok(()),
            Ok(heard) => Err(heard),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    back_to_s1(arena)?;
    hardware.wait_for_life()?;
    // Frozen for good.
    arena.lab().freeze_daemon("s1")?;
    arena
        .cluster()
        .wait_state("s2", &[ModuleState::Alone], SOON)?;
    hardware.heard()?;
    std::thread::sleep(SILENT);
    ensure!(
        hardware.heard()?.is_empty(),
        "a frozen daemon gave a sign of life"
    );
    arena.lab_mut().power_cut("s1")?;
    arena.lab_mut().power_on("s1")?;
    arena.lab_mut().start_daemon("s1")?;
    arena.cluster().wait_mirrored(SOON)?;
    let events = arena.cluster().events_of("s2")?;
    ensure!(
        events
            .iter()
            .any(|event| event.evidence.contains("ended without a word")),
        "nobody says how the daemon ended"
    );
    fs::remove_file(device)?;
    Ok(Figures::default())
}

fn restart(arena: &mut Arena) -> anyhow::Result<()> {
    if arena.lab().server("s1")?.daemon_pid().is_some() {
        arena.lab_mut().kill_daemon("s1")?;
    }
    arena.lab_mut().start_daemon("s1")?;
    arena.cluster().wait_answers("s1")
}

/// A restarted server is shown as a secondary for a moment before its peer drops it and brings it up to date.
fn back_to_s1(arena: &Arena) -> anyhow::Result<()> {
    let skcli = arena.cluster().skcli("s1")?;
    wait::until("s1 to lead", SOON, || {
        if arena.primary().map_err(|e| format!("{e:#}"))? == "s1" {
            return Ok(());
        }
        let swap = ["module", "swap", "-m", MODULE];
        let done = skcli.try_run(&swap).map_err(|e| format!("{e:#}"))?;
        Err(done.summary())
    })?;
    Ok(())
}

/// Whoever reads the fifo.
struct Hardware(File);

impl Hardware {
    fn at(path: &Path) -> anyhow::Result<Hardware> {
        if !path.exists() {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )?;
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        Ok(Hardware(file))
    }

    /// Everything written since the last call.
    fn heard(&mut self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        match self.0.read_to_end(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn wait_for_life(&mut self) -> anyhow::Result<()> {
        wait::until("a sign of life", SOON, || match self.heard() {
            Ok(heard) if heard.contains('1') => Ok(()),
            Ok(heard) => Err(heard),
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(())
    }
}
