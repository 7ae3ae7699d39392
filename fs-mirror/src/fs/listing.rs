//! Telling a secondary that resynchronises which names there are, one directory at a time (see `resync`).
//!
//! A directory is listed under the namespace lock, so no name comes or goes meanwhile; each object is described under its
//! own order lock, and from there on every change of it is shipped. What a listing finds is kept here for the resync,
//! whoever asked for the listing: renaming into a directory that is not listed yet lists it at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;

use super::dir_read::open_stream;
use super::entries::Place;
use super::errno::Errno;
use super::inodes::{Inode, NodeId};
use super::{Fs, attributes, inode_read, names, xattr};
use crate::replication::change::{Change, FileId};
use crate::replication::shipping::{Completion, Ticket};

/// An object that was bound by a listing; whoever takes it gives its reference back.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) inode: Arc<Inode>,
    pub(crate) file: FileId,
    /// Bytes when it was bound: what is written beyond them is shipped as it is written.
    pub(crate) size: u64,
}

impl<C: Completion> Fs<C> {
    /// The directory itself becomes known in `session`; returns it, to be listed first.
    pub(crate) fn begin_resync(&self, session: u64) -> Arc<Inode> {
        let _namespace = self.lock_namespace();
        self.inodes.begin_session(session);
        self.listed_count.store(0, Ordering::Relaxed);
        for left in std::mem::take(&mut *self.found.lock()) {
            self.release_node(left.inode.node, 1);
        }
        let root = self.inodes.root();
        let _order = root.order.lock();
        root.binding.bind(session, FileId::ROOT, 1);
        Arc::clone(root)
    }

    /// What listings have bound since the last call.
    pub(crate) fn take_found(&self) -> Vec<Found> {
        std::mem::take(&mut *self.found.lock())
    }

    /// How many names listings have described in the running resync.
    pub(crate) fn listed_count(&self) -> u64 {
        self.listed_count.load(Ordering::Relaxed)
    }

    /// Ships the end of a resync: its acknowledgement says that the secondary has applied and synced everything.
    pub(crate) fn ship_barrier(&self, session: u64) -> Ticket {
        self.sweep_times();
        let ticket = self.shipping.ship(session, &Change::Barrier);
        self.shipping.flush();
        ticket
    }

    /// Waits until the resync may ship `bytes` more.
    pub(crate) fn pace(&self, bytes: usize) {
        self.shipping.reserve(bytes);
    }

    /// Ends the session: something of the tree cannot be told.
    pub(crate) fn abandon(&self, session: u64, reason: &'static str) {
        self.shipping.abandon(session, reason);
    }

    /// Sends what was shipped.
    pub(crate) fn flush(&self) {
        self.shipping.flush();
    }

    /// Gives back the reference of something found.
    pub(crate) fn release_found(&self, inode: &Inode) {
        self.release_node(inode.node, 1);
    }

    /// Lists `directory` unless it was listed already. With no lock held.
    pub(crate) fn list(&self, directory: &Arc<Inode>, session: u64) {
        let _namespace = self.lock_namespace();
        self.list_or_abandon(directory, session);
    }

    /// Lists `directory`, and before it every directory above that is not listed. With the namespace lock held.
    pub(super) fn list_upwards(&self, directory: &Arc<Inode>, session: u64) {
        let listed = self.list_path(directory, session);
        let is_listed = directory.binding.listed_in(session).is_some();
        match listed {
            Ok(()) if is_listed => {}
            Ok(()) => self.abandon_listing(session, Errno::NOENT),
            Err(errno) => self.abandon_listing(session, errno),
        }
    }

    fn list_path(&self, directory: &Arc<Inode>, session: u64) -> Result<(), Errno> {
        let mut parent = Arc::clone(self.inodes.root());
        self.list_or_abandon(&parent, session);
        if directory.node == NodeId::ROOT {
            return Ok(());
        }
        for name in self.path_below_root(directory)?.split(|byte| *byte == b'/') {
            let (fd, stat) = self.open_child(&parent, name)?;
            parent = self.inodes.acquire(fd, &stat);
            self.list_or_abandon(&parent, session);
            // The kernel refers to everything on the way to `directory`.
            self.release_node(parent.node, 1);
        }
        Ok(())
    }

    /// Lists `directory` unless it was listed already. With the namespace lock held.
    pub(super) fn list_or_abandon(&self, directory: &Arc<Inode>, session: u64) {
        if directory.binding.listed_in(session).is_some() {
            return;
        }
        if let Err(errno) = self.checked("list", self.list_locked(directory, session)) {
            self.abandon_listing(session, errno);
        }
    }

    fn abandon_listing(&self, session: u64, errno: Errno) {
        tracing::warn!(%errno, "a directory cannot be listed for the secondary");
        self.shipping
            .abandon(session, "a directory cannot be listed");
    }

    fn list_locked(&self, directory: &Arc<Inode>, session: u64) -> Result<(), Errno> {
        let Some(file) = directory.binding.file_in(session) else {
            return Ok(());
        };
        if directory.is_gone() {
            return Ok(());
        }
        {
            let _order = directory.order.lock();
            let attributes = attributes::on_wire(&directory.stat()?);
            self.shipping.ship(
                session,
                &Change::DirectoryBegin {
                    directory: file,
                    attributes,
                },
            );
            if file == FileId::ROOT {
                // No entry describes the root, so its attributes have no other place.
                self.ship_xattr_values(directory, file, session, &replicated_names(directory)?)?;
            }
        }
        let place = Place {
            session,
            directory: file,
        };
        open_stream(directory)?.read(0, |listed| {
            if names::check(listed.name).is_ok() {
                self.list_name(place, directory, listed.name)?;
            }
            Ok(true)
        })?;
        let _order = directory.order.lock();
        let attributes = attributes::on_wire(&directory.stat()?);
        self.shipping.ship(
            session,
            &Change::DirectoryEnd {
                directory: file,
                attributes,
            },
        );
        directory.binding.set_listed(session);
        Ok(())
    }

    fn list_name(&self, place: Place, directory: &Inode, name: &[u8]) -> Result<(), Errno> {
        let (fd, stat) = match self.open_child(directory, name) {
            Ok(child) => child,
            Err(Errno::XDEV) => {
                tracing::warn!(name = %name.escape_ascii(), "another file system is mounted inside: not replicated");
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let inode = self.inodes.acquire(fd, &stat);
        let shipped = self.try_ship_entry(place, name, &inode);
        self.release_node(inode.node, 1);
        shipped.map(drop)
    }

    /// Describes an object under a name. With the namespace lock held.
    pub(super) fn ship_entry(&self, place: Place, name: &[u8], inode: &Arc<Inode>) -> Ticket {
        self.checked("describe", self.try_ship_entry(place, name, inode))
            .unwrap_or_else(|errno| {
                self.abandon_listing(place.session, errno);
                Ticket::NotShipped
            })
    }

    fn try_ship_entry(
        &self,
        place: Place,
        name: &[u8],
        inode: &Arc<Inode>,
    ) -> Result<Ticket, Errno> {
        let Place {
            session,
            directory: parent,
        } = place;
        let _order = inode.order.lock();
        let stat = inode.stat()?;
        let target = inode_read::target_if_link(inode, &stat)?;
        let Some(kind) = attributes::kind(&stat, &target) else {
            return Ok(Ticket::NotShipped);
        };
        let attributes = attributes::on_wire(&stat);
        let xattrs = replicated_names(inode)?;
        let known = inode.binding.file_in(session);
        let file = known.unwrap_or_else(|| self.next_file_id());
        self.listed_count.fetch_add(1, Ordering::Relaxed);
        let entry = Change::Entry {
            parent,
            name,
            file,
            kind,
            attributes,
            xattrs: &xattrs,
        };
        let ticket = self.shipping.ship(session, &entry);
        let last = self.ship_xattr_values(inode, file, session, &xattrs)?;
        if known.is_some() {
            inode.binding.add_name();
        } else {
            inode.binding.bind(session, file, 1);
            self.remember(inode, file, attributes.size);
        }
        Ok(last.unwrap_or(ticket))
    }

    /// Directories are to be listed, files with content to be compared.
    fn remember(&self, inode: &Arc<Inode>, file: FileId, size: u64) {
        let has_content = inode.kind == FileType::RegularFile && size > 0;
        if (inode.is_directory() || has_content) && self.inodes.pin(inode) {
            self.found.lock().push(Found {
                inode: Arc::clone(inode),
                file,
                size,
            });
        }
    }

    fn ship_xattr_values(
        &self,
        inode: &Inode,
        file: FileId,
        session: u64,
        names: &[u8],
    ) -> Result<Option<Ticket>, Errno> {
        let mut last = None;
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let value = xattr::value(inode, name)?;
            last = Some(self.shipping.ship(
                session,
                &Change::SetXattr {
                    file,
                    name,
                    value: &value,
                },
            ));
        }
        Ok(last)
    }
}

/// The names of the attributes that are compared, each followed by NUL.
fn replicated_names(inode: &Inode) -> Result<Vec<u8>, Errno> {
    let mut kept = xattr::names(inode)?;
    if kept.split(|byte| *byte == 0).all(xattr::is_replicated) {
        return Ok(kept);
    }
    let all = std::mem::take(&mut kept);
    for name in all
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && xattr::is_replicated(name))
    {
        kept.extend_from_slice(name);
        kept.push(0);
    }
    Ok(kept)
}
