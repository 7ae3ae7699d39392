//! Holder processes: pid 1 of a lab server, and the way in.
//!
//! `testbed __hold` makes the namespaces and starts `testbed __init` as pid 1 inside. Both end when the pipe on their standard input
//! ends, that is when the process that made the lab is gone, however it died. The holder outside reaps pid 1, and the
//! kernel lets pid 1 be reaped only after everything else in its namespace is dead: waiting for the holder = the server is dark.

use super::{cgroup, files, namespaces};
use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// A holder must be ready within this time.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Everything of a killed server must be dead within this time.
const DARK_DEADLINE: Duration = Duration::from_secs(20);

/// What a holder makes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Host name inside.
    pub name: String,
    /// cgroup that is the root of what is seen inside.
    pub cgroup: Option<PathBuf>,
    /// Directory to show at another path.
    pub bind: Option<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Namespaces and nothing else.
    pub fn bare(name: &str) -> Plan {
        Plan {
            name: name.to_owned(),
            cgroup: None,
            bind: None,
        }
    }
}

/// A running holder. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Holder {
    name: String,
    outer: Child,
    init: u32,
    is_killed: bool,
    is_ended: bool,
}

impl Holder {
    /// Makes the namespaces; when this returns, commands can run inside.
    ///
    /// # Errors
    /// The kernel refused a namespace or a mount; the text is the holder's own.
    pub fn start(plan: &Plan) -> anyhow::Result<Holder> {
        let mut outer = Command::new(files::program("testbed")?)
            .arg("__hold")
            .arg(serde_json::to_string(plan)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start holder")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let stdout = outer.stdout.take().context("holder without output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // Two processes write here: pid 1 that it is ready, the holder which process that is.
        let (mut init, mut is_ready) = (None, false);
        let init = loop {
            if let (Some(init), true) = (init, is_ready) {
                break init;
            }
            match receiver.recv_timeout(READY_DEADLINE) {
                Ok(line) if line == "ready" => is_ready = true,
                Ok(line) => init = line.parse().ok(),
                Err(_) => {
                    let _already_dead = outer.kill();
                    outer.wait()?;
                    bail!("the namespaces of {} could not be made", plan.name);
                }
            }
        };
        Ok(Holder {
            name: plan.name.clone(),
            outer,
            init,
            is_killed: false,
            is_ended: false,
        })
    }

    /// Pid 1 of the server, as the machine sees it.
    pub fn pid(&self) -> u32 {
        self.init
    }

    /// Kills pid 1, and with it everything inside. Does not wait.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.is_killed, true) {
            return Ok(());
        }
        kill(self.init, Signal::KILL).with_context(|| format!("cut the power of {}", self.name))
    }

    /// Kills everything inside and waits until it is dead.
    ///
    /// # Errors
    /// A process inside hangs in the kernel.
    pub fn power_off(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.wait_dark()
    }

    fn wait_dark(&mut self) -> anyhow::Result<()> {
        self.is_ended = true;
        let end = std::time::Instant::now() + DARK_DEADLINE;
        while self.outer.try_wait()?.is_none() {
            ensure!(
                std::time::Instant::now() < end,
                "a process of {} hangs in the kernel and cannot die",
                self.name
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends the holder, whatever state it is in.
    pub fn end(&mut self) {
        if self.is_ended {
            return;
        }
        if let Err(error) = self.power_off() {
            tracing::warn!(server = self.name, %error, "holder not ended");
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to a process we started.
pub(super) fn kill(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).context("pid out of range")?;
    let pid = Pid::from_raw(raw).context("pid 0")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Makes namespaces once and drops them: can this machine do it at all?
pub(super) fn probe() -> anyhow::Result<()> {
    Holder::start(&Plan::bare("probe")).map(drop)
}

/// The way into a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// Pid 1 inside.
    pub(super) pid: u32,
    /// Control group to enter.
    pub(super) cgroup: Option<&'a Path>,
    /// File that gets the pid of the command.
    pub(super) pid_file: Option<&'a Path>,
    /// Seconds that the machine seems to have been up for longer.
    pub(super) boot_offset_s: i64,
}

/// A command that enters a server and then runs what is added to it as arguments.
pub(super) fn enter(way: &Way<'_>) -> anyhow::Result<Command> {
    let mut command = Command::new(files::program("testbed")?);
    command.arg("__enter").arg("--pid").arg(way.pid.to_string());
    if let Some(group) = way.cgroup {
        command.arg("--cgroup").arg(group);
    }
    if let Some(pid_file) = way.pid_file {
        command.arg("--pid-file").arg(pid_file);
    }
    if way.boot_offset_s != 0 {
        let seconds = way.boot_offset_s.to_string();
        command.arg("--boot-offset-s").arg(seconds);
    }
    command.arg("--");
    Ok(command)
}

/// `testbed __hold`: outside half of a holder.
///
/// # Errors
/// The kernel refused a namespace or a mount.
pub fn hold(plan: &str) -> anyhow::Result<ExitCode> {
    let plan: Plan = serde_json::from_str(plan)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if let Some(group) = &plan.cgroup {
        std::fs::write(group.join("cgroup.procs"), "0").context("enter cgroup")?;
    }
    namespaces::unshare_all()?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .context("make mounts private")?;
    if let Some(group) = &plan.cgroup {
        // A fresh mount is refused (same file system, same place); showing a part of it is not.
        rustix::mount::mount_bind(group, cgroup::mount_point()?).context("show the cgroup")?;
    }
    if let Some((source, target)) = &plan.bind {
        rustix::mount::mount_bind(source, target).context("show the data directory")?;
    }
    std::fs::write("/proc/sys/kernel/hostname", &plan.name).context("set host name")?;
    let mut init = Command::new(std::env::current_exe()?)
        .arg("__init")
        .spawn()
        .context("start pid 1")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", init.id())?;
    stdout.flush()?;
    // Pid 1 holds the output now: its end is the end of the server.
    init.wait()?;
    Ok(ExitCode::SUCCESS)
}

/// `testbed __init`: pid 1 of a server. Reaps orphans until its standard input ends.
///
/// # Errors
/// The kernel refused a mount.
pub fn init() -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    mount_own("proc", "/proc")?;
    // Shared memory of a dead server must not outlive it.
    mount_own("tmpfs", "/dev/shm")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let stdin = std::io::stdin();
    let interval = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    loop {
        let mut watched = [PollFd::new(&stdin, PollFlags::IN | PollFlags::HUP)];
        match rustix::event::poll(&mut watched, Some(&interval)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return Ok(ExitCode::SUCCESS),
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

fn mount_own(kind: &str, target: &str) -> anyhow::Result<()> {
    rustix::mount::mount(kind, target, kind, MountFlags::empty(), None)
        .with_context(|| format!("mount {target}"))
}

/// How `testbed __enter` is called.
#[derive(Debug, clap::Args)]
pub struct Entering {
    /// Pid 1 of the server
    #[arg(long)]
    pid: u32,
    /// Its control group
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// File that gets the pid of the command
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Seconds that the machine seems to have been up for longer
    #[arg(long, default_value_t = 0)]
    boot_offset_s: i64,
    /// What to run
    #[arg(last = true)]
    command: Vec<String>,
}

impl Entering {
    /// A command in a server as it is.
    pub(super) fn plain(pid: u32, cgroup: Option<PathBuf>, command: Vec<String>) -> Entering {
        Entering {
            pid,
            cgroup,
            pid_file: None,
            boot_offset_s: 0,
            command,
        }
    }
}

/// `testbed __enter`: runs a command inside a server.
///
/// # Errors
/// The server has no power, or the command cannot be started.
pub fn enter_and_run(entering: &Entering) -> anyhow::Result<ExitCode> {
    let (program, arguments) = entering.command.split_first().context("no command given")?;
    if let Some(group) = &entering.cgroup {
        std::fs::write(group.join("cgroup.procs"), "0").context("enter cgroup")?;
    }
    // Opened before the file system changes under us.
    let pid_file = entering
        .pid_file
        .as_ref()
        .map(std::fs::File::create)
        .transpose()?;
    if entering.boot_offset_s != 0 {
        namespaces::shift_boot_time(entering.boot_offset_s)?;
    }
    namespaces::join_all(entering.pid)?;
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut file) = pid_file {
        write!(file, "{}", child.id())?;
    }
    let status = child.wait()?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        None => ExitCode::from(137),
    })
}
