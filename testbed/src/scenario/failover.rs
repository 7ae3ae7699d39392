//! Scenarios in which the primary changes.

use super::arena::{Arena, hold, ms_since};
use super::excuse;
use super::figures::Figures;
use crate::lab::Cut;
use crate::oracle::Application;
use crate::oracle::mount_probe::{MountProbe, verify_nothing_served};
use crate::wait;
use anyhow::ensure;
use rand::Rng as _;
use std::time::Duration;

/// The other server is primary within this time; the bound on the figure is checked over all rounds.
pub(super) const TAKEOVER_DEADLINE: Duration = Duration::from_secs(20);
/// The client is served again within this time; the bound on the figure is checked below.
pub(super) const SERVED_DEADLINE: Duration = Duration::from_secs(60);
/// Between takeover and service, without the application's own start.
const SWITCH_MS_MAX: f64 = 1000.0;
/// The lease that the module of `heart_timeout` asks for.
const SHORT_LEASE_MS: u64 = 500;
/// How long a frozen daemon stays frozen.
const FROZEN: Duration = Duration::from_secs(10);
/// A pause that no lease notices: the mirror's own patience is the shortest, one second.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=700;
/// From where a lease may notice to where every lease has run out: nobody can say beforehand whether the role moves.
const BRIEFLY_MS: std::ops::RangeInclusive<u64> = 700..=4000;
/// What a pause breaks shows within this time.
const LEASE_AND_MORE: Duration = Duration::from_secs(4);
/// How long an isolated server stays isolated after the other serves.
const ISOLATED: Duration = Duration::from_secs(3);

/// Allowance for the application's own start after a crash, or stop and start in a switchover, on a busy machine.
pub(super) fn own_start_ms(application: Application) -> f64 {
    match application {
        Application::Ledger => 300.0,
        Application::Postgresql => 5000.0,
    }
}

/// Waits for takeover and service, notes both, and checks that the service followed in time. Gives the time of the takeover
/// (`CLOCK_BOOTTIME`, nanoseconds).
pub(super) fn other_serves(
    arena: &Arena,
    other: &str,
    cut: impl Into<Cut>,
    figures: &mut Figures,
) -> anyhow::Result<u64> {
    let cut = cut.into();
    let takeover = arena.wait_takeover(other, cut, TAKEOVER_DEADLINE)?;
    figures.set("takeover_ms", takeover);
    let served = arena.wait_served_by(other, cut, SERVED_DEADLINE)?;
    figures.set("served_ms", served);
    let limit =
        takeover + SWITCH_MS_MAX + arena.address_wait_ms() + own_start_ms(arena.application());
    excuse::ensure(served <= limit, || {
        format!(
            "the client was served again after {served:.0} ms; takeover took {takeover:.0} ms, so the limit is {limit:.0} ms"
        )
    })?;
    Ok(cut.done_ns + (takeover.max(0.0) * 1e6) as u64)
}

/// Goal: power of the primary fails; the other serves; the server returns and is brought up to date under load.
pub(super) fn primary_power_cut(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().power_cut(&primary)?;
    other_serves(arena, &other, cut, &mut figures)?;
    arena.bring_back(&primary, &mut figures)?;
    figures.set(
        "gap_ms",
        arena
            .recorder()?
            .longest_gap_ms(cut.done_ns, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: a module's `<heart>` sets the lease of its servers, in a cluster of longer leases: the takeover starts as soon as with
/// the fast profile, and nothing is lost. What voters granted before, or do not know any more since they started, they wait for;
/// so the cut comes after that time.
pub(super) fn heart_timeout(arena: &mut Arena) -> anyhow::Result<Figures> {
    let primary = arena.ready()?;
    let wait_ms = arena.profile().takeover_ms_max();
    hold(wait::boot_ns(), Duration::from_secs_f64(wait_ms / 1000.0));
    let lease_ms = wait::until("a lease", SERVED_DEADLINE, || {
        let state = arena.cluster().cluster_state(&primary);
        let lease_ms = state.map_err(|e| format!("{e:#}"))?.lease_remaining_ms;
        (lease_ms > 0).then_some(lease_ms).ok_or_else(String::new)
    })?;
    ensure!(
        lease_ms <= SHORT_LEASE_MS,
        "{primary} has a lease for another {lease_ms} ms"
    );
    primary_power_cut(arena)
}

/// Goal: the daemon dies, the application on a dead mount does not matter, the restarted daemon cleans up and follows.
pub(super) fn primary_daemon_killed(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let cut = arena.lab_mut().kill_daemon(&primary)?;
    other_serves(arena, &other, cut, &mut figures)?;
    let began = wait::boot_ns();
    arena.lab_mut().start_daemon(&primary)?;
    arena.converge(&primary, began, &mut figures)?;
    figures.set(
        "gap_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: a frozen daemon that wakes up acknowledges and serves nothing of its former role. The wire and the rows tell, and somebody
/// who reads and writes its mount all the time.
pub(super) fn primary_daemon_frozen(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let probe = MountProbe::start(arena.lab(), &primary)?;
    let cut = arena.lab().freeze_daemon(&primary)?;
    let served = other_serves(arena, &other, cut, &mut figures);
    hold(cut, arena.length.unwrap_or(FROZEN));
    // Whatever happened, the daemon must not stay frozen.
    arena.lab().continue_daemon(&primary)?;
    let continued = wait::boot_ns();
    let taken_over = served?;
    arena.converge(&primary, continued, &mut figures)?;
    verify_nothing_served(&probe.finish()?, taken_over)?;
    figures.set(
        "gap_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: a pause that is shorter than a lease costs the writer that pause and nobody a role.
pub(super) fn primary_daemon_paused(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let before = arena.cluster().module_state(&primary)?.epoch;
    let pause = Duration::from_millis(arena.random.random_range(PAUSE_MS));
    let cut = arena.lab().freeze_daemon(&primary)?;
    hold(cut, pause);
    arena.lab().continue_daemon(&primary)?;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    hold(cut, LEASE_AND_MORE);
    figures.set("paused_ms", pause.as_secs_f64() * 1000.0);
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    let after = arena.cluster().module_state(&primary)?.epoch;
    excuse::ensure(before == after, || {
        let ms = pause.as_millis();
        format!("a pause of {ms} ms moved a role: epoch {before} became {after}")
    })?;
    Ok(figures)
}

/// Goal: whether a pause about as long as the leases moves the role or not, one server owns it at any time, and it is served.
pub(super) fn primary_daemon_frozen_briefly(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let pause = Duration::from_millis(arena.random.random_range(BRIEFLY_MS));
    let cut = arena.lab().freeze_daemon(&primary)?;
    hold(cut, pause);
    arena.lab().continue_daemon(&primary)?;
    let continued = wait::boot_ns();
    let now = arena.wait_settled(continued, SERVED_DEADLINE)?;
    figures.set("paused_ms", pause.as_secs_f64() * 1000.0);
    figures.set("moved", f64::from(u8::from(now != primary)));
    figures.set("settled_ms", ms_since(continued));
    figures.set(
        "gap_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: a primary that nobody hears fences itself; when it is heard again it follows.
pub(super) fn primary_isolated(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let probe = MountProbe::start(arena.lab(), &primary)?;
    let cut = arena.lab().isolate(&primary)?;
    let served = other_serves(arena, &other, cut, &mut figures);
    hold(wait::boot_ns(), ISOLATED);
    arena.lab().heal()?;
    let healed = wait::boot_ns();
    let taken_over = served?;
    arena.converge(&primary, healed, &mut figures)?;
    verify_nothing_served(&probe.finish()?, taken_over)?;
    figures.set(
        "gap_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    Ok(figures)
}

/// Goal: roles are exchanged as planned: both copies stay in the in-sync set, nothing is copied.
pub(super) fn swap(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    let began = wait::boot_ns();
    arena
        .cluster()
        .skcli(&primary)?
        .json(&["module", "swap", "-m", crate::cluster::MODULE])?;
    figures.set("command_ms", ms_since(began));
    let takeover = arena.wait_takeover(&other, began, TAKEOVER_DEADLINE)?;
    figures.set("switched_ms", takeover);
    arena.wait_served_by(&other, began, SERVED_DEADLINE)?;
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(&other)
    })?;
    ensure!(
        state.in_sync.len() == 2,
        "a switchover must not need a reintegration: in sync [{}]",
        state.in_sync.join(" ")
    );
    arena.primary()?;
    for server in [&primary, &other] {
        let own = wait::answer("a server's own state", || arena.cluster().own_state(server))?;
        let copied = own.resync_bytes_sent;
        ensure!(
            copied == 0,
            "{server} copied {copied} bytes in a switchover"
        );
    }
    let gap = arena.recorder()?.longest_gap_ms(began, wait::boot_ns());
    figures.set("gap_ms", gap);
    let limit = 2.0 * own_start_ms(arena.application()) + 500.0;
    excuse::ensure(gap <= limit, || {
        format!("the gap was {gap:.0} ms, the limit is {limit:.0} ms")
    })?;
    Ok(figures)
}
