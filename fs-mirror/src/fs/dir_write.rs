//! Requests that change names. Each holds the namespace lock across the local change and its shipping.

use std::sync::Arc;

use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, Stat};
use rustix::fs::{linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat};

use super::creator::set_umask;
use super::entries::{Adopted, Place};
use super::errno::Errno;
use super::handles::{FileHandle, HandleId};
use super::inodes::{Inode, NodeId};
use super::{Attributes, Caller, Changed, Fs, SMALL_CHANGE_BYTES, names};
use crate::replication::change::Change;
use crate::replication::shipping::{Completion, Ticket};

/// Where a new object goes, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: &'a [u8],
    /// Kind and permission bits as in `st_mode`, before the umask.
    pub mode: u32,
    /// The caller's umask; counts only where the directory has no default ACL.
    pub umask: u32,
    /// Who asks.
    pub caller: Caller,
}

impl NewObject<'_> {
    fn permissions(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }
}

impl<C: Completion> Fs<C> {
    /// `open(2)` with `O_CREAT`. The reference to the new object counts as one lookup.
    ///
    /// # Errors
    /// As the system call.
    pub fn create(
        &self,
        new: NewObject<'_>,
        flags: u32,
    ) -> Result<Changed<(Attributes, HandleId)>, Errno> {
        let open_flags = OFlags::from_bits_retain(flags);
        let below = (open_flags & OFlags::ACCMODE)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let made = self.make(new, |parent| {
            openat(parent.fd(), new.name, below, new.permissions())
        });
        match made {
            Ok((file, adopted)) => {
                let Adopted {
                    inode,
                    attributes,
                    ticket,
                } = adopted;
                let handle = self.files.insert(FileHandle::new(inode, file, flags));
                Ok(Changed {
                    ticket,
                    value: (attributes, handle),
                })
            }
            Err(Errno::EXIST) if !open_flags.contains(OFlags::EXCL) => {
                self.open_existing(new, flags)
            }
            Err(e) => Err(e),
        }
    }

    /// Somebody else made the file first and the caller does not mind.
    fn open_existing(
        &self,
        new: NewObject<'_>,
        flags: u32,
    ) -> Result<Changed<(Attributes, HandleId)>, Errno> {
        let attributes = self.lookup(new.parent, new.name)?;
        let opened = self.open(attributes.node, flags).and_then(|handle| {
            let truncates = OFlags::from_bits_retain(flags).contains(OFlags::TRUNC);
            let set = super::SetAttributes {
                size: truncates.then_some(0),
                ..Default::default()
            };
            let changed = self.set_attributes(attributes.node, Some(handle), set, new.caller)?;
            Ok(Changed {
                ticket: changed.ticket,
                value: (changed.value, handle),
            })
        });
        if opened.is_err() {
            self.forget(attributes.node, 1);
        }
        opened
    }

    /// `mknod(2)`: a regular file, named pipe, socket or device.
    ///
    /// # Errors
    /// As the system call.
    pub fn make_node(&self, new: NewObject<'_>, device: Dev) -> Result<Changed<Attributes>, Errno> {
        let kind = FileType::from_raw_mode(new.mode);
        let ((), adopted) = self.make(new, |parent| {
            mknodat(parent.fd(), new.name, kind, new.permissions(), device)
        })?;
        Ok(adopted.changed())
    }

    /// `mkdir(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn make_directory(&self, new: NewObject<'_>) -> Result<Changed<Attributes>, Errno> {
        let new = NewObject {
            mode: new.mode | FileType::Directory.as_raw_mode(),
            ..new
        };
        let ((), adopted) = self.make(new, |parent| {
            mkdirat(parent.fd(), new.name, new.permissions())
        })?;
        Ok(adopted.changed())
    }

    /// `symlink(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn make_link(
        &self,
        new: NewObject<'_>,
        target: &[u8],
    ) -> Result<Changed<Attributes>, Errno> {
        let ((), adopted) = self.make(new, |parent| symlinkat(target, parent.fd(), new.name))?;
        Ok(adopted.changed())
    }

    /// What all creations share. When the new object cannot be taken in it is removed again.
    fn make<T>(
        &self,
        new: NewObject<'_>,
        make: impl FnOnce(&Inode) -> Result<T, Errno>,
    ) -> Result<(T, Adopted), Errno> {
        names::check(new.name)?;
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let parent = self.inode(new.parent)?;
        set_umask(new.umask)?;
        let _namespace = self.lock_namespace();
        let made = self.checked("create", make(&parent))?;
        match self.adopt(&parent, new.name, new.mode, new.caller) {
            Ok(adopted) => Ok((made, adopted)),
            Err(e) => {
                let is_directory = FileType::from_raw_mode(new.mode) == FileType::Directory;
                let flags = if is_directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                unlinkat(parent.fd(), new.name, flags)?;
                Err(e)
            }
        }
    }

    /// `link(2)`: one more name for an object. The reference given counts as one lookup.
    ///
    /// # Errors
    /// As the system call.
    pub fn link(
        &self,
        node: NodeId,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Changed<Attributes>, Errno> {
        names::check(name)?;
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let (inode, parent) = (self.inode(node)?, self.inode(parent)?);
        let _namespace = self.lock_namespace();
        let place = self.place_for_link(&inode, &parent);
        self.checked(
            "link",
            linkat(inode.fd(), c"", parent.fd(), name, AtFlags::EMPTY_PATH),
        )?;
        let ticket = place.map_or(Ticket::NotShipped, |place| {
            self.ship_link(place, &inode, name)
        });
        self.mark_times(&parent);
        let stat = inode.stat()?;
        if !self.inodes.pin(&inode) {
            return Err(Errno::STALE);
        }
        Ok(Changed {
            ticket,
            value: self.attributes_of(stat),
        })
    }

    /// The secondary could not find a bound object again under a name in a directory that was not listed when the
    /// object's other names are removed before it is: so that directory is listed first.
    fn place_for_link(&self, inode: &Inode, parent: &Arc<Inode>) -> Option<Place> {
        let session = self.shipping.session();
        if session != 0 && self.shipping.binds_on_use() {
            self.bind_locked(inode, session);
        }
        let place = self.place(parent);
        if place.is_none() && inode.binding.file_in(session).is_some() {
            self.list_upwards(parent, session);
        }
        self.place(parent)
    }

    fn ship_link(&self, place: Place, inode: &Arc<Inode>, name: &[u8]) -> Ticket {
        match inode.binding.file_in(place.session) {
            Some(file) => {
                inode.binding.add_name();
                self.shipping.ship(
                    place.session,
                    &Change::Link {
                        file,
                        parent: place.directory,
                        name,
                    },
                )
            }
            // Its other names are in directories that are not listed yet: this is the first the secondary hears of it.
            None => self.ship_entry(place, name, inode),
        }
    }

    /// `unlink(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<Changed<()>, Errno> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// `rmdir(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn remove_directory(&self, parent: NodeId, name: &[u8]) -> Result<Changed<()>, Errno> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: NodeId, name: &[u8], flags: AtFlags) -> Result<Changed<()>, Errno> {
        names::check(name)?;
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let parent = self.inode(parent)?;
        let _namespace = self.lock_namespace();
        let place = self.place(&parent);
        let victim = place.and_then(|place| self.victim(place, &parent, name));
        self.checked("unlink", unlinkat(parent.fd(), name, flags))?;
        let ticket = place.map_or(Ticket::NotShipped, |place| {
            let parent = place.directory;
            let is_directory = flags.contains(AtFlags::REMOVEDIR);
            let change = if is_directory {
                Change::Rmdir { parent, name }
            } else {
                Change::Unlink { parent, name }
            };
            self.shipping.ship(place.session, &change)
        });
        self.after_removal(victim);
        self.mark_times(&parent);
        Ok(Changed { ticket, value: () })
    }

    /// The object that is about to lose the name `name`. The kernel holds a reference to whatever it removes.
    pub(super) fn victim(&self, place: Place, parent: &Inode, name: &[u8]) -> Option<Victim> {
        let stat = statat(parent.fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let inode = self.inodes.get(self.inodes.node_of(stat.st_ino))?;
        if self.shipping.binds_on_use() {
            // Bound now, while it has this name: it may live on under others.
            if stat.st_nlink > 1 && !inode.is_directory() {
                self.bind_locked(&inode, place.session);
            }
        } else if inode.is_directory() {
            // Empty here, or it will not be removed; the secondary's may not be empty before it is listed.
            self.list_or_abandon(&inode, place.session);
        }
        Some(Victim { inode, stat })
    }

    /// The name was removed, here and on the wire.
    pub(super) fn after_removal(&self, victim: Option<Victim>) {
        let Some(Victim { inode, stat }) = victim else {
            return;
        };
        if inode.is_directory() {
            inode.mark_removed();
            return;
        }
        let session = self.shipping.session();
        let is_unknown = inode.binding.file_in(session).is_some() && inode.binding.remove_name();
        // Names that remain are in directories the resync has yet to list: it will find a new object there.
        if is_unknown && stat.st_nlink > 1 {
            let _order = inode.order.lock();
            self.ship_for(&inode, |file| Change::Forget { file });
            inode.binding.unbind();
        }
    }
}

/// An object before it loses a name.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) inode: Arc<Inode>,
    pub(super) stat: Stat,
}
