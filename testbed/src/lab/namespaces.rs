//! Entering and leaving kernel namespaces; the only place that does.

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};
use std::fs::File;
use std::os::fd::AsFd as _;

/// A network namespace that threads of this process may work in. Keeps the namespace alive: never hold one of a server over a
/// power cut, its links would stay up.
#[derive(Debug)]
pub struct NetworkHandle(File);

impl NetworkHandle {
    /// The network namespace of a process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(pid: u32) -> anyhow::Result<NetworkHandle> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok(NetworkHandle(file))
    }

    /// Another handle to the same namespace.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn try_clone(&self) -> anyhow::Result<NetworkHandle> {
        Ok(NetworkHandle(self.0.try_clone()?))
    }

    /// Moves the calling thread in, for good: call it first in a thread of its own. Sockets and child processes made by this
    /// thread belong to the namespace.
    ///
    /// # Errors
    /// Not root.
    pub fn enter(&self) -> anyhow::Result<()> {
        rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter network namespace")
    }

    /// Runs `work` in a short-lived thread inside the namespace.
    ///
    /// # Errors
    /// What `work` answers, or the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .expect("the work inside the namespace must not panic")
        })
    }
}

/// Gives the calling process namespaces of its own, those of one server. The pid namespace begins with its next child.
///
/// # Errors
/// Not root, or the kernel lacks one of them.
pub fn unshare_all() -> anyhow::Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    unshare(flags).context("make namespaces")
}

/// The next child sees boot time and monotonic time `seconds` later than they are.
///
/// # Errors
/// The kernel has no time namespaces, or the time would be negative.
pub fn shift_boot_time(seconds: i64) -> anyhow::Result<()> {
    unshare(UnshareFlags::NEWTIME).context("make a time namespace")?;
    let offsets = format!("boottime {seconds} 0\nmonotonic {seconds} 0\n");
    std::fs::write("/proc/self/timens_offsets", offsets).context("shift boot time")
}

#[expect(
    unsafe_code,
    reason = "unshare is unsafe only for the flag FILES, which nobody here passes"
)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: `FILES` is not in `flags`, so no other thread can lose sight of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Moves the calling process (single-threaded) into all namespaces of a server; its next child is inside the pid namespace too.
///
/// # Errors
/// The server has no power.
pub fn join_all(pid: u32) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).context("pid out of range")?;
    let pid = rustix::process::Pid::from_raw(raw).context("pid 0")?;
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .context("the server has no power")?;
    let kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(handle.as_fd(), kinds)
        .context("enter the server's namespaces")
}
