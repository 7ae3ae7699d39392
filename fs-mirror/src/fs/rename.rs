//! Moving names.

use std::sync::Arc;

use rustix::fs::{RenameFlags, renameat_with};

use super::entries::Place;
use super::errno::Errno;
use super::inodes::{Inode, NodeId};
use super::{Changed, Fs, SMALL_CHANGE_BYTES, names};
use crate::replication::change::Change;
use crate::replication::shipping::{Completion, Ticket};

/// What to move, where to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Renaming<'a> {
    /// Directory of the old name.
    pub parent: NodeId,
    /// The old name.
    pub name: &'a [u8],
    /// Directory of the new name.
    pub new_parent: NodeId,
    /// The new name.
    pub new_name: &'a [u8],
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE` or 0.
    pub flags: u32,
}

impl<C: Completion> Fs<C> {
    /// `renameat2(2)`.
    ///
    /// # Errors
    /// As the system call; EINVAL for flags other than the two.
    pub fn rename(&self, renaming: Renaming<'_>) -> Result<Changed<()>, Errno> {
        let Renaming {
            parent,
            name,
            new_parent,
            new_name,
            flags,
        } = renaming;
        names::check(name)?;
        names::check(new_name)?;
        let mode = RenameFlags::from_bits_retain(flags);
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(mode) {
            return Err(Errno::INVAL);
        }
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
        let _namespace = self.lock_namespace();
        self.list_both(&from, &to);
        let victim = match self.place(&to) {
            Some(place) => self.replaced(renaming, place, &from, &to)?,
            None => Replaced::Nothing,
        };
        self.checked(
            "rename",
            renameat_with(from.fd(), name, to.fd(), new_name, mode),
        )?;
        let ticket = match victim {
            Replaced::Same => {
                return Ok(Changed {
                    ticket: Ticket::NotShipped,
                    value: (),
                });
            }
            Replaced::Object(victim) => {
                let ticket = self.ship_rename(renaming, &from, &to);
                self.after_removal(Some(victim));
                ticket
            }
            Replaced::Nothing => self.ship_rename(renaming, &from, &to),
        };
        self.mark_times(&from);
        self.mark_times(&to);
        Ok(Changed { ticket, value: () })
    }

    /// Names move only between directories the secondary follows alike: when it follows one of the two, the other is
    /// listed first.
    fn list_both(&self, from: &Arc<Inode>, to: &Arc<Inode>) {
        match (self.place(from), self.place(to)) {
            (None, None) | (Some(_), Some(_)) => {}
            (Some(place), None) => self.list_upwards(to, place.session),
            (None, Some(place)) => self.list_upwards(from, place.session),
        }
    }

    /// What the new name stands for until now.
    fn replaced(
        &self,
        renaming: Renaming<'_>,
        place: Place,
        from: &Inode,
        to: &Inode,
    ) -> Result<Replaced, Errno> {
        if renaming.flags != 0 {
            return Ok(Replaced::Nothing);
        }
        let Some(victim) = self.victim(place, to, renaming.new_name) else {
            return Ok(Replaced::Nothing);
        };
        let moved = rustix::fs::statat(
            from.fd(),
            renaming.name,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?;
        // Two names of one object: rename(2) does nothing, and says it succeeded.
        Ok(if moved.st_ino == victim.stat.st_ino {
            Replaced::Same
        } else {
            Replaced::Object(victim)
        })
    }

    fn ship_rename(&self, renaming: Renaming<'_>, from: &Inode, to: &Inode) -> Ticket {
        let Renaming {
            name,
            new_name,
            flags,
            ..
        } = renaming;
        let session = self.shipping.session();
        let (Some(parent), Some(new_parent)) = (
            from.binding.listed_in(session),
            to.binding.listed_in(session),
        ) else {
            return Ticket::NotShipped;
        };
        self.shipping.ship(
            session,
            &Change::Rename {
                parent,
                name,
                new_parent,
                new_name,
                flags,
            },
        )
    }
}

#[derive(Debug)]
enum Replaced {
    Nothing,
    /// The name already leads to the object that is moved.
    Same,
    Object(super::dir_write::Victim),
}
