//! What follows from a failure of this server's copy (R11, R16).

use consensus::state::{MirrorRecord, ServerId};

/// What is known against the copy of this server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Its disk failed: a write, a sync or a read.
    pub disk: Option<String>,
    /// A change of a primary could not be applied.
    pub not_applied: Option<String>,
}

impl Failures {
    /// Why the copy of `me` must not lead; `None`: it may, or there is no better one.
    pub fn against_leading(&self, record: &MirrorRecord, me: ServerId) -> Option<String> {
        if !is_shared(record, me) {
            return None;
        }
        let of_disk = self.disk.as_ref();
        let of_disk = of_disk.map(|failure| format!("its disk failed: {failure}"));
        // What is acknowledged when it is applied is not missing.
        let not_applied = self.not_applied.as_ref();
        let not_applied = not_applied.filter(|_| record.received_only.contains(&me));
        let not_applied =
            not_applied.map(|failure| format!("it may lack acknowledged writes: {failure}"));
        of_disk.or(not_applied)
    }
}

/// Two copies count, and that of `me` is one of them.
pub fn is_shared(record: &MirrorRecord, me: ServerId) -> bool {
    record.in_sync.contains(&me) && record.in_sync.len() > 1
}

/// Another copy counts, and that of `me` is compared with it before it does.
pub fn is_compared_first(record: &MirrorRecord, me: ServerId) -> bool {
    !record.in_sync.contains(&me) && !record.in_sync.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::goal::tests::record;

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);

    fn failures() -> Failures {
        Failures {
            disk: Some("no medium".to_owned()),
            not_applied: None,
        }
    }

    /// Goal: a bad disk leads as long as there is no better copy, and not a moment longer; what was compared since is no worse than any.
    #[test]
    fn regression_a_failed_disk_is_forgotten_where_the_copy_is_compared() {
        let table = [
            (&[ME][..], false, false),
            (&[ME, PEER][..], true, false),
            (&[PEER][..], false, true),
            (&[][..], false, false),
        ];
        for (in_sync, counts, is_forgotten) in table {
            let record = record(7, Some(ME), in_sync);
            let against = failures().against_leading(&record, ME);
            assert_eq!(against.is_some(), counts, "{in_sync:?}");
            assert_eq!(is_compared_first(&record, ME), is_forgotten, "{in_sync:?}");
        }
    }

    /// Goal: a change that was not applied, and so never acknowledged, says nothing against a copy.
    #[test]
    fn regression_only_what_was_acknowledged_can_be_missing() {
        let failures = Failures {
            disk: None,
            not_applied: Some("no space left".to_owned()),
        };
        let mut both = record(7, Some(PEER), &[ME, PEER]);
        assert_eq!(failures.against_leading(&both, ME), None);
        both.received_only.insert(ME);
        let expected = "it may lack acknowledged writes: no space left";
        assert_eq!(
            failures.against_leading(&both, ME).as_deref(),
            Some(expected)
        );
    }
}
