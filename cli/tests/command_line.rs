//! Goal: exit codes, error texts, JSON shapes and requests of the real program.
//! Method: the built `skcli` against a daemon that only answers by rote, on a unix socket. What a real daemon does is
//! tested elsewhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rote;

use rote::Rote;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = r#"<safe>
<service mode="mirror">
<rfs packetsize="1"><replicated dir="/srv/a"/></rfs><user/></service></safe>"#;

fn skcli(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skcli"));
    command
        .env_clear()
        .env("SUDO_USER", "ann")
        .arg("--root")
        .arg(root)
        .args(arguments);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A module directory.
fn module_directory(place: &Path, configuration: &str) -> String {
    let directory = place.join("pg");
    std::fs::create_dir_all(directory.join("conf")).unwrap();
    std::fs::create_dir_all(directory.join("bin")).unwrap();
    std::fs::write(directory.join("conf/userconfig.xml"), configuration).unwrap();
    for script in ["start_prim", "stop_prim"] {
        std::fs::write(directory.join("bin").join(script), "#!/bin/sh\n").unwrap();
    }
    directory.display().to_string()
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("run/sidekick/control.sock");
    let output = skcli(root.path(), &["cluster", "state"]);
    assert_eq!(output.status.code(), Some(3));
    let expected = format!(
        "error: the daemon cannot be reached at {}\n  why:  the daemon is not running\n  next: sknode --root {}\n",
        socket.display(),
        root.path().display()
    );
    assert_eq!(stderr(&output), expected);
    let output = skcli(root.path(), &["--json", "module", "list"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        json_of(&output)["error"]["why"],
        "the daemon is not running"
    );
    assert_eq!(json_of(&output)["error"]["exit_code"], 3);
    let output = skcli(
        root.path(),
        &["--socket", "/nowhere/x.sock", "module", "list"],
    );
    assert!(stderr(&output).contains("next: sknode\n"));
}

#[test]
fn usage_errors_exit_with_2() {
    let root = tempfile::tempdir().unwrap();
    for arguments in [
        &["frobnicate"][..],
        &["module", "strat", "pg"],
        &["module", "start"],
        &["module", "start", "pg", "-m", "pg"],
        &["module", "start", "PG"],
        &["module", "start", "../x"],
        &["module", "start", "pg", "--all", "--server", "s1"],
        &["module", "start", "pg", "--wait", "soon"],
        &["cluster", "init", "demo"],
        &[
            "cluster",
            "init",
            "demo",
            "--server",
            "s1",
            "--address",
            "nowhere",
        ],
        &[
            "cluster",
            "init",
            "demo",
            "--server",
            "s1",
            "--address",
            "a:0",
        ],
        &[
            "cluster",
            "join",
            "10.0.0.1",
            "T",
            "--server",
            "s2",
            "--address",
            "a:1",
        ],
        &["module", "state", "-q"],
    ] {
        let output = skcli(root.path(), arguments);
        let expected = if arguments.contains(&"-q") { 255 } else { 2 };
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    assert!(
        stderr(&skcli(root.path(), &["module", "strat", "pg"])).contains("start"),
        "the nearest verb is named"
    );
}

#[test]
fn refusals_say_what_why_and_next() {
    let daemon = Rote::start();
    let output = skcli(daemon.root(), &["module", "swap", "nosuch"]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(
        stderr(&output),
        "error: nothing was swapped\n  why:  there is no module nosuch\n  next: skcli module list\n"
    );
    let output = skcli(daemon.root(), &["--json", "module", "swap", "nosuch"]);
    assert_eq!(output.status.code(), Some(4));
    let expected = json!({ "error": {
        "what": "nothing was swapped", "why": "there is no module nosuch", "next_command": "skcli module list",
        "exit_code": 4, "line": null, "column": null,
    }});
    assert_eq!(json_of(&output), expected);
    // No majority: it is not known whether it was done.
    let output = skcli(daemon.root(), &["module", "restart", "nosuch"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(stderr(&output), "error: no leader\n");
    // Something broke in the daemon.
    assert_eq!(
        skcli(daemon.root(), &["module", "uninstall", "nosuch"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn changes_carry_name_place_author_and_patience() {
    let daemon = Rote::start();
    let ask = |arguments: &[&str]| {
        let output = skcli(daemon.root(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(
        ask(&["module", "start", "pg"]),
        "start pg on () by ann, wait 0, dry run false\n"
    );
    assert_eq!(
        ask(&[
            "module",
            "stop",
            "-m",
            "pg",
            "--all",
            "--wait",
            "2m",
            "--dry-run"
        ]),
        "stop pg on (*) by ann, wait 120, dry run true\nnothing was done\n"
    );
    assert_eq!(
        ask(&["module", "prim", "pg", "--server", "s2", "--wait", "30"]),
        "prim pg on (s2) by ann, wait 30, dry run false\n"
    );
    let output = skcli(daemon.root(), &["module", "second", "pg", "--json"]);
    let expected = json!({
        "module": "pg", "dry_run": false, "epoch": 7, "lines": ["second pg on () by ann, wait 0, dry run false"],
    });
    assert_eq!(json_of(&output), expected);
}

#[test]
fn cluster_verbs() {
    let daemon = Rote::start();
    let init = [
        "cluster",
        "init",
        "demo",
        "--server",
        "s1",
        "--address",
        "10.0.0.1:9453",
        "--address",
        "[fd00::1]:9453",
    ];
    let output = skcli(daemon.root(), &init);
    assert_eq!(
        stdout(&output),
        "cluster demo exists; this server is s1 (id 1)\n\
         fingerprint of its certificate authority: 10.0.0.1:9453 [fd00::1]:9453 lease 0\n\
         next: skcli cluster token    (once per server that shall join)\n"
    );
    let output = skcli(
        daemon.root(),
        &[&init[..], &["--dry-run", "--lease", "fast"]].concat(),
    );
    assert_eq!(stdout(&output), "init demo dry true\nnothing was done\n");
    let output = skcli(daemon.root(), &["cluster", "token", "--dry-run"]);
    assert_eq!(
        stdout(&output),
        "would be: a token, good once, until 1970-01-01 00:16:40.000Z\ntoken dry true\nnothing was done\n"
    );
    let output = skcli(
        daemon.root(),
        &["--json", "cluster", "token", "--witness", "--valid", "5m"],
    );
    assert_eq!(
        json_of(&output),
        json!({ "token": "witness 300 ann", "expires_at_unix_s": 1000 })
    );
    let join = [
        "cluster",
        "join",
        "10.0.0.1:9453",
        "T",
        "--server",
        "s2",
        "--address",
        "10.0.0.2:9453",
    ];
    let output = skcli(daemon.root(), &join);
    assert_eq!(
        stdout(&output),
        "this server is s2 (id 2) of cluster demo\nnext: skcli cluster state\n"
    );
    let output = skcli(
        daemon.root(),
        &[&join[..], &["--dry-run", "--json"]].concat(),
    );
    assert_eq!(
        json_of(&output),
        json!({ "dry_run": true, "lines": ["join 10.0.0.1:9453 dry true"] })
    );
    let output = skcli(daemon.root(), &["cluster", "state", "--json"]);
    assert_eq!(json_of(&output)["members"][0]["name"], "s1");
}

#[test]
fn streams_are_one_document_per_line() {
    let daemon = Rote::start();
    let output = skcli(
        daemon.root(),
        &["--json", "cluster", "events", "-n", "2", "-m", "pg"],
    );
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["text"], "event 1 of pg");
    assert_eq!(lines[1]["cause"], Value::Null);
    let output = skcli(daemon.root(), &["module", "log", "pg", "-n", "1"]);
    assert_eq!(
        stdout(&output),
        "1970-01-01 00:00:00.000Z  INFO   [start_prim] line of \\u{1b}pg\n"
    );
}

#[test]
fn the_quiet_state_is_an_exit_code() {
    let daemon = Rote::start();
    let ask = |arguments: &[&str]| {
        let output = skcli(
            daemon.root(),
            &[&["module", "state", "-q"], arguments].concat(),
        );
        (output.status.code().unwrap(), stdout(&output))
    };
    assert_eq!(
        ask(&["pg"]),
        (3, "PRIM\n".into()),
        "of the server that answers"
    );
    assert_eq!(ask(&["-m", "pg", "--server", "s2"]), (4, "SECOND\n".into()));
    assert_eq!(ask(&["-m", "pg", "--server", "s9"]).0, 255);
    assert_eq!(
        ask(&["pg", "--json"]),
        (3, "{\n  \"state\": \"PRIM\"\n}\n".into())
    );
    let output = skcli(daemon.root(), &["module", "state"]);
    assert!(
        stdout(&output).contains("s2      SECOND (Ready)"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_directory_is_checked_packed_and_installed() {
    let (daemon, place) = (Rote::start(), tempfile::tempdir().unwrap());
    let directory = module_directory(place.path(), GOOD);
    let output = skcli(
        daemon.root(),
        &["module", "install", &directory, "--servers", "s1,s2"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.starts_with("module pg is installed\npackage "),
        "{text}"
    );
    assert!(text.contains("notice: for s1 s2 by ann\n"), "{text}");
    assert!(text.contains("next: skcli module prim pg "), "{text}");

    let safe = place.path().join("other.safe").display().to_string();
    let output = skcli(
        daemon.root(),
        &["--json", "module", "pack", &directory, "-o", &safe],
    );
    let packed = json_of(&output);
    let output = skcli(
        daemon.root(),
        &[
            "--json",
            "module",
            "install",
            &safe,
            "-m",
            "db",
            "--dry-run",
        ],
    );
    assert_eq!(
        json_of(&output)["package_hash"],
        packed["package_hash"],
        "the bytes arrive as they were packed"
    );
    assert_eq!(json_of(&output)["module"], "db");
    assert_eq!(json_of(&output)["dry_run"], true);
}

#[test]
fn bad_configurations_are_found_before_anything_is_sent() {
    // No daemon: a check of the file must come first.
    let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = module_directory(
        place.path(),
        "<safe>\n <service mode=\"mirror\"><vipp/></service></safe>",
    );
    let file = format!("{directory}/conf/userconfig.xml");
    let expected = format!(
        "error: {file}:2:25: unknown element <vipp> within <service>; allowed: heart, vip, rfs, user; did you mean \
         \"vip\"?\n  next: skcli module check {file}\n"
    );
    for arguments in [
        ["install", &directory],
        ["check", &directory],
        ["check", &file],
        ["pack", &directory],
    ] {
        let output = skcli(root.path(), &[&["module"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stderr(&output), expected, "{arguments:?}");
    }
    let output = skcli(root.path(), &["--json", "module", "check", &file]);
    assert_eq!(json_of(&output)["error"]["line"], 2);
    assert_eq!(json_of(&output)["error"]["column"], 25);
    let output = skcli(root.path(), &["module", "check", "/nowhere/x.safe"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: cannot read /nowhere/x.safe: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_good_configuration_is_explained() {
    let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = module_directory(place.path(), GOOD);
    let output = skcli(root.path(), &["module", "check", &directory]);
    let expected = format!(
        "{directory} is good\n  mode         mirror\n  replicated   /srv/a\n  \
         acknowledges after the disk of both servers (async=\"none\")\n  scripts      start_prim stop_prim\n  \
         deadlines    start 300 s, stop 300 s, forced stop 300 s\n\
         notice: {directory}/conf/userconfig.xml:3:6: packetsize of <rfs> has no effect: Sidekick chooses sizes and \
         parallelism itself\n"
    );
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    let output = skcli(root.path(), &["--json", "module", "check", &directory]);
    let checked = json_of(&output);
    assert_eq!(checked["configuration"]["rfs"]["ack"], "disk");
    assert_eq!(
        checked["notices"][0]["at"],
        json!({ "line": 3, "column": 6 })
    );
    assert_eq!(checked["scripts"], json!(["start_prim", "stop_prim"]));
}

#[test]
fn completions_for_every_shell() {
    let root = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = skcli(root.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("install"), "{shell}");
    }
    assert!(stdout(&skcli(root.path(), &["--help"])).contains("Exit codes:"));
}

#[test]
fn a_force_needs_the_epoch_and_a_reason() {
    let daemon = Rote::start();
    let prim = ["module", "prim", "pg", "--server", "s2", "--force"];
    // Only shown, and told apart from done by the exit code.
    for part in [&[][..], &["--epoch", "7"], &["--reason", "s1 burnt down"]] {
        let output = skcli(daemon.root(), &[&prim[..], part].concat());
        assert_eq!(output.status.code(), Some(4), "{part:?}");
        let text = stdout(&output);
        assert!(text.contains("dry run true\nnothing was done\n"), "{text}");
    }
    let whole = ["--epoch", "7", "--reason", "s1 burnt down", "--wait", "30"];
    let output = skcli(daemon.root(), &[&prim[..], &whole].concat());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "force pg on (s2) at 7 by ann (s1 burnt down), wait 30, dry run false\n"
    );
    let shown = [&prim[..], &whole, &["--dry-run"]].concat();
    let output = skcli(daemon.root(), &shown);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("dry run true\nnothing was done\n"));
    for wrong in [
        &["module", "prim", "pg", "--epoch", "7"][..],
        &["module", "prim", "pg", "--reason", "x"],
        &["module", "prim", "pg", "--force", "--epoch", "seven"],
        &["module", "prim", "pg", "--force", "--all"],
        &["module", "diverged", "pg", "--dry-run"],
        &["module", "diverged", "pg", "--server", "s1"],
    ] {
        let output = skcli(daemon.root(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_is_set_aside_is_listed_and_discarded() {
    let daemon = Rote::start();
    let output = skcli(daemon.root(), &["module", "diverged", "pg"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "s1: set 5, 2 files, 8.0 KiB, in /srv/.pg.sidekick-diverged/5\n\
         \x20 s2 is primary by force (by ann)\n\
         FILE  WAS      SIZE     SET ASIDE\n\
         pg/a  removed  2.0 KiB  1970-01-01 00:00:01.000Z\n\
         and 1 more\n\
         when nothing of it is needed: skcli module diverged -m pg --server s1 --discard 5\n\
         s2 does not answer: what it keeps is not known\n\
         s2: its copy is as the force of epoch 7 left it behind; what differs is set aside when it is brought up to date\n"
    );
    let output = skcli(daemon.root(), &["module", "diverged", "pg", "--json"]);
    assert_eq!(
        json_of(&output)["servers"][0]["sets"][0]["files"][0]["path"],
        "pg/a"
    );
    assert_eq!(json_of(&output)["servers"][1]["answers"], false);
    let discard = [
        "module",
        "diverged",
        "pg",
        "--discard",
        "5",
        "--server",
        "s1",
    ];
    let output = skcli(daemon.root(), &discard);
    assert_eq!(
        stdout(&output),
        "discard 5 of pg on (s1) by ann, dry run false\n"
    );
}

#[test]
fn what_cannot_be_undone_is_asked_for() {
    let daemon = Rote::start();
    let plan = skcli(daemon.root(), &["cluster", "remove", "s2", "--dry-run"]);
    assert_eq!(
        stdout(&plan),
        "remove s2 loss false dry true by ann\nnothing was done\n"
    );
    // Nobody sits at the terminal: the plan is shown, nothing is done.
    let refused = skcli(daemon.root(), &["cluster", "remove", "s2"]);
    assert_eq!(refused.status.code(), Some(2));
    let text = stderr(&refused);
    assert!(
        text.contains("remove s2 loss false dry true") && text.contains("--yes"),
        "{text}"
    );
    let done = skcli(
        daemon.root(),
        &["cluster", "remove", "s2", "--accept-loss", "--yes"],
    );
    assert_eq!(stdout(&done), "remove s2 loss true dry false by ann\n");
    let left = skcli(
        daemon.root(),
        &["cluster", "leave", "--alone", "-y", "--json"],
    );
    assert_eq!(
        json_of(&left),
        json!({ "dry_run": false, "lines": ["leave alone true dry false by ann"] })
    );
    let nothing = skcli(daemon.root(), &["cluster", "set", "s2"]);
    assert_eq!(nothing.status.code(), Some(2), "neither name nor address");
    let set = skcli(
        daemon.root(),
        &[
            "cluster",
            "set",
            "s2",
            "--name",
            "s3",
            "--address",
            "10.0.0.3:9453",
        ],
    );
    assert_eq!(stdout(&set), "set s2 name s3 at 10.0.0.3:9453 dry false\n");
}
