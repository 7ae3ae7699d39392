//! How soon a primary dials a secondary again whose stream was lost: a link that comes and goes must not make the copies compare
//! their trees over and over.

use std::time::Duration;

/// A stream that lived so long was a steady one.
const STEADY: Duration = Duration::from_secs(5);
/// The wait after the second loss in a row; doubled with each further one.
const WAIT_MIN: Duration = Duration::from_millis(600);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Counts streams that were lost soon after they began.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Readmission {
    losses: u32,
}

impl Readmission {
    /// A stream is lost after `lived`. Gives the time to wait before the next attempt: none after a steady one.
    pub fn on_loss(&mut self, lived: Duration) -> Duration {
        self.losses = if lived < STEADY {
            self.losses.saturating_add(1)
        } else {
            1
        };
        match self.losses.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => WAIT_MIN.saturating_mul(1 << doublings.min(8)).min(WAIT_MAX),
        }
    }

    /// Losses in a row, each soon after its stream began.
    pub fn losses(self) -> u32 {
        self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_comes_and_goes_is_tried_less_and_less_often() {
        let mut readmission = Readmission::default();
        let lived = Duration::from_secs(2);
        let waits: Vec<_> = (0..8)
            .map(|_| readmission.on_loss(lived).as_millis())
            .collect();
        assert_eq!(waits, [0, 600, 1200, 2400, 4800, 5000, 5000, 5000]);
        assert_eq!(readmission.losses(), 8);
        assert_eq!(readmission.on_loss(STEADY), Duration::ZERO);
        assert_eq!(readmission.on_loss(lived).as_millis(), 600);
    }

    #[test]
    fn a_count_without_end_does_no_harm() {
        let mut readmission = Readmission { losses: u32::MAX };
        assert_eq!(readmission.on_loss(Duration::ZERO), WAIT_MAX);
    }
}
