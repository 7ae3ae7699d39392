//! Applies one change. Changes of names and directories: in the receiving thread, through [`Namespace`]. Changes of one
//! file: in any thread, in the file's order, through [`Files`].

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::ApplyError;
use super::object::{Object, OpenFiles};
use super::tree::{Place, Tree};
use crate::Copy;
use crate::replication::change::{Change, FileId};
use crate::replication::wire::Block;
use crate::resync::target::{Entry, Target, compare};

/// What was applied so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) changes: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) blocks_compared: AtomicU64,
    pub(crate) blocks_different: AtomicU64,
}

/// The tree and the listing that is going on.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) tree: Tree,
    target: Target,
}

/// Where a change belongs.
pub(crate) enum Order<'a> {
    /// To the order of this one object.
    Object(&'a Arc<Object>),
    /// To the order of names and directories, after what is under way for this object, if it is known.
    Names(Option<FileId>),
    /// After everything.
    Everything(&'a Arc<Object>),
}

impl Namespace {
    pub(crate) fn new(tree: Tree) -> Namespace {
        Namespace {
            tree,
            target: Target::default(),
        }
    }

    pub(crate) fn order_of(&self, change: &Change<'_>) -> Result<Order<'_>, ApplyError> {
        Ok(match change {
            Change::Write { file, .. }
            | Change::Allocate { file, .. }
            | Change::BlockDigest { file, .. } => Order::Object(self.tree.object(*file)?),
            // The directory itself is synced by a worker, so that it delays nobody.
            Change::Sync { file, .. } => Order::Object(self.tree.object(*file)?),
            Change::SetAttributes { file, .. }
            | Change::SetXattr { file, .. }
            | Change::RemoveXattr { file, .. } => {
                let object = self.tree.object(*file)?;
                if object.is_directory() {
                    Order::Names(None)
                } else {
                    Order::Object(object)
                }
            }
            // The inode may be named anew: nothing of its old order may come after that.
            Change::Forget { file } => Order::Names(Some(*file)),
            Change::Entry { file, .. } => Order::Names(Some(*file)),
            Change::Create { .. }
            | Change::Link { .. }
            | Change::Unlink { .. }
            | Change::Rmdir { .. }
            | Change::Rename { .. }
            | Change::Bind { .. }
            | Change::DirectoryBegin { .. }
            | Change::DirectoryEnd { .. } => Order::Names(None),
            Change::Barrier => Order::Everything(self.tree.object(FileId::ROOT)?),
        })
    }

    pub(crate) fn apply(&mut self, change: &Change<'_>) -> Result<(), ApplyError> {
        let Namespace { tree, target } = self;
        match *change {
            Change::Create {
                parent,
                name,
                file,
                kind,
                attributes,
            } => tree.create(Place { parent, name }, file, kind, &attributes),
            Change::Link { file, parent, name } => tree.link(file, Place { parent, name }),
            Change::Unlink { parent, name } => tree.unlink(Place { parent, name }),
            Change::Rmdir { parent, name } => tree.rmdir(Place { parent, name }),
            Change::Rename {
                parent,
                name,
                new_parent,
                new_name,
                flags,
            } => tree.rename(
                Place { parent, name },
                Place {
                    parent: new_parent,
                    name: new_name,
                },
                flags,
            ),
            Change::Bind { parent, name, file } => tree.bind(Place { parent, name }, file),
            Change::Forget { file } => {
                tree.forget(file);
                Ok(())
            }
            Change::DirectoryBegin {
                directory,
                attributes,
            } => target.begin(tree, directory, &attributes),
            Change::Entry {
                parent,
                name,
                file,
                kind,
                attributes,
                xattrs,
            } => target.entry(
                tree,
                &Entry {
                    place: Place { parent, name },
                    file,
                    kind,
                    attributes,
                    xattrs,
                },
            ),
            Change::DirectoryEnd {
                directory,
                attributes,
            } => target.end(tree, directory, &attributes),
            Change::SetAttributes { file, change } => {
                tree.object(file)?.set(&tree.open_files, &change)
            }
            Change::SetXattr { file, name, value } => tree.object(file)?.set_xattr(name, value),
            Change::RemoveXattr { file, name } => tree.object(file)?.remove_xattr(name),
            Change::Write { file, .. }
            | Change::Allocate { file, .. }
            | Change::Sync { file, .. }
            | Change::BlockDigest { file, .. } => Err(ApplyError::WrongKind(file)),
            Change::Barrier => Err(ApplyError::WrongKind(FileId::ROOT)),
        }
    }
}

/// Applies changes of one object; shared by all threads.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) copy: Arc<Copy>,
    pub(crate) open_files: Arc<OpenFiles>,
    pub(crate) counters: Arc<Counters>,
}

thread_local! {
    /// Where a block is read to be compared; one per thread that applies, at most one block long.
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Files {
    /// Gives the block that the primary must ship, when a digest differs.
    pub(crate) fn apply(
        &self,
        object: &Arc<Object>,
        change: &Change<'_>,
    ) -> Result<Option<Block>, ApplyError> {
        let open_files = &self.open_files;
        match *change {
            Change::Write { offset, data, .. } => {
                self.counters
                    .bytes_written
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
                object.write(open_files, offset, data)?;
            }
            Change::SetAttributes { change, .. } => object.set(open_files, &change)?,
            Change::SetXattr { name, value, .. } => object.set_xattr(name, value)?,
            Change::RemoveXattr { name, .. } => object.remove_xattr(name)?,
            Change::Allocate {
                mode,
                offset,
                length,
                ..
            } => object.allocate(open_files, mode, offset, length)?,
            Change::Sync { data_only, .. } => object.sync(open_files, data_only)?,
            Change::BlockDigest {
                file,
                offset,
                length,
                digest,
            } => {
                let block = Block {
                    file,
                    offset,
                    length,
                };
                return self.compare(object, block, digest);
            }
            Change::Barrier => self.copy.sync().map_err(ApplyError::NotSynced)?,
            Change::Create { file, .. }
            | Change::Link { file, .. }
            | Change::Forget { file }
            | Change::Bind { file, .. }
            | Change::Entry { file, .. } => return Err(ApplyError::WrongKind(file)),
            Change::Unlink { parent, .. }
            | Change::Rmdir { parent, .. }
            | Change::Rename { parent, .. } => {
                return Err(ApplyError::WrongKind(parent));
            }
            Change::DirectoryBegin { directory, .. } | Change::DirectoryEnd { directory, .. } => {
                return Err(ApplyError::WrongKind(directory));
            }
        }
        Ok(None)
    }

    fn compare(
        &self,
        object: &Arc<Object>,
        block: Block,
        digest: u128,
    ) -> Result<Option<Block>, ApplyError> {
        let differing = BLOCK
            .with_borrow_mut(|buffer| compare(object, &self.open_files, block, digest, buffer))?;
        self.counters
            .blocks_compared
            .fetch_add(1, Ordering::Relaxed);
        if differing.is_some() {
            self.counters
                .blocks_different
                .fetch_add(1, Ordering::Relaxed);
        }
        Ok(differing)
    }
}
