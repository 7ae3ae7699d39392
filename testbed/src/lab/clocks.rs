//! Clocks that differ between servers of one machine.
//!
//! * The **wall clock** of a server's processes is moved by a small library that is loaded before them: it can jump and drift
//!   while they run.
//! * **Boot time and monotonic time** are moved by time namespaces: a daemon can be started on a machine that seems to have been
//!   up for longer or shorter than the others. The kernel fixes the distance at the start; it cannot make these clocks jump or
//!   drift, and neither can anything else short of a virtual machine.

use anyhow::Context as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// How the wall clock of a server differs from the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WallClock {
    /// It is ahead by so much.
    pub offset_s: i64,
    /// It gains so many millionths from now on.
    pub drift_ppm: i64,
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
