//! What can change in a replicated tree, as the primary ships it and the secondary applies it.

/// Name of an object on the wire: given by the primary, unique within one session, never reused in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u64);

impl FileId {
    /// The replicated directory itself; bound from the first frame on.
    pub const ROOT: FileId = FileId(1);
}

/// Seconds and nanoseconds since the epoch, as in `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// 0..1_000_000_000.
    pub nanoseconds: u32,
}

/// What kind of object a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and the bytes it holds.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
}

/// Everything of an inode that is compared between the copies (access and change times are not).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Permission bits, setuid, setgid and sticky (`st_mode & 0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; 0 for everything but regular files.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
}

/// The attributes that one `setattr` changes; `None` leaves the value as it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AttributeChange {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Time>,
    /// New modification time.
    pub mtime: Option<Time>,
}

/// One change, in the order in which it happened on the primary.
///
/// Replaying all changes of a session in order gives the same tree. Changes of names and of directories are one order;
/// changes of one file are another; the two are independent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Change<'a> {
    /// A new object: create, mkdir, mknod, symlink. Binds `file`.
    Create {
        /// Directory that holds the new name.
        parent: FileId,
        /// The new name: 1 to 255 bytes, no `/`, no NUL.
        name: &'a [u8],
        /// Name of the new object from now on.
        file: FileId,
        /// What it is.
        kind: Kind<'a>,
        /// Its attributes right after creation.
        attributes: Attributes,
    },
    /// Another name for a file that is bound.
    Link {
        /// The file.
        file: FileId,
        /// Directory of the new name.
        parent: FileId,
        /// The new name.
        name: &'a [u8],
    },
    /// A name of something that is not a directory goes away.
    Unlink {
        /// Directory of the name.
        parent: FileId,
        /// The name.
        name: &'a [u8],
    },
    /// An empty directory goes away.
    Rmdir {
        /// Directory of the name.
        parent: FileId,
        /// The name.
        name: &'a [u8],
    },
    /// `renameat2(2)`; an existing target is replaced unless `flags` say otherwise.
    Rename {
        /// Directory of the old name.
        parent: FileId,
        /// The old name.
        name: &'a [u8],
        /// Directory of the new name.
        new_parent: FileId,
        /// The new name.
        new_name: &'a [u8],
        /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE` or 0.
        flags: u32,
    },
    /// Bytes written to a file.
    Write {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// What; at most `DATA_BYTES_MAX`.
        data: &'a [u8],
    },
    /// Attributes changed.
    SetAttributes {
        /// The object.
        file: FileId,
        /// Which, and to what.
        change: AttributeChange,
    },
    /// An extended attribute (or ACL) set.
    SetXattr {
        /// The object.
        file: FileId,
        /// Full name with its namespace.
        name: &'a [u8],
        /// Value, at most 64 KiB.
        value: &'a [u8],
    },
    /// An extended attribute removed.
    RemoveXattr {
        /// The object.
        file: FileId,
        /// Full name with its namespace.
        name: &'a [u8],
    },
    /// `fallocate(2)` with its mode bits.
    Allocate {
        /// The file.
        file: FileId,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The file must be on disk on both servers before the request is answered.
    Sync {
        /// The file or directory.
        file: FileId,
        /// `fdatasync` rather than `fsync`.
        data_only: bool,
    },
    /// The primary will not name this object again.
    Forget {
        /// The object.
        file: FileId,
    },
    /// Names an object that both copies already have under this name; changes nothing. Only in a session that began
    /// in sync (`Shipping::binds_on_use`): after a switchover the copies are identical, so nothing is listed or hashed
    /// and each object is bound, parents first, under the namespace lock, when a change first concerns it.
    Bind {
        /// The directory, bound before.
        parent: FileId,
        /// The name.
        name: &'a [u8],
        /// Name of the object on the wire from now on.
        file: FileId,
    },
    /// Resync: the listing of a directory starts. The namespace order is held until its `DirectoryEnd`. That of the root
    /// removes the root's extended attributes on the secondary; one `SetXattr` for each of the primary's follows.
    DirectoryBegin {
        /// The directory, bound before.
        directory: FileId,
        /// Its own attributes.
        attributes: Attributes,
    },
    /// Resync: the directory has this name. Whatever else has the name on the secondary makes way; what is missing is
    /// made; a bound `file` becomes a hard link. Binds `file`. Followed by one `SetXattr` per extended attribute.
    Entry {
        /// The directory.
        parent: FileId,
        /// The name.
        name: &'a [u8],
        /// The object.
        file: FileId,
        /// What it is.
        kind: Kind<'a>,
        /// Its attributes; the secondary sets the size at once (truncates or extends), the content follows by blocks.
        attributes: Attributes,
        /// The names of its extended attributes, each followed by NUL; the secondary removes all others.
        xattrs: &'a [u8],
    },
    /// Resync: every name was listed; what the secondary has beyond them is removed, whole trees included.
    DirectoryEnd {
        /// The directory.
        directory: FileId,
        /// Its own attributes again: changing the entries changed its times on the secondary.
        attributes: Attributes,
    },
    /// Resync: the primary's block has this digest; a secondary whose block differs answers with `NeedBlock`.
    BlockDigest {
        /// The file.
        file: FileId,
        /// Bytes, a multiple of the block size.
        offset: u64,
        /// Bytes; shorter only at the end of the file.
        length: u32,
        /// XXH3-128 of the block.
        digest: u128,
    },
    /// The secondary applies everything before this, syncs its file system, and only then acknowledges.
    Barrier,
}
