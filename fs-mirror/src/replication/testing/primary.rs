//! A primary without FUSE: changes a real directory and ships each change, as `fs` does; resynchronises as `resync` does.

use std::collections::{HashMap, VecDeque};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use xxhash_rust::xxh3::xxh3_128;

use super::compare::xattrs;
use super::ops::Op;
use super::{PATIENCE, Reply, Request, eventually, request};
use crate::replication::change::{AttributeChange, Attributes, Change, FileId, Kind, Time};
use crate::replication::replicator::Replicator;
use crate::replication::shipping::{Shipping, Ticket};
use crate::replication::wire::Block;
use crate::resync::Listener;

/// A small block, so that small files have several.
const BLOCK_BYTES: usize = 4096;

/// What the secondary answered.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) needed: Mutex<VecDeque<Block>>,
    pub(crate) acknowledged: Mutex<Vec<u64>>,
}

impl Listener for Answers {
    fn need_block(&self, file: FileId, offset: u64, length: u32) {
        self.needed.lock().push_back(Block {
            file,
            offset,
            length,
        });
    }

    fn acknowledged(&self, seq: u64) {
        self.acknowledged.lock().push(seq);
    }

    fn session_ended(&self) {}
}

/// The directory, and where its changes are shipped.
pub(crate) struct Primary {
    pub(crate) root: PathBuf,
    replicator: Option<Arc<Replicator<Request>>>,
    session: u64,
    ids: HashMap<u64, FileId>,
    paths: HashMap<FileId, PathBuf>,
    id_next: u64,
    pub(crate) answers: Arc<Answers>,
    pub(crate) replies: Vec<Reply>,
}

impl Primary {
    /// Changes the directory and ships nothing.
    pub(crate) fn alone(root: PathBuf) -> Primary {
        Primary {
            root,
            replicator: None,
            session: 0,
            ids: HashMap::new(),
            paths: HashMap::new(),
            id_next: 2,
            answers: Arc::default(),
            replies: Vec::new(),
        }
    }

    /// From now on everything is shipped; the tree must be listed first, unless both are empty.
    pub(crate) fn attach(&mut self, replicator: Arc<Replicator<Request>>) {
        self.session = replicator.session();
        self.replicator = Some(replicator);
        self.ids = HashMap::from([(self.root.metadata().unwrap().ino(), FileId::ROOT)]);
    }

    pub(crate) fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply_one(op);
        }
    }

    pub(crate) fn ship(&mut self, change: &Change<'_>) -> Option<Ticket> {
        Some(self.replicator.as_ref()?.ship(self.session, change))
    }

    /// Answers the request behind the last change.
    fn complete(&mut self, ticket: Option<Ticket>) {
        if let (Some(replicator), Some(ticket)) = (&self.replicator, ticket) {
            let (completion, reply) = request();
            replicator.complete(ticket, completion);
            self.replies.push(reply);
        }
    }

    fn apply_one(&mut self, op: &Op) {
        match op {
            Op::Make {
                parent,
                name,
                kind,
                mode,
            } => self.make(*parent, *name, *kind, *mode),
            Op::Write {
                file,
                offset,
                length,
                byte,
            } => {
                let Some(path) = self.pick_file(*file) else {
                    return;
                };
                let data: Vec<u8> = (0..*length)
                    .map(|i| byte.wrapping_add((i / 7) as u8))
                    .collect();
                let opened = std::fs::File::options().write(true).open(&path).unwrap();
                opened.write_all_at(&data, *offset).unwrap();
                let change = Change::Write {
                    file: self.id(&path),
                    offset: *offset,
                    data: &data,
                };
                self.ship_with_times(&path, &change);
            }
            Op::Truncate { file, size } => {
                let Some(path) = self.pick_file(*file) else {
                    return;
                };
                std::fs::File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(*size)
                    .unwrap();
                let change = AttributeChange {
                    size: Some(*size),
                    ..AttributeChange::default()
                };
                let change = Change::SetAttributes {
                    file: self.id(&path),
                    change,
                };
                self.ship_with_times(&path, &change);
            }
            Op::PunchHole {
                file,
                offset,
                length,
            } => {
                let Some(path) = self.pick_file(*file) else {
                    return;
                };
                let opened = std::fs::File::options().write(true).open(&path).unwrap();
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&opened, flags, *offset, *length).unwrap();
                let (file, mode) = (self.id(&path), flags.bits());
                self.ship_with_times(
                    &path,
                    &Change::Allocate {
                        file,
                        mode,
                        offset: *offset,
                        length: *length,
                    },
                );
            }
            Op::Mode { object, mode } => {
                let path = self.pick(*object);
                if path.is_symlink() {
                    return;
                }
                rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(*mode), AtFlags::empty())
                    .unwrap();
                self.ship_attributes(
                    &path,
                    AttributeChange {
                        mode: Some(*mode),
                        ..AttributeChange::default()
                    },
                );
            }
            Op::Owner { object, uid, gid } => {
                let path = self.pick(*object);
                let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                rustix::fs::chownat(
                    CWD,
                    &path,
                    Some(user),
                    Some(group),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .unwrap();
                let (uid, gid) = (Some(*uid), Some(*gid));
                self.ship_attributes(
                    &path,
                    AttributeChange {
                        uid,
                        gid,
                        ..AttributeChange::default()
                    },
                );
            }
            Op::Mtime {
                object,
                seconds,
                nanoseconds,
            } => {
                let path = self.pick(*object);
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: i64::from(*nanoseconds),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
                self.ship_times(&path);
            }
            Op::SetXattr {
                object,
                name,
                value,
            } => {
                let (path, name) = (self.pick(*object), xattr_name(*name));
                if rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()).is_ok() {
                    let change = Change::SetXattr {
                        file: self.id(&path),
                        name: name.as_bytes(),
                        value,
                    };
                    let ticket = self.ship(&change);
                    self.complete(ticket);
                }
            }
            Op::RemoveXattr { object, name } => {
                let (path, name) = (self.pick(*object), xattr_name(*name));
                if rustix::fs::lremovexattr(&path, name).is_ok() {
                    let change = Change::RemoveXattr {
                        file: self.id(&path),
                        name: name.as_bytes(),
                    };
                    let ticket = self.ship(&change);
                    self.complete(ticket);
                }
            }
            Op::Link { file, parent, name } => self.link(*file, *parent, *name),
            Op::Remove { object } => self.remove(*object),
            Op::Rename {
                object,
                parent,
                name,
                flags,
            } => self.rename(*object, *parent, *name, *flags),
            Op::Sync { object } => {
                let path = self.pick(*object);
                let change = Change::Sync {
                    file: self.id(&path),
                    data_only: *object % 2 == 0,
                };
                let ticket = self.ship(&change);
                self.complete(ticket);
            }
        }
    }

    fn make(&mut self, parent: usize, name: u8, kind: u8, mode: u32) {
        let (parent, name) = (self.pick_directory(parent), file_name(name));
        let path = parent.join(name);
        let target = format!("../{name}/somewhere");
        let node = |file_type, rdev| {
            rustix::fs::mknodat(CWD, &path, file_type, Mode::from_raw_mode(0o600), rdev)
        };
        let (made, kind) = match kind {
            0 | 1 => (node(FileType::RegularFile, 0), Kind::File),
            2 | 3 => (
                rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o700)),
                Kind::Directory,
            ),
            4 => (
                rustix::fs::symlinkat(&target, CWD, &path),
                Kind::Symlink(target.as_bytes()),
            ),
            5 => (node(FileType::Fifo, 0), Kind::Fifo),
            _ => (
                node(FileType::CharacterDevice, 0x0103),
                Kind::CharDevice { rdev: 0x0103 },
            ),
        };
        if made.is_err() {
            return;
        }
        if !path.is_symlink() {
            rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
        }
        let (parent_id, file) = (self.id(&parent), self.id(&path));
        let attributes = attributes(&path);
        let change = Change::Create {
            parent: parent_id,
            name: name.as_bytes(),
            file,
            kind,
            attributes,
        };
        self.ship_with_times(&parent, &change);
    }

    fn link(&mut self, file: usize, parent: usize, name: u8) {
        let Some(path) = self.pick_file(file) else {
            return;
        };
        let (parent, name) = (self.pick_directory(parent), file_name(name));
        if std::fs::hard_link(&path, parent.join(name)).is_err() {
            return;
        }
        let (file, parent_id) = (self.id(&path), self.id(&parent));
        self.ship_with_times(
            &parent,
            &Change::Link {
                file,
                parent: parent_id,
                name: name.as_bytes(),
            },
        );
    }

    fn remove(&mut self, object: usize) {
        let path = self.pick(object);
        if path == self.root {
            return;
        }
        let is_directory = path.is_dir() && !path.is_symlink();
        let last = last_name_of(&path);
        let removed = if is_directory {
            std::fs::remove_dir(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if removed.is_err() {
            return;
        }
        let (parent, name) = split(&path);
        let (parent_id, name) = (self.id(&parent), name.as_bytes());
        let change = match is_directory {
            true => Change::Rmdir {
                parent: parent_id,
                name,
            },
            false => Change::Unlink {
                parent: parent_id,
                name,
            },
        };
        self.ship_with_times(&parent, &change);
        self.forget(last);
    }

    fn rename(&mut self, object: usize, parent: usize, name: u8, flags: u32) {
        let path = self.pick(object);
        let (new_parent, new_name) = (self.pick_directory(parent), file_name(name));
        let to = new_parent.join(new_name);
        let replaced = if flags == 0 && !is_same(&path, &to) {
            last_name_of(&to)
        } else {
            None
        };
        let renamed =
            rustix::fs::renameat_with(CWD, &path, CWD, &to, RenameFlags::from_bits_retain(flags));
        if path == self.root || renamed.is_err() {
            return;
        }
        let (parent, name) = split(&path);
        let change = Change::Rename {
            parent: self.id(&parent),
            name: name.as_bytes(),
            new_parent: self.id(&new_parent),
            new_name: new_name.as_bytes(),
            flags,
        };
        self.ship(&change);
        self.ship_times(&parent);
        let ticket = self.ship_times(&new_parent);
        self.complete(ticket);
        self.forget(replaced);
    }

    /// The inode number may be used for something else from now on.
    fn forget(&mut self, inode: Option<u64>) {
        if let Some(file) = inode.and_then(|inode| self.ids.remove(&inode)) {
            self.ship(&Change::Forget { file });
        }
    }

    /// Resynchronises the secondary with what is in the directory now.
    pub(crate) fn resync(&mut self) {
        let replicator = self.replicator.clone().unwrap();
        let root = self.root.clone();
        let mut files = Vec::new();
        self.list(&root, &mut files);
        for path in &files {
            let (file, content) = (self.id(path), std::fs::read(path).unwrap());
            for (index, block) in content.chunks(BLOCK_BYTES).enumerate() {
                let (offset, length) = ((index * BLOCK_BYTES) as u64, block.len() as u32);
                self.ship(&Change::BlockDigest {
                    file,
                    offset,
                    length,
                    digest: xxh3_128(block),
                });
            }
        }
        replicator.wait_idle(PATIENCE).unwrap();
        let needed = std::mem::take(&mut *self.answers.needed.lock());
        for Block {
            file,
            offset,
            length,
        } in needed
        {
            let path = self.paths[&file].clone();
            let mut data = vec![0; length as usize];
            std::fs::File::open(&path)
                .unwrap()
                .read_exact_at(&mut data, offset)
                .unwrap();
            self.ship_with_times(
                &path,
                &Change::Write {
                    file,
                    offset,
                    data: &data,
                },
            );
        }
        self.ship(&Change::Barrier);
        replicator.wait_idle(PATIENCE).unwrap();
        replicator.set_resynced(self.session);
    }

    fn list(&mut self, directory: &Path, files: &mut Vec<PathBuf>) {
        let id = self.id(directory);
        let own = attributes(directory);
        self.ship(&Change::DirectoryBegin {
            directory: id,
            attributes: own,
        });
        if id == FileId::ROOT {
            for (name, value) in xattrs(directory) {
                self.ship(&Change::SetXattr {
                    file: id,
                    name: &name,
                    value: &value,
                });
            }
        }
        let mut below = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            self.list_entry(id, &path);
            let file_type = path.symlink_metadata().unwrap().file_type();
            if file_type.is_dir() {
                below.push(path);
            } else if file_type.is_file() {
                files.push(path);
            }
        }
        self.ship(&Change::DirectoryEnd {
            directory: id,
            attributes: own,
        });
        for path in below {
            self.list(&path, files);
        }
    }

    fn list_entry(&mut self, parent: FileId, path: &Path) {
        let metadata = path.symlink_metadata().unwrap();
        let target = std::fs::read_link(path)
            .unwrap_or_default()
            .into_os_string()
            .into_encoded_bytes();
        let kind = match FileType::from_raw_mode(metadata.mode()) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(&target),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice {
                rdev: metadata.rdev(),
            },
            FileType::BlockDevice => Kind::BlockDevice {
                rdev: metadata.rdev(),
            },
            FileType::RegularFile | FileType::Unknown => Kind::File,
        };
        let all = xattrs(path);
        let names: Vec<u8> = all
            .keys()
            .flat_map(|name| [name.as_slice(), b"\0"].concat())
            .collect();
        let name = path.file_name().unwrap().as_encoded_bytes();
        let (file, attributes) = (self.id(path), attributes(path));
        self.ship(&Change::Entry {
            parent,
            name,
            file,
            kind,
            attributes,
            xattrs: &names,
        });
        for (name, value) in all {
            self.ship(&Change::SetXattr {
                file,
                name: &name,
                value: &value,
            });
        }
    }

    pub(crate) fn ship_with_times(&mut self, touched: &Path, change: &Change<'_>) {
        self.ship(change);
        let ticket = self.ship_times(touched);
        self.complete(ticket);
    }

    fn ship_times(&mut self, path: &Path) -> Option<Ticket> {
        let change = AttributeChange {
            mtime: Some(attributes(path).mtime),
            ..AttributeChange::default()
        };
        let file = self.id(path);
        self.ship(&Change::SetAttributes { file, change })
    }

    fn ship_attributes(&mut self, path: &Path, change: AttributeChange) {
        let file = self.id(path);
        let ticket = self.ship(&Change::SetAttributes { file, change });
        self.complete(ticket);
    }

    /// The object's number, a new one when it has none.
    pub(crate) fn id(&mut self, path: &Path) -> FileId {
        let inode = path.symlink_metadata().unwrap().ino();
        let id = *self.ids.entry(inode).or_insert_with(|| {
            self.id_next += 1;
            FileId(self.id_next)
        });
        self.paths.insert(id, path.to_owned());
        id
    }

    fn everything(&self) -> Vec<PathBuf> {
        let mut all = vec![self.root.clone()];
        let mut next = 0;
        while let Some(path) = all.get(next).cloned() {
            next += 1;
            if path.is_dir() && !path.is_symlink() {
                let mut names: Vec<_> = std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .collect();
                names.sort();
                all.extend(names);
            }
        }
        all
    }

    fn pick(&self, index: usize) -> PathBuf {
        let all = self.everything();
        all[index % all.len()].clone()
    }

    fn pick_file(&self, index: usize) -> Option<PathBuf> {
        let is_file = |path: &PathBuf| path.symlink_metadata().unwrap().is_file();
        let files: Vec<_> = self.everything().into_iter().filter(is_file).collect();
        (!files.is_empty()).then(|| files[index % files.len()].clone())
    }

    fn pick_directory(&self, index: usize) -> PathBuf {
        let is_directory = |path: &PathBuf| path.symlink_metadata().unwrap().is_dir();
        let directories: Vec<_> = self.everything().into_iter().filter(is_directory).collect();
        directories[index % directories.len()].clone()
    }

    /// Every request was answered.
    pub(crate) fn assert_all_answered(&self) {
        for reply in &self.replies {
            eventually("every request is answered", || reply.is_answered());
        }
    }
}

pub(crate) fn attributes(path: &Path) -> Attributes {
    let metadata = path.symlink_metadata().unwrap();
    Attributes {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if metadata.is_file() {
            metadata.len()
        } else {
            0
        },
        mtime: Time {
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec() as u32,
        },
    }
}

/// The inode, when this is its only name.
fn last_name_of(path: &Path) -> Option<u64> {
    let metadata = path.symlink_metadata().ok()?;
    (metadata.is_dir() || metadata.nlink() == 1).then(|| metadata.ino())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.symlink_metadata().map(|metadata| metadata.ino()).ok();
    inode(one) == inode(other)
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().unwrap().to_str().unwrap();
    (path.parent().unwrap().to_owned(), name.to_owned())
}

fn file_name(name: u8) -> &'static str {
    ["a", "b b", "c", "\u{e9}", "-e", "...f"][usize::from(name)]
}

fn xattr_name(name: u8) -> &'static str {
    ["user.one", "trusted.two", "user.three"][usize::from(name)]
}
