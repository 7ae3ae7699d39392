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
    /// Apart from the other lock, which a disk that hangs keeps.
    health: Mutex<Health>,
}

/// What is known against the disk (R11).
#[derive(Debug)]
struct Health {
    /// The newest failure that counts.
    failed: Option<Errno>,
    /// The copy is written anew, and nothing failed since that began.
    is_rewriting: bool,
    doubt: Doubt,
}

impl Disk {
    /// Of the file system of `root`, whatever is mounted over it later.
    /// What is known against it is kept in `run_dir`, by the name of `directory`.
    pub(super) fn open(root: impl AsFd, run_dir: &Path, directory: &Path) -> Result<Disk, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let doubt = Doubt::open(run_dir, directory);
        Ok(Disk {
            descriptor: Mutex::new(openat(root, c".", flags, Mode::empty())?),
            health: Mutex::new(Health {
                failed: doubt.is_cast().then_some(Errno::IO),
                is_rewriting: false,
                doubt,
            }),
        })
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        let descriptor = self.descriptor.lock();
        let failed = self.health.lock().failed;
        failed.map_or(Ok(()), Err)?;
        syncfs(&*descriptor).inspect_err(|errno| self.note_failure(*errno))
    }

    pub(super) fn note_failure(&self, errno: Errno) {
        let mut health = self.health.lock();
        health.failed = Some(errno);
        health.is_rewriting = false;
        health.doubt.cast();
    }

    /// No other copy counts: syncs are tried again, and what is there stays doubted.
    pub(super) fn go_on_alone(&self) {
        let mut health = self.health.lock();
        health.failed = None;
        health.is_rewriting = false;
    }

    /// Has the kernel say what it had to say of a former failure: it says so once to each descriptor, at the next sync. What was
    /// written anew before may be what failed, and is written once more.
    pub(super) fn hear_of_former_failures(&self) {
        if let Err(errno) = syncfs(&*self.descriptor.lock()) {
            tracing::info!(%errno, "what failed before this copy is written anew");
            self.health.lock().doubt.cast();
        }
    }

    /// What fails from now on counts.
    pub(super) fn begin_rewriting(&self) {
        let mut health = self.health.lock();
        health.failed = None;
        health.is_rewriting = true;
    }

    /// The copy was written anew, and everything is on the disk, unless something failed meanwhile.
    pub(super) fn end_rewriting(&self) {
        let mut health = self.health.lock();
        if health.is_rewriting {
            health.doubt.lift();
            health.is_rewriting = false;
        }
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.health.lock().doubt.is_cast()
    }

    pub(super) fn must_be_rewritten(&self, file: (u64, u64)) -> bool {
        let health = self.health.lock();
        health.doubt.is_cast() && !health.doubt.was_rewritten(file)
    }

    pub(super) fn set_rewritten(&self, file: (u64, u64)) {
        self.health.lock().doubt.set_rewritten(file);
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
        let disk = Disk::open(&root, state.path(), dir.path()).unwrap();
        assert_eq!(disk.sync(), Ok(()));
        let can = std::mem::replace(&mut *disk.descriptor.lock(), cannot);
        assert_eq!(disk.sync(), Err(Errno::BADF));
        *disk.descriptor.lock() = can;
        assert_eq!(disk.sync(), Err(Errno::BADF));
        disk.end_rewriting();
        assert!(disk.is_doubted(), "no comparison has begun");
        disk.begin_rewriting();
        assert_eq!(disk.sync(), Ok(()));
        assert!(disk.is_doubted());
        disk.end_rewriting();
        assert!(!disk.is_doubted());
    }

    /// Goal: what was written anew in a session that ended, and did not reach the disk after it, is written once more, and that alone ends
    /// no comparison. Method: a descriptor that cannot be synced.
    #[test]
    fn regression_what_was_written_anew_may_fail_as_well() {
        let (dir, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = std::fs::File::open(dir.path()).unwrap();
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let disk = Disk::open(&root, run.path(), dir.path()).unwrap();
        disk.note_failure(Errno::IO);
        disk.begin_rewriting();
        disk.set_rewritten((1, 7));
        disk.hear_of_former_failures();
        assert!(!disk.must_be_rewritten((1, 7)), "nothing failed");
        let cannot = openat(&root, c".", path_only, Mode::empty()).unwrap();
        let can = std::mem::replace(&mut *disk.descriptor.lock(), cannot);
        disk.hear_of_former_failures();
        assert!(disk.must_be_rewritten((1, 7)));
        *disk.descriptor.lock() = can;
        assert_eq!(disk.sync(), Ok(()));
        disk.end_rewriting();
        assert!(!disk.is_doubted());
    }

    /// Goal: what is written anew halfway, and then leads alone, is not trusted when another copy counts beside it one day; a failure in
    /// the middle begins everything anew, a session that ends does not.
    #[test]
    fn regression_a_doubt_is_lifted_only_at_the_end_of_a_comparison() {
        let (dir, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = std::fs::File::open(dir.path()).unwrap();
        let disk = Disk::open(&root, run.path(), dir.path()).unwrap();
        disk.note_failure(Errno::IO);
        disk.begin_rewriting();
        disk.set_rewritten((1, 7));
        assert!(!disk.must_be_rewritten((1, 7)) && disk.must_be_rewritten((1, 8)));
        disk.go_on_alone();
        disk.end_rewriting();
        assert!(disk.is_doubted());
        disk.begin_rewriting();
        assert!(!disk.must_be_rewritten((1, 7)));
        disk.note_failure(Errno::IO);
        assert!(disk.must_be_rewritten((1, 7)));
        disk.end_rewriting();
        assert!(disk.is_doubted());
    }
}
