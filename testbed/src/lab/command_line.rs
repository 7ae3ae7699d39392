//! `testbed lab ...`: a cluster to play with.

use super::{Lab, Topology, cgroup, clean, files, holder};
use crate::cluster::Cluster;
use crate::wait;
use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use rustix::process::Signal;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// A detached lab is up within this time.
const UP_DEADLINE: Duration = Duration::from_secs(120);
/// A lab is down within this time.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);

/// What can be done with labs.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a cluster in namespaces and stay until Ctrl-C (or leave it in the background)
    Up {
        /// mirror (two servers and a witness) or pair
        topology: String,
        /// Namespaces, LANs and directories only: no daemon is started
        #[arg(long)]
        bare: bool,
        /// Leave it running in the background
        #[arg(long)]
        detach: bool,
    },
    /// End a lab
    Down {
        /// Name of the lab; may be left out when there is only one
        lab: Option<String>,
    },
    /// Run a command inside a server, `client` or `switch`
    Exec {
        /// Name of the lab; may be left out when there is only one
        #[arg(long)]
        lab: Option<String>,
        /// s1, s2, w, client or switch
        place: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// List the labs of this machine
    List,
    /// Remove what dead labs left behind
    Clean,
}

/// Runs `testbed lab ...`.
///
/// # Errors
/// As each command says.
pub fn run(command: LabCommand) -> anyhow::Result<ExitCode> {
    match command {
        LabCommand::Up {
            topology,
            bare,
            detach: true,
        } => up_detached(&topology, bare),
        LabCommand::Up {
            topology,
            bare,
            detach: false,
        } => up(&topology, bare),
        LabCommand::Down { lab } => down(lab.as_deref()),
        LabCommand::Exec {
            lab,
            place,
            command,
        } => exec(lab.as_deref(), &place, &command),
        LabCommand::List => list(),
        LabCommand::Clean => {
            let mut out = std::io::stdout();
            for name in clean::remove_dead_labs()? {
                writeln!(out, "removed {name}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn topology(name: &str) -> anyhow::Result<Topology> {
    Topology::named(name).with_context(|| {
        format!(
            "no topology {name}: the topologies are {}",
            Topology::NAMES.join(", ")
        )
    })
}

fn up(name: &str, bare: bool) -> anyhow::Result<ExitCode> {
    let mut lab = Lab::up(topology(name)?)?;
    if !bare {
        let cluster = Cluster::form(lab)?;
        lab = cluster.into_lab();
    }
    let mut out = std::io::stdout();
    write!(out, "{}", how_to_talk(&lab)?)?;
    // The detached caller waits for this file.
    std::fs::write(lab.site().directory().join("ready"), "")?;
    wait_for_end()?;
    drop(lab);
    Ok(ExitCode::SUCCESS)
}

/// Text for people: how to reach a lab.
///
/// # Errors
/// Our own program cannot be found.
pub fn how_to_talk(lab: &Lab) -> anyhow::Result<String> {
    let testbed = files::program("testbed")?;
    let testbed = testbed.display();
    let id = lab.site().id();
    let server = lab.servers().first().context("a lab without servers")?;
    let skcli =
        files::program("skcli").map_or_else(|_| "skcli".to_owned(), |p| p.display().to_string());
    Ok(format!(
        "lab {id} is up in {directory}\n\
         \x20 {skcli} --root {root} cluster state\n\
         \x20 {testbed} lab exec --lab {id} {name} -- ip addr\n\
         \x20 {testbed} lab down {id}\n",
        directory = lab.site().directory().display(),
        root = server.root().display(),
        name = server.name(),
    ))
}

/// Blocks until SIGINT or SIGTERM.
///
/// # Errors
/// The signals cannot be watched.
pub fn wait_for_end() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn up_detached(topology_name: &str, bare: bool) -> anyhow::Result<ExitCode> {
    topology(topology_name)?;
    std::fs::create_dir_all(files::base())?;
    let log_path = files::base().join("detached.log");
    let log = std::fs::File::create(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "up", topology_name]);
    if bare {
        command.arg("--bare");
    }
    // A session of its own: a closed terminal must not end the lab.
    let mut command = in_own_session(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let id = format!("{}-0", child.id());
    let ready = files::base().join(&id).join("ready");
    let came_up = wait::until("start of the lab", UP_DEADLINE, || {
        if ready.exists() {
            return Ok(true);
        }
        match child.try_wait() {
            Ok(None) => Err("still starting".to_owned()),
            Ok(Some(_)) | Err(_) => Ok(false),
        }
    })?;
    let said = std::fs::read_to_string(&log_path)?;
    ensure!(came_up, "the lab did not start: {}", said.trim());
    write!(std::io::stdout(), "{said}")?;
    Ok(ExitCode::SUCCESS)
}

fn in_own_session(command: Command) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = command;
    // A process group of its own keeps Ctrl-C of the caller's terminal away.
    command.process_group(0);
    command
}

struct Found {
    name: String,
    directory: PathBuf,
}

fn find(name: Option<&str>) -> anyhow::Result<Found> {
    let alive: Vec<Found> = files::all()?
        .into_iter()
        .filter(|(lab, is_alive, _)| *is_alive && name.is_none_or(|wanted| wanted == lab))
        .map(|(name, _, directory)| Found { name, directory })
        .collect();
    match (<[Found; 1]>::try_from(alive), name) {
        (Ok([only]), _) => Ok(only),
        (Err(found), Some(name)) if found.is_empty() => {
            bail!("no lab {name}: see testbed lab list")
        }
        (Err(found), _) if found.is_empty() => bail!("no lab is up: testbed lab up mirror"),
        (Err(_), _) => bail!("several labs are up: name one, see testbed lab list"),
    }
}

fn down(name: Option<&str>) -> anyhow::Result<ExitCode> {
    let found = find(name)?;
    let description = files::description(&found.directory)?;
    holder::kill(description.owner, Signal::TERM)?;
    wait::until("end of the lab", DOWN_DEADLINE, || {
        if found.directory.exists() {
            Err(format!("{} still exists", found.directory.display()))
        } else {
            Ok(())
        }
    })?;
    writeln!(std::io::stdout(), "lab {} is down", found.name)?;
    Ok(ExitCode::SUCCESS)
}

fn exec(name: Option<&str>, place: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let found = find(name)?;
    let description = files::description(&found.directory)?;
    let (_, pid) = description
        .pids
        .iter()
        .find(|(known, _)| known == place)
        .with_context(|| {
            let known: Vec<&str> = description.pids.iter().map(|(n, _)| n.as_str()).collect();
            format!(
                "no {place} with power in this lab: there are {}",
                known.join(", ")
            )
        })?;
    let group = cgroup::mount_point()?
        .join("sidekick-lab")
        .join(&found.name)
        .join(place);
    let group = group.is_dir().then_some(group);
    holder::enter_and_run(&holder::Entering::plain(*pid, group, command.to_vec()))
}

fn list() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    for (name, is_alive, directory) in files::all()? {
        let what = match (is_alive, files::description(&directory)) {
            (false, _) => "dead: testbed lab clean".to_owned(),
            (true, Err(_)) => "starting".to_owned(),
            (true, Ok(description)) => {
                let places: Vec<String> = description
                    .pids
                    .iter()
                    .map(|(place, pid)| format!("{place} (pid {pid})"))
                    .collect();
                format!("{}: {}", description.topology, places.join(", "))
            }
        };
        writeln!(out, "{name}  {what}")?;
    }
    Ok(ExitCode::SUCCESS)
}
