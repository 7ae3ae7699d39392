//! Mounting over the directory, and coming off again: cleanly, or at once.
//!
//! Nothing here ever waits for the mount without a bound, and nothing touches a path below it: the daemon that serves a
//! mount would wait for itself.

mod control;
pub(crate) mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::fs::{Access, Fs};
use crate::fuse::{Answer, Frontend};

/// How many threads read requests unless asked otherwise.
pub const THREADS_DEFAULT: usize = 4;

/// How soon the threads of a session end when the mount was the only one.
const THREADS_END_AT_ONCE: Duration = Duration::from_millis(50);
/// How long they may take once the connection is aborted.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);
/// How often a busy mount is tried again.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Why a directory could not be mounted over.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no `/dev/fuse`.
    #[error("open /dev/fuse: load the fuse module, or allow the device")]
    NoFuse(#[source] io::Error),
    /// Mounting needs root.
    #[error("mount over {directory}: only root can")]
    NotPermitted {
        /// Over which directory.
        directory: PathBuf,
    },
    /// Any other failure of the system.
    #[error("mount over {directory}")]
    Io {
        /// Over which directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a mount did not come off cleanly.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Processes still use the directory.
    #[error("{0} is still in use; stop the processes in it first")]
    Busy(PathBuf),
    /// The system refused.
    #[error("unmount {directory}")]
    Io {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a mount ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Only when nobody uses it any more; waits for that until the deadline has passed.
    Clean(Duration),
    /// At once: every request, waiting or to come, fails.
    Abort,
}

/// A mounted file system and the threads that serve it.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    /// Under this number the kernel lists the connection.
    connection: Option<u32>,
    session: BackgroundSession,
}

impl Mount {
    /// Mounts `fs` over `directory` with `threads` threads.
    ///
    /// # Errors
    /// See [`MountError`]; nothing is mounted then.
    pub fn start(
        fs: Arc<Fs<Answer>>,
        directory: &Path,
        threads: usize,
    ) -> Result<Mount, MountError> {
        let access = fs.access();
        std::fs::metadata("/dev/fuse").map_err(MountError::NoFuse)?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => MountError::NotPermitted {
                directory: directory.to_owned(),
            },
            _ => MountError::Io {
                directory: directory.to_owned(),
                source,
            },
        };
        let session = Session::new(
            Frontend::new(Arc::clone(&fs)),
            directory,
            &config(access, threads),
        )
        .map_err(failed)?;
        let notifier = session.notifier();
        // Without an offset no page is touched, so this cannot wait for the request in whose course it is called.
        fs.tell_stale(Box::new(move |node| {
            if let Err(error) = notifier.inval_inode(INodeNo(node.0), -1, 0) {
                tracing::debug!(%error, "the kernel does not know the object");
            }
        }));
        let session = session.spawn().map_err(failed)?;
        Ok(Mount {
            directory: directory.to_owned(),
            connection: table::connection_of(directory),
            session,
        })
    }

    /// Takes the mount off. Never blocks longer than the deadline and a few seconds.
    ///
    /// # Errors
    /// See [`UnmountError`]. The mount is given back; after `Busy` it is as it was.
    pub fn stop(self, how: Unmount) -> Result<(), (UnmountError, Box<Mount>)> {
        let outcome = match how {
            Unmount::Clean(within) => unmount_when_unused(&self.directory, within),
            Unmount::Abort => abort(&self.directory, self.connection),
        };
        match outcome {
            Err(Errno::BUSY) => {
                let error = UnmountError::Busy(self.directory.clone());
                Err((error, Box::new(self)))
            }
            Err(errno) => {
                let error = UnmountError::Io {
                    directory: self.directory.clone(),
                    source: errno.into(),
                };
                Err((error, Box::new(self)))
            }
            Ok(()) => {
                self.end_threads();
                Ok(())
            }
        }
    }

    /// The threads end when the kernel has dropped the connection. A copy of the mount in another mount namespace keeps
    /// it alive, so it is aborted then.
    fn end_threads(self) {
        let Mount {
            directory,
            connection,
            session,
        } = self;
        let (done, ended) = mpsc::channel();
        let joiner = thread::spawn(move || {
            let joined = session.join();
            // Nobody listens any more when we were too slow.
            let _ = done.send(joined);
        });
        if ended.recv_timeout(THREADS_END_AT_ONCE).is_ok() {
            let _ = joiner.join();
            return;
        }
        tracing::info!(directory = %directory.display(), "the mount lives on elsewhere: aborting its connection");
        abort_connection(connection);
        if ended.recv_timeout(THREADS_END_WITHIN).is_err() {
            tracing::error!(directory = %directory.display(), "threads of the mount did not end");
        }
    }
}

fn config(access: Access, threads: usize) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(table::SOURCE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::Suid,
        MountOption::Dev,
        match access {
            Access::ReadWrite => MountOption::RW,
            Access::ReadOnly => MountOption::RO,
        },
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    config.clone_fd = true;
    config
}

/// Detaches the topmost mount on `directory`, whoever uses it.
pub(crate) fn detach(directory: &Path) -> io::Result<()> {
    unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from)
}

/// The unmounting itself may wait for requests that only our own threads can answer, so it runs on its own.
fn unmount_when_unused(directory: &Path, within: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + within;
    loop {
        let (done, outcome) = mpsc::channel();
        let path = directory.to_owned();
        thread::spawn(move || done.send(unmount(path, UnmountFlags::NOFOLLOW)));
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(BUSY_RETRY_AFTER);
        match outcome.recv_timeout(left) {
            Ok(Err(Errno::BUSY)) if Instant::now() < deadline => thread::sleep(BUSY_RETRY_AFTER),
            Ok(outcome) => return outcome,
            Err(_) => return Err(Errno::BUSY),
        }
    }
}

/// MNT_FORCE ends the connection, so nothing can wait for us while the mount is detached.
fn abort(directory: &Path, connection: Option<u32>) -> Result<(), Errno> {
    let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let detached = unmount(directory, flags);
    abort_connection(connection);
    match detached {
        // Not mounted any more: somebody else took it off.
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn abort_connection(connection: Option<u32>) {
    let Some(connection) = connection else { return };
    if let Err(error) = control::abort(connection) {
        // Most often the connection is gone already.
        tracing::debug!(%error, "connection not aborted");
    }
}
