//! One server of a lab: power, and its daemon.

use super::cgroup;
use super::files::Site;
use super::holder::{self, Holder, Plan, Way};
use super::network::{LANS, Network};
use super::topology::{Node, NodeKind};
use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Time for the daemon's pid to be known after its start.
const PID_DEADLINE: Duration = Duration::from_secs(10);
/// A killed daemon is gone within this time.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A started `sknode`.
#[derive(Debug)]
pub struct Daemon {
    /// The process that entered the server; it ends when the daemon does.
    entered: Child,
    /// The daemon itself, as the machine sees it.
    pid: u32,
}

/// One server (or witness).
#[derive(Debug)]
pub struct Server {
    node: Node,
    root: PathBuf,
    data: PathBuf,
    mount: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
    cgroup: PathBuf,
    clock: PathBuf,
    /// Libraries that are loaded before the daemon.
    preloaded: Vec<PathBuf>,
    /// Seconds that the daemon's machine seems to have been up for longer.
    boot_offset_s: i64,
    holder: Option<Holder>,
    daemon: Option<Daemon>,
}

impl Server {
    pub(super) fn new(site: &Site, node: Node) -> anyhow::Result<Server> {
        let (root, data) = (site.server_root(&node.name), site.server_data(&node.name));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&data)?;
        Ok(Server {
            root,
            data,
            mount: site.data_mount(),
            log: site.server_log(&node.name),
            pid_file: site.server_pid(&node.name),
            cgroup: cgroup::create(site.id(), &node.name)?,
            clock: site.server_clock(&node.name),
            preloaded: Vec::new(),
            boot_offset_s: 0,
            holder: None,
            daemon: None,
            node,
        })
    }

    /// Name of the server.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// Its place in the topology.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its own control group.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Log of its daemon.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Plan of its wall clock.
    pub(super) fn clock(&self) -> &Path {
        &self.clock
    }

    /// While this file exists the daemon cannot remove an address, if that library is loaded.
    pub(super) fn addresses_stay(&self) -> PathBuf {
        self.clock.with_file_name("addresses-stay")
    }

    pub(super) fn preload(&mut self, library: &Path) {
        if !self.preloaded.iter().any(|known| known == library) {
            self.preloaded.push(library.to_owned());
        }
    }

    pub(super) fn set_boot_offset(&mut self, seconds: i64) {
        self.boot_offset_s = seconds;
    }

    /// Its root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Pid 1 inside, when it has power.
    pub fn init_pid(&self) -> Option<u32> {
        self.holder.as_ref().map(Holder::pid)
    }

    /// Pid of its daemon, when one was started and not killed.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|daemon| daemon.pid)
    }

    pub(super) fn power_on(&mut self, network: &Network) -> anyhow::Result<()> {
        ensure!(self.holder.is_none(), "{} has power already", self.name());
        cgroup::reset(&self.cgroup);
        let holder = Holder::start(&Plan {
            name: self.node.name.clone(),
            cgroup: Some(self.cgroup.clone()),
            bind: Some((self.data.clone(), self.mount.clone())),
        })?;
        network.connect(&self.node.name, self.node.host, holder.pid(), &LANS)?;
        self.holder = Some(holder);
        Ok(())
    }

    /// Kills everything inside without waiting; `power_off` follows.
    pub(super) fn kill_init(&mut self) -> anyhow::Result<()> {
        self.holder
            .as_mut()
            .with_context(|| format!("{} has no power", self.node.name))?
            .kill()
    }

    /// Everything inside dies; returns when all of it is dead.
    pub(super) fn power_off(&mut self) -> anyhow::Result<()> {
        let mut holder = self
            .holder
            .take()
            .with_context(|| format!("{} has no power", self.node.name))?;
        let result = holder.power_off();
        if let Some(mut daemon) = self.daemon.take() {
            crate::wait::end_of(&mut daemon.entered, KILL_DEADLINE)?;
        }
        result
    }

    pub(super) fn start_daemon(&mut self, program: &Path) -> anyhow::Result<()> {
        if let Some(daemon) = &mut self.daemon {
            ensure!(
                daemon.entered.try_wait()?.is_some(),
                "the daemon of {} runs already",
                self.node.name
            );
        }
        let init = self
            .init_pid()
            .with_context(|| format!("{} has no power", self.name()))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let _first_start = fs::remove_file(&self.pid_file);
        let mut command = holder::enter(&Way {
            pid: init,
            cgroup: Some(&self.cgroup),
            pid_file: Some(&self.pid_file),
            boot_offset_s: self.boot_offset_s,
        })?;
        if !self.preloaded.is_empty() {
            command.env("LD_PRELOAD", std::env::join_paths(&self.preloaded)?);
            command.env("SIDEKICK_LAB_CLOCK", &self.clock);
            command.env("SIDEKICK_LAB_ADDRESSES_STAY", self.addresses_stay());
        }
        command.arg(program).arg("--root").arg(&self.root);
        command.args(["--log-format", "text"]);
        // Never the machine's own: a lab must not reset it.
        let watchdog = self.root.join("watchdog");
        command.arg("--watchdog").arg(match watchdog.exists() {
            true => watchdog.as_os_str(),
            false => std::ffi::OsStr::new("none"),
        });
        if self.node.kind == NodeKind::Witness {
            command.arg("--witness");
        }
        let mut entered = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = crate::wait::until("start of the daemon", PID_DEADLINE, || {
            if let Ok(Some(status)) = entered.try_wait() {
                return Err(format!(
                    "it ended with {status}, see {}",
                    self.log.display()
                ));
            }
            let text = fs::read_to_string(&self.pid_file).map_err(|e| e.to_string())?;
            text.parse::<u32>().map_err(|e| e.to_string())
        })?;
        self.daemon = Some(Daemon { entered, pid });
        Ok(())
    }

    pub(super) fn signal_daemon(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self
            .daemon_pid()
            .with_context(|| format!("the daemon of {} does not run", self.name()))?;
        holder::kill(pid, signal)
    }

    pub(super) fn kill_daemon(&mut self) -> anyhow::Result<()> {
        self.signal_daemon(Signal::KILL)?;
        if let Some(mut daemon) = self.daemon.take() {
            crate::wait::end_of(&mut daemon.entered, KILL_DEADLINE)?;
        }
        Ok(())
    }

    pub(super) fn terminate_daemon(&mut self, deadline: Duration) -> anyhow::Result<()> {
        self.signal_daemon(Signal::TERM)?;
        if let Some(mut daemon) = self.daemon.take() {
            let ended = crate::wait::end_of(&mut daemon.entered, deadline)?;
            if ended.is_none() {
                // Only the process that entered the server was killed; the daemon must not outlive our knowledge of it.
                holder::kill(daemon.pid, Signal::KILL)?;
            }
            ensure!(
                ended.is_some(),
                "the daemon of {} did not end within {deadline:?} after SIGTERM",
                self.node.name
            );
        }
        Ok(())
    }

    /// The daemon was started and ended by itself.
    pub fn daemon_has_ended(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| matches!(daemon.entered.try_wait(), Ok(Some(_))))
    }

    fn end(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            holder.end();
        }
        if let Some(mut daemon) = self.daemon.take()
            && let Err(error) = crate::wait::end_of(&mut daemon.entered, KILL_DEADLINE)
        {
            tracing::warn!(server = self.node.name, %error, "daemon not reaped");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
