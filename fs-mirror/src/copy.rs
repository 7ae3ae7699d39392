//! One server's copy of a replicated directory: the real directory, opened before anything is mounted over it, and what
//! must outlive a restart of the daemon.

mod disk;
mod doubt;
mod epoch_file;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat, statfs};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::aside::Aside;
use crate::epoch::Epoch;
use crate::mount::table;
use crate::replication::secondary::object::Inode;
use disk::Disk;
pub use epoch_file::EpochError;
use epoch_file::EpochFile;

/// How long a mounted file system may take to say that it is alive.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Where a copy lives.
#[derive(Clone, Debug)]
pub struct CopyConfig {
    /// The module, for messages and logs.
    pub module: String,
    /// The replicated directory.
    pub directory: PathBuf,
    /// Where the copy keeps its own files; made when missing. Never inside the replicated directory.
    pub state_dir: PathBuf,
    /// Where it notes what is true until the machine starts again, `/run/sidekick`; made when missing.
    pub run_dir: PathBuf,
}

/// Why a directory cannot be replicated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root directory of the system.
    #[error("the root directory cannot be replicated; name a directory below it")]
    RootDirectory,
    /// Nothing has that name.
    #[error("directory {0} does not exist; create it on both servers")]
    Missing(PathBuf),
    /// Something else has that name.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// The path is relative.
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
    /// A mirror file system is mounted there and serves.
    #[error("{0} is already served by a running mirror; stop it first")]
    AlreadyMounted(PathBuf),
    /// The state would replicate itself.
    #[error("state directory {state_dir} is inside the replicated directory {directory}")]
    StateInside {
        /// Where the state should go.
        state_dir: PathBuf,
        /// The replicated directory.
        directory: PathBuf,
    },
    /// `/proc` is not mounted here; descriptors cannot be opened again without it.
    #[error("open /proc/self/fd: mount /proc")]
    NoProc(#[source] io::Error),
    /// Any other failure of the system.
    #[error("{action} {path}")]
    Io {
        /// What failed.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The epoch of the copy cannot be read.
    #[error("read the epoch of the copy")]
    Epoch(#[source] EpochError),
}

/// A copy of the replicated directory. Its descriptors lead below whatever is mounted over the directory later.
#[derive(Debug)]
pub struct Copy {
    module: String,
    directory: PathBuf,
    root: OwnedFd,
    disk: Disk,
    aside: Aside,
    epoch: Mutex<EpochFile>,
}

impl Copy {
    /// Opens the directory and reads the copy's epoch. A mount left behind by a daemon that was killed is detached.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed except for a detached dead mount.
    pub fn open(config: CopyConfig) -> Result<Arc<Copy>, OpenError> {
        if !config.directory.is_absolute() {
            return Err(OpenError::Relative(config.directory));
        }
        detach_dead_mounts(&config.directory)?;
        let directory = canonical(&config.directory)?;
        let root = open_root(&directory)?;
        check_proc()?;
        create_state_dir(&config.state_dir, &directory)?;
        create_state_dir(&config.run_dir, &directory)?;
        let disk =
            Disk::open(&root, &config.run_dir, &directory).map_err(|errno| OpenError::Io {
                action: "open",
                path: directory.clone(),
                source: errno.into(),
            })?;
        let epoch = EpochFile::open(&config.state_dir).map_err(OpenError::Epoch)?;
        raise_descriptor_limit();
        let aside = Aside::locate(&directory, &config.state_dir);
        Ok(Arc::new(Copy {
            module: config.module,
            directory,
            root,
            disk,
            aside,
            epoch: Mutex::new(epoch),
        }))
    }

    /// The module this is a copy of.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The replicated directory, without symbolic links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The real directory (an `O_PATH` descriptor), whatever is mounted over it.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Returns when everything that was ever written to this copy is on its disk.
    ///
    /// # Errors
    /// The disk failed, perhaps before this call. The system says so once, and a later success means nothing (R11): every sync fails
    /// from then on, until the copy is compared, or no other one counts ([`Copy::go_on_alone`]).
    pub fn sync(&self) -> Result<(), Errno> {
        self.disk.sync()
    }

    /// The disk below this copy failed: what is read of it may not be on the disk from then on, until it was written anew
    /// ([`Copy::set_whole`]), by whatever daemon, as long as the machine runs.
    pub fn note_disk_failure(&self, errno: Errno) {
        self.disk.note_failure(errno);
    }

    /// No other copy counts: what this one lacks on its disk is in no better place.
    pub fn go_on_alone(&self) {
        self.disk.go_on_alone();
    }

    /// It is compared from now on.
    pub(crate) fn begin_rewriting(&self) {
        self.disk.begin_rewriting();
    }

    /// To be called when everything is about to be written anew; may take as long as a sync.
    pub(crate) fn hear_of_former_failures(&self) {
        self.disk.hear_of_former_failures();
    }

    /// What is read of this copy may not be on its disk.
    pub fn is_doubted(&self) -> bool {
        self.disk.is_doubted()
    }

    /// It counts beside another one: when it was compared before, and nothing failed since, it is doubted no more.
    pub fn set_whole(&self) {
        self.disk.end_rewriting();
    }

    /// The content of this file may not be on the disk.
    pub(crate) fn must_be_rewritten(&self, file: Inode) -> bool {
        self.disk.must_be_rewritten(file.key())
    }

    /// The content of this file was given up.
    pub(crate) fn set_rewritten(&self, file: Inode) {
        self.disk.set_rewritten(file.key());
    }

    /// What was set aside of this copy.
    pub fn aside(&self) -> &Aside {
        &self.aside
    }

    /// The newest epoch this copy has ever taken part in; zero before the first.
    pub fn epoch(&self) -> Epoch {
        self.epoch.lock().epoch()
    }

    /// Makes `epoch` durable; only then may it be used. The same epoch again is no change.
    ///
    /// # Errors
    /// `Stale` when the copy has seen a newer epoch; an I/O error otherwise. The old epoch stays in force then.
    pub fn persist_epoch(&self, epoch: Epoch) -> Result<(), EpochError> {
        self.epoch.lock().advance(epoch)
    }
}

/// Mounts of a daemon that was killed answer ENOTCONN for ever; several may lie on top of each other.
fn detach_dead_mounts(directory: &Path) -> Result<(), OpenError> {
    const DEAD_MOUNTS_MAX: usize = 16;
    for _ in 0..DEAD_MOUNTS_MAX {
        if !is_dead(directory)? {
            return Ok(());
        }
        crate::mount::detach(directory).map_err(|source| OpenError::Io {
            action: "detach the dead mount on",
            path: directory.to_owned(),
            source,
        })?;
        tracing::info!(directory = %directory.display(), "detached the mount of a daemon that is gone");
    }
    Ok(())
}

/// Whether what is mounted there has lost its daemon. The kernel answers a stat from what it remembers, however dead the
/// mount is, but always asks for the statistics; a daemon that is alive and does not answer must not keep us waiting.
fn is_dead(directory: &Path) -> Result<bool, OpenError> {
    let (told, answer) = mpsc::channel();
    let path = directory.to_owned();
    std::thread::spawn(move || told.send(statfs(path).map(drop)));
    match answer.recv_timeout(ALIVE_WITHIN) {
        Ok(outcome) => Ok(outcome == Err(Errno::NOTCONN)),
        Err(_) => Err(OpenError::AlreadyMounted(directory.to_owned())),
    }
}

fn canonical(directory: &Path) -> Result<PathBuf, OpenError> {
    let canonical = directory
        .canonicalize()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing(directory.to_owned()),
            io::ErrorKind::NotADirectory => OpenError::NotADirectory(directory.to_owned()),
            _ => OpenError::Io {
                action: "resolve",
                path: directory.to_owned(),
                source,
            },
        })?;
    if canonical == Path::new("/") {
        return Err(OpenError::RootDirectory);
    }
    if table::is_mirror(&canonical) {
        return Err(OpenError::AlreadyMounted(canonical));
    }
    Ok(canonical)
}

fn open_root(directory: &Path) -> Result<OwnedFd, OpenError> {
    let io = |action| {
        move |e: Errno| OpenError::Io {
            action,
            path: directory.to_owned(),
            source: e.into(),
        }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => OpenError::NotADirectory(directory.to_owned()),
        other => io("open")(other),
    })?;
    // A bind mount of the system's root elsewhere is the root all the same.
    let (ours, system) = (
        fstat(&root).map_err(io("stat"))?,
        stat("/").map_err(io("stat"))?,
    );
    if (ours.st_dev, ours.st_ino) == (system.st_dev, system.st_ino) {
        return Err(OpenError::RootDirectory);
    }
    Ok(root)
}

fn check_proc() -> Result<(), OpenError> {
    stat("/proc/self/fd")
        .map(drop)
        .map_err(|e| OpenError::NoProc(e.into()))
}

fn create_state_dir(state_dir: &Path, directory: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt;
    if state_dir.starts_with(directory) {
        let (state_dir, directory) = (state_dir.to_owned(), directory.to_owned());
        return Err(OpenError::StateInside {
            state_dir,
            directory,
        });
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|source| OpenError::Io {
            action: "create the state directory",
            path: state_dir.to_owned(),
            source,
        })
}

/// Every inode the kernel knows holds one descriptor: takes as many as the system gives. What is refused shows later as
/// EMFILE to the application, so a failure here is not one.
fn raise_descriptor_limit() {
    let current = getrlimit(Resource::Nofile);
    let system_max = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let wanted = system_max.into_iter().chain(current.maximum).max();
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: wanted,
            maximum: wanted,
        },
    );
    if raised.is_err()
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: current.maximum,
                ..current
            },
        )
        .is_err()
    {
        tracing::warn!(limit = ?current.current, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests;
