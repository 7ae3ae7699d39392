//! An operator's force: rightly used, wrongly used, and undone (R6, R14).

use super::arena::Arena;
use super::figures::Figures;
use crate::cluster::package;
use crate::cluster::{Cluster, MODULE};
use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use api::v1::ModuleState;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A state is reached within this time.
const SOON: Duration = Duration::from_secs(60);
/// Exit codes of `skcli`.
const USAGE: i32 = 2;
const REFUSED: i32 = 4;
const NO_ANSWER: i32 = 5;

/// Goal: the whole story of a force, with every misuse on the way. Method: a module without application, files written on the
/// mount of whoever leads.
pub(super) fn force(arena: &mut Arena) -> anyhow::Result<Figures> {
    let first = arena.cluster().server_names();
    let [s1, s2] = [first[0].clone(), first[1].clone()];
    if arena.cluster().module_state(&s1).is_err() {
        arena.cluster().install_bare(&s1)?;
        refused_while_mirrored(arena.cluster(), &s1, &s2)?;
    }
    let story = Story { arena, s1, s2 };
    story.run()
}

/// s1 leads at first, s2 is forced.
struct Story<'a> {
    arena: &'a mut Arena,
    s1: String,
    s2: String,
}

impl Story<'_> {
    fn run(self) -> anyhow::Result<Figures> {
        let Story { arena, s1, s2 } = self;
        write(arena, &s1, "shared", "both have it")?;
        write(arena, &s1, "changed", "as both had it")?;
        // s2 falls behind: what s1 writes now only s1 has, and it was acknowledged.
        arena.lab_mut().power_cut(&s2)?;
        wait_state(arena, &s1, ModuleState::Alone)?;
        write(arena, &s1, "changed", "only s1 has this version")?;
        write(arena, &s1, "new", "only s1 has this file")?;
        arena.lab_mut().power_cut_all(&[&s1])?;
        arena.lab_mut().power_on(&s2)?;
        arena.lab_mut().start_daemon(&s2)?;
        wait_waits_for(arena, &s2, &s1)?;
        let epoch = misuse(arena, &s1, &s2)?;
        without_quorum(arena, &s2, epoch)?;
        forced(arena.cluster(), &s2, epoch_of(arena, &s2)?, "s1 burnt down")?;
        wait_state(arena, &s2, ModuleState::Alone)?;
        write(arena, &s2, "changed", "s2 went on")?;
        // The former primary, back, asks before it leads again; it hears of the force and sets aside what only it has.
        let said_before = log_of(arena, &s1)?.len();
        arena.lab_mut().power_on(&s1)?;
        arena.lab_mut().start_daemon(&s1)?;
        let leads = arena.primary()?;
        ensure!(leads == s2, "{leads} leads after the force of {s2}");
        let said = log_of(arena, &s1)?.split_off(said_before);
        ensure!(
            !said.contains("step=MountPrimary"),
            "{s1} led without asking: {said}"
        );
        ensure!(read(arena, &s1, "changed")? == "s2 went on");
        ensure!(
            !below(arena, &s1, "new").exists(),
            "new is still in the copy"
        );
        let id = listed(arena, &s1)?;
        discard(arena, &s1, &s2, id)?;
        let followed = Follower::start(arena, &s2)?;
        wrong_side_and_back(arena, &s1, &s2)?;
        followed.wait_for("the wrong side")?;
        Ok(Figures::default())
    }
}

/// `skcli cluster events --follow`, as an operator leaves it running.
struct Follower {
    process: std::process::Child,
    output: PathBuf,
}

impl Follower {
    fn start(arena: &Arena, server: &str) -> anyhow::Result<Follower> {
        let output = arena.lab().site().directory().join("followed");
        let process = std::process::Command::new(crate::lab::program("skcli")?)
            .arg("--root")
            .arg(arena.lab().root(server))
            .args(["cluster", "events", "--follow", "-n", "1"])
            .stdout(fs::File::create(&output)?)
            .spawn()?;
        let follower = Follower { process, output };
        follower.wait_for("#")?;
        Ok(follower)
    }

    fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        wait::until("an event that is followed", SOON, || {
            let said = fs::read_to_string(&self.output).map_err(|e| e.to_string())?;
            if said.contains(text) {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended with its daemon.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Goal: a module that is installed again at once, over the same directory, is not removed by what is left of the former one.
pub(super) fn reinstalled_at_once(arena: &mut Arena) -> anyhow::Result<Figures> {
    let cluster = arena.cluster();
    for _ in 0..3 {
        cluster.install_bare("s1")?;
        write(arena, "s1", "kept", "both have it")?;
        let skcli = cluster.skcli("s1")?;
        skcli.run(&["module", "stop", "-m", MODULE, "--all", "--wait", "30"])?;
        skcli.run(&["module", "uninstall", "-m", MODULE])?;
    }
    cluster.install_bare("s1")?;
    ensure!(arena.primary()? == "s1");
    ensure!(read(arena, "s2", "kept")? == "both have it");
    let skcli = cluster.skcli("s1")?;
    skcli.run(&["module", "stop", "-m", MODULE, "--all", "--wait", "30"])?;
    skcli.run(&["module", "uninstall", "-m", MODULE])?;
    Ok(Figures::default())
}

/// Nothing to force while both copies are whole.
fn refused_while_mirrored(cluster: &Cluster, s1: &str, s2: &str) -> anyhow::Result<()> {
    let epoch = cluster.module_state(s1)?.epoch.to_string();
    for (server, said) in [(s1, "it is the primary"), (s2, "skcli module swap")] {
        let done = try_force(cluster, s1, server, &epoch, "impatience")?;
        expect(&done, REFUSED, said)?;
    }
    let witness = try_force(cluster, s1, "w", &epoch, "spare")?;
    expect(&witness, REFUSED, "has no copy on")?;
    let unknown = try_force(cluster, s1, "nobody", &epoch, "spare")?;
    expect(&unknown, REFUSED, "has no copy on")
}

/// What is typed wrongly changes nothing; what is missing is shown. Answers the epoch.
fn misuse(arena: &Arena, s1: &str, s2: &str) -> anyhow::Result<u64> {
    let cluster = arena.cluster();
    let state = || wait::answer("the state of the module", || cluster.module_state(s2));
    let before = state()?;
    let skcli = cluster.skcli(s2)?;
    let ordinary = skcli.try_run(&["module", "prim", "-m", MODULE, "--server", s2])?;
    expect(&ordinary, REFUSED, "--force")?;
    let prim = ["module", "prim", "-m", MODULE, "--server", s2, "--force"];
    let shown = skcli.try_run(&prim)?;
    expect(&shown, REFUSED, "nothing was done")?;
    for part in [
        format!("{s2} is primary by force"),
        format!("acknowledged on {s1}"),
        format!("--force --epoch {}", before.epoch),
    ] {
        ensure!(
            shown.stdout.contains(&part),
            "no {part:?}: {}",
            shown.stdout
        );
    }
    let old = (before.epoch - 1).to_string();
    expect(
        &try_force(cluster, s2, s2, &old, "old screen")?,
        REFUSED,
        "epoch",
    )?;
    let next = (before.epoch + 1).to_string();
    expect(
        &try_force(cluster, s2, s2, &next, "typing error")?,
        REFUSED,
        "epoch",
    )?;
    let now = before.epoch.to_string();
    expect(&try_force(cluster, s2, s2, &now, " ")?, REFUSED, "reason")?;
    let dead = try_force(cluster, s2, s1, &now, "the wrong name")?;
    expect(&dead, REFUSED, "holds every acknowledged write")?;
    let wrong = skcli.try_run(&[&prim[..], &["--epoch", "seven"]].concat())?;
    expect(&wrong, USAGE, "seven")?;
    let after = state()?;
    ensure!(
        after.epoch == before.epoch && after.in_sync == before.in_sync,
        "misuse changed something: {before:?} became {after:?}"
    );
    Ok(before.epoch)
}

/// Without a majority a force is refused, and says who is missing.
fn without_quorum(arena: &mut Arena, s2: &str, epoch: u64) -> anyhow::Result<()> {
    arena.lab_mut().power_cut("w")?;
    let alone = try_force(arena.cluster(), s2, s2, &epoch.to_string(), "alone")?;
    expect(&alone, NO_ANSWER, "majority")?;
    ensure!(alone.stderr.contains("w (not heard)") || alone.stderr.contains("w (heard"));
    arena.lab_mut().power_on("w")?;
    arena.lab_mut().start_daemon("w")?;
    wait::until("a majority", SOON, || {
        match arena.cluster().cluster_state(s2) {
            Ok(state) if state.has_quorum => Ok(()),
            Ok(_) => Err("no lease".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    Ok(())
}

/// The list names both files, where they are, and why. Answers the number of the set.
fn listed(arena: &Arena, s1: &str) -> anyhow::Result<u64> {
    let list = arena
        .cluster()
        .skcli(s1)?
        .json(&["module", "diverged", "-m", MODULE])?;
    let servers = list["servers"].as_array().context("no servers")?;
    let of_s1 = servers
        .iter()
        .find(|server| server["server"] == s1)
        .with_context(|| format!("no {s1}: {list}"))?;
    let sets = of_s1["sets"].as_array().context("no sets")?;
    ensure!(sets.len() == 1 && of_s1["pending"].is_null(), "{list}");
    let set = &sets[0];
    ensure!(
        set["why"]
            .as_str()
            .is_some_and(|why| why.contains("s1 burnt down")),
        "the set does not say why: {set}"
    );
    let files: Vec<(&str, &str)> = set["files"]
        .as_array()
        .context("no files")?
        .iter()
        .filter_map(|file| Some((file["path"].as_str()?, file["why"].as_str()?)))
        .collect();
    ensure!(
        files == [("changed", "overwritten"), ("new", "removed")],
        "{files:?}"
    );
    // The lab's servers have the directory at one path, in different places.
    let hidden = arena.lab().data_below(s1).join(".app.sidekick-diverged");
    let id = set["id"].as_u64().context("a set without number")?;
    let kept = |kind: &str, name: &str| {
        fs::read_to_string(hidden.join(id.to_string()).join(kind).join(name))
    };
    ensure!(kept("overwritten", "changed")? == "only s1 has this version");
    ensure!(kept("removed", "new")? == "only s1 has this file");
    Ok(id)
}

/// From the other server, shown first; then it is gone, and on record.
fn discard(arena: &Arena, s1: &str, s2: &str, id: u64) -> anyhow::Result<()> {
    let skcli = arena.cluster().skcli(s2)?;
    let number = id.to_string();
    let verb = [
        "module",
        "diverged",
        "-m",
        MODULE,
        "--server",
        s1,
        "--discard",
    ];
    let shown = skcli.run(&[&verb[..], &[number.as_str(), "--dry-run"]].concat())?;
    ensure!(shown.contains("removed for good"), "{shown}");
    listed(arena, s1)?;
    let wrong = skcli.try_run(&[&verb[..], &["99"]].concat())?;
    expect(&wrong, REFUSED, "keeps no set 99")?;
    skcli.run(&[&verb[..], &[number.as_str()]].concat())?;
    let list = skcli.run(&["module", "diverged", "-m", MODULE])?;
    ensure!(list.contains("nothing is set aside"), "{list}");
    let hidden = arena.lab().data_below(s1).join(".app.sidekick-diverged");
    ensure!(!hidden.exists(), "{} is still there", hidden.display());
    let events = arena.cluster().events_of(s1)?;
    for said in ["by force instead of", "is discarded"] {
        ensure!(
            events.iter().any(|event| event.text.contains(said)),
            "no event {said:?}"
        );
    }
    Ok(())
}

/// s2 leads. s1 is stopped and falls behind; it is forced although s2 lives and serves. s1's version counts from then on, and the
/// deposed copy keeps what only it had.
fn wrong_side_and_back(arena: &mut Arena, s1: &str, s2: &str) -> anyhow::Result<()> {
    let stop = |server: &str| {
        arena
            .cluster()
            .skcli(s2)?
            .run(&["module", "stop", "-m", MODULE, "--server", server])
    };
    stop(s1)?;
    wait_state(arena, s2, ModuleState::Alone)?;
    write(arena, s2, "changed", "only s2 has this")?;
    // What was waited for s2 has said: s1 may not have applied it yet.
    forced(arena.cluster(), s1, epoch_of(arena, s2)?, "the wrong side")?;
    // Alone for as long as it takes to bring s2 up to date, which may be no time at all.
    let leading = [ModuleState::Alone, ModuleState::Prim];
    arena.cluster().wait_state(s1, &leading, SOON)?;
    let leads = arena.primary()?;
    ensure!(leads == s1, "{leads} leads after the force of {s1}");
    // It was brought up to date from the wrong side, and its own version is kept.
    ensure!(read(arena, s2, "changed")? == "s2 went on");
    let skcli = arena.cluster().skcli(s2)?;
    let list = skcli.run(&["module", "diverged", "-m", MODULE])?;
    ensure!(
        list.contains("changed") && list.contains("overwritten"),
        "{list}"
    );
    let explained = skcli.run(&["module", "explain", "-m", MODULE])?;
    ensure!(explained.contains("the wrong side"), "{explained}");
    Ok(())
}

fn forced(cluster: &Cluster, server: &str, epoch: u64, reason: &str) -> anyhow::Result<()> {
    let done = try_force(cluster, server, server, &epoch.to_string(), reason)?;
    ensure!(done.is_success(), "{}", done.summary());
    Ok(())
}

/// Typed on `at`.
fn try_force(
    cluster: &Cluster,
    at: &str,
    server: &str,
    epoch: &str,
    reason: &str,
) -> anyhow::Result<Finished> {
    cluster.skcli(at)?.try_run(&[
        "module", "prim", "-m", MODULE, "--server", server, "--force", "--epoch", epoch,
        "--reason", reason,
    ])
}

fn expect(done: &Finished, code: i32, said: &str) -> anyhow::Result<()> {
    let text = format!("{}{}", done.stdout, done.stderr);
    ensure!(
        done.status.and_then(|status| status.code()) == Some(code) && text.contains(said),
        "expected {code} and {said:?}: {}",
        done.summary()
    );
    Ok(())
}

fn epoch_of(arena: &Arena, server: &str) -> anyhow::Result<u64> {
    let state = wait::answer("the state of the module", || {
        arena.cluster().module_state(server)
    })?;
    Ok(state.epoch)
}

fn wait_state(arena: &Arena, server: &str, state: ModuleState) -> anyhow::Result<()> {
    arena.cluster().wait_state(server, &[state], SOON).map(drop)
}

fn wait_waits_for(arena: &Arena, server: &str, holder: &str) -> anyhow::Result<()> {
    wait::until("WAIT, and for whom", SOON, || {
        let own = arena
            .cluster()
            .own_state(server)
            .map_err(|e| format!("{e:#}"))?;
        if own.state() == ModuleState::Wait && own.detail.contains(holder) {
            Ok(())
        } else {
            Err(format!("{:?}: {}", own.state(), own.detail))
        }
    })?;
    Ok(())
}

/// Writes a file as the application would: on the mount of the primary.
fn write(arena: &Arena, server: &str, name: &str, text: &str) -> anyhow::Result<()> {
    let path = package::replicated_directory(arena.lab()).join(name);
    let script = format!("printf '%s' '{text}' > {}", path.display());
    let done = arena
        .lab()
        .exec(server, &["sh", "-c", &script], Duration::from_secs(20))?;
    ensure!(done.is_success(), "{script}: {}", done.summary());
    Ok(())
}

fn log_of(arena: &Arena, server: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(arena.lab().server(server)?.log())?)
}

/// Reads it below every mount.
fn read(arena: &Arena, server: &str, name: &str) -> anyhow::Result<String> {
    let path = below(arena, server, name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn below(arena: &Arena, server: &str, name: &str) -> PathBuf {
    arena.lab().data_below(server).join("app").join(name)
}
