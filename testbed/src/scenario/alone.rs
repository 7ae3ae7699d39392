//! Scenarios around the only whole copy: what it may do without a majority, and what it may not (R6).

use super::arena::{Arena, ms_since};
use super::failover::SERVED_DEADLINE;
use super::figures::Figures;
use crate::wait;
use anyhow::{Context as _, ensure};
use api::v1::{ModuleState, Quality, ServerModuleReply};
use rustix::fs::inotify;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Acknowledged writes that show that the service goes on.
const GOES_ON: u64 = 200;
/// Time for them.
const GOES_ON_DEADLINE: Duration = Duration::from_secs(60);
/// A state that was reached shows within this time.
const SHOWN_DEADLINE: Duration = Duration::from_secs(30);
/// A server that may not serve does not change its mind for this time.
const STAYS_WAITING: Duration = Duration::from_secs(4);
/// Exit code of a command that no majority answered.
const NO_ANSWER: i32 = 5;

/// Goal: the only whole copy serves without a majority, also after a restart without one; people are told; changes are refused.
/// Then all come back.
pub(super) fn alone_without_quorum(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    wait_alone(arena, &primary)?;
    let cut = arena.lab_mut().power_cut("w")?.done_ns;
    wait_without_quorum(arena, &primary)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    wait_alone(arena, &primary)?;
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    // It changes nothing when it is decided after all, once the others are back.
    let refused = arena.cluster().skcli(&primary)?.try_run(&[
        "module",
        "start",
        "-m",
        crate::cluster::MODULE,
    ])?;
    ensure!(
        refused.status.and_then(|status| status.code()) == Some(NO_ANSWER)
            && refused.stderr.contains("no majority of the voters"),
        "a change without a majority: {}",
        refused.summary()
    );
    // Nobody else can have been promoted meanwhile, so it needs to ask nobody.
    arena.lab_mut().kill_daemon(&primary)?;
    let restarted = wait::boot_ns();
    arena.lab_mut().start_daemon(&primary)?;
    arena.wait_served(restarted, SERVED_DEADLINE)?;
    figures.set("served_after_restart_ms", ms_since(restarted));
    wait_alone(arena, &primary)?;
    wait_without_quorum(arena, &primary)?;
    let returned = wait::boot_ns();
    for name in ["w", &secondary] {
        arena.lab_mut().power_on(name)?;
        arena.lab_mut().start_daemon(name)?;
    }
    arena.converge(&secondary, returned, &mut figures)?;
    Ok(figures)
}

/// Goal: a primary that went down between noting the addition of its peer and hearing of the outcome serves nothing before a
/// majority has told it the outcome: the peer may lead. Method: its daemon is killed at the very moment when the note
/// reaches the directory, and started again where it hears nobody.
pub(super) fn addition_open_over_restart(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let notes = arena
        .lab()
        .root(&primary)
        .join("var/lib/sidekick/modules")
        .join(crate::cluster::MODULE);
    let watch = watch_renames(&notes)?;
    arena.lab_mut().power_on(&secondary)?;
    arena.lab_mut().start_daemon(&secondary)?;
    wait_renamed(&watch, "open-addition")?;
    let killed = arena.lab_mut().kill_daemon(&primary)?;
    arena.lab().isolate(&primary)?;
    arena.lab_mut().start_daemon(&primary)?;
    let own = || arena.cluster().own_state(&primary);
    let waits = |own: ServerModuleReply| -> Result<String, String> {
        let is_waiting = own.state() == ModuleState::Wait
            && own.quality() == Quality::NotReady
            && own.detail.contains("waits for a majority");
        let said = format!("{:?}: {}", own.state(), own.detail);
        if is_waiting { Ok(said) } else { Err(said) }
    };
    let said = wait::until("WAIT for a majority", SHOWN_DEADLINE, || {
        own().map_err(|e| format!("{e:#}")).and_then(waits)
    })?;
    tracing::info!(primary, said, "restarted with an open addition");
    wait::stays("the former primary", STAYS_WAITING, own, |own| {
        let left = |said| anyhow::anyhow!("it left WAIT without a majority: {said}");
        waits(own).map(drop).map_err(left)
    })?;
    // Whether the addition was committed is known to the others only; the other leads if it was.
    let its = wait::answer("the other server", || arena.state_of(&secondary))?;
    let was_added = its != ModuleState::Wait;
    figures.set("addition_committed", f64::from(u8::from(was_added)));
    let healed = wait::boot_ns();
    arena.lab().heal()?;
    arena.wait_served(healed, SERVED_DEADLINE)?;
    figures.set("served_after_healing_ms", ms_since(healed));
    let leads = arena.primary()?;
    let follows = arena.cluster().other(&leads)?;
    arena.converge(&follows, healed, &mut figures)?;
    figures.set(
        "gap_ms",
        arena.recorder()?.longest_gap_ms(killed, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: an addition whose note cannot be written keeps no writer waiting. Method: something is in the way of the note; the peer
/// returns, and dies again when the primary has tried.
pub(super) fn addition_cannot_be_noted(arena: &mut Arena) -> anyhow::Result<Figures> {
    const SAID: &str = "failed to note the addition";
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    wait_alone(arena, &primary)?;
    let module = arena.lab().root(&primary).join("var/lib/sidekick/modules");
    let in_the_way = module
        .join(crate::cluster::MODULE)
        .join("open-addition.new");
    std::fs::create_dir(&in_the_way)?;
    let log = arena.lab().server(&primary)?.log().to_owned();
    let tried = || std::fs::read_to_string(&log).map(|text| text.matches(SAID).count());
    let before = tried()?;
    arena.lab_mut().power_on(&secondary)?;
    arena.lab_mut().start_daemon(&secondary)?;
    wait::until(
        "an addition that cannot be noted",
        GOES_ON_DEADLINE,
        || match tried() {
            Ok(count) if count > before => Ok(()),
            Ok(count) => Err(format!("tried {count} times")),
            Err(error) => Err(error.to_string()),
        },
    )?;
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    std::fs::remove_dir(&in_the_way)?;
    arena.bring_back(&secondary, &mut figures)?;
    Ok(figures)
}

fn wait_alone(arena: &Arena, server: &str) -> anyhow::Result<()> {
    arena
        .cluster()
        .wait_state(server, &[ModuleState::Alone], SHOWN_DEADLINE)
        .map(drop)
}

fn wait_without_quorum(arena: &Arena, server: &str) -> anyhow::Result<()> {
    wait::until("no majority", SHOWN_DEADLINE, || {
        let state = arena
            .cluster()
            .cluster_state(server)
            .map_err(|e| format!("{e:#}"))?;
        if state.has_quorum {
            Err(format!("lease for {} ms", state.lease_remaining_ms))
        } else {
            Ok(())
        }
    })?;
    Ok(())
}

fn watch_renames(directory: &Path) -> anyhow::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MOVED_TO)
        .with_context(|| format!("watch {}", directory.display()))?;
    Ok(watch)
}

/// Returns as soon as the kernel tells; looks without a pause, since every millisecond counts here.
fn wait_renamed(watch: &OwnedFd, name: &str) -> anyhow::Result<()> {
    let began = wait::boot_ns();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    while ms_since(began) < GOES_ON_DEADLINE.as_secs_f64() * 1000.0 {
        match reader.next() {
            Ok(event) => {
                let is_it = event
                    .file_name()
                    .is_some_and(|found| found.to_bytes() == name.as_bytes());
                if is_it {
                    return Ok(());
                }
            }
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_micros(100)),
            Err(errno) => return Err(errno.into()),
        }
    }
    anyhow::bail!("{name} was not written")
}
