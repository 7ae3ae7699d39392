//! Cluster states by number: equal states are one, and each command is applied to each of them once.

use std::collections::HashMap;
use std::net::SocketAddr;

use consensus::state::{
    Accepted, AckMode, ClusterInfo, ClusterState, Command, Epoch, EventId, Incarnation, MemberKind,
    MirrorRecord, ModuleName, NewMember, PackageHash, Proposal, ServerId, Violation, Wanted,
};

use super::voter::{Asked, holds_lease, would_grant};
use crate::planted::Bug;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const W: usize = 2;
pub(super) const NAMES: [&str; 3] = ["a", "b", "w"];

/// The epoch the exploration begins with.
pub(super) const FIRST_EPOCH: u64 = 4;

/// What an exploration begins with; the first server leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Both copies are whole.
    InSync,
    /// Only the copy on `a` is.
    Alone,
}

/// The number of a member of the model in the cluster.
pub(super) fn id(node: usize) -> ServerId {
    ServerId(node as u64 + 1)
}

/// The member of the model with this number.
pub(super) fn node(id: ServerId) -> usize {
    id.0 as usize - 1
}

pub(super) fn module() -> ModuleName {
    "db".parse().expect("a name")
}

/// Number of a cluster state, together with the index of the last entry that changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Applied(pub(super) u32);

/// Number of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sent(pub(super) u32);

pub(super) struct World {
    pub(super) bug: Option<Bug>,
    states: Vec<(u64, ClusterState)>,
    state_numbers: HashMap<Vec<u8>, Applied>,
    commands: Vec<Command>,
    command_numbers: HashMap<Vec<u8>, Sent>,
    results: HashMap<(Applied, Sent), Option<Applied>>,
    verdicts: HashMap<Asked, bool>,
    leases: HashMap<(Applied, u8, usize, u8), bool>,
    /// The first state that cannot be.
    pub(super) violation: Option<Violation>,
}

impl World {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self {
            bug,
            states: Vec::new(),
            state_numbers: HashMap::new(),
            commands: Vec::new(),
            command_numbers: HashMap::new(),
            results: HashMap::new(),
            verdicts: HashMap::new(),
            leases: HashMap::new(),
            violation: None,
        }
    }

    /// The index of the last entry that changed it.
    pub(super) fn index(&self, applied: Applied) -> u64 {
        self.states[applied.0 as usize].0
    }

    pub(super) fn state(&self, applied: Applied) -> &ClusterState {
        &self.states[applied.0 as usize].1
    }

    pub(super) fn record(&self, applied: Applied) -> &MirrorRecord {
        self.state(applied)
            .modules
            .values()
            .next()
            .expect("the module stays installed")
    }

    pub(super) fn command(&self, sent: Sent) -> &Command {
        &self.commands[sent.0 as usize]
    }

    pub(super) fn send(&mut self, command: Command) -> Sent {
        let key = postcard::to_stdvec(&command).expect("a command can be written");
        if let Some(sent) = self.command_numbers.get(&key) {
            return *sent;
        }
        let sent = Sent(self.commands.len() as u32);
        self.commands.push(command);
        self.command_numbers.insert(key, sent);
        sent
    }

    /// The voter's own code, asked once for each question.
    pub(super) fn would_grant(&mut self, asked: Asked) -> bool {
        if let Some(verdict) = self.verdicts.get(&asked) {
            return *verdict;
        }
        let verdict = would_grant(self.state(asked.applied), asked, self.bug);
        self.verdicts.insert(asked, verdict);
        verdict
    }

    /// The lease holder's own code: `server`, in its run `run`, with the grants of the voters in `mask`.
    pub(super) fn holds_lease(
        &mut self,
        applied: Applied,
        run: u8,
        server: usize,
        mask: u8,
    ) -> bool {
        let key = (applied, run, server, mask);
        if let Some(holds) = self.leases.get(&key) {
            return *holds;
        }
        let holds = holds_lease(self.state(applied), run, server, mask, self.bug);
        self.leases.insert(key, holds);
        holds
    }

    /// The state after the command; `None` when it changes nothing.
    pub(super) fn apply(&mut self, applied: Applied, sent: Sent) -> Option<Applied> {
        if let Some(result) = self.results.get(&(applied, sent)) {
            return *result;
        }
        let (index, mut state) = self.states[applied.0 as usize].clone();
        let mut command = self.commands[sent.0 as usize].clone();
        let mut at_unix_ms = 0;
        if let Some(bug) = self.bug {
            bug.before_apply(&mut command, &mut at_unix_ms, &mut state, 0);
        }
        let proposal = Proposal {
            command,
            author: String::new(),
            evidence: String::new(),
            at_unix_ms,
        };
        let result = match state.apply(index + 1, &proposal) {
            Ok(Accepted::Done | Accepted::MemberAdded(_)) => {
                self.check(&state);
                if let Some(bug) = self.bug {
                    bug.after_apply(&mut state);
                }
                Some(self.intern(index + 1, state))
            }
            Ok(Accepted::Unchanged) | Err(_) => None,
        };
        self.results.insert((applied, sent), result);
        result
    }

    /// An apply that breaks its own invariants ends the exploration, unless a bug was planted into it.
    fn check(&mut self, state: &ClusterState) {
        if let Err(violation) = state.validate() {
            self.violation.get_or_insert(violation);
        }
    }

    fn intern(&mut self, index: u64, mut state: ClusterState) -> Applied {
        // History has no influence on what follows.
        state.events.clear();
        state.last_event = EventId(0);
        state
            .modules
            .values_mut()
            .for_each(|record| record.last_cause = EventId(0));
        let key = postcard::to_stdvec(&(index, &state)).expect("a state can be written");
        if let Some(applied) = self.state_numbers.get(&key) {
            return *applied;
        }
        let applied = Applied(self.states.len() as u32);
        self.states.push((index, state));
        self.state_numbers.insert(key, applied);
        applied
    }

    /// Two servers and a witness; `db` runs on both, and `a` leads.
    pub(super) fn begin(&mut self, ack: AckMode, begin: Begin) -> Applied {
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
            state
                .apply(index, &proposal)
                .expect("the beginning is by the rules");
        };
        let info = ClusterInfo {
            id: [0; 16],
            name: "model".parse().expect("a name"),
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
            heart_timeout_ms: None,
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
        name: NAMES[node].parse().expect("a name"),
        kind: if node == W {
            MemberKind::Witness
        } else {
            MemberKind::Server
        },
        addresses: vec![SocketAddr::from(([10, 0, 0, node as u8], 9453))],
        certificate: [node as u8; 32],
        incarnation: Incarnation(1),
    }
}
