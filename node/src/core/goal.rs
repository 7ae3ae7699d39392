//! What should run on this server for one module.

use consensus::state::{Epoch, MirrorRecord, ServerId, Wanted};

use super::right::{Right, Standing};

/// What should run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Nothing.
    Down,
    /// The copy, read-only, open to the primary's stream.
    Follow,
    /// The application, on the copy mounted read-write, behind the virtual addresses.
    Lead {
        /// The epoch this server leads at.
        epoch: Epoch,
        /// Nothing is acknowledged without the peer: the record names it as in sync, or an addition may.
        counts_peer: bool,
    },
    /// Still the rightful primary, but on the way out: stop everything in order, then propose who follows.
    HandOver {
        /// The epoch the proposal must match.
        epoch: Epoch,
        /// The secondary that takes over without reintegration; `None`: step down, whoever can may lead.
        to: Option<ServerId>,
    },
    /// Leads without the right to: another server may be primary at any moment.
    Fence,
}

/// What the agent was asked to do beyond the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// A switchover was asked for, at this epoch.
    pub swap_at: Option<Epoch>,
    /// The daemon is asked to stop: the application ends in order, and another server may lead.
    pub is_leaving: bool,
    /// And it has waited for that long enough.
    pub is_leave_overdue: bool,
    /// The right to serve was lost longer ago than the agent waits for it to return.
    pub is_right_overdue: bool,
}

/// What should run on this server, given the applied `record` (`None`: the module does not exist). On a server that was removed
/// from the cluster nothing runs.
pub fn goal(
    standing: &Standing,
    record: Option<&MirrorRecord>,
    wishes: Wishes,
    is_leading: bool,
) -> Goal {
    let Some(record) = record.filter(|_| !standing.is_out) else {
        return if is_leading { Goal::Fence } else { Goal::Down };
    };
    if wishes.is_leave_overdue && is_leading {
        return Goal::Fence;
    }
    let wanted = if wishes.is_leaving {
        Wanted::Stopped
    } else {
        record.wanted_on(standing.me)
    };
    match standing.right(record) {
        Right::None if is_leading => Goal::Fence,
        Right::None => match wanted {
            Wanted::Started => Goal::Follow,
            Wanted::Stopped => Goal::Down,
        },
        Right::WhileLeased if wishes.is_right_overdue && is_leading => Goal::Fence,
        Right::WhileLeased if wishes.is_right_overdue => match wanted {
            Wanted::Started => Goal::Follow,
            Wanted::Stopped => Goal::Down,
        },
        Right::WhileLeased | Right::Forever => lead(standing, record, wishes, wanted),
    }
}

fn lead(standing: &Standing, record: &MirrorRecord, wishes: Wishes, wanted: Wanted) -> Goal {
    let peer = record
        .in_sync
        .iter()
        .copied()
        .find(|server| *server != standing.me);
    let epoch = record.epoch;
    match wanted {
        Wanted::Stopped => Goal::HandOver { epoch, to: None },
        Wanted::Started if wishes.swap_at == Some(epoch) && peer.is_some() => {
            Goal::HandOver { epoch, to: peer }
        }
        Wanted::Started => Goal::Lead {
            epoch,
            counts_peer: standing.counts_peer(record),
        },
    }
}

/// Whether this server should propose itself: no primary, it holds an in-sync copy, and it is wanted (the start rule).
pub fn may_take_over(standing: &Standing, record: &MirrorRecord) -> bool {
    standing.is_fresh
        && !standing.is_out
        && record.primary.is_none()
        && record.in_sync.contains(&standing.me)
        && record.wanted_on(standing.me) == Wanted::Started
}

#[cfg(test)]
pub(crate) mod tests;
