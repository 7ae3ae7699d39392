//! Creation with the caller's umask and owner.
//!
//! Whether a umask counts depends on the default ACL of the directory, and only the file system below decides that
//! right: so it gets the unmasked mode, and the umask as the thread's own.
#![expect(
    unsafe_code,
    reason = "a thread's own umask needs unshare(CLONE_FS), which rustix marks unsafe"
)]

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::errno::Errno;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// User, as the kernel's permission checks see it.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

thread_local! {
    /// The umask this thread has set, once it has its own.
    static OWN_UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Makes `mask` the umask of this thread alone.
pub(super) fn set_umask(mask: u32) -> Result<(), Errno> {
    let own = OWN_UMASK.get();
    if own == Some(mask) {
        return Ok(());
    }
    if own.is_none() {
        // SAFETY: only `UnshareFlags::FILES` can make descriptors invisible to other threads; FS separates working
        // directory, root and umask, and nothing here uses paths relative to the working directory.
        unsafe { unshare_unsafe(UnshareFlags::FS)? };
    }
    umask(Mode::from_raw_mode(mask & 0o777));
    OWN_UMASK.set(Some(mask));
    Ok(())
}
