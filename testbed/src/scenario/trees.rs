//! Real workloads on the mount, and the trees of both servers compared after (P3).
//!
//! The client of the ledger goes on beside each of them, so the mirror never carries one stream alone.

use super::arena::{Arena, ms_since};
use super::figures::Figures;
use crate::oracle::{Application, Target};
use crate::wait;
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A workload ends within this time.
const WORKLOAD_DEADLINE: Duration = Duration::from_secs(300);
/// Packages of this name prefix need nothing else and are in every build of this workspace.
const CRATE_PREFIX: &str = "hex-0.4";
/// Trees that a Debian or Ubuntu has; the first ones that exist are packed.
const LARGE_TREES: [&str; 4] = [
    "/usr/include",
    "/usr/share/doc",
    "/usr/share/perl",
    "/usr/lib/python3",
];

/// Runs a workload on the mount, then compares the trees.
fn workload(arena: &mut Arena, script: &str) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.ready()?;
    let began = wait::boot_ns();
    arena.run_on_mount(script, WORKLOAD_DEADLINE)?;
    figures.set("workload_ms", ms_since(began));
    compare(arena, &mut figures)?;
    // Removal is work too, and room for the next round.
    arena.run_on_mount("rm -rf work", WORKLOAD_DEADLINE)?;
    Ok(figures)
}

/// Stops the client, compares both trees at rest, starts the client again.
fn compare(arena: &mut Arena, figures: &mut Figures) -> anyhow::Result<()> {
    let report = arena.finish_recorder()?;
    ensure!(
        report.lost.is_empty(),
        "{} acknowledged rows are lost",
        report.lost.len()
    );
    let equal = arena.verify_trees()?;
    figures.set("tree_entries", equal.entries as f64);
    figures.set("tree_bytes", equal.bytes as f64);
    arena.start_load()
}

/// Goal: what developers do all day. Method: clone, build and test a published crate that has no dependencies.
pub(super) fn git_build(arena: &mut Arena) -> anyhow::Result<Figures> {
    let source = crate_source()?;
    let origin = arena.lab().site().directory().join("origin");
    if !origin.exists() {
        make_repository(&source, &origin)?;
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    workload(
        arena,
        &format!(
            "mkdir work; git -c safe.directory='*' clone -q {origin} work/repo; cd work/repo; git status --short; \
             CARGO_TARGET_DIR=target {cargo} build -q --offline; CARGO_TARGET_DIR=target {cargo} build -q --offline --release; \
             git -c user.name=lab -c user.email=lab@example.com commit -q --allow-empty -m again; git gc -q; git fsck --strict",
            origin = origin.display()
        ),
    )
}

/// The sources of a published crate, where cargo keeps them.
fn crate_source() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let registry = home
        .context("neither CARGO_HOME nor HOME is set")?
        .join("registry/src");
    let registries = std::fs::read_dir(&registry)
        .with_context(|| format!("list {}: build the workspace first", registry.display()))?;
    for directory in registries.flatten() {
        for package in std::fs::read_dir(directory.path())?.flatten() {
            if package
                .file_name()
                .to_string_lossy()
                .starts_with(CRATE_PREFIX)
            {
                return Ok(package.path());
            }
        }
    }
    anyhow::bail!("no sources of {CRATE_PREFIX}* in {}", registry.display())
}

fn make_repository(source: &Path, origin: &Path) -> anyhow::Result<()> {
    let script = format!(
        "set -eu; cp -r {source} {origin}; cd {origin}; rm -rf benches tests .cargo*; \
         printf '[package]\\nname = \"hex\"\\nversion = \"0.4.3\"\\nedition = \"2018\"\\n[features]\\ndefault = [\"std\"]\\nstd = [\"alloc\"]\\nalloc = []\\n' > Cargo.toml; \
         rm -f Cargo.lock Cargo.toml.orig; printf '/target\\n' > .gitignore; git init -q; git add -A; \
         git -c user.name=lab -c user.email=lab@example.com commit -q -m source",
        source = source.display(),
        origin = origin.display()
    );
    let mut command = std::process::Command::new("sh");
    let done = wait::run(command.args(["-c", &script]), WORKLOAD_DEADLINE)?;
    ensure!(done.is_success(), "make the repository: {}", done.summary());
    Ok(())
}

/// Goal: many files of all kinds. Method: unpack a large tree, pack it again from the mount, compare the archives.
pub(super) fn tar(arena: &mut Arena) -> anyhow::Result<Figures> {
    let tree = LARGE_TREES
        .into_iter()
        .find(|tree| Path::new(tree).is_dir())
        .with_context(|| format!("none of {} is here", LARGE_TREES.join(", ")))?
        .trim_start_matches('/');
    workload(
        arena,
        &format!(
            "mkdir work; tar -C / -cf - --sort=name {tree} | tar -C work -xpf -; \
             a=$(tar -C / -cf - --sort=name {tree} | cksum); b=$(tar -C work -cf - --sort=name {tree} | cksum); \
             test \"$a\" = \"$b\"; ln work/usr/include/stdio.h work/hard 2>/dev/null || true; mkfifo work/fifo; \
             truncate -s 10M work/sparse; mv work/usr work/renamed; chmod -R g-w work/renamed"
        ),
    )
}

/// Goal: a database with several writers and both ways of journalling. Method: `testbed __load sqlite` on the mount.
pub(super) fn sqlite(arena: &mut Arena) -> anyhow::Result<Figures> {
    let testbed = crate::lab::program("testbed")?;
    let testbed = testbed.display();
    workload(
        arena,
        &format!(
            "mkdir work; {testbed} __load sqlite --dir work --journal wal --rows 2000; \
             {testbed} __load sqlite --dir work --journal delete --rows 500"
        ),
    )
}

/// Goal: the standard load of PostgreSQL, through the virtual address. Method: pgbench from the client's namespace.
pub(super) fn pgbench(arena: &mut Arena) -> anyhow::Result<Figures> {
    ensure!(
        arena.application() == Application::Postgresql,
        "this scenario needs --app postgresql"
    );
    let mut figures = Figures::default();
    arena.ready()?;
    let address = Target::behind_virtual_address(Application::Postgresql).address;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let common = ["-h", &host, "-p", &port, "-U", "postgres"];
    let client = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = vec!["pgbench"];
        command.extend(common);
        command.extend(arguments);
        command.push("ledger");
        let done = arena
            .lab()
            .exec(crate::lab::CLIENT, &command, WORKLOAD_DEADLINE)?;
        ensure!(done.is_success(), "pgbench: {}", done.summary());
        Ok(done.stdout)
    };
    client(&["-i", "-q", "-s", "5"])?;
    let said = client(&["-c", "8", "-j", "2", "-T", "15"])?;
    let tps = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok())
        .with_context(|| format!("pgbench said no tps: {said}"))?;
    figures.set("pgbench_tps", tps);
    compare(arena, &mut figures)?;
    Ok(figures)
}
