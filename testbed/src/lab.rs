//! A laboratory: servers as namespaces on one machine, two LANs between them, a client, and faults.
//!
//! * A **server** is one holder process, pid 1 of its own pid, mount, network, IPC, UTS and cgroup namespaces. Killing it is a
//!   power cut: the kernel kills everything inside at once, and the links are down before that, so that no dying process can say
//!   goodbye (no FIN, no RST). What a real power cut also does and this one does not: **the page cache survives**. Data that was
//!   written and never synced is still there after the return; `store`'s and fs-mirror's own power-loss tests cover that part.
//! * The **switch** is a namespace with one bridge per LAN. All interfaces are born inside it, so the machine's own network never
//!   sees any of them and labs side by side cannot clash.
//! * Every holder ends when the process that made the lab ends, even by SIGKILL: they read a pipe that only it holds. What can
//!   then be left are directories and empty cgroups, and `testbed lab clean` removes those of dead labs.

pub mod cgroup;
pub mod clean;
mod clocks;
pub mod command_line;
mod files;
pub mod holder;
pub mod namespaces;
mod network;
mod server;
mod shim;
mod threads;
pub mod topology;

pub use clocks::WallClock;
pub use files::Site;
pub use network::{Direction, LANS};
pub use server::{Daemon, Server};
pub use topology::{Node, NodeKind, Topology};

use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use holder::{Holder, Plan};
use network::Network;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A stop signal is obeyed within this time.
const FREEZE_DEADLINE: Duration = Duration::from_secs(1);

/// How the threads that run a daemon's tasks are called.
const TASK_THREADS: &str = "tokio";

/// Name of the client's namespace, beside the servers' names.
pub const CLIENT: &str = "client";
/// Name of the switch's namespace.
pub const SWITCH: &str = "switch";

/// When a fault began, in nanoseconds of boot time.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Before our tools began: what it led to came later, however long they took.
    pub asked_ns: u64,
    /// When it was complete: from here on a figure counts.
    pub done_ns: u64,
}

impl From<u64> for Cut {
    /// A fault that takes no time.
    fn from(at_ns: u64) -> Cut {
        Cut {
            asked_ns: at_ns,
            done_ns: at_ns,
        }
    }
}

/// A running laboratory. Dropping it ends everything in it and removes its directories.
pub struct Lab {
    topology: Topology,
    servers: Vec<Server>,
    network: Network,
    client: Holder,
    switch: Holder,
    // The last to go: its directories and cgroups are in use until everything above has ended.
    site: Site,
}

impl Lab {
    /// Makes the namespaces, the LANs and the directories. No daemon is started.
    ///
    /// # Errors
    /// Not root, or the kernel refuses a namespace, a bridge or a mount.
    pub fn up(topology: Topology) -> anyhow::Result<Lab> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a lab needs root: run it with sudo"
        );
        clean::remove_dead_labs()?;
        let site = Site::create().context("make the lab's directory")?;
        let switch = Holder::start(&Plan::bare(SWITCH))?;
        let client = Holder::start(&Plan::bare(CLIENT))?;
        let network = Network::create(&switch)?;
        network.connect(CLIENT, topology::CLIENT_HOST, client.pid(), &[1])?;
        let mut lab = Lab {
            site,
            topology,
            switch,
            client,
            network,
            servers: Vec::new(),
        };
        for node in lab.topology.nodes.clone() {
            let mut server = Server::new(&lab.site, node)?;
            server.power_on(&lab.network)?;
            lab.servers.push(server);
        }
        lab.describe()?;
        Ok(lab)
    }

    /// What is needed to enter the lab from another process (`testbed lab exec`).
    fn describe(&self) -> anyhow::Result<()> {
        let mut pids = vec![
            (SWITCH.to_owned(), self.switch.pid()),
            (CLIENT.to_owned(), self.client.pid()),
        ];
        pids.extend(
            self.servers
                .iter()
                .filter_map(|s| Some((s.name().to_owned(), s.init_pid()?))),
        );
        self.site.write_description(&self.topology.name, &pids)
    }

    /// The lab's directories.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The shape of the lab.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// All servers, witness included.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Leaves directories and logs behind when the lab ends.
    pub fn keep_files(&mut self) {
        self.site.keep();
    }

    /// A server by its name.
    ///
    /// # Errors
    /// No such server in this lab.
    pub fn server(&self, name: &str) -> anyhow::Result<&Server> {
        self.servers
            .iter()
            .find(|s| s.name() == name)
            .with_context(|| format!("no server {name} in this lab"))
    }

    fn server_mut(&mut self, name: &str) -> anyhow::Result<&mut Server> {
        self.servers
            .iter_mut()
            .find(|s| s.name() == name)
            .with_context(|| format!("no server {name} in this lab"))
    }

    /// Network namespace of the client, for threads that speak as the client.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn client_network(&self) -> anyhow::Result<namespaces::NetworkHandle> {
        namespaces::NetworkHandle::of(self.client.pid())
    }

    /// Network namespace of the switch, where every frame passes.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn switch_network(&self) -> anyhow::Result<namespaces::NetworkHandle> {
        namespaces::NetworkHandle::of(self.switch.pid())
    }

    /// Pid of the client's holder.
    pub fn client_pid(&self) -> u32 {
        self.client.pid()
    }

    /// The power fails: links down, then everything inside dies at once.
    ///
    /// # Errors
    /// The server had no power, or the kernel refused.
    pub fn power_cut(&mut self, name: &str) -> anyhow::Result<Cut> {
        let cut = self.unplug(&[name])?;
        self.server_mut(name)?.power_off()?;
        self.network.forget(name)?;
        self.describe()?;
        Ok(cut)
    }

    /// The power of several servers fails in the same instant.
    ///
    /// # Errors
    /// As for `power_cut`.
    pub fn power_cut_all(&mut self, names: &[&str]) -> anyhow::Result<Cut> {
        let cut = self.unplug(names)?;
        for name in names {
            self.server_mut(name)?.kill_init()?;
        }
        for name in names {
            self.server_mut(name)?.power_off()?;
            self.network.forget(name)?;
        }
        self.describe()?;
        Ok(cut)
    }

    fn unplug(&self, names: &[&str]) -> anyhow::Result<Cut> {
        let asked_ns = wait::boot_ns();
        self.network.unplug(names)?;
        let done_ns = wait::boot_ns();
        Ok(Cut { asked_ns, done_ns })
    }

    /// The power is back: new namespaces over the same directories. The daemon is not started.
    ///
    /// # Errors
    /// The server has power already, or the kernel refused.
    pub fn power_on(&mut self, name: &str) -> anyhow::Result<()> {
        let network = self.network.clone();
        self.server_mut(name)?.power_on(&network)?;
        self.describe()
    }

    /// Starts the daemon of a server that has power.
    ///
    /// # Errors
    /// `sknode` is missing, or the server has no power.
    pub fn start_daemon(&mut self, name: &str) -> anyhow::Result<()> {
        let program = files::program("sknode")?;
        self.server_mut(name)?.start_daemon(&program)
    }

    /// From its next start on, the daemon of each server sees a wall clock of its own, and so does all it starts.
    ///
    /// # Errors
    /// There is no C compiler.
    pub fn own_wall_clocks(&mut self) -> anyhow::Result<()> {
        let library = shim::compile(shim::CLOCK, self.site.directory())?;
        for server in &mut self.servers {
            clocks::set(server.clock(), WallClock::default())?;
            server.preload(&library);
        }
        Ok(())
    }

    /// Moves the wall clock of a server that has its own.
    ///
    /// # Errors
    /// No such server, or the plan cannot be written.
    pub fn set_wall_clock(&self, name: &str, clock: WallClock) -> anyhow::Result<()> {
        clocks::set(self.server(name)?.clock(), clock)
    }

    /// From its next start on, the daemon of a server can be kept from removing addresses, see `keep_addresses`.
    ///
    /// # Errors
    /// There is no C compiler.
    pub fn may_keep_addresses(&mut self, name: &str) -> anyhow::Result<()> {
        let library = shim::compile(shim::ADDRESSES, self.site.directory())?;
        self.server_mut(name)?.preload(&library);
        Ok(())
    }

    /// Every removal of an address by the daemon of this server fails from now on, or not any more.
    ///
    /// # Errors
    /// No such server.
    pub fn keep_addresses(&self, name: &str, keeps: bool) -> anyhow::Result<()> {
        let switch = self.server(name)?.addresses_stay();
        if keeps {
            std::fs::write(&switch, "")?;
        } else if switch.exists() {
            std::fs::remove_file(&switch)?;
        }
        Ok(())
    }

    /// From its next start on, the daemon of a server sees a machine that has been up for so many seconds longer.
    ///
    /// # Errors
    /// No such server.
    pub fn set_boot_offset(&mut self, name: &str, seconds: i64) -> anyhow::Result<()> {
        self.server_mut(name)?.set_boot_offset(seconds);
        Ok(())
    }

    /// SIGKILL to the daemon alone; the application stays.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill_daemon(&mut self, name: &str) -> anyhow::Result<u64> {
        let cut = wait::boot_ns();
        self.server_mut(name)?.kill_daemon()?;
        Ok(cut)
    }

    /// SIGSTOP to the daemon alone.
    ///
    /// # Errors
    /// It is not running.
    pub fn freeze_daemon(&self, name: &str) -> anyhow::Result<u64> {
        let cut = wait::boot_ns();
        self.server(name)?
            .signal_daemon(rustix::process::Signal::STOP)?;
        Ok(cut)
    }

    /// Stops the tasks of the daemon alone: the other threads, those that wait for nobody, run on. Until it ends. Returns boot time.
    ///
    /// # Errors
    /// It is not running, or the kernel refuses.
    pub fn freeze_tasks(&self, name: &str) -> anyhow::Result<u64> {
        let server = self.server(name)?;
        let pid = server
            .daemon_pid()
            .with_context(|| format!("the daemon of {name} does not run"))?;
        let at = wait::boot_ns();
        threads::freeze(server.cgroup(), pid, TASK_THREADS)?;
        Ok(at)
    }

    /// The daemon is stopped by a signal, as the kernel says.
    ///
    /// # Errors
    /// It runs, or is gone.
    pub fn verify_frozen(&self, name: &str) -> anyhow::Result<()> {
        let pid = self
            .server(name)?
            .daemon_pid()
            .with_context(|| format!("the daemon of {name} does not run"))?;
        wait::until("a stopped daemon", FREEZE_DEADLINE, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            let stat = stat.map_err(|e| e.to_string())?;
            // The state follows the name, which is in parentheses and may contain anything.
            match stat.rsplit_once(") ") {
                Some((_, rest)) if rest.starts_with('T') => Ok(()),
                Some(_) | None => Err(stat),
            }
        })?;
        Ok(())
    }

    /// SIGCONT to the daemon.
    ///
    /// # Errors
    /// It is not running.
    pub fn continue_daemon(&self, name: &str) -> anyhow::Result<()> {
        self.server(name)?
            .signal_daemon(rustix::process::Signal::CONT)
    }

    /// SIGTERM to the daemon; returns when it has ended.
    ///
    /// # Errors
    /// It was not running, or does not end within `deadline`.
    pub fn terminate_daemon(&mut self, name: &str, deadline: Duration) -> anyhow::Result<u64> {
        let asked = wait::boot_ns();
        self.server_mut(name)?.terminate_daemon(deadline)?;
        Ok(asked)
    }

    /// Frames from one node to another are lost on one LAN; the link stays up and nobody is told.
    ///
    /// # Errors
    /// The filter of the switch refused.
    pub fn cut(&self, direction: Direction<'_>, lan: usize) -> anyhow::Result<()> {
        self.network.cut(&[(direction, lan)])
    }

    /// Several directions on several LANs, in the same instant. Returns boot time of the cut.
    ///
    /// # Errors
    /// The filter of the switch refused.
    pub fn cut_all(&self, directions: &[Direction<'_>], lans: &[usize]) -> anyhow::Result<u64> {
        let mut cuts = Vec::new();
        for direction in directions {
            cuts.extend(lans.iter().map(|lan| (*direction, *lan)));
        }
        let at = wait::boot_ns();
        self.network.cut(&cuts)?;
        Ok(at)
    }

    /// All frames of a node are lost, both ways, on all LANs, at once. Returns boot time of the cut.
    ///
    /// # Errors
    /// The filter of the switch refused.
    pub fn isolate(&self, name: &str) -> anyhow::Result<u64> {
        let others = self.names().into_iter().filter(|other| *other != name);
        let both_ways = others.flat_map(|other| {
            [
                Direction {
                    from: name,
                    to: other,
                },
                Direction {
                    from: other,
                    to: name,
                },
            ]
        });
        self.cut_all(&both_ways.collect::<Vec<_>>(), &LANS)
    }

    /// Undoes every cut.
    ///
    /// # Errors
    /// The filter of the switch refused.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.network.heal()
    }

    /// Undoes every cut, and every server has power and a daemon that is not frozen.
    ///
    /// # Errors
    /// A server or a daemon does not start.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        self.heal()?;
        let names: Vec<String> = self.servers.iter().map(|s| s.name().to_owned()).collect();
        for name in &names {
            if self.server(name)?.init_pid().is_none() {
                self.power_on(name)?;
            }
            let server = self.server_mut(name)?;
            if server.daemon_pid().is_none() || server.daemon_has_ended() {
                self.start_daemon(name)?;
            } else {
                self.continue_daemon(name)?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<&str> {
        let mut names = vec![CLIENT];
        names.extend(self.servers.iter().map(Server::name));
        names
    }

    /// Runs a command inside a server (or the client, or the switch) with a deadline.
    ///
    /// # Errors
    /// No such place, or the command cannot be started.
    pub fn exec(
        &self,
        place: &str,
        command: &[&str],
        deadline: Duration,
    ) -> anyhow::Result<Finished> {
        Ok(wait::run(&mut self.command(place, command)?, deadline)?)
    }

    /// The same as `exec`, not started yet.
    ///
    /// # Errors
    /// No such place, or it has no power.
    pub fn command(&self, place: &str, command: &[&str]) -> anyhow::Result<Command> {
        let pid = match place {
            CLIENT => self.client.pid(),
            SWITCH => self.switch.pid(),
            name => self
                .server(name)?
                .init_pid()
                .with_context(|| format!("{name} has no power"))?,
        };
        let mut entered = holder::enter(&holder::Way {
            pid,
            cgroup: self.server(place).ok().map(Server::cgroup),
            pid_file: None,
            boot_offset_s: 0,
        })?;
        entered.args(command);
        Ok(entered)
    }

    /// The directory that is replicated: the same path in every server, another place on the disk for each.
    pub fn data_path(&self) -> PathBuf {
        self.site.data_mount()
    }

    /// Where a server's data directory really is, as seen from outside the lab (below every mount).
    pub fn data_below(&self, name: &str) -> PathBuf {
        self.site.server_data(name)
    }

    /// Root directory (`--root`) of a server.
    pub fn root(&self, name: &str) -> PathBuf {
        self.site.server_root(name)
    }
}

/// The program of ours with this name: beside the running one, or in `SIDEKICK_BIN_DIR`.
///
/// # Errors
/// It is not there; the text says where it was expected.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    files::program(name)
}

/// Why labs cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for tool in ["ip", "nft"] {
        if files::tool(tool).is_none() {
            return Some(format!("the program {tool} is missing"));
        }
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Some("this kernel has no network namespaces".to_owned());
    }
    holder::probe()
        .err()
        .map(|e| format!("no namespaces: {e:#}"))
}
