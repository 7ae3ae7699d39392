//! Extended attributes, ACLs among them.

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};

use super::errno::Errno;
use super::inodes::{Inode, NodeId};
use super::{Changed, Fs, SMALL_CHANGE_BYTES};
use crate::replication::change::Change;
use crate::replication::shipping::Completion;

/// Longest value, and longest list of names, in bytes: the limits of the kernel.
pub(crate) const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Labels belong to the policy of each server, which sets them itself and may refuse ours.
const NOT_REPLICATED: &[u8] = b"security.selinux";

impl<C: Completion> Fs<C> {
    /// `getxattr(2)`: the value.
    ///
    /// # Errors
    /// As the system call.
    pub fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.admit()?;
        let value = value(&*self.inode(node)?, name)?;
        self.confirm(value)
    }

    /// `listxattr(2)`: the names, each followed by NUL.
    ///
    /// # Errors
    /// As the system call.
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        self.admit()?;
        let names = names(&*self.inode(node)?)?;
        self.confirm(names)
    }

    /// `setxattr(2)` with `XATTR_CREATE` or `XATTR_REPLACE`.
    ///
    /// # Errors
    /// As the system call.
    pub fn set_xattr(
        &self,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<Changed<()>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES + value.len())?;
        let inode = self.inode(node)?;
        self.bind_on_use(&inode);
        let _order = inode.order.lock();
        let flags = XattrFlags::from_bits_retain(flags);
        self.checked(
            "setxattr",
            setxattr(inode.path().as_c_str(), name, value, flags),
        )?;
        self.ship_xattr(&inode, name, Some(value))
    }

    /// `removexattr(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<Changed<()>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let inode = self.inode(node)?;
        self.bind_on_use(&inode);
        let _order = inode.order.lock();
        self.checked("removexattr", removexattr(inode.path().as_c_str(), name))?;
        self.ship_xattr(&inode, name, None)
    }

    fn ship_xattr(
        &self,
        inode: &Inode,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<Changed<()>, Errno> {
        if !is_replicated(name) {
            return Ok(Changed {
                ticket: crate::replication::shipping::Ticket::NotShipped,
                value: (),
            });
        }
        let ticket = self.ship_for(inode, |file| match value {
            Some(value) => Change::SetXattr { file, name, value },
            None => Change::RemoveXattr { file, name },
        });
        Ok(Changed { ticket, value: () })
    }
}

pub(super) fn is_replicated(name: &[u8]) -> bool {
    name != NOT_REPLICATED
}

/// The value of one attribute.
pub(super) fn value(inode: &Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
    sized(|buffer| getxattr(inode.path().as_c_str(), name, buffer))
}

/// The names of all attributes, each followed by NUL; none where the file system below has none.
pub(super) fn names(inode: &Inode) -> Result<Vec<u8>, Errno> {
    match sized(|buffer| listxattr(inode.path().as_c_str(), buffer)) {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        other => other,
    }
}

/// Most values are short: a small buffer first, the largest when that is not enough.
fn sized(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}
