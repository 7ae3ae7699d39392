//! The model of a member: what it has applied, what it thinks, what its copy holds.

use consensus::state::{Incarnation, MirrorRecord};
use fs_mirror::replication::core::{Answer, Core, Event};
use fs_mirror::replication::shipping::Ticket;
use node::core::partnership::{Facts, Move, Stream, next_move};
use node::core::right::{Right, Standing};

use super::voter::Asked;
use super::world::{A, Applied, B, NAMES, Sent, W, World, id};
use crate::planted::Bug;

/// The one number a session has: two never run at once, and what came before a session is told apart by its ticket.
pub(super) const SESSION: u64 = 1;

/// How far the exploration goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Writes of the application.
    pub writes: u8,
    /// Crashes, and silences: a server that some voter does not hear for longer than a lease.
    pub faults: u8,
    /// Of these, crashes at most.
    pub crashes: u8,
    /// Switchovers and stops.
    pub planned: u8,
    /// Role changes.
    pub epochs: u8,
}

/// A voter's opinion on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Opinion {
    Alive,
    Declared { number: u8 },
}

/// One member: what it is, what it has applied, what it thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) is_up: bool,
    pub(super) run: u8,
    /// On disk.
    pub(super) applied: Applied,
    pub(super) opinions: [Opinion; 2],
    pub(super) rounds: [u8; 2],
}

/// The mirror of one server. A set of writes is a bit mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Copy {
    pub(super) data: u8,
    /// The part of `data` that outlives a crash.
    pub(super) on_disk: u8,
    /// As primary: which writes may be answered, by the mirror's own core.
    pub(super) core: Core,
    /// As primary: it ships to the peer.
    pub(super) has_session: bool,
    /// As primary: writes whose answer is due, and those of them that the running session carries.
    pub(super) waiting: u8,
    pub(super) shipped: u8,
    /// As primary: what the peer has acknowledged in this session.
    pub(super) peer_has: u8,
    /// On disk: the epoch at which an addition was, or may have been, proposed; 0 for none.
    pub(super) note: u8,
    /// As primary: the application is stopped and the directory unmounted.
    pub(super) is_quiet: bool,
    /// On disk: frames of older epochs are refused.
    pub(super) fence: u8,
}

/// Everything at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Moment {
    pub(super) committed: Applied,
    pub(super) nodes: [Node; 3],
    pub(super) copies: [Copy; 2],
    /// `granted[voter][server]`.
    pub(super) granted: [[bool; 2]; 3],
    pub(super) acknowledged: u8,
    pub(super) written: u8,
    /// Proposals on their way into the log, in order of their number.
    pub(super) on_the_way: [Option<Sent>; 2],
    pub(super) faults: u8,
    pub(super) crashes: u8,
    pub(super) planned: u8,
}

impl Copy {
    /// The role begins anew at a record: nothing waits, no session runs.
    pub(super) fn begin_role(&mut self, counts_peer: bool) {
        self.core = Core::new(counts_peer);
        self.has_session = false;
        self.waiting = 0;
        self.shipped = 0;
        self.peer_has = 0;
        self.is_quiet = false;
    }

    pub(super) fn attach(&mut self, is_identical: bool) {
        self.core.on(Event::Attached {
            session: SESSION,
            in_sync: is_identical,
        });
        self.has_session = true;
        self.shipped = 0;
        self.peer_has = 0;
    }

    pub(super) fn lose_session(&mut self) {
        self.core.on(Event::SessionLost { session: SESSION });
        self.has_session = false;
        self.shipped = 0;
        self.peer_has = 0;
    }

    /// The writes that may be answered now.
    pub(super) fn answerable(&self, bug: Option<Bug>) -> u8 {
        let mut done = 0;
        for write in 0..8 {
            let bit = 1 << write;
            if self.waiting & bit == 0 {
                continue;
            }
            let ticket = if self.shipped & bit != 0 {
                Ticket::Shipped {
                    session: SESSION,
                    seq: 1,
                }
            } else {
                Ticket::NotShipped
            };
            let is_due = match self.core.answer(ticket) {
                _ if bug == Some(Bug::AcknowledgeFirst) => true,
                Answer::Now => true,
                Answer::AfterAck => self.peer_has & bit != 0,
                Answer::AfterRecord | Answer::Fenced => false,
            };
            if is_due {
                done |= bit;
            }
        }
        done
    }
}

impl Moment {
    pub(super) fn begin(committed: Applied, epoch: u8, is_in_sync: bool) -> Self {
        let node = Node {
            is_up: true,
            run: 1,
            applied: committed,
            opinions: [Opinion::Alive; 2],
            rounds: [0; 2],
        };
        let copy = Copy {
            data: 0,
            on_disk: 0,
            core: Core::new(false),
            has_session: false,
            waiting: 0,
            shipped: 0,
            peer_has: 0,
            note: 0,
            is_quiet: false,
            fence: epoch,
        };
        let mut first = copy;
        first.begin_role(is_in_sync);
        if is_in_sync {
            first.attach(true);
        }
        Self {
            committed,
            nodes: [node; 3],
            copies: [first, copy],
            granted: [[true; 2]; 3],
            acknowledged: 0,
            written: 0,
            on_the_way: [None; 2],
            faults: 0,
            crashes: 0,
            planned: 0,
        }
    }

    pub(super) fn has_quorum(&self) -> bool {
        self.nodes.iter().filter(|node| node.is_up).count() >= 2
    }

    /// The cluster knows the present run of `member`, as far as `by` has applied.
    pub(super) fn knows_run(&self, world: &World, by: usize, member: usize) -> bool {
        let run = Incarnation(u64::from(self.nodes[member].run));
        world.bug == Some(Bug::RunUnannounced)
            || world
                .state(self.nodes[by].applied)
                .knows_run(id(member), run)
    }

    pub(super) fn has_lease(&self, world: &mut World, server: usize) -> bool {
        let granting = [A, B, W]
            .into_iter()
            .filter(|voter| *voter != server && self.granted[*voter][server]);
        let mask = granting.fold(0, |mask, voter| mask | 1 << voter);
        let node = &self.nodes[server];
        world.holds_lease(node.applied, node.run, server, mask)
    }

    /// The voter's answer to a heartbeat of `server`.
    pub(super) fn may_grant(&self, world: &mut World, voter: usize, server: usize) -> bool {
        let node = &self.nodes[voter];
        let server_applied = world.index(self.nodes[server].applied);
        world.would_grant(Asked {
            applied: node.applied,
            voter,
            voter_run: node.run,
            has_declared: node.opinions[server] != Opinion::Alive,
            server,
            server_run: self.nodes[server].run,
            server_applied,
        })
    }

    pub(super) fn standing(&self, world: &World, server: usize) -> Standing {
        let note = self.copies[server].note;
        let is_forgotten = note == 0 || world.bug == Some(Bug::AdditionForgotten);
        Standing {
            me: id(server),
            is_fresh: self.knows_run(world, server, server),
            addition_open: (!is_forgotten).then_some(consensus::state::Epoch(u64::from(note))),
            is_out: false,
        }
    }

    /// What `server`, primary by `record`, does next about its peer.
    pub(super) fn next_move(
        &self,
        world: &World,
        server: usize,
        record: &MirrorRecord,
        stream: Stream,
    ) -> Move {
        let standing = self.standing(world, server);
        let members = &world.state(self.nodes[server].applied).members;
        let peer_is_down = members
            .get(&id(1 - server))
            .is_none_or(|member| member.is_down);
        next_move(
            record,
            Facts {
                me: standing.me,
                is_fresh: standing.is_fresh,
                stream,
                addition_open: standing.addition_open,
                peer_is_down,
                may_begin_identical: false,
                is_adopted: true,
                has_failed_disk: false,
            },
        )
    }

    /// `server` may answer its application now.
    pub(super) fn serves(&self, world: &mut World, server: usize) -> bool {
        let node = &self.nodes[server];
        if !node.is_up || self.copies[server].is_quiet {
            return false;
        }
        let right = self
            .standing(world, server)
            .right(world.record(node.applied));
        match right {
            Right::None => false,
            Right::WhileLeased => {
                world.bug == Some(Bug::FencedByRole) || self.has_lease(world, server)
            }
            Right::Forever => true,
        }
    }

    pub(super) fn epoch(&self, world: &World, node: usize) -> u8 {
        world.record(self.nodes[node].applied).epoch.0 as u8
    }

    /// What is wrong with this moment.
    pub(super) fn violation(&self, world: &mut World) -> Option<String> {
        if let Some(violation) = &world.violation {
            return Some(violation.to_string());
        }
        let serving = [A, B].map(|server| self.serves(world, server));
        let record = world.record(self.committed);
        for server in [A, B] {
            let (name, copy) = (NAMES[server], &self.copies[server]);
            if serving[server] && self.acknowledged & !copy.data != 0 {
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
        (serving == [true, true]).then(|| "two servers have the right to serve".to_owned())
    }
}
