//! Between fuser's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attributes, Errno, TimeChange};
use crate::replication::change::Time;

/// No object at all: a name that leads nowhere, or attributes that are not known.
pub(super) const NO_ATTRIBUTES: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    let stat = &attributes.stat;
    FileAttr {
        ino: INodeNo(attributes.node.0),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: system_time(stat.st_atime, stat.st_atime_nsec as u32),
        mtime: system_time(stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: system_time(stat.st_ctime, stat.st_ctime_nsec as u32),
        crtime: UNIX_EPOCH,
        kind: file_type(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

pub(super) fn file_type(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Below;
    match kind {
        Below::Directory => FileType::Directory,
        Below::Symlink => FileType::Symlink,
        Below::Fifo => FileType::NamedPipe,
        Below::Socket => FileType::Socket,
        Below::CharacterDevice => FileType::CharDevice,
        Below::BlockDevice => FileType::BlockDevice,
        Below::RegularFile | Below::Unknown => FileType::RegularFile,
    }
}

fn system_time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = if seconds < 0 {
        UNIX_EPOCH - whole
    } else {
        UNIX_EPOCH + whole
    };
    start + Duration::from_nanos(u64::from(nanoseconds))
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::To(requested_time(time)),
    }
}

/// fuser 0.18 turns the request's seconds before 1970 into `UNIX_EPOCH - (seconds + nanoseconds)`, where the kernel means
/// `UNIX_EPOCH - seconds + nanoseconds`: both parts are taken out again as they came in.
fn requested_time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            seconds: after.as_secs() as i64,
            nanoseconds: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                seconds: -(before.as_secs() as i64),
                nanoseconds: before.subsec_nanos(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_around_1970() {
        assert_eq!(
            system_time(-2, 500_000_000),
            UNIX_EPOCH - Duration::from_millis(1500)
        );
        assert_eq!(system_time(2, 5), UNIX_EPOCH + Duration::new(2, 5));
        assert_eq!(
            requested_time(UNIX_EPOCH + Duration::new(2, 5)),
            Time {
                seconds: 2,
                nanoseconds: 5
            }
        );
        let as_fuser_says = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(
            requested_time(as_fuser_says),
            Time {
                seconds: -2,
                nanoseconds: 500_000_000
            }
        );
    }
}
