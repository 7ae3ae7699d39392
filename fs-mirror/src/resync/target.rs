//! Bringing a copy up to date: the target's half, on the secondary.
//!
//! The primary lists directory after directory. Each entry is made to exist here with the same kind and attributes, what
//! is already right is kept and what has no name there is removed; then blocks are compared by digest, and the secondary asks for those
//! that differ.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_128;

use crate::aside::Keeper;
use crate::replication::change::{Attributes, FileId, Kind};
use crate::replication::secondary::error::{ApplyError, during};
use crate::replication::secondary::object::{Inode, Object, OpenFiles};
use crate::replication::secondary::tree::{Place, Tree, open_beneath};
use crate::replication::wire::Block;

/// The listing that is going on. At most one: the primary holds its namespace order meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Target {
    listing: Option<Listing>,
}

#[derive(Debug)]
struct Listing {
    directory: FileId,
    names: HashSet<Box<[u8]>>,
}

/// What the primary says of one name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) file: FileId,
    pub(crate) kind: Kind<'a>,
    pub(crate) attributes: Attributes,
    pub(crate) xattrs: &'a [u8],
}

impl Target {
    /// The listing of `directory` starts.
    pub(crate) fn begin(
        &mut self,
        tree: &Tree,
        directory: FileId,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        if self.listing.is_some() {
            return Err(ApplyError::NotListed(directory));
        }
        let object = tree.directory(directory)?;
        if directory == FileId::ROOT {
            // No entry names the extended attributes of the root: the primary ships them all after this.
            object.prune_xattrs(&[])?;
        }
        object.set_all(&tree.open_files, &object.stat()?, attributes)?;
        self.listing = Some(Listing {
            directory,
            names: HashSet::new(),
        });
        Ok(())
    }

    /// The directory has this name: while it is being listed, or since, when an object that was not known yet got a name
    /// in it. The order of `entry.file`, if it was bound before, must be idle.
    pub(crate) fn entry(&mut self, tree: &mut Tree, entry: &Entry<'_>) -> Result<(), ApplyError> {
        if let Some(listing) = &mut self.listing {
            if listing.directory != entry.place.parent {
                return Err(ApplyError::NotListed(entry.place.parent));
            }
            listing.names.insert(entry.place.name.into());
        }
        match tree.find(entry.file) {
            // Its attributes came with its first name and are kept up to date since.
            Some(bound) => {
                let inode = bound.inode;
                link_bound(tree, entry, inode)
            }
            None => adopt_or_make(tree, entry),
        }
    }

    /// Every name was listed: removes the others.
    pub(crate) fn end(
        &mut self,
        tree: &Tree,
        directory: FileId,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let listing = self
            .listing
            .take_if(|listing| listing.directory == directory);
        let listing = listing.ok_or(ApplyError::NotListed(directory))?;
        let object = tree.directory(directory)?;
        remove_others(tree, &object.fd, &listing.names)?;
        object.set_all(&tree.open_files, &object.stat()?, attributes)
    }
}

/// Compares a block with the primary's digest; gives it back when it differs.
pub(crate) fn compare(
    object: &Arc<Object>,
    open_files: &OpenFiles,
    block: Block,
    digest: u128,
    buffer: &mut Vec<u8>,
) -> Result<Option<Block>, ApplyError> {
    object.give_up_doubted(open_files)?;
    buffer.resize(block.length as usize, 0);
    let length = object.read(open_files, block.offset, buffer)?;
    let is_equal = length == buffer.len() && xxh3_128(buffer) == digest;
    Ok((!is_equal).then_some(block))
}

/// Another name of a file that is bound.
fn link_bound(tree: &Tree, entry: &Entry<'_>, inode: Inode) -> Result<(), ApplyError> {
    match tree.look_up(entry.place)? {
        Some((_, stat)) if Inode::of(&stat) == inode => return Ok(()),
        Some(_) => make_way(tree, entry.place)?,
        None => {}
    }
    if entry.kind == Kind::Directory {
        // The primary moves directories before it lists them.
        return Err(ApplyError::AlreadyBound(entry.file));
    }
    tree.link(entry.file, entry.place)
}

/// A name whose object is new to this session.
fn adopt_or_make(tree: &mut Tree, entry: &Entry<'_>) -> Result<(), ApplyError> {
    let (object, stat) = match tree.look_up(entry.place)? {
        // An inode that is bound is another object for the primary: the copies differ in what is linked with what.
        Some((fd, stat))
            if is_same_kind(&fd, &stat, entry.kind)? && !tree.is_bound(Inode::of(&stat)) =>
        {
            let object = Object::new(entry.file, fd, &stat);
            let object = object.found(tree.keeper(), tree.doubted());
            (tree.insert(object)?, stat)
        }
        Some(_) => {
            make_way(tree, entry.place)?;
            tree.make(entry.place, entry.file, entry.kind, entry.attributes.mode)?
        }
        None => tree.make(entry.place, entry.file, entry.kind, entry.attributes.mode)?,
    };
    object.prune_xattrs(entry.xattrs)?;
    object.set_all(&tree.open_files, &stat, &entry.attributes)
}

fn is_same_kind(fd: &OwnedFd, stat: &Stat, kind: Kind<'_>) -> Result<bool, ApplyError> {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    Ok(match kind {
        Kind::File => file_type == FileType::RegularFile,
        Kind::Directory => file_type == FileType::Directory,
        Kind::Symlink(target) => {
            file_type == FileType::Symlink
                && rustix::fs::readlinkat(fd, c"", Vec::new())
                    .map_err(during("read symbolic link"))?
                    .as_bytes()
                    == target
        }
        Kind::Fifo => file_type == FileType::Fifo,
        Kind::Socket => file_type == FileType::Socket,
        Kind::CharDevice { rdev } => file_type == FileType::CharacterDevice && stat.st_rdev == rdev,
        Kind::BlockDevice { rdev } => file_type == FileType::BlockDevice && stat.st_rdev == rdev,
    })
}

fn make_way(tree: &Tree, place: Place<'_>) -> Result<(), ApplyError> {
    remove(tree, &tree.directory(place.parent)?.fd, place.name)
}

fn remove_others(
    tree: &Tree,
    directory: &OwnedFd,
    kept: &HashSet<Box<[u8]>>,
) -> Result<(), ApplyError> {
    let mut entries = list(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(during("list directory"))?;
        let name = entry.file_name().to_bytes();
        if !is_dot(name) && !kept.contains(name) {
            remove(tree, directory, name)?;
        }
    }
    Ok(())
}

/// Removes whatever has the name, a whole tree included, without following a link or leaving the file system. What only
/// this copy has is set aside.
fn remove(tree: &Tree, directory: &OwnedFd, name: &[u8]) -> Result<(), ApplyError> {
    if is_unlinked(tree, directory, name)? {
        return Ok(());
    }
    let mut levels = vec![Level::open(directory, name)?];
    while let Some(level) = levels.last_mut() {
        match level.next()? {
            Some(child) if is_unlinked(tree, &level.fd, &child)? => {}
            Some(child) => {
                let below = Level::open(&level.fd, &child)?;
                levels.push(below);
            }
            None => {
                let emptied = levels.pop().expect("there is a last level");
                let parent = levels.last().map_or(directory, |level| &level.fd);
                if let Some(keeper) = tree.keeper() {
                    keeper.note_directory(&emptied.fd)?;
                }
                match rustix::fs::unlinkat(parent, &*emptied.name, AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    // Some file systems skip names when others are removed while listing: list once more.
                    Err(Errno::NOTEMPTY) => levels.push(emptied.again()?),
                    Err(errno) => return Err(during("remove directory")(errno)),
                }
            }
        }
    }
    Ok(())
}

/// Removes a name that is not a directory; false when it is one.
fn is_unlinked(tree: &Tree, directory: &OwnedFd, name: &[u8]) -> Result<bool, ApplyError> {
    if let Some(keeper) = tree.keeper() {
        return is_taken(tree, keeper, directory, name);
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(during("unlink")(errno)),
    }
}

/// The same, setting aside what goes.
fn is_taken(
    tree: &Tree,
    keeper: &Keeper,
    directory: &OwnedFd,
    name: &[u8],
) -> Result<bool, ApplyError> {
    let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(during("stat")(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(false);
    }
    let is_shared = stat.st_nlink > 1 || tree.is_bound(Inode::of(&stat));
    keeper.take(directory, name, is_shared).map(|()| true)
}

/// One directory on the way down.
struct Level {
    name: Box<[u8]>,
    fd: OwnedFd,
    entries: Dir,
    listings: u32,
}

impl Level {
    fn open(parent: &OwnedFd, name: &[u8]) -> Result<Level, ApplyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd =
            open_beneath(parent, name, flags, Mode::empty()).map_err(during("open directory"))?;
        let entries = list(&fd)?;
        Ok(Level {
            name: name.into(),
            fd,
            entries,
            listings: 1,
        })
    }

    fn next(&mut self) -> Result<Option<Box<[u8]>>, ApplyError> {
        for entry in self.entries.by_ref() {
            let entry = entry.map_err(during("list directory"))?;
            let name = entry.file_name().to_bytes();
            if !is_dot(name) {
                return Ok(Some(name.into()));
            }
        }
        Ok(None)
    }

    fn again(mut self) -> Result<Level, ApplyError> {
        const LISTINGS_MAX: u32 = 8;
        if self.listings == LISTINGS_MAX {
            return Err(during("remove directory")(Errno::NOTEMPTY));
        }
        self.listings += 1;
        self.entries.rewind();
        Ok(self)
    }
}

fn list(directory: &OwnedFd) -> Result<Dir, ApplyError> {
    // A descriptor of its own: ours may be `O_PATH`, and shares its position with nobody.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let readable = open_beneath(directory, b".", flags, Mode::empty());
    readable
        .and_then(Dir::new)
        .map_err(during("list directory"))
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}
