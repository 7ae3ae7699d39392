//! The file system below a copy, as far as it has to be on its disk.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, openat, syncfs};
use rustix::io::Errno;

use super::doubt::Doubt;

/// One descriptor for all syncs. The kernel tells a failed writeback once to each that was open then: one that is opened for a sync
/// alone hears nothing of what somebody else's sync of the same file system was told before.
#[derive(Debug)]
pub(super) struct Disk {
    /// Locked while a sync is under way: who waits for another one is told that it failed, too.
    descriptor: Mutex<OwnedFd>,
    /// The newest failure that counts (R11). Apart from the other lock, which a disk that hangs keeps.
    failed: Mutex<Option<Errno>>,
    doubt: Doubt,
}

impl Disk {
    /// Of the file system of `root`, whatever is mounted over it later.
    pub(super) fn open(root: impl AsFd, state_dir: &Path) -> Result<Disk, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let doubt = Doubt::open(state_dir);
        Ok(Disk {
            descriptor: Mutex::new(openat(root, c".", flags, Mode::empty())?),
            failed: Mutex::new(doubt.is_cast().then_some(Errno::IO)),
            doubt,
        })
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        let descriptor = self.descriptor.lock();
        let failed = *self.failed.lock();
        failed.map_or(Ok(()), Err)?;
        syncfs(&*descriptor).inspect_err(|errno| self.note_failure(*errno))
    }

    pub(super) fn note_failure(&self, errno: Errno) {
        *self.failed.lock() = Some(errno);
        self.doubt.cast();
    }

    pub(super) fn forget_failure(&self) {
        *self.failed.lock() = None;
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_cast()
    }

    /// What failed after the comparison began leaves the doubt.
    pub(super) fn lift_doubt(&self) {
        let failed = self.failed.lock();
        if failed.is_none() {
            self.doubt.lift();
        }
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
        let state = tempfile::tempdir().unwrap();
        let disk = Disk::open(&root, state.path()).unwrap();
        assert_eq!(disk.sync(), Ok(()));
        let can = std::mem::replace(&mut *disk.descriptor.lock(), cannot);
        assert_eq!(disk.sync(), Err(Errno::BADF));
        *disk.descriptor.lock() = can;
        assert_eq!(disk.sync(), Err(Errno::BADF));
        disk.lift_doubt();
        assert!(disk.is_doubted(), "it was not compared since");
        disk.forget_failure();
        assert_eq!(disk.sync(), Ok(()));
        assert!(disk.is_doubted());
        disk.lift_doubt();
        assert!(!disk.is_doubted());
    }
}
