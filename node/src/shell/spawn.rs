//! Starts a program inside a cgroup: it is a member before its first instruction.
#![expect(
    unsafe_code,
    reason = "only code between fork and exec can put a process into its cgroup before it runs"
)]

use std::fs::File;
use std::io;

use tokio::process::{Child, Command};

/// Starts `command` as a member of the cgroup whose `cgroup.procs` is open for writing as
/// `members`, in a session of its own, with an ordinary chance before the OOM killer (the daemon's
/// own exemption would be inherited).
///
/// # Errors
/// Those of `fork`, of joining the cgroup, and of `exec`.
pub(super) fn spawn_in(mut command: Command, members: File) -> io::Result<Child> {
    let prepare = move || {
        // "0" names the writer itself, in whatever process namespace it lives.
        rustix::io::write(&members, b"0")?;
        rustix::process::setsid()?;
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::empty();
        if let Ok(score) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, mode) {
            // Not being allowed to lower it is no reason not to run.
            let _ = rustix::io::write(&score, b"0");
        }
        Ok(())
    };
    // SAFETY: runs in the forked child; it allocates nothing, takes no lock, and only makes system
    // calls that are safe after fork (write, setsid, open, close).
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
