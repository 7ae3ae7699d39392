//! The kernel's own switch for FUSE connections, for mounts that live on where we cannot reach them.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Ends a connection, wherever its file system is mounted.
///
/// Its control file system need not be mounted anywhere: this reaches it through a mount of its own that has no name and
/// ends with its descriptor.
///
/// # Errors
/// `NotFound` when there is no such connection.
pub(super) fn abort(connection: u32) -> io::Result<()> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let switch = openat(
        root,
        format!("{connection}/abort"),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    File::from(switch).write_all(b"1")
}
