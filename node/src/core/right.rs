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
    /// This server was removed from the cluster for good, or runs on an old copy of its state: no record that is applied here
    /// counts any more.
    pub is_out: bool,
}

impl Standing {
    /// The right that `record` gives to this server.
    ///
    /// Out of the cluster, it has none, whatever the last record it has heard of says: an operator may have made another server primary,
    /// whose record never reaches this one.
    ///
    /// Alone in the in-sync set, with no addition of ours in the air, it needs nobody. With an open addition it obeys
    /// both records: that may have been committed unseen, and then the peer may be promoted.
    pub fn right(&self, record: &MirrorRecord) -> Right {
        if self.is_out || record.primary != Some(self.me) {
            return Right::None;
        }
        let is_alone = record.in_sync.len() == 1 && record.in_sync.contains(&self.me);
        match (is_alone && !self.may_have_added(record), self.is_fresh) {
            (true, _) => Right::Forever,
            (false, true) => Right::WhileLeased,
            (false, false) => Right::None,
        }
    }

    /// It needs nobody, but has just started: before it leads again it looks for a while for a majority that may know better.
    /// An operator may have forced the other copy meanwhile, and both would own the virtual address until this one hears of
    /// it.
    pub fn asks_first(&self, record: &MirrorRecord, is_leading: bool, has_waited: bool) -> bool {
        self.right(record) == Right::Forever && !self.is_fresh && !is_leading && !has_waited
    }

    /// Nothing may be acknowledged without the peer: the record names it, or an addition that was proposed in this tenure or an
    /// earlier one may still be committed.
    pub fn counts_peer(&self, record: &MirrorRecord) -> bool {
        let is_named = record.in_sync.iter().any(|server| *server != self.me);
        is_named || self.may_have_added(record)
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
            is_out: false,
        }
    }

    #[test]
    fn only_whole_copy_asks_first_after_a_start_and_not_for_ever() {
        let alone = record(7, Some(ME), &[ME]);
        let both = record(7, Some(ME), &[ME, PEER]);
        let table = [
            (&alone, false, false, false, true),
            (&alone, false, false, true, false),
            (&alone, false, true, false, false),
            (&alone, true, false, false, false),
            (&both, false, false, false, false),
        ];
        for (record, is_fresh, is_leading, has_waited, expected) in table {
            let asks = standing(is_fresh, None).asks_first(record, is_leading, has_waited);
            assert_eq!(asks, expected, "fresh={is_fresh} leading={is_leading}");
        }
    }

    #[test]
    fn regression_a_new_tenure_does_not_forget_the_addition_of_the_former_one() {
        let alone = record(7, Some(ME), &[ME]);
        assert!(standing(true, Some(7)).counts_peer(&alone));
        assert!(!standing(true, Some(6)).counts_peer(&alone));
        assert!(standing(true, None).counts_peer(&record(7, Some(ME), &[ME, PEER])));
    }

    #[test]
    fn regression_a_removed_server_has_no_right_whatever_its_record_says() {
        let alone = record(7, Some(ME), &[ME]);
        for (is_fresh, open) in [(true, None), (false, None), (true, Some(7))] {
            let removed = Standing {
                is_out: true,
                ..standing(is_fresh, open)
            };
            assert_eq!(removed.right(&alone), Right::None);
            assert!(!removed.asks_first(&alone, false, false));
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
