//! Sets files aside for one session.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::content::{self, CopyError};
use super::{KEPT, OVERWRITTEN, PARTIAL, REMOVED};
use crate::replication::secondary::error::{ApplyError, during};
use crate::replication::secondary::object::{Inode, ProcPath};

/// Names tried when another file of that name is kept already.
const NAMES_MAX: u32 = 1000;

/// Keeps what a session takes from a copy.
#[derive(Debug)]
pub(crate) struct Keeper {
    set: OwnedFd,
    /// The copy's directory as the kernel names it, to be taken off the names of what is below it.
    root: PathBuf,
    /// The copy is whole: nothing is its own any more.
    is_over: AtomicBool,
    /// The session ends: a copy under way is given up, and goes on in the next session.
    is_stopped: AtomicBool,
}

impl Keeper {
    pub(super) fn open(set: &Path, root: BorrowedFd<'_>) -> io::Result<Keeper> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let set = rustix::fs::openat(CWD, set, flags, Mode::empty())?;
        rustix::fs::fsync(&set)?;
        Ok(Keeper {
            set,
            root: name_of(root)?,
            is_over: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// The copy is whole: nothing is kept from now on.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// The session ends: nothing may keep it waiting.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Keeps the content of a regular file that is about to change. Durable on return.
    pub(crate) fn keep_content(&self, file: &OwnedFd, inode: Inode) -> Result<(), ApplyError> {
        let kept = directory_below(&self.set, Path::new(KEPT))?;
        let number = inode.number().to_string();
        if rustix::fs::statat(&kept, number.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(());
        }
        let source = rustix::fs::openat(
            CWD,
            ProcPath::new(file).as_c_str(),
            OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(during("open a file that is to be set aside"))?;
        let partial = directory_below(&self.set, Path::new(PARTIAL))?;
        let begun = format!("{number}.{}", run());
        content::copy(&source, &partial, &begun, &self.is_stopped).map_err(
            |error| match error {
                CopyError::NoRoom { needed, free } => ApplyError::NoRoom { needed, free },
                CopyError::System(errno) => during("copy a file that is to be set aside")(errno),
            },
        )?;
        let path = Path::new(OVERWRITTEN).join(self.path_of(file, inode));
        let parent = self.under_free_name(&path, |parent, name| {
            rustix::fs::linkat(&partial, begun.as_str(), parent, name, AtFlags::empty())
        })?;
        let failed = during("set a file aside");
        rustix::fs::fsync(&parent).map_err(&failed)?;
        rustix::fs::renameat(&partial, begun.as_str(), &kept, number.as_str()).map_err(&failed)?;
        rustix::fs::fsync(&kept).map_err(&failed)
    }

    /// Takes a name away from the copy, with what it leads to. `is_shared`: the inode has other names or is in use, so its
    /// content is copied and only the name goes.
    pub(crate) fn take(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        is_shared: bool,
    ) -> Result<(), ApplyError> {
        let unlinked = |outcome: Result<(), Errno>| match outcome {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(during("unlink")(errno)),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(during("open a file that is to be set aside")(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(during("stat"))?;
        if is_shared || !self.is_moved(directory, name, &file, &stat)? {
            if is_regular(&stat) {
                self.keep_content(&file, Inode::of(&stat))?;
            } else {
                self.keep_node(directory, name, &file, &stat)?;
            }
            unlinked(rustix::fs::unlinkat(directory, name, AtFlags::empty()))?;
        }
        Ok(())
    }

    /// Moves a name into the set; false when the set is on another file system.
    fn is_moved(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        file: &OwnedFd,
        stat: &Stat,
    ) -> Result<bool, ApplyError> {
        let path = self.path_of(file, Inode::of(stat));
        let path = Path::new(REMOVED).join(path);
        let moved = self.under_free_name(&path, |parent, to| {
            rustix::fs::renameat_with(directory, name, parent, to, RenameFlags::NOREPLACE)
        });
        match moved {
            Ok(_) => Ok(true),
            Err(ApplyError::System {
                errno: Errno::XDEV | Errno::INVAL,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a symbolic link, device, pipe or socket anew in the set: it cannot be moved there, or has other names.
    fn keep_node(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        file: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), ApplyError> {
        let path = Path::new(REMOVED).join(self.path_of(file, Inode::of(stat)));
        let parent = self.under_free_name(&path, |parent, to| {
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                    rustix::fs::symlinkat(target.as_c_str(), parent, to)?;
                }
                kind @ (FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Socket) => {
                    let mode = Mode::from_raw_mode(stat.st_mode);
                    rustix::fs::mknodat(parent, to, kind, mode, stat.st_rdev)?;
                }
                FileType::RegularFile | FileType::Directory | FileType::Unknown => {
                    return Err(Errno::NOTSUP);
                }
            }
            let owner = Some(Uid::from_raw(stat.st_uid));
            let group = Some(Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(parent, to, owner, group, AtFlags::SYMLINK_NOFOLLOW)
        })?;
        rustix::fs::fsync(&parent).map_err(during("set a file aside"))
    }

    /// Remembers a directory that goes, should it have been empty.
    pub(crate) fn note_directory(&self, directory: &OwnedFd) -> Result<(), ApplyError> {
        let stat = rustix::fs::fstat(directory).map_err(during("stat"))?;
        let path = self.path_of(directory, Inode::of(&stat));
        directory_below(&self.set, &Path::new(REMOVED).join(path)).map(drop)
    }

    fn path_of(&self, file: &OwnedFd, inode: Inode) -> PathBuf {
        name_of(file.as_fd())
            .ok()
            .and_then(|path| path.strip_prefix(&self.root).map(Path::to_owned).ok())
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("without-a-name").join(inode.number().to_string()))
    }

    /// Puts something under `path` in the set, or under `path.~2~` and so on when another file is kept under that name.
    /// Gives the directory it went to.
    fn under_free_name(
        &self,
        path: &Path,
        put: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> Result<OwnedFd, ApplyError> {
        let failed = during("set a file aside");
        let name = path.file_name().ok_or_else(|| failed(Errno::INVAL))?;
        let parent = directory_below(&self.set, path.parent().unwrap_or(Path::new("")))?;
        for number in 1..=NAMES_MAX {
            match put(&parent, &numbered(name.as_bytes(), number)) {
                Ok(()) => return Ok(parent),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(failed(Errno::EXIST))
    }
}

/// Distinguishes this run of the daemon from all others: what an earlier one was copying may not have reached the disk.
pub(super) fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| format!("{}-{}", std::process::id(), crate::gate::boot_ns()))
}

/// Whether a partial copy of this name was begun by this run of the daemon.
pub(super) fn is_of_this_run(partial: &OsStr) -> bool {
    let name = partial.as_encoded_bytes();
    name.strip_suffix(run().as_bytes())
        .is_some_and(|number| number.ends_with(b"."))
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// As the kernel names what a descriptor leads to.
fn name_of(file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens `path` below `top`, making what is missing, step by step: a path may be longer than the system takes at once.
fn directory_below(top: &OwnedFd, path: &Path) -> Result<OwnedFd, ApplyError> {
    let failed = during("make a directory for what is set aside");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(top, c".", flags, Mode::empty()).map_err(&failed)?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        directory = rustix::fs::openat(&directory, name, flags, Mode::empty()).map_err(&failed)?;
    }
    Ok(directory)
}

/// `name`, then `name.~2~`, `name.~3~`.
fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    let mut name = name.to_vec();
    if number > 1 {
        name.extend_from_slice(format!(".~{number}~").as_bytes());
    }
    name
}
