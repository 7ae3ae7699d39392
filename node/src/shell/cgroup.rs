//! The processes of a module as one thing that can be killed (cgroup v2).
//!
//! Layout under the unified hierarchy: `sidekick-<hash of the daemon's root>/<module>/<run>`. The
//! hash keeps daemons with different roots apart. Every process that a script starts, however
//! often it forks or changes its session, stays below its module, so "nothing of this module runs"
//! is a question the kernel answers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Pid, Signal, kill_process};

use super::blocking::blocking;

#[cfg(test)]
mod tests;

/// How often members are signalled again where `cgroup.kill` does not exist (kernels before 5.14).
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// How soon the removal of a cgroup that is just being left is tried again.
const BUSY_AGAIN: Duration = Duration::from_millis(5);
/// The number of member ids an error lists.
const SHOWN_MAX: usize = 10;

/// Why processes could not be contained or killed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no cgroup v2.
    #[error(
        "no cgroup v2 hierarchy is mounted on this server; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NoHierarchy,
    /// The name would leave its folder.
    #[error("{name:?} is no name for a cgroup")]
    BadName {
        /// The name.
        name: String,
    },
    /// Processes survived, usually because they wait for a file system that does not answer.
    #[error("processes of {cgroup} are still there {waited:?} after they were killed: {members}")]
    StillPopulated {
        /// The cgroup.
        cgroup: PathBuf,
        /// How long they were waited for.
        waited: Duration,
        /// Their ids.
        members: String,
    },
    /// The kernel refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    fn is_busy(&self) -> bool {
        match self {
            CgroupError::Io { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
            CgroupError::NoHierarchy
            | CgroupError::BadName { .. }
            | CgroupError::StillPopulated { .. } => false,
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io {
        action,
        path,
        source,
    }
}

/// One cgroup and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup of the daemon that works in `root`, made if need be. Modules live below it.
    ///
    /// # Errors
    /// `NoHierarchy`; `Io` when it cannot be made.
    pub fn of_root(root: &Path) -> Result<Cgroup, CgroupError> {
        let mounts = Path::new("/proc/self/mounts");
        let text = fs::read_to_string(mounts).map_err(failed("read", mounts))?;
        let hierarchy = hierarchy(&text).ok_or(CgroupError::NoHierarchy)?;
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let hash = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        let path = hierarchy.join(format!("sidekick-{}", &hash[..12]));
        make(&path)?;
        Ok(Cgroup { path })
    }

    /// The cgroup `name` below this one, made if need be.
    ///
    /// # Errors
    /// `BadName`; `Io`.
    pub fn child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        if !is_plain_name(name) {
            let name = name.to_owned();
            return Err(CgroupError::BadName { name });
        }
        let path = self.path.join(name);
        make(&path)?;
        Ok(Cgroup { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file through which a process joins.
    pub(super) fn door(&self) -> Result<File, CgroupError> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))
    }

    /// Whether no process is left here or below. A cgroup that does not exist is empty.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 0")),
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// The processes here and below, as this process namespace numbers them (0: not in it).
    ///
    /// # Errors
    /// `Io`.
    pub fn members(&self) -> Result<Vec<i32>, CgroupError> {
        let mut members = Vec::new();
        for cgroup in self.with_descendants()? {
            let path = cgroup.join("cgroup.procs");
            match fs::read_to_string(&path) {
                Ok(text) => {
                    members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()))
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        Ok(members)
    }

    /// Kills every process here and below, waits until none is left, and removes the cgroup.
    /// Blocks for at most `deadline`; [`kill`](Cgroup::kill) does not.
    ///
    /// # Errors
    /// `StillPopulated` after `deadline`; `Io`.
    pub fn kill_blocking(&self, deadline: Duration) -> Result<(), CgroupError> {
        let start = Instant::now();
        loop {
            let left = deadline.saturating_sub(start.elapsed());
            if self.is_empty()? {
                match self.remove() {
                    // The last member is on its way out, or one just came in.
                    Err(error) if error.is_busy() && !left.is_zero() => {
                        std::thread::sleep(BUSY_AGAIN.min(left));
                        continue;
                    }
                    outcome => return outcome,
                }
            }
            if left.is_zero() {
                return Err(self.still_populated(start.elapsed()));
            }
            let has_one_call = self.kill_once()?;
            let wait = if has_one_call {
                left
            } else {
                left.min(KILL_AGAIN)
            };
            self.wait_for_change(wait)?;
        }
    }

    /// [`kill_blocking`](Cgroup::kill_blocking) on a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub async fn kill(&self, deadline: Duration) -> Result<(), CgroupError> {
        let cgroup = self.clone();
        blocking(move || cgroup.kill_blocking(deadline)).await
    }

    /// Removes this cgroup and those below it, all of which must be empty. One that is not there
    /// is success.
    ///
    /// # Errors
    /// `Io`: not empty, among others.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for path in self.with_descendants()?.iter().rev() {
            match fs::remove_dir(path) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("remove", path)(error)),
            }
        }
        Ok(())
    }

    /// Removes the cgroups below this one that are empty: runs whose processes have all ended.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove_empty_children(&self) -> Result<(), CgroupError> {
        for path in children(&self.path)? {
            let child = Cgroup { path };
            if child.is_empty()? {
                child.remove()?;
            }
        }
        Ok(())
    }

    /// Signals all members; says whether one call did it and none can be missed.
    fn kill_once(&self) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.kill");
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => {
                rustix::io::write(&file, b"1")
                    .map_err(|error| failed("write", &path)(error.into()))?;
                Ok(true)
            }
            Err(error) if is_gone(&error) => {
                self.signal_each()?;
                Ok(false)
            }
            Err(error) => Err(failed("open", &path)(error)),
        }
    }

    /// The way of kernels before 5.14. A member may fork in between, hence "again" in the caller.
    fn signal_each(&self) -> Result<(), CgroupError> {
        for pid in self.members()?.into_iter().filter_map(Pid::from_raw) {
            // It may have ended meanwhile; what did not is seen by the next look.
            let _ = kill_process(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Waits until the kernel says that the population changed, at most `wait`.
    fn wait_for_change(&self, wait: Duration) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.events");
        let events = match File::open(&path) {
            Ok(events) => events,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        // A change before this point is seen here, a later one wakes the poll.
        let text = io::read_to_string(&events).map_err(failed("read", &path))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let timeout = Timespec::try_from(wait).ok();
        let mut watched = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(failed("poll", &path)(error.into())),
        }
    }

    fn still_populated(&self, waited: Duration) -> CgroupError {
        let members = self.members().unwrap_or_default();
        let mut shown: Vec<String> = members
            .iter()
            .take(SHOWN_MAX)
            .map(ToString::to_string)
            .collect();
        if members.len() > SHOWN_MAX {
            shown.push(format!("and {} more", members.len() - SHOWN_MAX));
        }
        CgroupError::StillPopulated {
            cgroup: self.path.clone(),
            waited,
            members: shown.join(", "),
        }
    }

    /// This cgroup first, each parent before its children.
    fn with_descendants(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut all = vec![self.path.clone()];
        let mut next = 0;
        while let Some(path) = all.get(next).cloned() {
            all.extend(children(&path)?);
            next += 1;
        }
        Ok(all)
    }
}

fn children(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", path)(error)),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// Makes it, with its parents: killing a cgroup removes it, and its module may start again.
fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(failed("create cgroup", path))
}

/// ENODEV is what an open file of a removed cgroup answers.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Where cgroup v2 is mounted, in the text of `/proc/self/mounts`. Beside an older hierarchy it is
/// not at `/sys/fs/cgroup` but below it. The last mount on a place is the one that is seen.
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(unescaped(place)))
        })
        .next_back()
}

/// Spaces and the like are octal in this file.
fn unescaped(place: &str) -> String {
    place
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// Whether `name` is one component of a path with nothing surprising in it. The kernel's own files
/// in a cgroup have a dot in their names, ours never.
pub(super) fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain)
}
