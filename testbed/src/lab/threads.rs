//! Stops some threads of a process and lets the others run, by a threaded control group and its freezer.

use crate::wait;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The kernel stops them within this time.
const FROZEN_DEADLINE: Duration = Duration::from_secs(5);

/// Stops the threads of `pid` whose names begin with `name`, below `group`; until the process ends.
///
/// # Errors
/// It has no such thread, or the kernel refuses.
pub(super) fn freeze(group: &Path, pid: u32, name: &str) -> anyhow::Result<usize> {
    // A group may be threaded only where no other group with processes is its sibling.
    let home = group.join("daemon");
    let frozen = home.join("frozen");
    fs::create_dir_all(&frozen).with_context(|| format!("make {}", frozen.display()))?;
    fs::write(home.join("cgroup.procs"), pid.to_string())?;
    fs::write(frozen.join("cgroup.type"), "threaded")?;
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = entry?.path();
        let Some(id) = thread.file_name() else {
            continue;
        };
        if fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
            fs::write(frozen.join("cgroup.threads"), id.as_encoded_bytes())?;
            count += 1;
        }
    }
    ensure!(count > 0, "process {pid} has no thread called {name}");
    fs::write(frozen.join("cgroup.freeze"), "1")?;
    wait::until("stopped threads", FROZEN_DEADLINE, || {
        let events = fs::read_to_string(frozen.join("cgroup.events")).map_err(|e| e.to_string())?;
        if events.lines().any(|line| line == "frozen 1") {
            Ok(())
        } else {
            Err(events)
        }
    })?;
    Ok(count)
}
