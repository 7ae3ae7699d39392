//! What a primary puts on record once nothing of the module runs on its server any more (R11, R16).

use consensus::state::{MirrorRecord, ServerId};

/// How the last tenure at the epoch of the record ended; nothing is known of one that was fenced, or never began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ending {
    /// After the last change the secondary confirmed that it has applied everything, and it is on both disks.
    pub is_confirmed: bool,
    /// The mount came off in order: nobody has written to this copy alone.
    pub is_clean: bool,
}

/// What is proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandOver {
    /// Both copies are the same: the other server leads, without reintegration.
    SwitchOver {
        /// The secondary.
        to: ServerId,
    },
    /// Both copies are whole: whoever may lead does.
    StepDown,
    /// One of the copies may be whole in memory only, and whoever steps down says that none is. Once this copy is on its disk it is the
    /// only one that counts.
    Drop {
        /// The secondary.
        secondary: ServerId,
    },
}

/// What the primary `me` of `record` proposes; `to`: a switchover was asked for.
pub fn hand_over(
    record: &MirrorRecord,
    me: ServerId,
    to: Option<ServerId>,
    ending: Ending,
) -> HandOver {
    if let Some(secondary) = record.peer_of(me).filter(|_| lacks_word(record, ending)) {
        return HandOver::Drop { secondary };
    }
    match to.filter(|_| ending.is_confirmed && ending.is_clean) {
        Some(to) => HandOver::SwitchOver { to },
        None => HandOver::StepDown,
    }
}

/// A copy may be whole in memory only, and nobody said otherwise. When this daemon leaves, it best says nothing: then that stays on record.
pub fn lacks_word(record: &MirrorRecord, ending: Ending) -> bool {
    !record.received_only.is_empty() && !ending.is_confirmed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::goal::tests::record;

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);
    const SWITCH_OVER: HandOver = HandOver::SwitchOver { to: PEER };
    const DROP: HandOver = HandOver::Drop { secondary: PEER };

    /// Goal: a primary that was fenced in the middle of a switchover, and got its right back, claims neither that both copies are the
    /// same nor that both are whole.
    #[test]
    fn regression_a_fenced_primary_does_not_call_the_copies_the_same() {
        let both = |received: &[ServerId]| {
            let mut record = record(7, Some(ME), &[ME, PEER]);
            record.received_only = received.iter().copied().collect::<BTreeSet<_>>();
            record
        };
        // Whose copy may be whole in memory only, confirmed, clean, after a switchover was asked for, without.
        let table = [
            (both(&[]), true, true, SWITCH_OVER, HandOver::StepDown),
            (
                both(&[]),
                true,
                false,
                HandOver::StepDown,
                HandOver::StepDown,
            ),
            (
                both(&[]),
                false,
                true,
                HandOver::StepDown,
                HandOver::StepDown,
            ),
            (
                both(&[]),
                false,
                false,
                HandOver::StepDown,
                HandOver::StepDown,
            ),
            (both(&[PEER]), true, true, SWITCH_OVER, HandOver::StepDown),
            (
                both(&[PEER]),
                true,
                false,
                HandOver::StepDown,
                HandOver::StepDown,
            ),
            (both(&[PEER]), false, true, DROP, DROP),
            (both(&[ME]), false, true, DROP, DROP),
            (both(&[PEER]), false, false, DROP, DROP),
        ];
        for (record, is_confirmed, is_clean, asked, not_asked) in table {
            let ending = Ending {
                is_confirmed,
                is_clean,
            };
            assert_eq!(
                hand_over(&record, ME, Some(PEER), ending),
                asked,
                "{record:?} {ending:?}"
            );
            assert_eq!(
                hand_over(&record, ME, None, ending),
                not_asked,
                "{record:?} {ending:?}"
            );
        }
    }

    #[test]
    fn a_primary_that_is_alone_steps_down() {
        let alone = record(7, Some(ME), &[ME]);
        let fenced = Ending::default();
        assert_eq!(hand_over(&alone, ME, None, fenced), HandOver::StepDown);
    }
}
