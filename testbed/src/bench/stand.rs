//! Where benches are measured: a mirrored cluster, a pass-through and a plain directory on one disk, in one server.

use super::load::Measurement;
use crate::cluster::Cluster;
use crate::cluster::package::Acknowledgement;
use crate::lab::{Lab, Topology};
use crate::wait;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// One measurement ends within this time, whatever was asked for.
const LOAD_DEADLINE: Duration = Duration::from_secs(180);
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Clock ticks of the kernel's CPU accounting.
const TICKS_PER_S: f64 = 100.0;

/// A place that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Plain,
    PassThrough,
    Mirror,
}

impl Target {
    pub(super) const ALL: [Target; 3] = [Target::Plain, Target::PassThrough, Target::Mirror];
}

/// A message that goes to the other server and is answered, over bare TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trip {
    /// 4 KiB there and 4 KiB back.
    Small,
    /// 128 KiB there, and what an acknowledgement weighs back.
    Large,
}

impl Trip {
    fn address(self) -> &'static str {
        match self {
            Trip::Small => "10.77.1.2:7777",
            Trip::Large => "10.77.1.2:7778",
        }
    }

    fn sizes(self) -> &'static [&'static str] {
        match self {
            Trip::Small => &["--size", "4096"],
            Trip::Large => &["--size", "131072", "--answer", "64"],
        }
    }
}

pub(super) struct Stand {
    // Children before the lab: they end first.
    children: Vec<Child>,
    cluster: Cluster,
    testbed: String,
}

impl Stand {
    pub(super) fn new(acknowledgement: Acknowledgement) -> anyhow::Result<Stand> {
        let mut cluster = Cluster::form(Lab::up(Topology::mirror())?)?;
        cluster.set_acknowledgement(acknowledgement);
        cluster.install_bare("s1")?;
        let mut stand = Stand {
            children: Vec::new(),
            cluster,
            testbed: crate::lab::program("testbed")?.display().to_string(),
        };
        let data = stand.cluster.lab().data_below("s1");
        for name in ["plain", "below", "pass"] {
            fs::create_dir_all(data.join(name))?;
        }
        let path = |name: &str| {
            stand
                .cluster
                .lab()
                .data_path()
                .join(name)
                .display()
                .to_string()
        };
        let (below, pass) = (path("below"), path("pass"));
        stand.start(
            "s1",
            &["__pass-through", "--source", &below, "--mount", &pass],
        )?;
        for trip in [Trip::Small, Trip::Large] {
            let server = ["__load", "ping-server", "--listen", trip.address()];
            stand.start("s2", &[&server, trip.sizes()].concat())?;
        }
        stand.wait_mounted(&pass)?;
        Ok(stand)
    }

    fn start(&mut self, place: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = vec![self.testbed.as_str()];
        command.extend(arguments);
        let child = self
            .cluster
            .lab()
            .command(place, &command)?
            .stdin(Stdio::null())
            .spawn()?;
        self.children.push(child);
        Ok(())
    }

    fn wait_mounted(&self, path: &str) -> anyhow::Result<()> {
        let init = self
            .cluster
            .lab()
            .server("s1")?
            .init_pid()
            .context("s1 has no power")?;
        wait::until("the pass-through", READY_DEADLINE, || {
            let mounts =
                fs::read_to_string(format!("/proc/{init}/mounts")).map_err(|e| e.to_string())?;
            let is_mounted = mounts
                .lines()
                .any(|l| l.split(' ').nth(1) == Some(path) && l.contains("fuse"));
            if is_mounted { Ok(()) } else { Err(mounts) }
        })?;
        Ok(())
    }

    fn directory(&self, target: Target) -> PathBuf {
        let data = self.cluster.lab().data_path();
        match target {
            Target::Plain => data.join("plain"),
            Target::PassThrough => data.join("pass"),
            Target::Mirror => crate::cluster::package::replicated_directory(self.cluster.lab()),
        }
    }

    /// Runs one load on one target.
    pub(super) fn load(
        &self,
        target: Target,
        arguments: &[&str],
        seconds: &str,
    ) -> anyhow::Result<Measurement> {
        let directory = self.directory(target).display().to_string();
        let mut command = vec![self.testbed.as_str(), "__load"];
        command.extend(arguments);
        command.extend(["--dir", &directory, "--seconds", seconds]);
        let before = self.mirrored_epoch(target)?;
        let measured = self
            .measure(&command)
            .with_context(|| format!("{target:?}"))?;
        let after = self.mirrored_epoch(target)?;
        ensure!(
            before == after,
            "the copies were not in sync all the time: epoch {before:?} became {after:?}; the figure would be a lie"
        );
        Ok(measured)
    }

    /// The epoch of a mirror whose copies are both in sync. A primary alone is faster, and not what is measured.
    fn mirrored_epoch(&self, target: Target) -> anyhow::Result<Option<u64>> {
        if target != Target::Mirror {
            return Ok(None);
        }
        let state = self.cluster.module_state("s1")?;
        ensure!(
            state.in_sync.len() == 2,
            "the mirror is not one: only {} is in sync",
            state.in_sync.join(", ")
        );
        Ok(Some(state.epoch))
    }

    /// The round trip between the two servers.
    pub(super) fn ping(&self, trip: Trip, seconds: &str) -> anyhow::Result<Measurement> {
        let mut command = vec![self.testbed.as_str(), "__load", "ping"];
        command.extend(["--to", trip.address(), "--seconds", seconds]);
        command.extend(trip.sizes());
        Ok(wait::until("the ping", READY_DEADLINE, || {
            self.measure(&command).map_err(|e| format!("{e:#}"))
        })?)
    }

    fn measure(&self, command: &[&str]) -> anyhow::Result<Measurement> {
        let done = self.cluster.lab().exec("s1", command, LOAD_DEADLINE)?;
        ensure!(
            done.is_success(),
            "{}: {}",
            command.join(" "),
            done.summary()
        );
        serde_json::from_str(done.stdout.trim()).with_context(|| format!("it said {}", done.stdout))
    }

    /// CPU seconds of both mirror daemons since their start.
    pub(super) fn daemon_cpu_s(&self) -> f64 {
        self.daemons().map(|(_, pid)| cpu_s(pid)).sum()
    }

    /// Resident memory of each daemon, in MiB.
    pub(super) fn daemon_memory_mib(&self) -> Vec<(String, f64)> {
        let all = self.cluster.lab().servers().iter();
        all.filter_map(|server| {
            let kib = crate::oracle::leaks::resident_kib(server.daemon_pid()?);
            Some((server.name().to_owned(), kib as f64 / 1024.0))
        })
        .collect()
    }

    fn daemons(&self) -> impl Iterator<Item = (String, u32)> {
        let names = self.cluster.server_names();
        names.into_iter().filter_map(|name| {
            let pid = self.cluster.lab().server(&name).ok()?.daemon_pid()?;
            Some((name, pid))
        })
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for child in &mut self.children {
            // The process that entered the server; what it started dies with the lab.
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

/// User and system time of a process, in seconds.
fn cpu_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything; what follows its closing bracket may not.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / TICKS_PER_S
}
