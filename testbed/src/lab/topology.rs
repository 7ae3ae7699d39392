//! The shapes of labs, as data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Last byte of the client's address.
pub const CLIENT_HOST: u8 = 200;
/// Last byte of the virtual address.
pub const VIRTUAL_HOST: u8 = 100;
/// Second byte of every lab address; labs are private, so all use the same.
const NET: u8 = 77;
/// The port between servers.
pub const PORT: u16 = 9453;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Hosts modules.
    Server,
    /// Votes only.
    Witness,
}

/// One node of a topology.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the cluster and in the lab, at most 8 characters (interface names are made of it).
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Last byte of its addresses.
    pub host: u8,
}

impl Node {
    /// Address on a LAN (1 or 2).
    pub fn address(&self, lan: usize) -> SocketAddr {
        SocketAddr::new(address_v4(lan, self.host).into(), PORT)
    }
}

/// A shape of lab.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Its name on the command line.
    pub name: String,
    /// Servers first, in the order they join.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// The topologies that exist.
    pub const NAMES: [&'static str; 3] = ["mirror", "pair", "seven"];

    /// `mirror`: two servers and a witness. `pair`: two servers alone. `seven`: six servers and a witness.
    pub fn named(name: &str) -> Option<Topology> {
        let (servers, has_witness) = match name {
            "mirror" => (2, true),
            "pair" => (2, false),
            "seven" => (6, true),
            _unknown => return None,
        };
        let mut nodes: Vec<Node> = (1..=servers)
            .map(|host| node(&format!("s{host}"), NodeKind::Server, host))
            .collect();
        if has_witness {
            nodes.push(node("w", NodeKind::Witness, servers + 1));
        }
        Some(Topology {
            name: name.to_owned(),
            nodes,
        })
    }

    /// Two servers and a witness.
    pub fn mirror() -> Topology {
        Topology::named("mirror").expect("`mirror` is in the table above")
    }

    /// More members than vote: six servers and a witness.
    pub fn seven() -> Topology {
        Topology::named("seven").expect("`seven` is in the table above")
    }
}

fn node(name: &str, kind: NodeKind, host: u8) -> Node {
    Node {
        name: name.to_owned(),
        kind,
        host,
    }
}

/// IPv4 address of a host on a LAN.
pub fn address_v4(lan: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, NET, u8::try_from(lan).unwrap_or(0), host)
}

/// IPv6 address of a host on a LAN.
pub fn address_v6(lan: usize, host: u8) -> Ipv6Addr {
    let lan = u16::try_from(lan).unwrap_or(0);
    Ipv6Addr::new(0xfd00, u16::from(NET), lan, 0, 0, 0, 0, u16::from(host))
}

/// The virtual IPv4 address of the module under test, on LAN 1.
pub fn virtual_v4() -> IpAddr {
    address_v4(1, VIRTUAL_HOST).into()
}

/// The virtual IPv6 address of the module under test, on LAN 1.
pub fn virtual_v6() -> IpAddr {
    address_v6(1, VIRTUAL_HOST).into()
}
