//! Which errors mean what.

/// The error of a system call, passed on to the application as it is.
pub use rustix::io::Errno;

/// Errors of a device or file system that has failed, as against a request that cannot be granted. After one of these
/// the copy is not trusted any more: the primary hands over (R11), nothing is retried into health.
pub(crate) fn is_disk_failure(errno: Errno) -> bool {
    match errno {
        // The device failed, or is gone.
        Errno::IO | Errno::NXIO | Errno::NODEV | Errno::REMOTEIO | Errno::NOMEDIUM => true,
        // The file system found itself damaged (EUCLEAN), or went read-only after an error.
        Errno::UCLEAN | Errno::ROFS => true,
        // Everything else is an answer: no space, no permission, no such name, ...
        _ => false,
    }
}

/// Whatever a sync fails with, what was written may not be on the disk and is called clean from then on; except where there is
/// nothing to sync.
pub(crate) fn is_failed_sync(errno: Errno) -> bool {
    errno != Errno::INVAL
}

/// What the system failed to do on this server's own disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The system call, for messages.
    pub operation: &'static str,
    /// How it failed.
    pub errno: Errno,
}
