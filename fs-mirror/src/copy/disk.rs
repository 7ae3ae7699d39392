//! The file system below a copy, as far as it has to be on its disk.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, openat, syncfs};
use rustix::io::Errno;

/// What has not failed.
const NONE: i32 = 0;

/// One descriptor for all syncs. The kernel tells a failed writeback once to each that was open then: one that is opened for a sync
/// alone hears nothing of what somebody else's sync of the same file system was told before.
#[derive(Debug)]
pub(super) struct Disk {
    /// Locked while a sync is under way: who waits for another one is told that it failed, too.
    descriptor: Mutex<OwnedFd>,
    /// The first failure that counts (R11). Apart from the lock, which a disk that hangs keeps.
    failed: AtomicI32,
}

impl Disk {
    /// Of the file system of `root`, whatever is mounted over it later.
    pub(super) fn open(root: impl AsFd) -> Result<Disk, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Disk {
            descriptor: Mutex::new(openat(root, c".", flags, Mode::empty())?),
            failed: AtomicI32::new(NONE),
        })
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        let descriptor = self.descriptor.lock();
        self.check()?;
        syncfs(&*descriptor).inspect_err(|errno| {
            self.failed.store(errno.raw_os_error(), Ordering::Release);
        })
    }

    fn check(&self) -> Result<(), Errno> {
        match self.failed.load(Ordering::Acquire) {
            NONE => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    pub(super) fn forget_failure(&self) {
        self.failed.store(NONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever syncs after a failure does not take the next success of the kernel for a copy that is on its disk. Method: a
    /// descriptor that cannot be synced, then one that can.
    #[test]
    fn regression_a_failed_sync_is_not_repeated_into_health() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cannot = openat(&root, c".", path_only, Mode::empty()).unwrap();
        let disk = Disk::open(&root).unwrap();
        assert_eq!(disk.sync(), Ok(()));
        let can = std::mem::replace(&mut *disk.descriptor.lock(), cannot);
        assert_eq!(disk.sync(), Err(Errno::BADF));
        *disk.descriptor.lock() = can;
        assert_eq!(disk.sync(), Err(Errno::BADF));
        disk.forget_failure();
        assert_eq!(disk.sync(), Ok(()));
    }
}
