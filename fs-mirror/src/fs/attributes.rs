//! Attributes as they come from the system, as requests change them, and as they travel.

use rustix::fs::{FileType, Stat, Timespec, UTIME_NOW, UTIME_OMIT};

use super::inodes::NodeId;
use crate::replication::change::{self, Kind, Time};

/// What the kernel asks of an object.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// The kernel's name for it.
    pub node: NodeId,
    /// What the file system below says.
    pub stat: Stat,
}

/// A new time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeChange {
    /// The time of this server, when the request is carried out.
    Now,
    /// The time given.
    To(Time),
}

/// The attributes that one request changes; `None` leaves the value as it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SetAttributes {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<TimeChange>,
    /// New modification time.
    pub mtime: Option<TimeChange>,
}

/// `None` leaves a time alone.
pub(super) fn timespec(change: Option<TimeChange>) -> Timespec {
    match change {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(TimeChange::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(TimeChange::To(time)) => Timespec {
            tv_sec: time.seconds,
            tv_nsec: i64::from(time.nanoseconds),
        },
    }
}

pub(super) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

pub(super) fn mtime(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as u32,
    }
}

pub(super) fn atime(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_atime,
        nanoseconds: stat.st_atime_nsec as u32,
    }
}

/// As they travel with a new or listed object.
pub(super) fn on_wire(stat: &Stat) -> change::Attributes {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    change::Attributes {
        mode: permissions(stat),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if is_file { stat.st_size as u64 } else { 0 },
        mtime: mtime(stat),
    }
}

/// The kind of an object as it travels; `target` is what a symbolic link holds. `None` for what no directory can hold.
pub(super) fn kind<'a>(stat: &Stat, target: &'a [u8]) -> Option<Kind<'a>> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink(target)),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice { rdev: stat.st_rdev }),
        FileType::BlockDevice => Some(Kind::BlockDevice { rdev: stat.st_rdev }),
        FileType::Unknown => None,
    }
}
