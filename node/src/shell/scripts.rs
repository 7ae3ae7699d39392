//! Runs the scripts of a module: in its cgroup, with a clean environment, a deadline, and their
//! output in a file.
//!
//! The output goes to a file and not through a pipe: an application started by a script keeps the
//! descriptor, must not be waited for, and must survive the end of the daemon.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, interval_at, timeout};
use tracing::warn;

use super::cgroup::{Cgroup, CgroupError, is_plain_name};
use super::spawn::spawn_in;
use log::ScriptLog;

mod log;
#[cfg(test)]
mod tests;

/// Kept of one run's output unless the configuration says otherwise.
pub const LOG_BYTES_MAX: u64 = 2 << 20;
/// The newest this many output files of a module are kept.
const LOGS_MAX: usize = 100;
/// How often a growing output file is looked at. It may exceed its limit by what is written in
/// this time.
const LOG_CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long the processes of a run may take to die once killed.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// A script just unpacked may still be open for writing in a child another thread is forking.
const BUSY_RETRIES: u32 = 20;
const BUSY_AGAIN: Duration = Duration::from_millis(10);
/// Where programs are looked for after the daemon's own.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What scripts are told about where they are. They see this, the usual directories of programs, and nothing of the
/// daemon's own environment.
#[derive(Clone, Debug)]
pub struct ScriptEnvironment {
    /// The module's name: `SAFEMODULE`, `SK_MODULE`.
    pub module: String,
    /// The installation's folder: `SAFE`.
    pub installation: PathBuf,
    /// The folder of `skcli` and `sknode`, first in `PATH`: `SAFEBIN`, `SK_BIN`.
    pub programs: PathBuf,
    /// The unpacked package: scripts are its `bin/NAME` (`SAFEUSERBIN`), and it is their directory.
    pub package: PathBuf,
    /// The daemon's state: `SAFEVAR`.
    pub state: PathBuf,
    /// The module's own state, where output files go too: `SAFEUSERVAR`.
    pub module_state: PathBuf,
    /// The first replicated directory: `SK_DIRECTORY`.
    pub directory: Option<PathBuf>,
    /// The variables of the configuration. They cannot replace the ones above.
    pub variables: BTreeMap<String, String>,
}

impl ScriptEnvironment {
    fn bin(&self) -> PathBuf {
        self.package.join("bin")
    }

    fn apply(&self, command: &mut Command) {
        let path = format!("{}:{SYSTEM_PATH}", self.programs.display());
        command
            .env_clear()
            .envs(&self.variables)
            .env("SAFE", &self.installation)
            .env("SAFEMODULE", &self.module)
            .env("SAFEBIN", &self.programs)
            .env("SAFEUSERBIN", self.bin())
            .env("SAFEVAR", &self.state)
            .env("SAFEUSERVAR", &self.module_state)
            .env("SK_MODULE", &self.module)
            .env("SK_BIN", &self.programs)
            .env("PATH", path);
        if let Some(directory) = &self.directory {
            command.env("SK_DIRECTORY", directory);
        }
    }
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this status. What it started may go on.
    Exited {
        /// Its exit status.
        status: ExitStatus,
    },
    /// It ran until its deadline; it and everything it started was killed.
    TimedOut,
    /// The package has no such script, which is no error: most are optional.
    Missing,
}

impl Outcome {
    /// Whether the module may go on: the script succeeded or does not exist.
    #[must_use]
    pub fn is_success(self) -> bool {
        match self {
            Outcome::Exited { status } => status.success(),
            Outcome::Missing => true,
            Outcome::TimedOut => false,
        }
    }
}

/// The end of a script and where its output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// Its output; `None` when it did not run.
    pub log: Option<PathBuf>,
}

/// Why a script could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The name is no file name below `bin/`.
    #[error("{name:?} is no name for a script")]
    BadName {
        /// The name.
        name: String,
    },
    /// The package has the file, but it cannot be run.
    #[error("start {path} (is it executable, and does its first line name an interpreter?)")]
    Start {
        /// The script.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file for its output could not be made.
    #[error("create output file in {directory}")]
    Log {
        /// The folder.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its end could not be waited for.
    #[error("wait for {path}")]
    Wait {
        /// The script.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its cgroup could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Runs the scripts of one module.
#[derive(Debug)]
pub struct Scripts {
    cgroup: Cgroup,
    environment: ScriptEnvironment,
    log_bytes_max: u64,
    runs: AtomicU64,
}

impl Scripts {
    /// Scripts that run below `cgroup`, the module's own. At most `log_bytes_max` of the output of
    /// each run are kept ([`LOG_BYTES_MAX`]).
    #[must_use]
    pub fn new(cgroup: Cgroup, environment: ScriptEnvironment, log_bytes_max: u64) -> Scripts {
        Scripts {
            cgroup,
            environment,
            log_bytes_max,
            runs: AtomicU64::new(0),
        }
    }

    /// The module's cgroup: to kill all its processes, or to ask whether there are any.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Runs `bin/<name>` with `arguments`. After `deadline`, which its start counts towards, it is killed with everything *this run*
    /// started; what earlier runs started goes on. Returns when the script itself has ended, not
    /// waiting for processes it left behind.
    ///
    /// Dropping the future kills the script itself; the module's cgroup has the rest.
    ///
    /// # Errors
    /// When the script exists but could not be started, contained, or (after its deadline) killed.
    pub async fn run(
        &self,
        name: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Run, ScriptError> {
        if !is_plain_name(name) {
            let name = name.to_owned();
            return Err(ScriptError::BadName { name });
        }
        let begun = Instant::now();
        let path = self.environment.bin().join(name);
        if !path.is_file() {
            let (outcome, log) = (Outcome::Missing, None);
            return Ok(Run { outcome, log });
        }
        self.cgroup.remove_empty_children()?;
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        // Numbers start anew with the daemon; its id keeps runs of a former one apart.
        let run = format!("{name}-{}-{number}", std::process::id());
        let cgroup = self.cgroup.child(&run)?;
        let log = self.create_log(name)?;
        let log_path = log.path().to_owned();
        if begun.elapsed() >= deadline {
            // The disk took all of its time: what it was to do may be over, and nobody waits for it.
            let (outcome, log) = (Outcome::TimedOut, Some(log_path));
            return Ok(Run { outcome, log });
        }
        let child = self.start(&path, arguments, &cgroup, &log).await?;
        let left = deadline.saturating_sub(begun.elapsed());
        let outcome = finish(child, &path, &cgroup, &log, left).await?;
        tokio::spawn(keep_small_while_alive(log, cgroup));
        Ok(Run {
            outcome,
            log: Some(log_path),
        })
    }

    fn create_log(&self, name: &str) -> Result<ScriptLog, ScriptError> {
        let directory = &self.environment.module_state;
        log::prune(directory, LOGS_MAX)
            .and_then(|()| ScriptLog::create(directory, name, self.log_bytes_max))
            .map_err(|source| ScriptError::Log {
                directory: directory.clone(),
                source,
            })
    }

    async fn start(
        &self,
        path: &Path,
        arguments: &[&str],
        cgroup: &Cgroup,
        log: &ScriptLog,
    ) -> Result<Child, ScriptError> {
        let failed = |source| ScriptError::Start {
            path: path.to_owned(),
            source,
        };
        let mut retries = 0;
        loop {
            let mut command = Command::new(path);
            command
                .args(arguments)
                .current_dir(&self.environment.package)
                .stdin(Stdio::null())
                .stdout(log.stdio().map_err(failed)?)
                .stderr(log.stdio().map_err(failed)?)
                .kill_on_drop(true);
            self.environment.apply(&mut command);
            match spawn_in(command, cgroup.door()?) {
                Ok(child) => return Ok(child),
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && retries < BUSY_RETRIES =>
                {
                    retries += 1;
                    tokio::time::sleep(BUSY_AGAIN).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Waits for the script; at the deadline kills its run.
async fn finish(
    mut child: Child,
    path: &Path,
    cgroup: &Cgroup,
    log: &ScriptLog,
    deadline: Duration,
) -> Result<Outcome, ScriptError> {
    let failed = |source| ScriptError::Wait {
        path: path.to_owned(),
        source,
    };
    match timeout(deadline, exit_of(&mut child, log)).await {
        Ok(Ok(status)) => Ok(Outcome::Exited { status }),
        Ok(Err(source)) => Err(failed(source)),
        Err(_elapsed) => {
            // The script is our child: unless it is reaped at the same time its cgroup is empty,
            // but it stays a zombie.
            let (killed, waited) = tokio::join!(
                cgroup.kill(KILL_DEADLINE),
                timeout(KILL_DEADLINE, child.wait())
            );
            killed?;
            if let Ok(waited) = waited {
                waited.map_err(failed)?;
            }
            Ok(Outcome::TimedOut)
        }
    }
}

async fn exit_of(child: &mut Child, log: &ScriptLog) -> io::Result<ExitStatus> {
    let mut check = interval_at(Instant::now() + LOG_CHECK_EVERY, LOG_CHECK_EVERY);
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = check.tick() => log.cut_to_limit()?,
        }
    }
}

/// Goes on limiting the output of what the script left running, until none of it is left.
async fn keep_small_while_alive(log: ScriptLog, cgroup: Cgroup) {
    loop {
        let step = log
            .cut_to_limit()
            .map_err(|error| error.to_string())
            .and_then(|()| cgroup.is_empty().map_err(|error| error.to_string()));
        match step {
            Ok(false) => tokio::time::sleep(LOG_CHECK_EVERY).await,
            Ok(true) => {
                // The next run or the kill of the module removes it if this does not.
                let _ = cgroup.remove();
                return;
            }
            Err(error) => {
                warn!(log = %log.path().display(), error, "no longer limiting script output");
                return;
            }
        }
    }
}
