//! Directories of a lab, and where programs are found.

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Overrides where labs keep their directories.
const BASE_ENV: &str = "SIDEKICK_LAB_DIR";
/// Where labs keep their directories otherwise: a real disk, unlike `/tmp` on many systems.
const BASE_DEFAULT: &str = "/var/tmp/sidekick-lab";
/// Overrides where `sknode` and `skcli` are found.
const PROGRAMS_ENV: &str = "SIDEKICK_BIN_DIR";

/// The directories of one lab. Its lock file is locked for as long as the lab's process lives.
#[derive(Debug)]
pub struct Site {
    id: String,
    directory: PathBuf,
    is_kept: bool,
    _lock: File,
}

/// Where all labs of this machine are.
pub(super) fn base() -> PathBuf {
    std::env::var_os(BASE_ENV).map_or_else(|| PathBuf::from(BASE_DEFAULT), PathBuf::from)
}

impl Site {
    pub(super) fn create() -> anyhow::Result<Site> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{count}", std::process::id());
        let directory = base().join(&id);
        fs::create_dir_all(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("lock the lab")?;
        fs::create_dir(directory.join("data"))?;
        Ok(Site {
            id,
            directory,
            is_kept: false,
            _lock: lock,
        })
    }

    /// Name of the lab, unique on this machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything of the lab is below this.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where each server mounts its own data directory.
    pub fn data_mount(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Root directory of a server.
    pub fn server_root(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("root")
    }

    /// Data directory of a server, below every mount.
    pub fn server_data(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("data")
    }

    /// Log of a server's daemon, over all its starts.
    pub fn server_log(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("sknode.log")
    }

    /// Plan of a server's wall clock.
    pub(super) fn server_clock(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("clock")
    }

    /// File with the pid of a server's daemon.
    pub fn server_pid(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("sknode.pid")
    }

    pub(super) fn write_description(
        &self,
        topology: &str,
        pids: &[(String, u32)],
    ) -> anyhow::Result<()> {
        let description = Description {
            topology: topology.to_owned(),
            owner: std::process::id(),
            pids: pids.to_vec(),
        };
        let new = self.directory.join("lab.json.new");
        fs::write(&new, serde_json::to_vec_pretty(&description)?)?;
        fs::rename(new, self.directory.join("lab.json"))?;
        Ok(())
    }

    /// Leaves the directories behind.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        super::cgroup::remove_lab(&self.id);
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "lab directory not removed");
        }
    }
}

/// What other processes may know about a lab.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Description {
    /// Shape of the lab.
    pub topology: String,
    /// Pid of the process that holds the lab.
    pub owner: u32,
    /// Pid 1 of each place that has power, by its name.
    pub pids: Vec<(String, u32)>,
}

/// Labs of this machine: name, whether its process lives, directory.
pub(super) fn all() -> anyhow::Result<Vec<(String, bool, PathBuf)>> {
    let mut labs = Vec::new();
    let Ok(entries) = fs::read_dir(base()) else {
        return Ok(labs);
    };
    for entry in entries.flatten() {
        let directory = entry.path();
        if !directory.is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        labs.push((name, is_alive(&directory), directory));
    }
    labs.sort();
    Ok(labs)
}

/// A lab without a lock file is counted as alive for a moment after its birth: its process may not have come that far.
fn is_alive(directory: &Path) -> bool {
    match File::open(directory.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
        Err(_) => is_young(directory),
    }
}

fn is_young(directory: &Path) -> bool {
    let age = fs::metadata(directory)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.elapsed().ok());
    age.is_none_or(|age| age < std::time::Duration::from_secs(10))
}

/// Reads the description of a lab.
///
/// # Errors
/// The lab is not up yet.
pub(super) fn description(directory: &Path) -> anyhow::Result<Description> {
    let path = directory.join("lab.json");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// One of our own programs: in `SIDEKICK_BIN_DIR`, or beside the running program.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let running = std::env::current_exe().context("find the running program")?;
    if running.file_name().is_some_and(|n| n == name) {
        return Ok(running);
    }
    let beside = running.parent().unwrap_or(Path::new("/"));
    // Test programs are built one level below the programs they test.
    let above = beside.parent().filter(|_| beside.ends_with("deps"));
    let places = std::env::var_os(PROGRAMS_ENV)
        .map(PathBuf::from)
        .into_iter()
        .chain(above.map(Path::to_owned))
        .chain([beside.to_owned()]);
    for place in places {
        let path = place.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not in {}: build it (cargo build --workspace) or set {PROGRAMS_ENV}",
        above.unwrap_or(beside).display()
    )
}

/// A program of the system, by its name.
pub(super) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
