//! A place in the log, told apart from the same place in another history of it.

use std::fmt;

/// Where a log ends: the last entry's term, then its index, which is also the order that counts (as in Raft's votes).
///
/// The length alone does not tell an old log from a new one: a copy may end in an entry that was never committed, where the log
/// itself went on with one of a later term. And a tail that was overwritten may be shorter than before, of a later term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    /// Term of the entry; 0 before the first.
    pub term: u64,
    /// Index of the entry; 0 before the first.
    pub index: u64,
}

impl LogPosition {
    /// The earlier of two places in one and the same log.
    pub(crate) fn earlier(self, other: LogPosition) -> LogPosition {
        if self.index <= other.index {
            self
        } else {
            other
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of term {}", self.index, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term, index }
    }

    #[test]
    fn regression_an_old_log_as_long_as_the_new_one_is_older() {
        // What a log once was, and what it became.
        let table = [
            (at(0, 0), at(1, 1)),
            (at(3, 7), at(3, 8)),
            // As long, and longer, by entries that were never committed.
            (at(3, 8), at(4, 8)),
            (at(3, 9), at(4, 8)),
        ];
        for (old, new) in table {
            assert!(old < new, "{old} {new}");
        }
    }

    #[test]
    fn of_one_log_the_shorter_part_is_the_earlier() {
        assert_eq!(at(3, 7).earlier(at(4, 8)), at(3, 7));
        assert_eq!(at(4, 8).earlier(at(3, 7)), at(3, 7));
    }
}
