//! Fencing (R8): the ladder rung by rung (`ladder`), an application that defies every signal, and the watchdog's own life.

mod breakage;
mod hardware;
mod ladder;

pub(super) use ladder::{address_stays, all_rungs_broken, processes_survive, stop_script_hangs};

use super::arena::{Arena, ms_since};
use super::failover::{SERVED_DEADLINE, TAKEOVER_DEADLINE};
use super::figures::Figures;
use crate::cluster::{MODULE, package};
use crate::wait;
use anyhow::ensure;
use api::v1::ModuleState;
use hardware::Hardware;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// A state is reached within this time.
const SOON: Duration = Duration::from_secs(60);
/// Everything of the former role is gone within this time of the loss of the lease: the stop script's 3 s and a bit.
const FENCED_MS_MAX: f64 = 12_000.0;
/// `TimeoutStopSec` of the unit.
const SERVICE_MANAGER_WAITS: Duration = Duration::from_secs(330);
/// A process whose tasks do not run any more gives signs of life for so long: it decides itself to be silent, 10 s after its tasks
/// were last heard of, which they are every second, and it says something every second.
const LAST_LIFE_MS: std::ops::RangeInclusive<f64> = 7_500.0..=12_500.0;

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
        let times = "nicestoptimeout=\"2s\" forcestoptimeout=\"2s\"";
        let package = write_module(arena, times, &[("start_prim", START), ("stop_prim", STOP)])?;
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

/// The smallest module with these scripts.
fn write_module(
    arena: &Arena,
    user: &str,
    scripts: &[(&str, &str)],
) -> anyhow::Result<std::path::PathBuf> {
    let directory = package::write_bare(arena.lab())?;
    let path = directory.join("conf/userconfig.xml");
    let text = fs::read_to_string(&path)?;
    let user = format!("<user {user}/></service>");
    fs::write(&path, text.replace("</service>", &user))?;
    fs::create_dir_all(directory.join("bin"))?;
    for (name, text) in scripts {
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

/// Goal: a watchdog is armed before the role and disarmed after it, by the next daemon when the one before was killed; and a
/// daemon whose tasks do not run any more falls silent by its own decision, since its process lives on. Method: a fifo for the
/// device, whose reader resets the machine; the kernel stops the threads that run tasks, and no others.
pub(super) fn watchdog_silent(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.ready()?;
    let hardware = Hardware::at(&arena.lab().root("s1").join("watchdog"))?;
    restart(arena, "s1")?;
    ensure!(hardware.seen().armings == 0, "armed without a role");
    back_to(arena, "s1")?;
    hardware.wait("the watchdog armed", SOON, |seen| seen.is_armed)?;
    // Left in order: disarmed. And armed again with the role.
    back_to(arena, "s2")?;
    hardware.wait("disarming after the role", SOON, |seen| !seen.is_armed)?;
    back_to(arena, "s1")?;
    hardware.wait("the watchdog armed", SOON, |seen| seen.is_armed)?;
    // Killed and started again: what it armed is disarmed, since nothing of it lives.
    restart(arena, "s1")?;
    hardware.wait("disarming by the next daemon", SOON, |seen| !seen.is_armed)?;
    back_to(arena, "s1")?;
    hardware.wait("the watchdog armed", SOON, |seen| seen.is_armed)?;
    arena.ready()?;
    // Heartbeats have a thread of their own, and so has the mount: it leads on, and nobody but the watchdog ends that.
    let frozen = arena.lab().freeze_tasks("s1")?;
    let seen = hardware.wait("the reset", SOON, |seen| seen.resets > 0)?;
    let last_life = seen.last_life_ns.saturating_sub(frozen) as f64 / 1e6;
    figures.set("last_life_ms", last_life);
    figures.set("resets", f64::from(seen.resets));
    ensure!(
        LAST_LIFE_MS.contains(&last_life),
        "the last sign of life came {last_life:.0} ms after the tasks were stopped"
    );
    let cut = arena.lab_mut().power_cut("s1")?;
    let takeover = arena.wait_takeover("s2", cut, TAKEOVER_DEADLINE)?;
    figures.set("takeover_ms", takeover);
    arena.wait_served_by("s2", cut, SERVED_DEADLINE)?;
    arena.bring_back("s1", &mut figures)?;
    ensure!(
        hardware.seen().resets == 1,
        "the watchdog has reset the server {} times",
        hardware.seen().resets
    );
    let events = arena.cluster().events_of("s2")?;
    ensure!(
        events
            .iter()
            .any(|event| event.evidence.contains("ended without a word")),
        "nobody says how the daemon ended"
    );
    Ok(figures)
}

/// Goal: a daemon that is asked to end, and waits for a stop script longer than its service manager waits for it, ends the
/// application the hard way and leaves no watchdog armed, and the other server takes over. Method: such a script. It takes five
/// minutes.
pub(super) fn stop_outlasts_daemon(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let hardware = Hardware::at(&arena.lab().root("s1").join("watchdog"))?;
    arena.lab_mut().kill_daemon("s1")?;
    arena.lab_mut().start_daemon("s1")?;
    arena.cluster().wait_answers("s1")?;
    if arena.cluster().module_state("s1").is_err() {
        let times = "nicestoptimeout=\"900s\" forcestoptimeout=\"900s\"";
        let scripts = [
            ("start_prim", "#!/bin/bash\nexit 0\n"),
            ("stop_prim", "#!/bin/bash\nsleep 1000\n"),
        ];
        let package = write_module(arena, times, &scripts)?;
        arena.cluster().install_package(&package, "s1")?;
    }
    hardware.wait("the watchdog armed", SOON, |seen| seen.is_armed)?;
    let asked = arena
        .lab_mut()
        .terminate_daemon("s1", SERVICE_MANAGER_WAITS)?;
    figures.set("ended_ms", ms_since(asked));
    let seen = hardware.seen();
    ensure!(
        !seen.is_armed && seen.resets == 0,
        "the daemon has ended, and of the watchdog it is true: {seen:?}"
    );
    arena.wait_takeover("s2", asked, TAKEOVER_DEADLINE)?;
    arena.lab_mut().start_daemon("s1")?;
    arena.cluster().wait_mirrored(SOON)?;
    Ok(figures)
}

/// Kills the daemon and starts it again; returns when all is mirrored.
fn restart(arena: &mut Arena, server: &str) -> anyhow::Result<()> {
    arena.lab_mut().kill_daemon(server)?;
    arena.lab_mut().start_daemon(server)?;
    let started = wait::boot_ns();
    arena.cluster().wait_answers(server)?;
    arena.wait_settled(started, SOON)?;
    Ok(())
}

/// A restarted server is shown as a secondary for a moment before its peer drops it and brings it up to date.
fn back_to(arena: &Arena, server: &str) -> anyhow::Result<()> {
    wait::until(&format!("{server} to lead"), SOON, || {
        let primary = arena.primary().map_err(|e| format!("{e:#}"))?;
        if primary == server {
            return Ok(());
        }
        let swap = ["module", "swap", "-m", MODULE];
        let skcli = arena.cluster().skcli(&primary);
        let done = skcli.and_then(|skcli| skcli.try_run(&swap));
        Err(done.map_err(|e| format!("{e:#}"))?.summary())
    })?;
    Ok(())
}
