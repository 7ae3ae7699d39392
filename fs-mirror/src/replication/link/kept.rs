//! What was sent and is not confirmed yet: it is sent again when another connection takes over.

use std::collections::VecDeque;

use super::LinkError;
use crate::replication::wire::WireError;

/// Bytes kept for a peer that confirms nothing; far more than may be in flight (`IN_FLIGHT_BYTES_MAX`).
const KEPT_BYTES_MAX: u64 = 160 << 20;
/// Buffers given back are used again: so many, none larger than this. A write of 128 KiB and its frame need more than twice as much
/// where a buffer grew by doubling; taking such a one from the system each time costs a quarter of what goes through the cache
/// (measured: 310 against 406 MiB/s).
const SPARE_MAX: usize = 8;
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The end of the stream of bytes that goes to the peer. Positions count all bytes since the session began.
#[derive(Debug, Default)]
pub(super) struct Kept {
    batches: VecDeque<Batch>,
    /// Position of the first byte of `batches`.
    from: u64,
    /// Position behind the last byte.
    to: u64,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    /// Position behind its last byte.
    to: u64,
}

impl Kept {
    /// Appends what is about to be sent.
    ///
    /// # Errors
    /// `Unconfirmed`: the peer confirms nothing of all that it got.
    pub(super) fn push(&mut self, batch: Vec<u8>) -> Result<(), LinkError> {
        if batch.is_empty() {
            self.give_back(batch);
            return Ok(());
        }
        self.to += batch.len() as u64;
        self.batches.push_back(Batch {
            bytes: batch,
            to: self.to,
        });
        match self.to - self.from {
            bytes if bytes > KEPT_BYTES_MAX => Err(LinkError::Unconfirmed { bytes }),
            _ => Ok(()),
        }
    }

    /// The peer has everything up to `position`.
    ///
    /// # Errors
    /// `OutOfRange`: it was never sent.
    pub(super) fn forget(&mut self, position: u64) -> Result<(), WireError> {
        if position > self.to {
            return Err(out_of_range(position));
        }
        while self
            .batches
            .front()
            .is_some_and(|first| first.to <= position)
        {
            if let Some(batch) = self.batches.pop_front() {
                self.from = batch.to;
                self.give_back(batch.bytes);
            }
        }
        Ok(())
    }

    /// Whether sending can go on from `position`.
    ///
    /// # Errors
    /// `OutOfRange`: the peer has lost what it confirmed, or has what was never sent.
    pub(super) fn check(&self, position: u64) -> Result<(), WireError> {
        if (self.from..=self.to).contains(&position) {
            Ok(())
        } else {
            Err(out_of_range(position))
        }
    }

    /// The bytes from `position` to the end of their batch; none at the end.
    pub(super) fn after(&self, position: u64) -> &[u8] {
        let holder = self.batches.partition_point(|batch| batch.to <= position);
        let Some(batch) = self.batches.get(holder) else {
            return &[];
        };
        let start = batch.to - batch.bytes.len() as u64;
        // Within the batch, so it fits. What lies before all that is kept is never asked for (`check`).
        &batch.bytes[position.saturating_sub(start) as usize..]
    }

    /// An empty buffer.
    pub(super) fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn give_back(&mut self, mut batch: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && batch.capacity() <= SPARE_BYTES_MAX {
            batch.clear();
            self.spare.push(batch);
        }
    }
}

fn out_of_range(position: u64) -> WireError {
    WireError::OutOfRange {
        field: "position in the stream",
        value: position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let mut kept = Kept::default();
        for batch in [b"abc".to_vec(), b"defgh".to_vec(), b"i".to_vec()] {
            kept.push(batch).unwrap();
        }
        kept
    }

    #[test]
    fn everything_unconfirmed_can_be_read_again() {
        let mut kept = kept();
        assert_eq!(kept.after(0), b"abc");
        assert_eq!(kept.after(4), b"efgh");
        // Batches are forgotten as a whole.
        kept.forget(4).unwrap();
        assert_eq!(kept.after(3), b"defgh");
        assert_eq!(kept.after(8), b"i");
        assert_eq!(kept.after(9), b"");
        kept.forget(9).unwrap();
        assert_eq!(kept.after(9), b"");
        assert!(kept.check(9).is_ok());
    }

    #[test]
    fn a_peer_that_lost_or_invented_bytes_is_found_out() {
        let mut kept = kept();
        assert!(kept.forget(10).is_err());
        kept.forget(8).unwrap();
        for (position, is_fine) in [(0, false), (7, false), (8, true), (9, true), (10, false)] {
            assert_eq!(kept.check(position).is_ok(), is_fine, "{position}");
        }
    }
}
