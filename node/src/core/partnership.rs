//! What a primary does next about its peer (R4, R6, R10): from facts alone.

use consensus::state::{Epoch, MirrorRecord, ServerId, Wanted};

/// The stream to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// There is none.
    Down,
    /// Attached; the peer is being brought up to date, or in lock-step.
    Attached,
    /// Attached, and the peer has every block, now and as long as this stream lives.
    CaughtUp,
}

/// What this primary knows beside the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// This server.
    pub me: ServerId,
    /// This daemon's start has been applied.
    pub is_fresh: bool,
    /// The stream to the peer.
    pub stream: Stream,
    /// The epoch at which an addition was, or may have been, proposed.
    pub addition_open: Option<Epoch>,
    /// The peer counts as down: an addition would be refused, but its note would make the right depend on a lease.
    pub peer_is_down: bool,
    /// A switchover left both copies the same, nothing was changed since, and the peer may still come.
    pub may_begin_identical: bool,
    /// The stream is at the epoch of the record.
    pub is_adopted: bool,
    /// The disk of this copy failed.
    pub has_failed_disk: bool,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// Dial the peer.
    Attach {
        /// Both copies are the same: no resync.
        identical: bool,
    },
    /// Propose to go on alone. Also when the record names no peer, but may soon: that ends an open addition.
    DropPeer,
    /// Propose the peer as in sync.
    AddPeer,
    /// Nothing to do until something happens.
    Wait,
}

/// The next move of the primary of `record`.
pub fn next_move(record: &MirrorRecord, facts: Facts) -> Move {
    let is_named = record.in_sync.iter().any(|server| *server != facts.me);
    let may_have_been_added = facts.addition_open == Some(record.epoch);
    let identical = facts.may_begin_identical && record.identical && is_named;
    let peer = record.peer_of(facts.me);
    let is_wanted = peer.is_some_and(|peer| record.wanted_on(peer) == Wanted::Started);
    match facts.stream {
        // The other copy is on a disk, or will be: this one steps down (R11). Often the stream ended by the same failure.
        Stream::Down if is_named && facts.has_failed_disk => Move::Wait,
        Stream::Down if identical => Move::Attach { identical },
        Stream::Down if is_named || may_have_been_added => Move::DropPeer,
        Stream::Down => Move::Attach { identical: false },
        // Refused, or soon to be: as long as such an addition is open, the right of a primary that is alone hangs on a lease.
        Stream::CaughtUp | Stream::Attached
            if may_have_been_added && !is_named && (!is_wanted || facts.peer_is_down) =>
        {
            Move::DropPeer
        }
        // The same for a run that is not known and has no lease: proposing earlier would end its service.
        // And in an older epoch the peer may acknowledge on receipt what the new one does not tie to its run (R16).
        Stream::CaughtUp
            if !is_named
                && is_wanted
                && facts.is_fresh
                && facts.is_adopted
                && !facts.peer_is_down =>
        {
            Move::AddPeer
        }
        Stream::CaughtUp | Stream::Attached => Move::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::goal::tests::record;

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);

    /// What a primary knows of a peer whose stream is like this: known itself, the peer up, no switchover before.
    fn with_stream(stream: Stream, addition_open: Option<u64>) -> Facts {
        Facts {
            me: ME,
            is_fresh: true,
            stream,
            addition_open: addition_open.map(Epoch),
            peer_is_down: false,
            may_begin_identical: false,
            is_adopted: true,
            has_failed_disk: false,
        }
    }

    #[test]
    fn moves_follow_record_stream_and_open_addition() {
        let alone = record(7, Some(ME), &[ME]);
        let both = record(7, Some(ME), &[ME, PEER]);
        let mut handed_over = both.clone();
        handed_over.identical = true;
        let attach = |identical| Move::Attach { identical };
        let table = [
            (&alone, Stream::Down, None, false, attach(false)),
            (&alone, Stream::Down, Some(6), false, attach(false)),
            (&alone, Stream::Down, Some(7), false, Move::DropPeer),
            (&alone, Stream::Attached, None, false, Move::Wait),
            (&alone, Stream::CaughtUp, None, false, Move::AddPeer),
            (&alone, Stream::CaughtUp, Some(7), false, Move::AddPeer),
            (&both, Stream::Down, None, false, Move::DropPeer),
            (&both, Stream::Down, None, true, Move::DropPeer),
            (&both, Stream::Attached, None, false, Move::Wait),
            (&both, Stream::CaughtUp, Some(7), false, Move::Wait),
            (&handed_over, Stream::Down, None, true, attach(true)),
            (&handed_over, Stream::Down, None, false, Move::DropPeer),
        ];
        for (record, stream, addition_open, may_begin_identical, expected) in table {
            let facts = Facts {
                may_begin_identical,
                ..with_stream(stream, addition_open)
            };
            assert_eq!(next_move(record, facts), expected, "{record:?} {facts:?}");
        }
    }

    /// Goal: a copy whose disk fails does not strike off the one that counts beside it (R11), whether it was itself only received (R16)
    /// or not, and however often it is asked. Alone it goes on, and ends an addition that may have been proposed.
    #[test]
    fn regression_a_copy_whose_disk_failed_drops_nobody() {
        let alone = record(8, Some(ME), &[ME]);
        let both = record(8, Some(ME), &[ME, PEER]);
        let mut tied = both.clone();
        tied.received_only.insert(ME);
        let mut handed_over = both.clone();
        handed_over.identical = true;
        for (record, has_failed_disk, addition_open, expected) in [
            (&both, false, None, Move::DropPeer),
            (&both, true, None, Move::Wait),
            (&both, true, Some(8), Move::Wait),
            (&tied, false, None, Move::DropPeer),
            (&tied, true, None, Move::Wait),
            (&handed_over, true, None, Move::Wait),
            (&alone, true, None, Move::Attach { identical: false }),
            (&alone, true, Some(8), Move::DropPeer),
        ] {
            let facts = Facts {
                has_failed_disk,
                may_begin_identical: true,
                ..with_stream(Stream::Down, addition_open)
            };
            assert_eq!(next_move(record, facts), expected, "{record:?} {facts:?}");
        }
    }

    /// Goal: the barrier of an addition, and what follows it, is of the epoch in which the peer was not counted (R16).
    #[test]
    fn regression_no_addition_before_the_record_is_adopted() {
        let facts = Facts {
            is_adopted: false,
            ..with_stream(Stream::CaughtUp, None)
        };
        assert_eq!(next_move(&record(8, Some(ME), &[ME]), facts), Move::Wait);
    }

    #[test]
    fn regression_no_addition_before_the_start_of_this_run_is_applied() {
        let facts = Facts {
            is_fresh: false,
            ..with_stream(Stream::CaughtUp, None)
        };
        assert_eq!(next_move(&record(7, Some(ME), &[ME]), facts), Move::Wait);
    }

    #[test]
    fn regression_a_peer_dropped_while_its_stream_lives_is_added_again() {
        let facts = |peer_is_down, addition_open| Facts {
            peer_is_down,
            ..with_stream(Stream::CaughtUp, addition_open)
        };
        let dropped = record(8, Some(ME), &[ME]);
        for (peer_is_down, addition_open, expected) in [
            (true, None, Move::Wait),
            (false, None, Move::AddPeer),
            (true, Some(8), Move::DropPeer),
            (false, Some(8), Move::AddPeer),
        ] {
            let facts = facts(peer_is_down, addition_open);
            assert_eq!(next_move(&dropped, facts), expected, "{facts:?}");
        }
    }

    /// A stopped secondary's stream lives a moment longer than its place on record. An addition would be refused, and its note
    /// would make a primary that is alone depend on a majority.
    #[test]
    fn regression_a_stopped_peer_is_not_added() {
        let mut stopped = record(8, Some(ME), &[ME]);
        stopped.wanted.insert(PEER, Wanted::Stopped);
        for (addition_open, expected) in [
            (None, Move::Wait),
            (Some(7), Move::Wait),
            (Some(8), Move::DropPeer),
        ] {
            for stream in [Stream::CaughtUp, Stream::Attached] {
                let facts = with_stream(stream, addition_open);
                assert_eq!(next_move(&stopped, facts), expected, "{facts:?}");
            }
        }
    }
}
