//! Members come and go, are replaced, renamed and given new certificates, while the module serves.

mod data_disks;
mod pair;
mod removed;
mod seven;

pub(super) use data_disks::{old_disk_of_primary, old_disk_of_secondary};
pub(super) use pair::{pair_starts_anew, pair_under_load};
pub(super) use removed::removed_while_alone;
pub(super) use seven::seven_members;

use super::arena::{Arena, hold};
use super::excuse;
use super::failover::SERVED_DEADLINE;
use super::figures::Figures;
use crate::lab::topology;
use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A change of the members is in force within this time.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
/// How far a server moves in its network.
const MOVED_BY: u8 = 50;
/// A LAN on which something was heard so recently is alive.
const HEARD_MS: u64 = 500;
/// Every connection on a LAN that is cut for so long ends.
const CONNECTIONS_END: Duration = Duration::from_secs(4);
/// Acknowledged writes that show that the service goes on.
const GOES_ON: u64 = 100;
/// Time for them.
const GOES_ON_DEADLINE: Duration = Duration::from_secs(60);

fn ask(arena: &Arena, server: &str, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    arena.cluster().skcli(server)?.json(arguments)
}

/// Waits until a server's view of the members fits.
fn wait_members(
    arena: &Arena,
    asked: &str,
    what: &str,
    fits: impl Fn(&api::v1::ClusterStateReply) -> bool,
) -> anyhow::Result<()> {
    wait::until(what, CHANGE_DEADLINE, || {
        let state = arena
            .cluster()
            .cluster_state(asked)
            .map_err(|e| format!("{e:#}"))?;
        if fits(&state) {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", state.members, state.notices))
        }
    })?;
    Ok(())
}

fn id_of(arena: &Arena, asked: &str, name: &str) -> anyhow::Result<u64> {
    let state = arena.cluster().cluster_state(asked)?;
    let found = state.members.iter().find(|m| m.name == name);
    Ok(found.with_context(|| format!("no member {name}"))?.id)
}

fn token(arena: &Arena, server: &str, witness: bool) -> anyhow::Result<String> {
    let mut arguments = vec!["cluster", "token"];
    if witness {
        arguments.push("--witness");
    }
    let answer = ask(arena, server, &arguments)?;
    let text = answer["token"].as_str().context("no token in the answer")?;
    Ok(text.to_owned())
}

/// Lets the daemon on `name` join, by the address of `contact` on LAN 1.
fn join(
    arena: &Arena,
    contact: &str,
    name: &str,
    token: &str,
    more: &[&str],
) -> anyhow::Result<Finished> {
    let node = |name: &str| -> anyhow::Result<_> { Ok(arena.lab().server(name)?.node().clone()) };
    let contact = node(contact)?.address(1).to_string();
    let own: Vec<String> = crate::lab::LANS
        .iter()
        .map(|lan| node(name).map(|node| node.address(*lan).to_string()))
        .collect::<anyhow::Result<_>>()?;
    let mut arguments = vec!["cluster", "join", &contact, token, "--server", name];
    for address in &own {
        arguments.extend(["--address", address]);
    }
    arguments.extend(more);
    arena.cluster().skcli(name)?.try_run(&arguments)
}

fn must(what: &str, finished: &Finished) -> anyhow::Result<()> {
    ensure!(finished.is_success(), "{what}: {}", finished.summary());
    Ok(())
}

/// An empty disk in a running machine, and a daemon on it.
fn wipe(arena: &mut Arena, name: &str) -> anyhow::Result<()> {
    let root = arena.lab().root(name);
    for part in ["var", "run", "etc"] {
        match fs::remove_dir_all(root.join(part)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    arena.lab_mut().start_daemon(name)?;
    arena.cluster().wait_answers(name)
}

/// Goal: the witness leaves and another joins, all get new certificates, and nobody who
/// writes notices. Method: the commands of the manual on a loaded module; the epoch and the gap of the writer tell.
pub(super) fn members_come_and_go(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let before = arena.cluster().module_state(&primary)?;
    let began = wait::boot_ns();

    let refused = arena
        .cluster()
        .skcli(&primary)?
        .try_run(&["cluster", "leave", "--yes"])?;
    ensure!(
        !refused.is_success() && refused.stderr.contains("primary of app"),
        "a primary must not leave: {}",
        refused.summary()
    );
    let first_witness = id_of(arena, &primary, "w")?;
    ask(arena, "w", &["cluster", "leave", "--yes"])?;
    wait_members(arena, &primary, "a pair with one voter", |state| {
        state.members.len() == 2 && state.members.iter().filter(|m| m.is_voter).count() == 1
    })?;
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;

    let token = token(arena, &primary, true)?;
    wait_fresh(arena, "w")?;
    must(
        "the witness joins again",
        &join(arena, &primary, "w", &token, &[])?,
    )?;
    wait_members(arena, &primary, "three voters", three_vote)?;
    let second_witness = id_of(arena, &primary, "w")?;
    ensure!(
        second_witness > first_witness,
        "the number {first_witness} was given twice"
    );
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;

    for member in [&primary, &secondary, "w"] {
        renewed(arena, member)?;
    }
    arena.recorder()?.wait_load(GOES_ON, GOES_ON_DEADLINE)?;
    let after = arena.cluster().module_state(&primary)?;
    excuse::ensure(before.epoch == after.epoch, || {
        let (before, after) = (before.epoch, after.epoch);
        format!("the module's roles changed: epoch {before} became {after}")
    })?;
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(began, wait::boot_ns()),
    );
    // Connections that existed prove nothing of the new certificates.
    for lan in crate::lab::LANS {
        let cut = arena.lose_lan(lan)?;
        hold(cut, CONNECTIONS_END);
        arena.lab().heal()?;
        let leads = arena.wait_settled(wait::boot_ns(), CHANGE_DEADLINE)?;
        excuse::ensure(leads == primary, || {
            format!("{leads} leads after new connections on LAN {lan}, not {primary}")
        })?;
        wait_members(arena, &primary, "everybody to be heard", |state| {
            let others = state.members.iter().filter(|m| m.name != primary);
            let mut lans = others.flat_map(|m| &m.lans);
            state.members.iter().all(|m| !m.is_down) && lans.all(|lan| lan.heard_age_ms < HEARD_MS)
        })?;
    }
    Ok(figures)
}

/// A new certificate, which the cluster has taken note of.
fn renewed(arena: &Arena, member: &str) -> anyhow::Result<()> {
    let text = format!("{member} has a new certificate");
    let count = || -> anyhow::Result<usize> {
        let events = arena.cluster().events_of(member)?;
        Ok(events.iter().filter(|event| event.text == text).count())
    };
    let before = count()?;
    ask(arena, member, &["cluster", "renew"])?;
    wait::until(&text, CHANGE_DEADLINE, || match count() {
        Ok(now) if now > before => Ok(()),
        Ok(now) => Err(format!("{now} times")),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(())
}

/// There and back, so that the next round finds the names it knows.
fn rename(arena: &Arena, primary: &str, secondary: &str) -> anyhow::Result<()> {
    let other = format!("{secondary}x");
    for (from, to) in [(secondary, other.as_str()), (other.as_str(), secondary)] {
        ask(arena, primary, &["cluster", "set", from, "--name", to])?;
        wait_members(arena, secondary, "the other name", |state| {
            state.members.iter().any(|m| m.name == to)
        })?;
    }
    Ok(())
}

/// Goal: a server is found elsewhere and called otherwise from now on, and back, without being restarted. Method: its machine gets another address
/// on LAN 1, then the cluster is told.
pub(super) fn server_moves(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let (primary, secondary) = ("s1", "s2");
    let node = arena.lab().server(secondary)?.node().clone();
    let moved = topology::address_v4(1, node.host + MOVED_BY);
    let lan_2 = node.address(2).to_string();
    let on_machine = |verb: &str| -> anyhow::Result<()> {
        let address = format!("{moved}/24");
        let command = ["ip", "addr", verb, &address, "dev", "lan1"];
        let done = arena.lab().exec(secondary, &command, CHANGE_DEADLINE)?;
        must(&command.join(" "), &done)
    };
    on_machine("add")?;
    for lan_1 in [
        format!("{moved}:{}", topology::PORT),
        node.address(1).to_string(),
    ] {
        let both = format!("{lan_1},{lan_2}");
        ask(
            arena,
            primary,
            &["cluster", "set", secondary, "--address", &both],
        )?;
        wait_members(arena, primary, "the other address to be heard", |state| {
            let member = state.members.iter().find(|m| m.name == secondary);
            member.is_some_and(|m| m.lans.iter().all(|lan| lan.heard_age_ms < HEARD_MS))
                && member.is_some_and(|m| m.lans[0].address == lan_1)
        })?;
    }
    on_machine("del")?;
    rename(arena, primary, secondary)?;
    wrong_address(arena, primary, secondary)?;
    figures.set("cases", 5.0);
    Ok(figures)
}

/// A slip of the operator: addresses that the machine does not have. The server starts all the same, and is found where it was
/// before as soon as the slip is corrected.
fn wrong_address(arena: &mut Arena, primary: &str, secondary: &str) -> anyhow::Result<()> {
    let node = arena.lab().server(secondary)?.node().clone();
    let right: Vec<String> = crate::lab::LANS
        .iter()
        .map(|lan| node.address(*lan).to_string())
        .collect();
    let wrong: Vec<String> = crate::lab::LANS
        .iter()
        .map(|lan| {
            let ip = topology::address_v4(*lan, node.host + MOVED_BY + 1);
            format!("{ip}:{}", topology::PORT)
        })
        .collect();
    let set = |arena: &Arena, addresses: &[String]| {
        let both = addresses.join(",");
        let command = ["cluster", "set", secondary, "--address", &both];
        ask(arena, primary, &command).map(drop)
    };
    let (Some(right_1), Some(wrong_2)) = (right.first(), wrong.last()) else {
        anyhow::bail!("a lab has two LANs");
    };
    // It hears of the first slip, and not of the second: nobody reaches it any more.
    set(arena, &[right_1.clone(), wrong_2.clone()])?;
    wait_members(arena, secondary, "the slip to arrive", |state| {
        let member = state.members.iter().find(|m| m.name == secondary);
        member.is_some_and(|m| m.lans.iter().any(|lan| lan.address == *wrong_2))
    })?;
    restart(arena, secondary)?;
    set(arena, &wrong)?;
    restart(arena, secondary)?;
    set(arena, &right)?;
    wait_members(arena, primary, "the right addresses to be heard", |state| {
        let member = state.members.iter().find(|m| m.name == secondary);
        member.is_some_and(|m| !m.is_down && m.lans.iter().all(|lan| lan.heard_age_ms < HEARD_MS))
    })?;
    wait_members(arena, secondary, "the server to know it", |state| {
        let member = state.members.iter().find(|m| m.name == secondary);
        let is_right = member.is_some_and(|m| {
            let lans = m.lans.iter().map(|lan| &lan.address);
            lans.eq(&right)
        });
        state.has_quorum && is_right
    })
}

fn restart(arena: &mut Arena, name: &str) -> anyhow::Result<()> {
    arena.lab_mut().kill_daemon(name)?;
    arena.lab_mut().start_daemon(name)?;
    arena.cluster().wait_answers(name)
}

/// Goal: a server is lost with its disk; a fresh one under a new number takes its place by one command, while the module
/// serves; the lost one, should it return, is told that it was removed.
pub(super) fn server_replaced(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    let old = id_of(arena, &primary, &secondary)?;
    let alive = arena
        .cluster()
        .skcli(&primary)?
        .try_run(&["cluster", "remove", &secondary, "--yes"])?;
    ensure!(
        !alive.is_success() && alive.stderr.contains("alive"),
        "a living server must not be removed: {}",
        alive.summary()
    );
    let cut = arena.lab_mut().power_cut(&secondary)?.done_ns;
    arena.wait_served(cut, SERVED_DEADLINE)?;
    wait_members(arena, &primary, "the loss to be noticed", |state| {
        state
            .members
            .iter()
            .any(|m| m.name == secondary && m.is_down)
    })?;
    let plan = ask(
        arena,
        &primary,
        &["cluster", "remove", &secondary, "--dry-run"],
    )?;
    ensure!(
        plan["lines"].to_string().contains("given up"),
        "a dry run should say what it costs: {plan}"
    );
    let lost = arena.lab().root(&secondary).join("var");
    let kept = arena.lab().site().directory().join("lost-disk");
    fs::rename(&lost, &kept)?;
    arena.lab_mut().power_on(&secondary)?;
    wipe(arena, &secondary)?;
    let token = token(arena, &primary, false)?;
    let began = wait::boot_ns();
    let without = join(arena, &primary, &secondary, &token, &[])?;
    ensure!(
        !without.is_success() && without.stderr.contains("--replaces"),
        "the name is taken, and the text should say what to do: {}",
        without.summary()
    );
    let joined = join(
        arena,
        &primary,
        &secondary,
        &token,
        &["--replaces", &secondary],
    )?;
    must("the fresh server joins", &joined)?;
    arena.converge(&secondary, began, &mut figures)?;
    let new = id_of(arena, &primary, &secondary)?;
    ensure!(new > old, "the number {old} was given twice");
    figures.set(
        "stall_ms",
        arena.recorder()?.longest_gap_ms(cut, wait::boot_ns()),
    );
    returned(arena, &primary, &secondary, &kept)?;
    fs::remove_dir_all(&kept)?;
    Ok(figures)
}

/// The disk that was lost turns up again, and is put back: the daemon is told that it was removed, and may leave by itself.
fn returned(
    arena: &mut Arena,
    primary: &str,
    secondary: &str,
    disk: &std::path::Path,
) -> anyhow::Result<()> {
    let root = arena.lab().root(secondary);
    let new_disk = arena.lab().site().directory().join("new-disk");
    arena.lab_mut().kill_daemon(secondary)?;
    fs::rename(root.join("var"), &new_disk)?;
    copy(disk, &root.join("var"))?;
    arena.lab_mut().start_daemon(secondary)?;
    arena.cluster().wait_answers(secondary)?;
    refused(arena, secondary, "removed from the cluster")?;
    ask(arena, secondary, &["cluster", "leave", "--alone", "--yes"])?;
    wait_fresh(arena, secondary)?;
    arena.lab_mut().kill_daemon(secondary)?;
    fs::remove_dir_all(root.join("var"))?;
    fs::rename(&new_disk, root.join("var"))?;
    arena.lab_mut().start_daemon(secondary)?;
    arena.cluster().wait_answers(secondary)?;
    ensure!(arena.primary()? == primary, "the primary changed");
    Ok(())
}

/// The daemon takes part in nothing, says why, and what to type.
fn refused(arena: &Arena, name: &str, says: &str) -> anyhow::Result<()> {
    let skcli = arena.cluster().skcli(name)?;
    // A daemon that starts is told by the others what they remember.
    wait::until("the daemon to be refused", CHANGE_DEADLINE, || {
        let state = skcli
            .try_run(&["cluster", "state"])
            .map_err(|e| format!("{e:#}"))?;
        let said = format!("{} {}", state.stdout, state.stderr);
        if !state.is_success() && said.contains(says) && said.contains("leave --alone") {
            Ok(())
        } else {
            Err(format!(
                "{name} should be refused with {says:?} and the way out: {said}"
            ))
        }
    })?;
    Ok(())
}

/// A daemon that has left starts anew, in the same process.
fn wait_fresh(arena: &Arena, name: &str) -> anyhow::Result<()> {
    wait::until("the daemon to start anew", CHANGE_DEADLINE, || {
        let said = arena
            .cluster()
            .skcli(name)
            .and_then(|skcli| skcli.try_run(&["cluster", "state"]))
            .map_err(|e| format!("{e:#}"))?;
        if said.stderr.contains("belongs to no cluster") {
            Ok(())
        } else {
            Err(said.summary())
        }
    })?;
    Ok(())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    let copied = wait::run(&mut command, Duration::from_secs(30))?;
    ensure!(
        copied.is_success(),
        "copy {}: {}",
        from.display(),
        copied.summary()
    );
    Ok(())
}

/// Goal: the disk of a voter that was put back to an earlier state, or lost its log, is refused with the way out; the cluster
/// goes on. Method: the witness, whose files are copied while it is off.
pub(super) fn old_disks(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let var = arena.lab().root("w").join("var");
    let copy_of_it = arena.lab().site().directory().join("old-disk");
    let run = run_of(&var)?;
    wait_started(arena, "w", run)?;
    arena.lab_mut().kill_daemon("w")?;
    copy(&var, &copy_of_it)?;
    arena.lab_mut().start_daemon("w")?;
    arena.cluster().wait_answers("w")?;
    wait_started(arena, "w", run + 1)?;
    arena.lab_mut().kill_daemon("w")?;
    fs::remove_dir_all(&var)?;
    fs::rename(&copy_of_it, &var)?;
    refused_and_replaced(arena, "restored from an old copy")?;

    arena.lab_mut().kill_daemon("w")?;
    fs::remove_dir_all(var.join("lib/sidekick/raft"))?;
    refused_and_replaced(arena, "forgot its vote")?;

    // The same old copy, on a machine whose network comes up after the daemon.
    let run = run_of(&var)?;
    wait_started(arena, "w", run)?;
    arena.lab_mut().kill_daemon("w")?;
    copy(&var, &copy_of_it)?;
    arena.lab_mut().start_daemon("w")?;
    arena.cluster().wait_answers("w")?;
    wait_started(arena, "w", run + 1)?;
    arena.lab_mut().kill_daemon("w")?;
    fs::remove_dir_all(&var)?;
    fs::rename(&copy_of_it, &var)?;
    arena.lab().isolate("w")?;
    arena.lab_mut().start_daemon("w")?;
    arena.cluster().wait_answers("w")?;
    hold(wait::boot_ns(), Duration::from_secs(3));
    arena.lab().heal()?;
    wait::until("the old copy to be noticed", CHANGE_DEADLINE, || {
        refused(arena, "w", "restored from an old copy").map_err(|e| format!("{e:#}"))
    })?;
    arena.lab_mut().kill_daemon("w")?;
    refused_and_replaced(arena, "restored from an old copy")?;
    figures.set("cases", 3.0);
    Ok(figures)
}

/// The number of the daemon's last start. It only grows on one machine, whatever member runs there.
fn run_of(var: &Path) -> anyhow::Result<u32> {
    let run = fs::read_to_string(var.join("lib/sidekick/incarnation"))?;
    Ok(run.trim().parse()?)
}

/// A start of a daemon is committed.
fn wait_started(arena: &Arena, name: &str, run: u32) -> anyhow::Result<()> {
    let text = format!("daemon of {name} started (run {run})");
    wait::until(&text, CHANGE_DEADLINE, || {
        let events = arena
            .cluster()
            .events_of("s1")
            .map_err(|e| format!("{e:#}"))?;
        if events.iter().any(|event| event.text == text) {
            Ok(())
        } else {
            Err(events.last().map_or_else(String::new, |e| e.text.clone()))
        }
    })?;
    Ok(())
}

fn refused_and_replaced(arena: &mut Arena, says: &str) -> anyhow::Result<()> {
    arena.lab_mut().start_daemon("w")?;
    arena.cluster().wait_answers("w")?;
    refused(arena, "w", says)?;
    ask(arena, "w", &["cluster", "leave", "--alone", "--yes"])?;
    wait_fresh(arena, "w")?;
    wait_members(arena, "s1", "the witness to be missed", |state| {
        state.members.iter().any(|m| m.name == "w" && m.is_down)
    })?;
    let token = token(arena, "s1", true)?;
    must(
        "the witness joins again",
        &join(arena, "s1", "w", &token, &["--replaces", "w"])?,
    )?;
    wait_members(arena, "s1", "three voters", three_vote)
}

fn three_vote(state: &api::v1::ClusterStateReply) -> bool {
    state
        .members
        .iter()
        .filter(|member| member.is_voter && !member.is_down)
        .count()
        == 3
}

/// Goal: a pair without a witness waits for its only voter and says so; a witness that joins later makes it whole.
pub(super) fn pair_waits_for_its_voter(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    ask(arena, "w", &["cluster", "leave", "--yes"])?;
    wait_members(arena, "s2", "a pair with one voter", |state| {
        state.members.len() == 2 && state.members.iter().filter(|m| m.is_voter).count() == 1
    })?;
    arena.lab_mut().power_cut("s1")?;
    wait_members(
        arena,
        "s2",
        "the other server to say for whom it waits",
        |state| {
            let says = |notice: &String| notice.contains("s1 is the only voter");
            !state.has_quorum && state.notices.iter().any(says)
        },
    )?;
    let refused = arena
        .cluster()
        .skcli("s2")?
        .try_run(&["cluster", "token"])?;
    ensure!(
        !refused.is_success()
            && ["no leader", "outcome unknown"]
                .iter()
                .any(|text| refused.stderr.contains(text)),
        "nothing can be decided: {}",
        refused.summary()
    );
    arena.lab_mut().power_on("s1")?;
    arena.lab_mut().start_daemon("s1")?;
    wait_members(arena, "s2", "the voter again", |state| {
        state.has_quorum && state.notices.is_empty()
    })?;
    let token = token(arena, "s2", true)?;
    wait_fresh(arena, "w")?;
    must(
        "a witness joins later",
        &join(arena, "s2", "w", &token, &[])?,
    )?;
    wait_members(arena, "s2", "three voters", three_vote)?;
    figures.set("cases", 1.0);
    Ok(figures)
}
