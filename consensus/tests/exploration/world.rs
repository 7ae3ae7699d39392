//! Cluster states by number: equal states are one, and each command is applied to each of them once.

use std::collections::HashMap;

use consensus::state::{
    Accepted, AckMode, ClusterInfo, ClusterState, Command, Epoch, EventId, Incarnation, MemberKind,
    MirrorRecord, ModuleName, NewMember, PackageHash, Proposal, ServerId, Wanted,
};

use crate::model::Bug;

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const W: usize = 2;
pub(crate) const NAMES: [&str; 3] = ["a", "b", "w"];

/// The epoch the exploration begins with.
pub(crate) const FIRST_EPOCH: u64 = 4;

/// What the exploration begins with; `a` leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Both copies are whole.
    InSync,
    /// Only the copy on `a` is.
    Alone,
}

/// The number of a member of the model in the cluster.
pub(crate) fn id(node: usize) -> ServerId {
    ServerId(node as u64 + 1)
}

/// The member of the model with this number.
pub(crate) fn node(id: ServerId) -> usize {
    id.0 as usize - 1
}

pub(crate) fn module() -> ModuleName {
    "db".parse().unwrap()
}

/// Number of a cluster state, together with the index of the last entry that changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Applied(pub(crate) u32);

/// Number of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sent(pub(crate) u32);

pub(crate) struct World {
    pub(crate) bug: Bug,
    states: Vec<(u64, ClusterState)>,
    state_numbers: HashMap<Vec<u8>, Applied>,
    commands: Vec<Command>,
    command_numbers: HashMap<Vec<u8>, Sent>,
    results: HashMap<(Applied, Sent), Option<Applied>>,
}

impl World {
    pub(crate) fn new(bug: Bug) -> Self {
        Self {
            bug,
            states: Vec::new(),
            state_numbers: HashMap::new(),
            commands: Vec::new(),
            command_numbers: HashMap::new(),
            results: HashMap::new(),
        }
    }

    /// The index of the last entry that changed it.
    pub(crate) fn index(&self, applied: Applied) -> u64 {
        self.states[applied.0 as usize].0
    }

    pub(crate) fn state(&self, applied: Applied) -> &ClusterState {
        &self.states[applied.0 as usize].1
    }

    pub(crate) fn record(&self, applied: Applied) -> &MirrorRecord {
        self.state(applied).modules.values().next().unwrap()
    }

    pub(crate) fn command(&self, sent: Sent) -> &Command {
        &self.commands[sent.0 as usize]
    }

    pub(crate) fn send(&mut self, command: Command) -> Sent {
        let key = postcard::to_stdvec(&command).unwrap();
        if let Some(sent) = self.command_numbers.get(&key) {
            return *sent;
        }
        let sent = Sent(self.commands.len() as u32);
        self.commands.push(command);
        self.command_numbers.insert(key, sent);
        sent
    }

    /// The state after the command; `None` when it changes nothing.
    pub(crate) fn apply(&mut self, applied: Applied, sent: Sent) -> Option<Applied> {
        if let Some(result) = self.results.get(&(applied, sent)) {
            return *result;
        }
        let (index, mut state) = self.states[applied.0 as usize].clone();
        let mut command = self.commands[sent.0 as usize].clone();
        self.bug.before_apply(&mut command, &mut state);
        let proposal = Proposal {
            command,
            author: String::new(),
            evidence: String::new(),
            at_unix_ms: 0,
        };
        let result = match state.apply(index + 1, &proposal) {
            Ok(Accepted::Done | Accepted::MemberAdded(_)) => {
                state.validate().unwrap();
                self.bug.after_apply(&mut state);
                Some(self.intern(index + 1, state))
            }
            Ok(Accepted::Unchanged) | Err(_) => None,
        };
        self.results.insert((applied, sent), result);
        result
    }

    fn intern(&mut self, index: u64, mut state: ClusterState) -> Applied {
        // History has no influence on what follows.
        state.events.clear();
        state.last_event = EventId(0);
        state
            .modules
            .values_mut()
            .for_each(|record| record.last_cause = EventId(0));
        let key = postcard::to_stdvec(&(index, &state)).unwrap();
        if let Some(applied) = self.state_numbers.get(&key) {
            return *applied;
        }
        let applied = Applied(self.states.len() as u32);
        self.states.push((index, state));
        self.state_numbers.insert(key, applied);
        applied
    }

    /// Two servers and a witness; `db` runs on both, and `a` leads.
    pub(crate) fn begin(&mut self, ack: AckMode, begin: Begin) -> Applied {
        let mut state = ClusterState::default();
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            let proposal = Proposal {
                command,
                author: String::new(),
                evidence: String::new(),
                at_unix_ms: 0,
            };
            state.apply(index, &proposal).unwrap();
        };
        let info = ClusterInfo {
            id: [0; 16],
            name: "model".parse().unwrap(),
            ca_fingerprint: [0; 32],
            lease_ms: 1500,
        };
        apply(Command::InitCluster {
            info,
            first: member(A),
        });
        for joiner in [B, W] {
            let token = [joiner as u8; 32];
            apply(Command::CreateToken {
                token,
                witness: joiner == W,
                expires_at_unix_s: 1,
            });
            apply(Command::AddMember {
                token,
                member: member(joiner),
            });
        }
        apply(Command::InstallModule {
            name: module(),
            servers: [id(A), id(B)],
            package: PackageHash([0; 32]),
            ack,
            directories: vec!["/srv/db".into()],
            addresses: Vec::new(),
        });
        apply(Command::SetWanted {
            module: module(),
            server: id(B),
            wanted: Wanted::Started,
        });
        apply(Command::ClaimFirst {
            module: module(),
            epoch: Epoch(1),
            server: id(A),
        });
        let (module, epoch, primary, server) = (module(), Epoch(2), id(A), id(B));
        apply(Command::DropSecondary {
            module: module.clone(),
            epoch,
            primary,
            server,
        });
        let epoch = Epoch(3);
        apply(match begin {
            Begin::InSync => Command::AddSecondary {
                module,
                epoch,
                primary,
                server,
            },
            Begin::Alone => Command::DropSecondary {
                module,
                epoch,
                primary,
                server,
            },
        });
        self.intern(index, state)
    }
}

fn member(node: usize) -> NewMember {
    NewMember {
        name: NAMES[node].parse().unwrap(),
        kind: if node == W {
            MemberKind::Witness
        } else {
            MemberKind::Server
        },
        addresses: vec![format!("10.0.0.{node}:9453").parse().unwrap()],
        certificate: [node as u8; 32],
        incarnation: Incarnation(1),
    }
}
