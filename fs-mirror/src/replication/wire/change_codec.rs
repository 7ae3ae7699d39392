//! The payload of every [`Change`].

use super::cursor::Cursor;
use super::{DATA_BYTES_MAX, SYMLINK_BYTES_MAX, WireError, XATTR_VALUE_BYTES_MAX, tag};
use crate::replication::change::{AttributeChange, Attributes, Change, FileId, Kind, Time};

/// `RENAME_NOREPLACE | RENAME_EXCHANGE`.
const RENAME_FLAGS: u32 = 0b11;
/// `FALLOC_FL_*`: keep size, punch hole, collapse, zero, insert, unshare.
const ALLOCATE_MODES: u32 = 0b111_1011;
const MODE_MAX: u32 = 0o7777;

pub(super) fn type_of(change: &Change<'_>) -> u8 {
    match change {
        Change::Create { .. } => tag::CREATE,
        Change::Link { .. } => tag::LINK,
        Change::Unlink { .. } => tag::UNLINK,
        Change::Rmdir { .. } => tag::RMDIR,
        Change::Rename { .. } => tag::RENAME,
        Change::Write { .. } => tag::WRITE,
        Change::SetAttributes { .. } => tag::SET_ATTRIBUTES,
        Change::SetXattr { .. } => tag::SET_XATTR,
        Change::RemoveXattr { .. } => tag::REMOVE_XATTR,
        Change::Allocate { .. } => tag::ALLOCATE,
        Change::Sync { .. } => tag::SYNC,
        Change::Forget { .. } => tag::FORGET,
        Change::Bind { .. } => tag::BIND,
        Change::DirectoryBegin { .. } => tag::DIRECTORY_BEGIN,
        Change::Entry { .. } => tag::ENTRY,
        Change::DirectoryEnd { .. } => tag::DIRECTORY_END,
        Change::BlockDigest { .. } => tag::BLOCK_DIGEST,
        Change::Barrier => tag::BARRIER,
    }
}

pub(super) fn encode(out: &mut Vec<u8>, change: &Change<'_>) {
    let mut writer = Writer(out);
    match *change {
        Change::Create {
            parent,
            name,
            file,
            kind,
            attributes,
        } => {
            writer
                .file(parent)
                .name(name)
                .file(file)
                .kind(kind)
                .attributes(attributes);
        }
        Change::Link { file, parent, name } => {
            writer.file(file).file(parent).name(name);
        }
        Change::Unlink { parent, name } | Change::Rmdir { parent, name } => {
            writer.file(parent).name(name);
        }
        Change::Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags,
        } => {
            writer
                .file(parent)
                .name(name)
                .file(new_parent)
                .name(new_name)
                .u32(flags);
        }
        Change::Write { file, offset, data } => {
            writer.file(file).u64(offset).raw(data);
        }
        Change::SetAttributes { file, change } => {
            writer.file(file).attribute_change(change);
        }
        Change::SetXattr { file, name, value } => {
            writer.file(file).name(name).raw(value);
        }
        Change::RemoveXattr { file, name } => {
            writer.file(file).name(name);
        }
        Change::Allocate {
            file,
            mode,
            offset,
            length,
        } => {
            writer.file(file).u32(mode).u64(offset).u64(length);
        }
        Change::Sync { file, data_only } => {
            writer.file(file).u8(u8::from(data_only));
        }
        Change::Forget { file } => {
            writer.file(file);
        }
        Change::Bind { parent, name, file } => {
            writer.file(parent).name(name).file(file);
        }
        Change::DirectoryBegin {
            directory,
            attributes,
        }
        | Change::DirectoryEnd {
            directory,
            attributes,
        } => {
            writer.file(directory).attributes(attributes);
        }
        Change::Entry {
            parent,
            name,
            file,
            kind,
            attributes,
            xattrs,
        } => {
            writer
                .file(parent)
                .name(name)
                .file(file)
                .kind(kind)
                .attributes(attributes)
                .bytes(xattrs);
        }
        Change::BlockDigest {
            file,
            offset,
            length,
            digest,
        } => {
            writer
                .file(file)
                .u64(offset)
                .u32(length)
                .raw(&digest.to_le_bytes());
        }
        Change::Barrier => {}
    }
}

pub(super) fn decode<'a>(cursor: &mut Cursor<'a>) -> Result<Change<'a>, WireError> {
    Ok(match cursor.kind() {
        tag::CREATE => Change::Create {
            parent: file(cursor)?,
            name: cursor.name()?,
            file: file(cursor)?,
            kind: kind(cursor)?,
            attributes: attributes(cursor)?,
        },
        tag::LINK => Change::Link {
            file: file(cursor)?,
            parent: file(cursor)?,
            name: cursor.name()?,
        },
        tag::UNLINK => Change::Unlink {
            parent: file(cursor)?,
            name: cursor.name()?,
        },
        tag::RMDIR => Change::Rmdir {
            parent: file(cursor)?,
            name: cursor.name()?,
        },
        tag::RENAME => Change::Rename {
            parent: file(cursor)?,
            name: cursor.name()?,
            new_parent: file(cursor)?,
            new_name: cursor.name()?,
            flags: bits(cursor, "rename flags", RENAME_FLAGS)?,
        },
        tag::WRITE => decode_write(cursor)?,
        tag::SET_ATTRIBUTES => Change::SetAttributes {
            file: file(cursor)?,
            change: attribute_change(cursor)?,
        },
        tag::SET_XATTR => decode_set_xattr(cursor)?,
        tag::REMOVE_XATTR => Change::RemoveXattr {
            file: file(cursor)?,
            name: cursor.xattr_name()?,
        },
        tag::ALLOCATE => Change::Allocate {
            file: file(cursor)?,
            mode: bits(cursor, "allocation mode", ALLOCATE_MODES)?,
            offset: cursor.offset()?,
            length: cursor.offset()?,
        },
        tag::SYNC => Change::Sync {
            file: file(cursor)?,
            data_only: cursor.bool()?,
        },
        tag::FORGET => Change::Forget {
            file: file(cursor)?,
        },
        tag::BIND => Change::Bind {
            parent: file(cursor)?,
            name: cursor.name()?,
            file: file(cursor)?,
        },
        tag::DIRECTORY_BEGIN => Change::DirectoryBegin {
            directory: file(cursor)?,
            attributes: attributes(cursor)?,
        },
        tag::ENTRY => Change::Entry {
            parent: file(cursor)?,
            name: cursor.name()?,
            file: file(cursor)?,
            kind: kind(cursor)?,
            attributes: attributes(cursor)?,
            xattrs: cursor.xattr_names()?,
        },
        tag::DIRECTORY_END => Change::DirectoryEnd {
            directory: file(cursor)?,
            attributes: attributes(cursor)?,
        },
        tag::BLOCK_DIGEST => Change::BlockDigest {
            file: file(cursor)?,
            offset: cursor.offset()?,
            length: cursor.block_length()?,
            digest: cursor.u128()?,
        },
        tag::BARRIER => Change::Barrier,
        unknown => return Err(WireError::UnknownType(unknown)),
    })
}

fn decode_write<'a>(cursor: &mut Cursor<'a>) -> Result<Change<'a>, WireError> {
    let (file, offset, data) = (file(cursor)?, cursor.offset()?, cursor.rest());
    if data.len() > DATA_BYTES_MAX {
        return Err(WireError::OutOfRange {
            field: "bytes written",
            value: data.len() as u64,
        });
    }
    if offset > i64::MAX as u64 - data.len() as u64 {
        return Err(WireError::OutOfRange {
            field: "offset",
            value: offset,
        });
    }
    Ok(Change::Write { file, offset, data })
}

fn decode_set_xattr<'a>(cursor: &mut Cursor<'a>) -> Result<Change<'a>, WireError> {
    let (file, name, value) = (file(cursor)?, cursor.xattr_name()?, cursor.rest());
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(WireError::OutOfRange {
            field: "value of an extended attribute",
            value: value.len() as u64,
        });
    }
    Ok(Change::SetXattr { file, name, value })
}

fn file(cursor: &mut Cursor<'_>) -> Result<FileId, WireError> {
    match cursor.u64()? {
        0 => Err(WireError::OutOfRange {
            field: "file",
            value: 0,
        }),
        id => Ok(FileId(id)),
    }
}

fn bits(cursor: &mut Cursor<'_>, field: &'static str, allowed: u32) -> Result<u32, WireError> {
    match cursor.u32()? {
        value if value & !allowed == 0 => Ok(value),
        value => Err(WireError::OutOfRange {
            field,
            value: u64::from(value),
        }),
    }
}

fn kind<'a>(cursor: &mut Cursor<'a>) -> Result<Kind<'a>, WireError> {
    Ok(match cursor.u8()? {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink(symlink(cursor)?),
        3 => Kind::Fifo,
        4 => Kind::Socket,
        5 => Kind::CharDevice {
            rdev: cursor.u64()?,
        },
        6 => Kind::BlockDevice {
            rdev: cursor.u64()?,
        },
        unknown => {
            return Err(WireError::OutOfRange {
                field: "kind of object",
                value: u64::from(unknown),
            });
        }
    })
}

fn symlink<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], WireError> {
    let target = cursor.bytes("length of a symbolic link", SYMLINK_BYTES_MAX)?;
    if target.is_empty() || target.contains(&0) {
        return Err(WireError::Name);
    }
    Ok(target)
}

fn attributes(cursor: &mut Cursor<'_>) -> Result<Attributes, WireError> {
    Ok(Attributes {
        mode: cursor.u32_up_to("mode", MODE_MAX)?,
        uid: cursor.u32()?,
        gid: cursor.u32()?,
        size: cursor.offset()?,
        mtime: cursor.time()?,
    })
}

fn attribute_change(cursor: &mut Cursor<'_>) -> Result<AttributeChange, WireError> {
    let present = cursor.u8()?;
    if present >= 1 << 6 {
        return Err(WireError::OutOfRange {
            field: "attributes present",
            value: u64::from(present),
        });
    }
    let has = |bit: u8| present & (1 << bit) != 0;
    Ok(AttributeChange {
        mode: has(0)
            .then(|| cursor.u32_up_to("mode", MODE_MAX))
            .transpose()?,
        uid: has(1).then(|| cursor.u32()).transpose()?,
        gid: has(2).then(|| cursor.u32()).transpose()?,
        size: has(3).then(|| cursor.offset()).transpose()?,
        atime: has(4).then(|| cursor.time()).transpose()?,
        mtime: has(5).then(|| cursor.time()).transpose()?,
    })
}

/// Appends fields to a frame.
struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn file(&mut self, file: FileId) -> &mut Self {
        self.u64(file.0)
    }

    /// The kernel gives no longer names, of files or of extended attributes.
    fn name(&mut self, name: &[u8]) -> &mut Self {
        assert!(
            (1..=255).contains(&name.len()),
            "name of {} bytes",
            name.len()
        );
        self.u8(name.len() as u8).raw(name)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    fn kind(&mut self, kind: Kind<'_>) -> &mut Self {
        match kind {
            Kind::File => self.u8(0),
            Kind::Directory => self.u8(1),
            Kind::Symlink(target) => self.u8(2).bytes(target),
            Kind::Fifo => self.u8(3),
            Kind::Socket => self.u8(4),
            Kind::CharDevice { rdev } => self.u8(5).u64(rdev),
            Kind::BlockDevice { rdev } => self.u8(6).u64(rdev),
        }
    }

    fn time(&mut self, time: Time) -> &mut Self {
        self.u64(time.seconds as u64).u32(time.nanoseconds)
    }

    fn attributes(&mut self, attributes: Attributes) -> &mut Self {
        let Attributes {
            mode,
            uid,
            gid,
            size,
            mtime,
        } = attributes;
        self.u32(mode).u32(uid).u32(gid).u64(size).time(mtime)
    }

    fn attribute_change(&mut self, change: AttributeChange) -> &mut Self {
        let AttributeChange {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        } = change;
        let present = [
            mode.is_some(),
            uid.is_some(),
            gid.is_some(),
            size.is_some(),
            atime.is_some(),
            mtime.is_some(),
        ];
        self.u8(present
            .iter()
            .enumerate()
            .map(|(bit, is_present)| u8::from(*is_present) << bit)
            .sum());
        mode.iter().chain(&uid).chain(&gid).for_each(|value| {
            self.0.extend_from_slice(&value.to_le_bytes());
        });
        if let Some(size) = size {
            self.u64(size);
        }
        for time in [atime, mtime].into_iter().flatten() {
            self.time(time);
        }
        self
    }
}
