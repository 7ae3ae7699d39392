//! A Sidekick cluster in a lab: formed with the real command line, observed through the real API.

pub mod observe;
pub mod package;
pub mod profile;
pub mod skcli;

use crate::lab::{Lab, Node, NodeKind};
use crate::oracle::Application;
use crate::wait;
use anyhow::Context as _;
use api::v1::{self, ModuleState, Quality};
use observe::Observer;
use package::Acknowledgement;
use profile::Profile;
use skcli::Skcli;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the module under test.
pub const MODULE: &str = "app";
/// A daemon answers on its socket within this time after its start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A member is a voter within this time after it joined.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// A first start of an application, with its initialisation.
pub const FIRST_START_DEADLINE: Duration = Duration::from_secs(90);

/// Why clusters cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    if let Some(why) = crate::lab::missing() {
        return Some(why);
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("this machine has no /dev/fuse: modprobe fuse".to_owned());
    }
    ["sknode", "skcli"].into_iter().find_map(|name| {
        crate::lab::program(name)
            .err()
            .map(|error| format!("{error:#}"))
    })
}

/// A formed cluster.
pub struct Cluster {
    lab: Lab,
    observer: Observer,
    used_tokens: Vec<String>,
    acknowledgement: Acknowledgement,
}

impl Cluster {
    /// Starts all daemons; the first server makes the cluster, the others join it in their order.
    ///
    /// # Errors
    /// Any step of it failed.
    pub fn form(lab: Lab) -> anyhow::Result<Cluster> {
        Cluster::form_with(lab, Profile::default())
    }

    /// As `form`, with another lease.
    ///
    /// # Errors
    /// As `form`.
    pub fn form_with(mut lab: Lab, profile: Profile) -> anyhow::Result<Cluster> {
        let nodes = lab.topology().nodes.clone();
        for node in &nodes {
            lab.start_daemon(&node.name)?;
        }
        let mut cluster = Cluster {
            lab,
            observer: Observer::new()?,
            used_tokens: Vec::new(),
            acknowledgement: Acknowledgement::default(),
        };
        for node in &nodes {
            cluster.wait_answers(&node.name)?;
        }
        let (first, others) = nodes.split_first().context("a topology without servers")?;
        cluster.init(first, profile)?;
        for node in others {
            let token = cluster.join(first, node)?;
            cluster.used_tokens.push(token);
        }
        let wanted: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
        cluster.wait_members(first, &wanted)?;
        Ok(cluster)
    }

    fn init(&self, first: &Node, profile: Profile) -> anyhow::Result<()> {
        let addresses = addresses(first);
        let mut arguments = vec!["cluster", "init", "lab", "--server", &first.name];
        arguments.extend(["--profile", profile.name()]);
        for address in &addresses {
            arguments.extend(["--address", address]);
        }
        self.skcli(&first.name)?.json(&arguments)?;
        Ok(())
    }

    /// Answers the token that was used.
    fn join(&self, first: &Node, node: &Node) -> anyhow::Result<String> {
        let mut ask = vec!["cluster", "token"];
        if node.kind == NodeKind::Witness {
            ask.push("--witness");
        }
        let token = self.skcli(&first.name)?.json(&ask)?;
        let token = token["token"].as_str().context("no token in the answer")?;
        let contact = first.address(1).to_string();
        let addresses = addresses(node);
        let mut arguments = vec!["cluster", "join", &contact, token, "--server", &node.name];
        for address in &addresses {
            arguments.extend(["--address", address]);
        }
        self.skcli(&node.name)?.json(&arguments)?;
        Ok(token.to_owned())
    }

    /// The token with which the last member joined.
    ///
    /// # Errors
    /// Nobody joined.
    pub fn used_token(&self) -> anyhow::Result<&str> {
        self.used_tokens
            .last()
            .map(String::as_str)
            .context("nobody joined")
    }

    /// All members are known, and as many of them vote as there are voters in a cluster of this size.
    fn wait_members(&self, first: &Node, wanted: &[&str]) -> anyhow::Result<()> {
        wait::until("all members in the cluster", JOIN_DEADLINE, || {
            let state = self
                .cluster_state(&first.name)
                .map_err(|e| format!("{e:#}"))?;
            let is_up = |name: &&str| state.members.iter().any(|m| m.name == *name && !m.is_down);
            let voting = state.members.iter().filter(|m| m.is_voter).count();
            if wanted.iter().all(is_up) && voting == voters_of(wanted.len()) {
                Ok(())
            } else {
                Err(format!("{:?}", state.members))
            }
        })?;
        Ok(())
    }

    /// When writes of the modules that are installed from now on are answered.
    pub fn set_acknowledgement(&mut self, given: Acknowledgement) {
        self.acknowledgement = given;
    }

    /// Installs an application and starts it: first copy on `primary`, then the other server as secondary.
    ///
    /// # Errors
    /// A command failed, or the module did not come to PRIM and SECOND.
    pub fn install(&self, application: Application, primary: &str) -> anyhow::Result<()> {
        let package = package::write(&self.lab, application)?;
        self.install_package(&package, primary)
    }

    /// Installs a module without application and without address, mirrored.
    ///
    /// # Errors
    /// As `install`.
    pub fn install_bare(&self, primary: &str) -> anyhow::Result<()> {
        let package = package::write_bare(&self.lab)?;
        self.install_package(&package, primary)
    }

    /// Installs a package that was written for this lab, mirrored.
    ///
    /// # Errors
    /// As `install`.
    pub fn install_package(&self, package: &Path, primary: &str) -> anyhow::Result<()> {
        package::set_acknowledgement(package, self.acknowledgement)?;
        let servers = self.server_names().join(",");
        let path = package.display().to_string();
        self.skcli(primary)?.json(&[
            "module",
            "install",
            &path,
            "-m",
            MODULE,
            "--servers",
            &servers,
        ])?;
        self.skcli(primary)?
            .json(&["module", "prim", "-m", MODULE])?;
        self.wait_state(
            primary,
            &[ModuleState::Alone, ModuleState::Prim],
            FIRST_START_DEADLINE,
        )?;
        let secondary = self.other(primary)?;
        self.skcli(&secondary)?
            .json(&["module", "second", "-m", MODULE])?;
        self.wait_mirrored(FIRST_START_DEADLINE)?;
        Ok(())
    }

    /// The lab below.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab below, for faults.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// Ends the cluster but not the lab.
    pub fn into_lab(self) -> Lab {
        self.lab
    }

    /// The command line on a server.
    ///
    /// # Errors
    /// `skcli` is not built.
    pub fn skcli(&self, server: &str) -> anyhow::Result<Skcli> {
        Skcli::new(&self.lab.root(server))
    }

    /// Names of the two servers that host the module: the first of the lab.
    pub fn server_names(&self) -> Vec<String> {
        let nodes = &self.lab.topology().nodes;
        nodes
            .iter()
            .filter(|node| node.kind == NodeKind::Server)
            .take(2)
            .map(|node| node.name.clone())
            .collect()
    }

    /// Root directories of the servers that host the module.
    pub fn server_roots(&self) -> Vec<PathBuf> {
        self.server_names()
            .iter()
            .map(|name| self.lab.root(name))
            .collect()
    }

    /// The other server of the mirror.
    ///
    /// # Errors
    /// There is none.
    pub fn other(&self, server: &str) -> anyhow::Result<String> {
        self.server_names()
            .into_iter()
            .find(|name| name != server)
            .context("a mirror needs two servers")
    }

    /// Waits until a daemon answers.
    ///
    /// # Errors
    /// It does not within its deadline.
    pub fn wait_answers(&self, server: &str) -> anyhow::Result<()> {
        let socket = observe::control_socket(&self.lab.root(server));
        wait::until(
            &format!("an answer from the daemon of {server}"),
            START_DEADLINE,
            || std::os::unix::net::UnixStream::connect(&socket).map_err(|e| e.to_string()),
        )?;
        Ok(())
    }

    /// State of the cluster as a server sees it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn cluster_state(&self, server: &str) -> anyhow::Result<v1::ClusterStateReply> {
        self.observer.cluster(&self.lab.root(server))
    }

    /// Name of the leader of Raft as a member sees it.
    ///
    /// # Errors
    /// It does not answer, or sees none.
    pub fn leader_as_seen_by(&self, member: &str) -> anyhow::Result<String> {
        let state = self.cluster_state(member)?;
        let leader = state.members.into_iter().find(|m| m.id == state.leader);
        leader
            .map(|leader| leader.name)
            .with_context(|| format!("{member} sees no leader"))
    }

    /// Name of the leader of Raft, when every member sees the same one.
    ///
    /// # Errors
    /// One of them does not answer, or they do not agree.
    pub fn leader(&self) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        for node in &self.lab.topology().nodes {
            seen.push(self.leader_as_seen_by(&node.name)?);
        }
        seen.dedup();
        match &seen[..] {
            [leader] => Ok(leader.clone()),
            several => anyhow::bail!("seen as leaders: {}", several.join(", ")),
        }
    }

    /// State of the module as a server sees it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn module_state(&self, server: &str) -> anyhow::Result<v1::ModuleStateReply> {
        self.observer.module(&self.lab.root(server), MODULE)
    }

    /// Every module as a server sees it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn modules(&self, server: &str) -> anyhow::Result<Vec<v1::ModuleStateReply>> {
        self.observer.modules(&self.lab.root(server))
    }

    /// All events, from the first server that answers.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn events(&self) -> anyhow::Result<Vec<v1::EventReply>> {
        let mut last = None;
        for name in self.server_names() {
            match self.observer.events(&self.lab.root(&name)) {
                Ok(events) => return Ok(events),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("a cluster without servers")?)
    }

    /// All events a server knows.
    ///
    /// # Errors
    /// It does not answer.
    pub fn events_of(&self, server: &str) -> anyhow::Result<Vec<v1::EventReply>> {
        self.observer.events(&self.lab.root(server))
    }

    /// What a server says of its own part of the module.
    ///
    /// # Errors
    /// It does not answer, or knows no such module.
    pub fn own_state(&self, server: &str) -> anyhow::Result<v1::ServerModuleReply> {
        let state = self.module_state(server)?;
        let own = observe::of_server(&state, server).cloned();
        own.with_context(|| format!("{server} does not know the module"))
    }

    /// Waits until a server reports one of these states of the module, ready.
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_state(
        &self,
        server: &str,
        wanted: &[ModuleState],
        deadline: Duration,
    ) -> anyhow::Result<v1::ModuleStateReply> {
        Ok(wait::until(
            &format!("{wanted:?} on {server}"),
            deadline,
            || {
                let state = self.module_state(server).map_err(|e| format!("{e:#}"))?;
                let own = observe::of_server(&state, server).ok_or("no such server")?;
                let is_there = wanted.contains(&own.state()) && own.quality() == Quality::Ready;
                if is_there {
                    Ok(state)
                } else {
                    Err(observe::summary(&state))
                }
            },
        )?)
    }

    /// Waits until one server is PRIM and the other SECOND, both ready, by their own words (P7). Answers the primary.
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_mirrored(&self, deadline: Duration) -> anyhow::Result<String> {
        let names = self.server_names();
        Ok(wait::until(
            "PRIM and SECOND, both ready",
            deadline,
            || {
                let mut primary = None;
                let mut seen = Vec::new();
                let mut secondaries = 0;
                for name in &names {
                    let state = self
                        .module_state(name)
                        .map_err(|e| format!("{name}: {e:#}"))?;
                    let own = observe::of_server(&state, name).ok_or("no such server")?;
                    let is_ready = own.quality() == Quality::Ready;
                    if is_ready && own.state() == ModuleState::Prim {
                        primary = Some(name.clone());
                    }
                    if is_ready && own.state() == ModuleState::Second {
                        secondaries += 1;
                    }
                    seen.push(format!("{name} says {}", observe::summary(&state)));
                }
                match primary {
                    Some(primary) if secondaries == 1 => Ok(primary),
                    Some(_) | None => Err(seen.join("; ")),
                }
            },
        )?)
    }
}

/// One, three or five of so many members vote.
fn voters_of(members: usize) -> usize {
    match members {
        0..3 => 1,
        3..5 => 3,
        _ => 5,
    }
}

fn addresses(node: &Node) -> Vec<String> {
    crate::lab::LANS
        .iter()
        .map(|lan| node.address(*lan).to_string())
        .collect()
}
