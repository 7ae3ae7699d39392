//! The model of a node, and the rules that can be switched off.

use std::collections::BTreeSet;

use consensus::state::{ClusterState, Command, Declaration, Incarnation, Round, ServerId};

use crate::world::{A, Applied, B, NAMES, Sent, W, World, id};

/// How far the exploration goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) declarations: u8,
    /// Switchovers and stops.
    pub(crate) planned: u8,
    /// Role changes.
    pub(crate) epochs: u8,
}

/// A rule switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// `apply` does not compare epochs (R1).
    EpochUnchecked,
    /// The primary answers before the peer has the write (R3).
    AcknowledgeFirst,
    /// `apply` promotes a copy that is not in sync (R5).
    StalePromoted,
    /// The primary forgets that it may have proposed an addition (R6).
    AdditionForgotten,
    /// The same, over a restart (R6).
    AdditionForgottenOverRestart,
    /// A voter grants again although its withdrawal is not applied (R7).
    LeaseWhileDeclared,
    /// A voter grants to a server that has not applied the loss of its role (R7).
    LeaseOnStaleRecord,
    /// `apply` takes a declaration that was taken back (R7).
    RoundsIgnored,
    /// `apply` counts one voter twice (R7).
    DeclarationCountedTwice,
    /// A new run serves by the record of the former one, and voters grant it leases.
    RunUnannounced,
    /// `apply` takes a copy that only received for one on disk (R16).
    ReceiptTrusted,
}

impl Bug {
    pub(crate) fn before_apply(self, command: &mut Command, state: &mut ClusterState) {
        match (self, command) {
            (
                Self::EpochUnchecked,
                Command::AddSecondary { epoch, .. }
                | Command::DropSecondary { epoch, .. }
                | Command::TakeOver { epoch, .. }
                | Command::StepDown { epoch, .. }
                | Command::Switchover { epoch, .. },
            ) => {
                *epoch = state.modules.values().next().unwrap().epoch;
            }
            (Self::RoundsIgnored, Command::Declare { .. }) => state.withdrawals.clear(),
            (
                Self::DeclarationCountedTwice,
                Command::Declare {
                    voter,
                    server,
                    incarnation,
                    ..
                },
            ) => {
                let twin = if *voter == id(W) { id(A) } else { id(W) };
                if twin != *server {
                    let round = Round {
                        incarnation: Incarnation(0),
                        number: 0,
                    };
                    let twice = Declaration {
                        incarnation: *incarnation,
                        round,
                        evidence: String::new(),
                    };
                    state
                        .declarations
                        .entry(*server)
                        .or_default()
                        .insert(twin, twice);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn after_apply(self, state: &mut ClusterState) {
        if self == Self::ReceiptTrusted {
            state
                .modules
                .values_mut()
                .for_each(|record| record.received_only.clear());
        }
        if self == Self::StalePromoted {
            let down: Vec<ServerId> = state
                .members
                .values()
                .filter(|m| m.is_down)
                .map(|m| m.id)
                .collect();
            for record in state.modules.values_mut() {
                let Some(primary) = record.primary.filter(|primary| down.contains(primary)) else {
                    continue;
                };
                let Some(peer) = record.peer_of(primary).filter(|peer| !down.contains(peer)) else {
                    continue;
                };
                record.primary = Some(peer);
                record.in_sync = BTreeSet::from([peer]);
                record.epoch = record.epoch.next();
            }
        }
    }
}

/// A voter's opinion on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Opinion {
    Alive,
    Declared { number: u8 },
}

/// One member: what it is, what it has applied, what it thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) is_up: bool,
    pub(crate) run: u8,
    /// On disk.
    pub(crate) applied: Applied,
    pub(crate) opinions: [Opinion; 2],
    pub(crate) rounds: [u8; 2],
}

/// The mirror of one server. A set of writes is a bit mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Copy {
    pub(crate) data: u8,
    /// The part of `data` that outlives a crash.
    pub(crate) on_disk: u8,
    /// As primary: it ships to the peer, in lock-step or on the way there.
    pub(crate) has_session: bool,
    /// As primary: what the peer has acknowledged in this tenure and session.
    pub(crate) peer_has: u8,
    /// As primary: it may have proposed to add the peer. In memory, and on disk.
    pub(crate) is_adding: bool,
    pub(crate) may_have_proposed: bool,
    /// As primary: the application is stopped and the directory unmounted.
    pub(crate) is_quiet: bool,
    /// On disk: frames of older epochs are refused.
    pub(crate) fence: u8,
}

/// Everything at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Moment {
    pub(crate) committed: Applied,
    pub(crate) nodes: [Node; 3],
    pub(crate) copies: [Copy; 2],
    /// `granted[voter][server]`.
    pub(crate) granted: [[bool; 2]; 3],
    pub(crate) acknowledged: u8,
    pub(crate) written: u8,
    /// Proposals on their way into the log, in order of their number.
    pub(crate) on_the_way: [Option<Sent>; 2],
    pub(crate) crashes: u8,
    pub(crate) declarations: u8,
    pub(crate) planned: u8,
}

impl Moment {
    pub(crate) fn begin(committed: Applied, epoch: u8, is_in_sync: bool) -> Self {
        let node = Node {
            is_up: true,
            run: 1,
            applied: committed,
            opinions: [Opinion::Alive; 2],
            rounds: [0; 2],
        };
        let copy = Copy {
            fence: epoch,
            ..Copy::default()
        };
        Self {
            committed,
            nodes: [node; 3],
            copies: [
                Copy {
                    has_session: is_in_sync,
                    ..copy
                },
                copy,
            ],
            granted: [[true; 2]; 3],
            acknowledged: 0,
            written: 0,
            on_the_way: [None; 2],
            crashes: 0,
            declarations: 0,
            planned: 0,
        }
    }

    pub(crate) fn has_quorum(&self) -> bool {
        self.nodes.iter().filter(|node| node.is_up).count() >= 2
    }

    /// The cluster knows the present run of `member`, as far as `by` has applied.
    pub(crate) fn knows_run(&self, world: &World, by: usize, member: usize) -> bool {
        let run = Incarnation(u64::from(self.nodes[member].run));
        world.bug == Bug::RunUnannounced
            || world
                .state(self.nodes[by].applied)
                .knows_run(id(member), run)
    }

    pub(crate) fn has_lease(&self, server: usize) -> bool {
        // Its own vote, and one more of three.
        [A, B, W]
            .into_iter()
            .any(|voter| voter != server && self.granted[voter][server])
    }

    /// `server` may answer its application now.
    pub(crate) fn serves(&self, world: &World, server: usize) -> bool {
        let (node, copy) = (&self.nodes[server], &self.copies[server]);
        let record = world.record(node.applied);
        if !node.is_up || record.primary != Some(id(server)) || copy.is_quiet {
            return false;
        }
        let is_known = self.knows_run(world, server, server);
        let is_open = match world.bug {
            Bug::AdditionForgotten => false,
            Bug::AdditionForgottenOverRestart => copy.is_adding,
            _ => copy.is_adding || (copy.may_have_proposed && !is_known),
        };
        let is_alone = record.in_sync.len() == 1 && !is_open;
        is_alone || (is_known && self.has_lease(server))
    }

    /// Whom the primary must have an answer from, by its own record and by the one it may have proposed.
    pub(crate) fn needs_peer(&self, world: &World, server: usize) -> bool {
        if world.bug == Bug::AcknowledgeFirst {
            return false;
        }
        let is_adding = self.copies[server].is_adding && world.bug != Bug::AdditionForgotten;
        world.record(self.nodes[server].applied).in_sync.len() == 2 || is_adding
    }

    pub(crate) fn epoch(&self, world: &World, node: usize) -> u8 {
        world.record(self.nodes[node].applied).epoch.0 as u8
    }

    /// What is wrong with this moment.
    pub(crate) fn violation(&self, world: &World) -> Option<String> {
        let record = world.record(self.committed);
        for server in [A, B] {
            let (name, copy) = (NAMES[server], &self.copies[server]);
            if self.serves(world, server) && self.acknowledged & !copy.data != 0 {
                return Some(format!("{name} serves without an acknowledged write"));
            }
            // What was only received ends with the run; a new one has no right to lead before it is announced.
            let is_received = record.received_only.contains(&id(server));
            let run = Incarnation(u64::from(self.nodes[server].run));
            let counts = !is_received
                || (self.nodes[server].is_up
                    && world.state(self.committed).knows_run(id(server), run));
            let holds = if is_received { copy.data } else { copy.on_disk };
            if record.in_sync.contains(&id(server)) && counts && self.acknowledged & !holds != 0 {
                return Some(format!(
                    "an acknowledged write is missing on {name}, which is in sync"
                ));
            }
        }
        (self.serves(world, A) && self.serves(world, B))
            .then(|| "two servers have the right to serve".to_owned())
    }
}
