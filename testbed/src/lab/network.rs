//! The LANs: bridges in the switch's namespace, one port per node and LAN, and frames that are lost on purpose.
//!
//! Cuts are made at the switch (nft, bridge family, by incoming and outgoing port): they are one-way, drop every kind of
//! frame including ARP and neighbour discovery, survive a power cycle of the nodes, and the nodes cannot see them.

use super::holder::Holder;
use super::namespaces::NetworkHandle;
use super::topology::{address_v4, address_v6};
use anyhow::{Context as _, bail};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// LANs of every lab.
pub const LANS: [usize; 2] = [1, 2];

/// `ip` and `nft` answer within this time.
const TOOL_DEADLINE: Duration = Duration::from_secs(20);

const FILTER: &str = "\
table bridge lab {
  set cuts { type ifname . ifname; }
  chain path { type filter hook forward priority 0; policy accept; iifname . oifname @cuts drop; }
}
";

/// Each network namespace has its own.
const BRIDGE_HOOKS: [&str; 3] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    "/proc/sys/net/bridge/bridge-nf-call-arptables",
];

/// Who is not heard by whom.
#[derive(Debug, Clone, Copy)]
pub struct Direction<'a> {
    /// The node whose frames are lost.
    pub from: &'a str,
    /// The node that does not get them.
    pub to: &'a str,
}

/// The switch.
#[derive(Debug, Clone)]
pub(super) struct Network {
    switch: Arc<NetworkHandle>,
}

impl Network {
    pub(super) fn create(switch: &Holder) -> anyhow::Result<Network> {
        let network = Network {
            switch: Arc::new(NetworkHandle::of(switch.pid())?),
        };
        let mut script = String::from("link set lo up\n");
        for lan in LANS {
            script += &format!(
                "link add br{lan} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\nlink set br{lan} up\n"
            );
        }
        network.ip(&script)?;
        network.nft(FILTER)?;
        network.pass_ip_tables_by()?;
        Ok(network)
    }

    /// A switch looks at no IP header: `br_netfilter`, where the machine has loaded it, would take every frame through IP tables.
    fn pass_ip_tables_by(&self) -> anyhow::Result<()> {
        self.switch.within(|| {
            for hook in BRIDGE_HOOKS
                .map(Path::new)
                .iter()
                .filter(|hook| hook.exists())
            {
                std::fs::write(hook, "0").with_context(|| format!("write {}", hook.display()))?;
            }
            Ok(())
        })
    }

    /// Plugs a node into LANs: cable, addresses, link up.
    pub(super) fn connect(
        &self,
        name: &str,
        host: u8,
        pid: u32,
        lans: &[usize],
    ) -> anyhow::Result<()> {
        let mut ports = String::new();
        let mut inside = String::from("link set lo up\n");
        for lan in lans {
            let port = port(name, *lan);
            let mac = mac(*lan, host);
            ports += &format!(
                "link add {port} type veth peer name lan{lan} address {mac} netns {pid}\n"
            );
            ports += &format!("link set {port} master br{lan} up\n");
            inside += &format!("addr add {}/24 dev lan{lan}\n", address_v4(*lan, host));
            inside += &format!(
                "addr add {}/64 dev lan{lan} nodad\n",
                address_v6(*lan, host)
            );
            inside += &format!("link set lan{lan} up\n");
        }
        self.ip(&ports)?;
        NetworkHandle::of(pid)?.within(|| tool("ip", &["-batch", "-"], &inside))
    }

    /// Links down, now: what a dying server still sends goes nowhere.
    pub(super) fn unplug(&self, names: &[&str]) -> anyhow::Result<()> {
        let mut script = String::new();
        for name in names {
            for lan in LANS {
                script += &format!("link set {} down\n", port(name, lan));
            }
        }
        self.ip(&script)
    }

    /// Removes the switch's ends of the cables of a dead node, so that it can be plugged in anew.
    pub(super) fn forget(&self, name: &str) -> anyhow::Result<()> {
        for lan in LANS {
            // The kernel removes them too, some time after the namespace died: either may be first.
            let port = port(name, lan);
            let _removed_by_kernel = self
                .switch
                .within(|| tool("ip", &["link", "delete", &port], ""));
        }
        Ok(())
    }

    pub(super) fn cut(&self, cuts: &[(Direction<'_>, usize)]) -> anyhow::Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        let elements: Vec<String> = cuts
            .iter()
            .map(|(d, lan)| format!("\"{}\" . \"{}\"", port(d.from, *lan), port(d.to, *lan)))
            .collect();
        self.nft(&format!(
            "add element bridge lab cuts {{ {} }}\n",
            elements.join(", ")
        ))
    }

    pub(super) fn heal(&self) -> anyhow::Result<()> {
        self.nft("flush set bridge lab cuts\n")
    }

    fn ip(&self, script: &str) -> anyhow::Result<()> {
        self.switch.within(|| tool("ip", &["-batch", "-"], script))
    }

    fn nft(&self, script: &str) -> anyhow::Result<()> {
        self.switch.within(|| tool("nft", &["-f", "-"], script))
    }
}

/// Name of a node's port at the switch, at most 15 characters.
pub(crate) fn port(name: &str, lan: usize) -> String {
    format!("{name}-{lan}")
}

/// Hardware address of a node on a LAN; the same after every power cycle, as a real card's is.
fn mac(lan: usize, host: u8) -> String {
    format!("02:5d:00:00:{lan:02x}:{host:02x}")
}

/// Runs `ip` or `nft` in the calling thread's network namespace, with `script` as its input.
fn tool(name: &str, arguments: &[&str], script: &str) -> anyhow::Result<()> {
    let path =
        super::files::tool(name).with_context(|| format!("the program {name} is missing"))?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(script.as_bytes())?;
    let status = crate::wait::end_of(&mut child, TOOL_DEADLINE)?;
    if status.is_some_and(|s| s.success()) {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut said)?;
    }
    bail!("{name} {}: {}", arguments.join(" "), said.trim())
}
