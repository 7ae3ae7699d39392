//! Why a change could not be applied here.

use rustix::io::Errno;

use crate::fs::errno::is_disk_failure;
use crate::replication::change::FileId;

/// The session ends, and this copy leaves the in-sync set (R11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The local file system failed, or differs from the primary's.
    #[error("{operation}: {errno}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// What was written may not be on the disk.
    #[error("sync: {0}")]
    NotSynced(Errno),
    /// What only this copy has cannot be set aside before it is changed.
    #[error(
        "no room to set a diverged file aside: {needed} bytes are needed, {free} may be used; make room, or give it up with `skcli module diverged --discard`"
    )]
    NoRoom {
        /// Bytes that the file takes.
        needed: u64,
        /// Bytes that may be used: some are left free.
        free: u64,
    },
    /// The primary names an object that it has not introduced.
    #[error("object {} is not known in this session", .0.0)]
    Unbound(FileId),
    /// The primary introduces an object twice, or under two names of its own.
    #[error("object {} is known already", .0.0)]
    AlreadyBound(FileId),
    /// Bytes for a directory, an entry of a file.
    #[error("object {} is of another kind", .0.0)]
    WrongKind(FileId),
    /// An entry without the listing of its directory, or one listing within another.
    #[error("directory {} is not being listed", .0.0)]
    NotListed(FileId),
}

impl ApplyError {
    /// The error of the disk, if that is what failed.
    pub(crate) fn of_disk(&self) -> Option<Errno> {
        match self {
            ApplyError::NotSynced(errno) => Some(*errno),
            ApplyError::System { errno, .. } => is_disk_failure(*errno).then_some(*errno),
            ApplyError::NoRoom { .. }
            | ApplyError::Unbound(_)
            | ApplyError::AlreadyBound(_)
            | ApplyError::WrongKind(_)
            | ApplyError::NotListed(_) => None,
        }
    }

    /// What the primary is told, as in `errno(3)`.
    pub fn errno(&self) -> i32 {
        match self {
            ApplyError::System { errno, .. } | ApplyError::NotSynced(errno) => errno.raw_os_error(),
            ApplyError::NoRoom { .. } => Errno::NOSPC.raw_os_error(),
            ApplyError::Unbound(_) => Errno::BADF.raw_os_error(),
            ApplyError::AlreadyBound(_) => Errno::EXIST.raw_os_error(),
            ApplyError::WrongKind(_) | ApplyError::NotListed(_) => Errno::INVAL.raw_os_error(),
        }
    }
}

/// Says what failed: `.map_err(during("write to file"))`.
pub(crate) fn during(operation: &'static str) -> impl Fn(Errno) -> ApplyError {
    move |errno| ApplyError::System { operation, errno }
}
