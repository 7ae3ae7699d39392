//! The right to act as primary (R5, R6, R7), from facts alone.

use consensus::state::{Epoch, MirrorRecord, ServerId};

/// Until when this server may act as primary of a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Not at all.
    None,
    /// As long as a majority of voters renews the lease: another copy may be promoted.
    WhileLeased,
    /// Without quorum and without lease: nobody else may be promoted (R6).
    Forever,
}

/// What this daemon knows beside the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// This server.
    pub me: ServerId,
    /// This daemon's start has been applied: what it reads is not from before its restart.
    pub is_fresh: bool,
    /// An addition of the peer was, or may have been, proposed at this epoch (durable before the proposal).
    pub addition_open: Option<Epoch>,
}

impl Standing {
    /// The right that `record` gives to this server.
    ///
    /// Alone in the in-sync set, with no addition of ours in the air, it needs nobody. With an open addition it obeys
    /// both records: that may have been committed unseen, and then the peer may be promoted.
    pub fn right(&self, record: &MirrorRecord) -> Right {
        if record.primary != Some(self.me) {
            return Right::None;
        }
        let is_alone = record.in_sync.len() == 1 && record.in_sync.contains(&self.me);
        match (is_alone && !self.may_have_added(record), self.is_fresh) {
            (true, _) => Right::Forever,
            (false, true) => Right::WhileLeased,
            (false, false) => Right::None,
        }
    }

    /// An addition of the peer may be in the air that `record` does not show.
    pub fn may_have_added(&self, record: &MirrorRecord) -> bool {
        self.addition_open
            .is_some_and(|epoch| epoch >= record.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::goal::tests::record;

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);

    fn standing(is_fresh: bool, addition_open: Option<u64>) -> Standing {
        Standing {
            me: ME,
            is_fresh,
            addition_open: addition_open.map(Epoch),
        }
    }

    #[test]
    fn right_follows_the_record_the_restart_and_the_open_addition() {
        let both = record(7, Some(ME), &[ME, PEER]);
        let alone = record(7, Some(ME), &[ME]);
        let deposed = record(7, Some(PEER), &[PEER]);
        let table = [
            (&both, true, None, Right::WhileLeased),
            (&both, false, None, Right::None),
            (&alone, true, None, Right::Forever),
            (&alone, false, None, Right::Forever),
            (&alone, true, Some(7), Right::WhileLeased),
            (&alone, false, Some(7), Right::None),
            (&alone, false, Some(6), Right::Forever),
            (&deposed, true, None, Right::None),
        ];
        for (record, is_fresh, addition_open, expected) in table {
            let right = standing(is_fresh, addition_open).right(record);
            assert_eq!(
                right, expected,
                "{record:?} fresh={is_fresh} open={addition_open:?}"
            );
        }
    }
}
