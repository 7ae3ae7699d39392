//! Copies a file whole, holes as holes, shared blocks where the file system can. A copy that was given up goes on where it
//! ended: the original does not change before the copy is complete.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, copy_file_range, fchmod, fchown,
    fstat, fstatvfs, fsync, ftruncate, futimens, ioctl_ficlone, openat, seek,
};
use rustix::io::Errno;

/// Copied at a time: how soon a copy that is to be given up ends.
const CHUNK_BYTES: u64 = 8 << 20;
/// Left free on the file system, as a part of it, and at most so much.
const RESERVE_PART: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// Why there is no copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyError {
    /// The file system would be too full.
    NoRoom {
        /// Bytes that the rest of the copy needs.
        needed: u64,
        /// Bytes that may be used.
        free: u64,
    },
    /// Anything else.
    System(Errno),
}

impl From<Errno> for CopyError {
    fn from(errno: Errno) -> CopyError {
        CopyError::System(errno)
    }
}

/// Copies `source` to `name` in `directory`; durable on return.
pub(super) fn copy(
    source: &OwnedFd,
    directory: &OwnedFd,
    name: &str,
    is_stopped: &AtomicBool,
) -> Result<(), CopyError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    let original = fstat(source)?;
    let done = fstat(&target)?;
    let is_cloned = done.st_size == 0 && ioctl_ficlone(&target, source).is_ok();
    if !is_cloned {
        check_room(&target, &original, &done)?;
        let from = u64::try_from(done.st_size).unwrap_or(0);
        copy_data(source, &target, from, size_of(&original), is_stopped).map_err(|error| {
            match error {
                // Somebody else took the room meanwhile.
                CopyError::System(Errno::NOSPC | Errno::DQUOT) => CopyError::NoRoom {
                    needed: used_by(&original),
                    free: 0,
                },
                other @ (CopyError::System(_) | CopyError::NoRoom { .. }) => other,
            }
        })?;
    }
    copy_attributes(&target, &original)?;
    fsync(&target)?;
    Ok(())
}

fn check_room(target: &OwnedFd, original: &Stat, done: &Stat) -> Result<(), CopyError> {
    let needed = used_by(original).saturating_sub(used_by(done));
    let file_system = fstatvfs(target)?;
    let reserve =
        (file_system.f_blocks * file_system.f_frsize / RESERVE_PART).min(RESERVE_BYTES_MAX);
    let free = (file_system.f_bavail * file_system.f_frsize).saturating_sub(reserve);
    if needed > free {
        return Err(CopyError::NoRoom { needed, free });
    }
    Ok(())
}

fn copy_data(
    source: &OwnedFd,
    target: &OwnedFd,
    from: u64,
    size: u64,
    is_stopped: &AtomicBool,
) -> Result<(), CopyError> {
    let mut offset = from;
    while offset < size {
        let data = match seek(source, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno.into()),
        };
        if data >= size {
            break;
        }
        let hole = seek(source, SeekFrom::Hole(data))?.min(size);
        offset = data;
        while offset < hole {
            if is_stopped.load(Ordering::Acquire) {
                return Err(Errno::INTR.into());
            }
            offset += copy_chunk(source, target, offset, (hole - offset).min(CHUNK_BYTES))?;
        }
    }
    ftruncate(target, size)?;
    Ok(())
}

fn copy_chunk(
    source: &OwnedFd,
    target: &OwnedFd,
    offset: u64,
    length: u64,
) -> Result<u64, CopyError> {
    let (mut read_at, mut write_at) = (offset, offset);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match copy_file_range(
        source,
        Some(&mut read_at),
        target,
        Some(&mut write_at),
        length,
    ) {
        // The file ends earlier than it said: nothing may loop on that.
        Ok(0) => Err(Errno::IO.into()),
        Ok(copied) => Ok(copied as u64),
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            copy_by_hand(source, target, offset, length)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn copy_by_hand(
    source: &OwnedFd,
    target: &OwnedFd,
    offset: u64,
    length: usize,
) -> Result<u64, CopyError> {
    let mut buffer = vec![0; length.min(1 << 20)];
    let read = rustix::io::pread(source, &mut buffer, offset)?;
    if read == 0 {
        return Err(Errno::IO.into());
    }
    let mut written = 0;
    while written < read {
        written += rustix::io::pwrite(target, &buffer[written..read], offset + written as u64)?;
    }
    Ok(read as u64)
}

fn copy_attributes(target: &OwnedFd, original: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (
        Uid::from_raw(original.st_uid),
        Gid::from_raw(original.st_gid),
    );
    fchown(target, Some(uid), Some(gid))?;
    fchmod(target, Mode::from_raw_mode(original.st_mode & 0o7777))?;
    let time = |tv_sec, nanoseconds| Timespec {
        tv_sec,
        tv_nsec: nanoseconds as i64,
    };
    futimens(
        target,
        &Timestamps {
            last_access: time(original.st_atime, original.st_atime_nsec),
            last_modification: time(original.st_mtime, original.st_mtime_nsec),
        },
    )
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn used_by(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
