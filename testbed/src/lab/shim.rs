//! Small libraries that are loaded before a daemon, and stand for a machine that differs from this one.

use anyhow::{Context as _, ensure};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const COMPILE_DEADLINE: Duration = Duration::from_secs(30);

/// A library.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shim {
    name: &'static str,
    source: &'static str,
}

/// A wall clock of its own.
pub(super) const CLOCK: Shim = Shim {
    name: "clock",
    source: include_str!("../../shim/clock.c"),
};
/// A kernel that takes no address away.
pub(super) const ADDRESSES: Shim = Shim {
    name: "addresses",
    source: include_str!("../../shim/addresses.c"),
};

/// Compiles the library into a directory.
pub(super) fn compile(shim: Shim, directory: &Path) -> anyhow::Result<PathBuf> {
    let library = directory.join(format!("{}.so", shim.name));
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
        .write_all(shim.source.as_bytes())?;
    let status = crate::wait::end_of(&mut compiler, COMPILE_DEADLINE)?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "the library {} does not compile: {status:?}",
        shim.name
    );
    Ok(library)
}
