//! The copy's directory as the primary names it: objects by their number, and changes of names.
//!
//! Owned by the receiving thread alone, so changes of names happen in the order of the wire. Everything is reached through
//! descriptors below the directory, one checked name at a time: no frame can lead out of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::{ApplyError, during};
use super::object::{Inode, Object, OpenFiles, ProcPath};
use crate::Copy;
use crate::aside::Keeper;
use crate::replication::change::{Attributes, FileId, Kind};

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) parent: FileId,
    pub(crate) name: &'a [u8],
}

/// All objects of one session.
#[derive(Debug)]
pub(crate) struct Tree {
    by_id: HashMap<FileId, Arc<Object>>,
    /// An inode has one number at a time. Its descriptor is held, so its inode number is not used again meanwhile.
    by_inode: HashMap<Inode, FileId>,
    pub(crate) open_files: Arc<OpenFiles>,
    keeper: Option<Arc<Keeper>>,
    doubted: Option<Arc<Copy>>,
}

impl Tree {
    /// The directory itself is bound from the beginning. What only this copy has goes to `keeper` before it is changed. What is found
    /// in a doubted copy is written anew.
    pub(crate) fn new(
        root: OwnedFd,
        keeper: Option<Arc<Keeper>>,
        doubted: Option<Arc<Copy>>,
    ) -> Result<Tree, ApplyError> {
        let stat = rustix::fs::fstat(&root).map_err(during("stat"))?;
        let mut tree = Tree {
            by_id: HashMap::new(),
            by_inode: HashMap::new(),
            open_files: Arc::new(OpenFiles::default()),
            keeper,
            doubted,
        };
        tree.insert(Object::new(FileId::ROOT, root, &stat))?;
        Ok(tree)
    }

    pub(crate) fn object(&self, file: FileId) -> Result<&Arc<Object>, ApplyError> {
        self.by_id.get(&file).ok_or(ApplyError::Unbound(file))
    }

    pub(crate) fn find(&self, file: FileId) -> Option<&Arc<Object>> {
        self.by_id.get(&file)
    }

    pub(crate) fn directory(&self, file: FileId) -> Result<&Arc<Object>, ApplyError> {
        let object = self.object(file)?;
        if object.is_directory() {
            Ok(object)
        } else {
            Err(ApplyError::WrongKind(file))
        }
    }

    /// Where what only this copy has is kept, while there may be such a thing.
    pub(crate) fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.keeper.as_ref().filter(|keeper| !keeper.is_over())
    }

    /// The copy, when what is read of it may not be on its disk.
    pub(crate) fn doubted(&self) -> Option<&Arc<Copy>> {
        self.doubted.as_ref()
    }

    /// The object that has the name is about to lose it to the application on the primary.
    fn keep_own(&self, place: Place<'_>) -> Result<(), ApplyError> {
        if self.keeper().is_none() {
            return Ok(());
        }
        let Some((_, stat)) = self.look_up(place)? else {
            return Ok(());
        };
        let object = self.by_inode.get(&Inode::of(&stat));
        match object.and_then(|file| self.by_id.get(file)) {
            Some(object) => object.keep_own_content(),
            None => Ok(()),
        }
    }

    pub(crate) fn is_bound(&self, inode: Inode) -> bool {
        self.by_inode.contains_key(&inode)
    }

    /// What has the name now, itself and not what it points to.
    pub(crate) fn look_up(&self, place: Place<'_>) -> Result<Option<(OwnedFd, Stat)>, ApplyError> {
        let directory = self.directory(place.parent)?;
        match open_beneath(
            &directory.fd,
            place.name,
            OFlags::PATH | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(during("stat"))?;
                Ok(Some((fd, stat)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(during("look up name")(errno)),
        }
    }

    /// Both copies have this name: from now on its object is `file`.
    pub(crate) fn bind(&mut self, place: Place<'_>, file: FileId) -> Result<(), ApplyError> {
        let (fd, stat) = self
            .look_up(place)?
            .ok_or(during("look up name")(Errno::NOENT))?;
        self.insert(Object::new(file, fd, &stat)).map(drop)
    }

    pub(crate) fn insert(&mut self, object: Object) -> Result<Arc<Object>, ApplyError> {
        let (id, inode) = (object.id, object.inode);
        if self.by_id.contains_key(&id) || self.by_inode.contains_key(&inode) {
            return Err(ApplyError::AlreadyBound(id));
        }
        let object = Arc::new(object);
        self.by_inode.insert(inode, id);
        self.by_id.insert(id, object.clone());
        Ok(object)
    }

    /// The primary will not name it again.
    pub(crate) fn forget(&mut self, file: FileId) {
        if file == FileId::ROOT {
            return;
        }
        if let Some(object) = self.by_id.remove(&file) {
            self.by_inode.remove(&object.inode);
        }
    }

    /// Makes a new object and binds it; its attributes are what the system gave it.
    pub(crate) fn make(
        &mut self,
        place: Place<'_>,
        file: FileId,
        kind: Kind<'_>,
        mode: u32,
    ) -> Result<(Arc<Object>, Stat), ApplyError> {
        let directory = &self.directory(place.parent)?.fd;
        // Set-id bits only once the owner is right.
        make_node(
            directory,
            place.name,
            kind,
            Mode::from_raw_mode(mode & 0o777),
        )?;
        let (fd, stat) = self
            .look_up(place)?
            .ok_or(during("look up name")(Errno::NOENT))?;
        let object = self.insert(Object::new(file, fd, &stat))?;
        Ok((object, stat))
    }

    pub(crate) fn create(
        &mut self,
        place: Place<'_>,
        file: FileId,
        kind: Kind<'_>,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let (object, stat) = self.make(place, file, kind, attributes.mode)?;
        object.set_all(&self.open_files, &stat, attributes)
    }

    pub(crate) fn link(&self, file: FileId, place: Place<'_>) -> Result<(), ApplyError> {
        let path = ProcPath::new(&self.object(file)?.fd);
        let directory = &self.directory(place.parent)?.fd;
        rustix::fs::linkat(
            CWD,
            path.as_c_str(),
            directory,
            place.name,
            AtFlags::SYMLINK_FOLLOW,
        )
        .map_err(during("link"))
    }

    pub(crate) fn unlink(&self, place: Place<'_>) -> Result<(), ApplyError> {
        self.keep_own(place)?;
        let directory = &self.directory(place.parent)?.fd;
        rustix::fs::unlinkat(directory, place.name, AtFlags::empty()).map_err(during("unlink"))
    }

    pub(crate) fn rmdir(&self, place: Place<'_>) -> Result<(), ApplyError> {
        let directory = &self.directory(place.parent)?.fd;
        rustix::fs::unlinkat(directory, place.name, AtFlags::REMOVEDIR)
            .map_err(during("remove directory"))
    }

    pub(crate) fn rename(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
    ) -> Result<(), ApplyError> {
        let (old, new) = (
            &self.directory(from.parent)?.fd,
            &self.directory(to.parent)?.fd,
        );
        let flags = RenameFlags::from_bits_retain(flags);
        if !flags.contains(RenameFlags::EXCHANGE) {
            self.keep_own(to)?;
        }
        rustix::fs::renameat_with(old, from.name, new, to.name, flags).map_err(during("rename"))
    }
}

fn make_node(
    directory: &OwnedFd,
    name: &[u8],
    kind: Kind<'_>,
    mode: Mode,
) -> Result<(), ApplyError> {
    let node = |file_type, rdev| {
        rustix::fs::mknodat(directory, name, file_type, mode, rdev)
            .map_err(during("create special file"))
    };
    match kind {
        Kind::File => node(FileType::RegularFile, 0).map_err(|error| match error {
            ApplyError::System { errno, .. } => during("create file")(errno),
            other => other,
        }),
        Kind::Directory => {
            rustix::fs::mkdirat(directory, name, mode).map_err(during("create directory"))
        }
        Kind::Symlink(target) => {
            rustix::fs::symlinkat(target, directory, name).map_err(during("create symbolic link"))
        }
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::Socket => node(FileType::Socket, 0),
        Kind::CharDevice { rdev } => node(FileType::CharacterDevice, rdev),
        Kind::BlockDevice { rdev } => node(FileType::BlockDevice, rdev),
    }
}

/// Opens one name in `directory`, never what it points to, never on another file system.
pub(crate) fn open_beneath(
    directory: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(directory, name, flags | OFlags::CLOEXEC, mode, resolve) {
            // A rename elsewhere made the kernel unsure: ask again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
