//! How a run begins: two servers and who votes with them, and modules that lead alone for the first time.

use std::sync::Arc;

use consensus::state::{
    AckMode, ClusterInfo, ClusterState, Command, Epoch, Incarnation, MemberKind, ModuleName,
    NewMember, PackageHash, Proposal, Wanted,
};

use super::outside::NAMES;
use super::place::{id, is_witness};
use super::raft::{Durable, Entry};

#[derive(Debug)]
pub(super) struct Genesis {
    /// Members of the cluster, the servers first.
    pub(super) places: usize,
    pub(super) lease_ms: u64,
    pub(super) modules: Vec<ModuleName>,
    /// The state after the first entries.
    pub(super) state: ClusterState,
    /// The first entries, committed on every disk.
    pub(super) durable: Durable,
}

impl Genesis {
    /// `acks`: one module each; the first is led by the first server, the second by the second.
    ///
    /// # Errors
    /// The cluster's rules refused one of the first commands, or a name is none.
    pub(super) fn new(places: usize, lease_ms: u64, acks: &[AckMode]) -> anyhow::Result<Self> {
        let modules = module_names(acks.len());
        let info = ClusterInfo {
            id: [0; 16],
            name: "simulated".parse()?,
            ca_fingerprint: [0; 32],
            lease_ms,
        };
        let mut commands = vec![Command::InitCluster {
            info,
            first: member(0)?,
        }];
        for place in 1..places {
            let token = [place as u8; 32];
            commands.push(Command::CreateToken {
                token,
                witness: is_witness(place),
                expires_at_unix_s: u64::MAX,
            });
            commands.push(Command::AddMember {
                token,
                member: member(place)?,
            });
        }
        for (module, ack) in acks.iter().enumerate() {
            let name = modules[module].clone();
            commands.push(Command::InstallModule {
                name: name.clone(),
                servers: [id(0), id(1)],
                package: PackageHash([0; 32]),
                ack: *ack,
                directories: vec![format!("/srv/{name}")],
                addresses: Vec::new(),
                heart_timeout_ms: None,
            });
            let (leads, follows) = (id(module), id(1 - module));
            commands.push(Command::SetWanted {
                module: name.clone(),
                server: follows,
                wanted: Wanted::Started,
            });
            commands.push(Command::ClaimFirst {
                module: name,
                epoch: Epoch(1),
                server: leads,
            });
        }
        let mut state = ClusterState::default();
        let mut log = Vec::new();
        for command in commands {
            let proposal = Proposal {
                command,
                author: "person".to_owned(),
                evidence: "set up".to_owned(),
                at_unix_ms: 1000,
            };
            state.apply(log.len() as u64 + 1, &proposal)?;
            log.push(Entry {
                term: 1,
                proposal: Some(Arc::new(proposal)),
            });
        }
        let commit = log.len();
        let durable = Durable {
            term: 1,
            voted: None,
            log,
            commit,
        };
        Ok(Self {
            places,
            lease_ms,
            modules,
            state,
            durable,
        })
    }
}

fn member(place: usize) -> anyhow::Result<NewMember> {
    Ok(NewMember {
        name: NAMES[place].parse()?,
        kind: if is_witness(place) {
            MemberKind::Witness
        } else {
            MemberKind::Server
        },
        addresses: vec![format!("10.0.0.{}:9453", place + 1).parse()?],
        certificate: [place as u8; 32],
        incarnation: Incarnation(1),
    })
}

/// The names of the modules of a run.
fn module_names(count: usize) -> Vec<ModuleName> {
    ["db", "web"]
        .into_iter()
        .take(count)
        .filter_map(|name| name.parse().ok())
        .collect()
}
