//! Clocks that differ between servers of one machine.
//!
//! * The **wall clock** of a server's processes is moved by a small library that is loaded before them: it can jump and drift
//!   while they run.
//! * **Boot time and monotonic time** are moved by time namespaces: a daemon can be started on a machine that seems to have been
//!   up for longer or shorter than the others. The kernel fixes the distance at the start; it cannot make these clocks jump or
//!   drift, and neither can anything else short of a virtual machine.

use anyhow::{Context as _, ensure};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOURCE: &str = include_str!("../../shim/clock.c");
const COMPILE_DEADLINE: Duration = Duration::from_secs(30);

/// How the wall clock of a server differs from the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WallClock {
    /// It is ahead by so much.
    pub offset_s: i64,
    /// It gains so many millionths from now on.
    pub drift_ppm: i64,
}

/// Compiles the library into a directory.
pub(super) fn compile(directory: &Path) -> anyhow::Result<PathBuf> {
    let library = directory.join("clock.so");
    let mut compiler = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-x", "c", "-o"])
        .arg(&library)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .context("start the C compiler: install build-essential")?;
    compiler
        .stdin
        .take()
        .context("no input")?
        .write_all(SOURCE.as_bytes())?;
    let status = crate::wait::end_of(&mut compiler, COMPILE_DEADLINE)?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "the library for clocks does not compile: {status:?}"
    );
    Ok(library)
}

/// Sets the wall clock that processes with this plan see.
pub(super) fn set(plan: &Path, clock: WallClock) -> anyhow::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(plan)
        .with_context(|| format!("open {}", plan.display()))?;
    let now_s = i64::try_from(crate::wait::unix_ms() / 1000)?;
    let numbers = [
        clock.offset_s.saturating_mul(1_000_000_000),
        clock.drift_ppm,
        now_s,
    ];
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
    file.write_all_at(&bytes, 0)?;
    Ok(())
}
