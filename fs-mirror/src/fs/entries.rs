//! New objects: giving them to their owner, knowing them, telling the secondary.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid, chmod, chownat};

use super::errno::Errno;
use super::inodes::Inode;
use super::proc_path::ProcPath;
use super::{Attributes, Caller, Changed, Fs, attributes, inode_read};
use crate::replication::change::{Change, FileId};
use crate::replication::shipping::{Completion, Ticket};

/// A directory whose names the secondary follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) session: u64,
    pub(super) directory: FileId,
}

impl<C: Completion> Fs<C> {
    /// Where changes of names in `directory` are shipped to, if they are. With the namespace lock held.
    pub(super) fn place(&self, directory: &Inode) -> Option<Place> {
        let session = self.shipping.session();
        if session != 0 && self.shipping.binds_on_use() {
            self.bind_locked(directory, session);
        }
        directory
            .binding
            .listed_in(session)
            .map(|directory| Place { session, directory })
    }

    /// Takes in the object just made as `name` with the `mode` the caller asked for. With the namespace lock held.
    pub(super) fn adopt(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        mode: u32,
        caller: Caller,
    ) -> Result<Adopted, Errno> {
        let (fd, stat) = self.open_child(parent, name)?;
        let stat = give_to(parent, &fd, stat, mode, caller)?;
        let inode = self.inodes.acquire(fd, &stat);
        let ticket = match self.place(parent) {
            Some(place) => self.ship_creation(place, name, &inode, &stat)?,
            None => Ticket::NotShipped,
        };
        self.mark_times(parent);
        Ok(Adopted {
            attributes: self.attributes_of(stat),
            inode,
            ticket,
        })
    }

    fn ship_creation(
        &self,
        place: Place,
        name: &[u8],
        inode: &Inode,
        stat: &Stat,
    ) -> Result<Ticket, Errno> {
        let target = inode_read::target_if_link(inode, stat)?;
        let Some(kind) = attributes::kind(stat, &target) else {
            return Ok(Ticket::NotShipped);
        };
        let file = self.next_file_id();
        let create = Change::Create {
            parent: place.directory,
            name,
            file,
            kind,
            attributes: attributes::on_wire(stat),
        };
        let _order = inode.order.lock();
        let ticket = self.shipping.ship(place.session, &create);
        inode.binding.bind(place.session, file, 1);
        if inode.is_directory() {
            inode.binding.set_listed(place.session);
        }
        Ok(ticket)
    }
}

/// A new object that is known now.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) inode: Arc<Inode>,
    pub(super) attributes: Attributes,
    pub(super) ticket: Ticket,
}

impl Adopted {
    pub(super) fn changed(self) -> Changed<Attributes> {
        Changed {
            ticket: self.ticket,
            value: self.attributes,
        }
    }
}

/// We created it, so it is ours: makes the caller its owner, as creating it would have done. The group comes from a
/// setgid directory; the file system below has seen to that.
fn give_to(
    parent: &Inode,
    fd: &OwnedFd,
    stat: Stat,
    mode: u32,
    caller: Caller,
) -> Result<Stat, Errno> {
    const SETGID: u32 = 0o2000;
    const LOST_WITH_OWNER: u32 = 0o6000;
    let uid = (stat.st_uid != caller.uid).then_some(caller.uid);
    let takes_group =
        stat.st_gid != caller.gid && attributes::permissions(&parent.stat()?) & SETGID == 0;
    let gid = takes_group.then_some(caller.gid);
    if uid.is_none() && gid.is_none() {
        return Ok(stat);
    }
    chownat(
        fd,
        c"",
        uid.map(Uid::from_raw),
        gid.map(Gid::from_raw),
        AtFlags::EMPTY_PATH,
    )?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_file && mode & LOST_WITH_OWNER != 0 {
        chmod(
            ProcPath::of(fd).as_c_str(),
            Mode::from_raw_mode(attributes::permissions(&stat)),
        )?;
    }
    rustix::fs::fstat(fd)
}
