//! One process as the witness of several clusters.

use super::arena::Arena;
use super::figures::Figures;
use crate::cluster::observe;
use crate::cluster::skcli::Skcli;
use crate::lab::topology;
use crate::wait;
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// A daemon answers within this time.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// A member that has ended is missed within this time.
const NOT_MISSED: Duration = Duration::from_secs(5);
/// Another cluster's server, beside the one that runs there.
const SECOND_SERVER: &str = "10.77.1.1:9553";

/// A process that ends with this value.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goal: one witness process with two roots is a member of two clusters at once, each with its own keys, log and port; a server
/// with two roots is refused. Method: a second cluster of one server on s1's machine, and a witness process on the client's.
pub(super) fn witness_of_two_clusters(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let base = arena.lab().site().directory().join("two-clusters");
    let root = |name: &str| base.join(name);
    let _server = run(arena, "s1", &[], &[root("b")])?;
    small_disk(arena, &root("wb"))?;
    let _witness = run(arena, "s2", &["--witness"], &[root("wa"), root("wb")])?;
    let b = answering(&root("b"))?;
    b.json(&[
        "cluster",
        "init",
        "second",
        "--server",
        "b1",
        "--address",
        SECOND_SERVER,
    ])?;
    // The first cluster has a witness; its place is free for this one.
    let first = arena.cluster().skcli("s1")?;
    arena
        .cluster()
        .skcli("w")?
        .json(&["cluster", "leave", "--yes"])?;
    let contact = topology::address_v4(1, 1).to_string() + ":9453";
    let own = |port: u16| format!("{}:{port}", topology::address_v4(1, 2));
    for (asked, contact, witness, port) in [
        (&first, contact.as_str(), root("wa"), 9653),
        (&b, SECOND_SERVER, root("wb"), 9654),
    ] {
        let token = asked.json(&["cluster", "token", "--witness"])?;
        let token = token["token"].as_str().context("no token")?.to_owned();
        let address = own(port);
        answering(&witness)?.json(&[
            "cluster",
            "join",
            contact,
            &token,
            "--server",
            "ww",
            "--address",
            &address,
        ])?;
    }
    for (asked, count) in [(&first, 3), (&b, 2)] {
        wait::until("the witness in both clusters", ANSWER_DEADLINE, || {
            let state = asked
                .json(&["cluster", "state"])
                .map_err(|e| format!("{e:#}"))?;
            let members = state["members"].as_array().cloned().unwrap_or_default();
            let is_up = |m: &serde_json::Value| m["name"] == "ww" && m["is_down"] == false;
            if members.len() == count && members.iter().any(is_up) {
                Ok(())
            } else {
                Err(state.to_string())
            }
        })?;
    }
    let sknode = crate::lab::program("sknode")?.display().to_string();
    let (one, two) = (
        root("x").display().to_string(),
        root("y").display().to_string(),
    );
    let refused = arena.lab().exec(
        "s2",
        &[&sknode, "--root", &one, "--root", &two],
        ANSWER_DEADLINE,
    )?;
    ensure!(
        !refused.is_success() && refused.stderr.contains("only a witness"),
        "a server of two clusters: {}",
        refused.summary()
    );
    one_disk_is_full(arena, &root("wb"), &root("wa").join("log"), &b, &first)?;
    figures.set("clusters", 2.0);
    Ok(figures)
}

/// A small file system for the state of one cluster on the witness's machine.
fn small_disk(arena: &Arena, root: &Path) -> anyhow::Result<()> {
    let dir = root.join("var/lib/sidekick").display().to_string();
    on_witness(
        arena,
        &format!("mkdir -p {dir} && mount -t tmpfs -o size=16m,mode=0711 none {dir}"),
    )
}

/// The log of one cluster cannot be written any more: that one is not served, the other is.
fn one_disk_is_full(
    arena: &Arena,
    full: &Path,
    log: &Path,
    its: &Skcli,
    other: &Skcli,
) -> anyhow::Result<()> {
    let filler = full.join("var/lib/sidekick/filler").display().to_string();
    on_witness(
        arena,
        &format!("dd if=/dev/zero of={filler} bs=4k 2>/dev/null; test -s {filler}"),
    )?;
    wait::until("the full disk to be noticed", ANSWER_DEADLINE, || {
        // Every entry needs room.
        let _refused_or_done = its.try_run(&["cluster", "token", "--valid", "60"]);
        let said = std::fs::read_to_string(log).map_err(|e| e.to_string())?;
        if said.contains("one of the clusters is not served") {
            Ok(())
        } else {
            Err(said.lines().last().unwrap_or_default().to_owned())
        }
    })?;
    std::thread::sleep(NOT_MISSED);
    let state = other.json(&["cluster", "state"])?;
    let members = state["members"].as_array().cloned().unwrap_or_default();
    ensure!(
        members
            .iter()
            .any(|m| m["name"] == "ww" && m["is_down"] == false),
        "the other cluster lost its witness: {state}"
    );
    Ok(())
}

fn on_witness(arena: &Arena, script: &str) -> anyhow::Result<()> {
    let done = arena
        .lab()
        .exec("s2", &["sh", "-c", script], ANSWER_DEADLINE)?;
    ensure!(done.is_success(), "{script}: {}", done.summary());
    Ok(())
}

/// Starts a daemon on a machine of the lab, beside the one that runs there.
pub(super) fn run(
    arena: &Arena,
    place: &str,
    flags: &[&str],
    roots: &[PathBuf],
) -> anyhow::Result<Process> {
    let sknode = crate::lab::program("sknode")?.display().to_string();
    let mut words: Vec<String> = vec![sknode];
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    for root in roots {
        std::fs::create_dir_all(root)?;
        words.extend(["--root".to_owned(), root.display().to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = arena.lab().command(place, &words)?;
    let log = std::fs::File::create(roots[0].join("log"))?;
    command.stderr(log);
    Ok(Process(command.spawn()?))
}

/// The command line of a daemon, once that answers.
pub(super) fn answering(root: &Path) -> anyhow::Result<Skcli> {
    let socket = observe::control_socket(root);
    wait::until("an answer", ANSWER_DEADLINE, || {
        std::os::unix::net::UnixStream::connect(&socket).map_err(|e| e.to_string())
    })?;
    Skcli::new(root)
}
