//! Blocks of files for the resync: digests and content, at a point of the file's own order.
//!
//! Reading happens without the order lock, so that the application's writes do not wait for the disk; when the file was
//! written meanwhile, it is read again with the lock held.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use xxhash_rust::xxh3::xxh3_128;

use super::Fs;
use super::errno::Errno;
use super::inode_read::read_full;
use super::inodes::Inode;
use crate::replication::change::{Change, FileId};
use crate::replication::shipping::{Completion, Ticket};

/// What became of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Shipped under this number, with so many bytes.
    Shipped { seq: u64, length: u32 },
    /// The file is gone, or ends before the block.
    Nothing,
    /// The session is over.
    SessionOver,
}

/// Which block of which file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOf<'a> {
    pub(crate) inode: &'a Arc<Inode>,
    /// The object's name on the wire when the block was planned.
    pub(crate) file: FileId,
    /// The file, open for reading.
    pub(crate) open: &'a OwnedFd,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl<C: Completion> Fs<C> {
    /// A descriptor to read an object's content with, which leaves no trace in its access time.
    pub(crate) fn open_for_resync(&self, inode: &Inode) -> Result<OwnedFd, Errno> {
        self.checked("open", self.reopen(inode, OFlags::NOATIME.bits()))
    }

    /// Ships the digest of a block as it is now. `buffer` is scratch space.
    ///
    /// # Errors
    /// The block cannot be read.
    pub(crate) fn ship_digest(
        &self,
        session: u64,
        block: BlockOf<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        let offset = block.offset;
        self.ship_block(session, block, buffer, xxh3_128, |file, data, digest| {
            Change::BlockDigest {
                file,
                offset,
                length: data.len() as u32,
                digest,
            }
        })
    }

    /// Ships the content of a block as it is now. `buffer` is scratch space.
    ///
    /// # Errors
    /// The block cannot be read.
    pub(crate) fn ship_content(
        &self,
        session: u64,
        block: BlockOf<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        let offset = block.offset;
        let shipped = self.ship_block(
            session,
            block,
            buffer,
            |_| (),
            |file, data, ()| Change::Write { file, offset, data },
        )?;
        if let Outcome::Shipped { .. } = shipped {
            // The secondary's copy has a new time now; ours must follow it.
            let _order = block.inode.order.lock();
            self.mark_times(block.inode);
        }
        Ok(shipped)
    }

    /// Ships what `change` makes of the block's bytes and of what `prepare` makes of them; that is done without the lock
    /// as well when the block stays as it was read.
    fn ship_block<P>(
        &self,
        session: u64,
        block: BlockOf<'_>,
        buffer: &mut Vec<u8>,
        prepare: impl Fn(&[u8]) -> P,
        change: impl for<'a> Fn(FileId, &'a [u8], P) -> Change<'a>,
    ) -> Result<Outcome, Errno> {
        let BlockOf {
            inode,
            file,
            open,
            offset,
            length,
        } = block;
        buffer.resize(length as usize, 0);
        let seen = inode.order.lock().version;
        let mut read = self.checked("read", read_full(open, offset, buffer))?;
        let mut prepared = prepare(&buffer[..read]);
        let order = inode.order.lock();
        if order.version != seen {
            read = self.checked("read", read_full(open, offset, buffer))?;
            prepared = prepare(&buffer[..read]);
        }
        // Under another name it was found again, and is planned anew.
        if read == 0 || inode.binding.file_in(session) != Some(file) {
            return Ok(Outcome::Nothing);
        }
        let ticket = self
            .shipping
            .ship(session, &change(file, &buffer[..read], prepared));
        Ok(match ticket {
            Ticket::Shipped { seq, .. } => Outcome::Shipped {
                seq,
                length: read as u32,
            },
            Ticket::NotShipped => Outcome::SessionOver,
        })
    }
}
