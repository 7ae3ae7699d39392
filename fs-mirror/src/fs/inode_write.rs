//! Requests that change the data or attributes of one object. Each holds the object's order lock across the local change
//! and its shipping.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, Timestamps, Uid};
use rustix::fs::{chmod, chownat, fallocate, fdatasync, fsync, ftruncate, utimensat};

use super::attributes::{self, SetAttributes, timespec};
use super::errno::Errno;
use super::handles::{FileHandle, HandleId};
use super::inodes::{Inode, NodeId, Order};
use super::{Attributes, Caller, Changed, Fs, SMALL_CHANGE_BYTES};
use crate::content::{self, Written};
use crate::replication::change::{AttributeChange, Change};
use crate::replication::shipping::{Completion, Ticket};

/// `O_WRONLY` as `open(2)` takes it.
const WRITE_ONLY: u32 = rustix::fs::OFlags::WRONLY.bits();

/// Bytes for a file.
#[derive(Clone, Copy, Debug)]
pub struct Writing<'a> {
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub data: &'a [u8],
    /// The writer may not keep setuid and setgid on the file.
    pub clears_privileges: bool,
}

impl<C: Completion> Fs<C> {
    /// `pwrite(2)`. The value is the number of bytes written.
    ///
    /// # Errors
    /// As the system call. After a partial write (no space) that part is shipped and counts as success.
    pub fn write(&self, handle: HandleId, writing: Writing<'_>) -> Result<Changed<u32>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES + writing.data.len())?;
        let handle = self.files.get(handle)?;
        self.bind_on_use(&handle.inode);
        let (ticket, written) = {
            let mut order = handle.inode.order.lock();
            if writing.clears_privileges {
                self.clear_privileges(&handle.inode, &mut order)?;
            }
            order.version += 1;
            let written = self.checked(
                "write",
                write_full(&handle.file, writing.offset, writing.data),
            )?;
            let (offset, data) = (writing.offset, &writing.data[..written]);
            let ticket = self.ship_for(&handle.inode, |file| Change::Write { file, offset, data });
            self.mark_times(&handle.inode);
            (ticket, written)
        };
        let ticket = if handle.syncs_writes {
            self.sync_file(&handle, true)?.unless_none(ticket)
        } else {
            ticket
        };
        Ok(Changed {
            ticket,
            value: written as u32,
        })
    }

    /// `fallocate(2)` with its mode bits, for `caller`.
    ///
    /// # Errors
    /// As the system call.
    pub fn allocate(
        &self,
        handle: HandleId,
        mode: u32,
        range: std::ops::Range<u64>,
        caller: Caller,
    ) -> Result<Changed<()>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let handle = self.files.get(handle)?;
        self.bind_on_use(&handle.inode);
        let (offset, length) = (range.start, range.end.saturating_sub(range.start));
        let mut order = handle.inode.order.lock();
        if caller.uid != 0 {
            self.clear_privileges(&handle.inode, &mut order)?;
        }
        order.version += 1;
        let flags = FallocateFlags::from_bits_retain(mode);
        self.checked("fallocate", fallocate(&handle.file, flags, offset, length))?;
        let ticket = self.ship_for(&handle.inode, |file| Change::Allocate {
            file,
            mode,
            offset,
            length,
        });
        self.mark_times(&handle.inode);
        Ok(Changed { ticket, value: () })
    }

    /// `fsync(2)` or `fdatasync(2)`: both copies have the file on disk before the request is answered.
    ///
    /// # Errors
    /// As the system call; the copy is given up then (R11).
    pub fn sync(&self, handle: HandleId, is_data_only: bool) -> Result<Changed<()>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let handle = self.files.get(handle)?;
        if !is_data_only {
            self.ship_times(&handle.inode);
        }
        let ticket = self.sync_file(&handle, is_data_only)?;
        Ok(Changed { ticket, value: () })
    }

    /// The secondary syncs while we do.
    fn sync_file(&self, handle: &FileHandle, is_data_only: bool) -> Result<Ticket, Errno> {
        let ticket = self.ship_sync(&handle.inode, is_data_only);
        let synced = if is_data_only {
            fdatasync(&handle.file)
        } else {
            fsync(&handle.file)
        };
        self.synced("fsync", synced)?;
        Ok(ticket)
    }

    pub(super) fn ship_sync(&self, inode: &Inode, is_data_only: bool) -> Ticket {
        let ticket = {
            let _order = inode.order.lock();
            self.ship_for(inode, |file| Change::Sync {
                file,
                data_only: is_data_only,
            })
        };
        if ticket != Ticket::NotShipped {
            self.shipping.flush();
        }
        ticket
    }

    /// `close(2)` of the last descriptor. Never fails.
    pub fn release(&self, handle: HandleId) {
        let Some(handle) = self.files.remove(handle) else {
            return;
        };
        if handle.is_writable
            && handle
                .inode
                .has_times_pending
                .load(std::sync::atomic::Ordering::Relaxed)
        {
            self.ship_times(&handle.inode);
            self.shipping.flush();
        }
    }

    /// `truncate(2)`, `chown(2)`, `chmod(2)` and `utimensat(2)` in one, in this order.
    ///
    /// # Errors
    /// As the system calls. What was changed before one of them failed stays, and is shipped.
    pub fn set_attributes(
        &self,
        node: NodeId,
        handle: Option<HandleId>,
        set: SetAttributes,
        caller: Caller,
    ) -> Result<Changed<Attributes>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let inode = self.inode(node)?;
        let handle = handle.map(|handle| self.files.get(handle)).transpose()?;
        self.bind_on_use(&inode);
        let mut order = inode.order.lock();
        let applied = self.apply_attributes(&inode, handle.as_deref(), set, caller, &mut order);
        let stat = self.checked("stat", inode.stat())?;
        let change = shipped_change(set, &stat);
        let ticket = self.ship_for(&inode, |file| Change::SetAttributes { file, change });
        self.checked("set attributes", applied)?;
        Ok(Changed {
            ticket,
            value: self.attributes_of(stat),
        })
    }

    fn apply_attributes(
        &self,
        inode: &Inode,
        handle: Option<&FileHandle>,
        set: SetAttributes,
        caller: Caller,
        order: &mut Order,
    ) -> Result<(), Errno> {
        if let Some(size) = set.size {
            order.version += 1;
            self.truncate(inode, handle, size)?;
            if caller.uid != 0 {
                self.clear_privileges(inode, order)?;
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            chownat(inode.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = set.mode {
            order.lacks_privileges = false;
            chmod(inode.path().as_c_str(), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            utimensat(inode.fd(), c"", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    fn truncate(&self, inode: &Inode, handle: Option<&FileHandle>, size: u64) -> Result<(), Errno> {
        match handle.filter(|handle| handle.is_writable) {
            Some(handle) => ftruncate(&handle.file, size),
            None => ftruncate(self.reopen(inode, WRITE_ONLY)?, size),
        }
    }

    /// What the kernel does on a local file system when somebody without the right to keep them changes the content: the
    /// daemon's own writes have every right. Ships the new mode. With the order lock held.
    fn clear_privileges(&self, inode: &Inode, order: &mut Order) -> Result<(), Errno> {
        const SETUID: u32 = 0o4000;
        const SETGID: u32 = 0o2000;
        const GROUP_EXECUTE: u32 = 0o010;
        if order.lacks_privileges {
            return Ok(());
        }
        let mode = attributes::permissions(&inode.stat()?);
        // Setgid without group execute used to mean mandatory locking, and stays.
        let setgid = if mode & GROUP_EXECUTE != 0 { SETGID } else { 0 };
        let kept = mode & !(SETUID | setgid);
        if kept != mode {
            chmod(inode.path().as_c_str(), Mode::from_raw_mode(kept))?;
            let change = AttributeChange {
                mode: Some(kept),
                ..AttributeChange::default()
            };
            self.ship_for(inode, |file| Change::SetAttributes { file, change });
            // The answer to a write carries no attributes, and a program must not be started with the old ones.
            if let Some(on_stale) = self.on_stale.get() {
                on_stale(inode.node);
            }
        }
        order.lacks_privileges = true;
        Ok(())
    }
}

impl Ticket {
    /// The later of two tickets of one request, where this one may be missing.
    fn unless_none(self, earlier: Ticket) -> Ticket {
        match self {
            Ticket::NotShipped => earlier,
            Ticket::Shipped { .. } => self,
        }
    }
}

/// What the other copy must set so that both are equal: the results, since "now" and cleared bits were decided here, and
/// since one of several changes may have failed.
fn shipped_change(set: SetAttributes, stat: &rustix::fs::Stat) -> AttributeChange {
    let changes_owner = set.uid.is_some() || set.gid.is_some();
    let sets_mode = set.mode.is_some() || set.size.is_some() || changes_owner;
    let sets_mtime = set.mtime.is_some() || set.size.is_some();
    AttributeChange {
        mode: sets_mode.then(|| attributes::permissions(stat)),
        uid: set.uid.map(|_| stat.st_uid),
        gid: set.gid.map(|_| stat.st_gid),
        size: set.size.map(|_| stat.st_size as u64),
        atime: set.atime.map(|_| attributes::atime(stat)),
        mtime: sets_mtime.then(|| attributes::mtime(stat)),
    }
}

/// Writes everything unless the file system is full before, and says how far.
fn write_full(file: impl AsFd, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    match content::write(file, offset, data) {
        Written {
            bytes: 0,
            failure: Some(errno),
        } => Err(errno),
        Written { bytes, .. } => Ok(bytes),
    }
}
