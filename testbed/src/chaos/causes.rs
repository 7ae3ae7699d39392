//! The chain of causes of each role change, from the change down to what somebody saw or asked for (P10).

use crate::cluster::MODULE;
use anyhow::{Context as _, ensure};
use api::v1::EventReply;
use std::collections::BTreeMap;

/// Events in one chain: more is a circle.
const CHAIN_MAX: usize = 32;

/// One change of the primary.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// What happened.
    pub(super) what: String,
    /// The first cause, without names and numbers: changes with the same one are counted together.
    pub(super) first_cause: String,
    /// An operator or a daemon that ends in order asked for it.
    pub(super) is_planned: bool,
}

/// Explains every change of the primary among `new`.
///
/// # Errors
/// A change without evidence at the end of its chain.
pub(super) fn of_changes(new: &[EventReply], all: &[EventReply]) -> anyhow::Result<Vec<Change>> {
    let by_id: BTreeMap<u64, &EventReply> = all.iter().map(|event| (event.id, event)).collect();
    new.iter()
        .filter(|event| event.module == MODULE && is_change(event))
        .map(|event| explain(event, &by_id))
        .collect()
}

fn is_change(event: &EventReply) -> bool {
    [" took over", " is primary"]
        .iter()
        .any(|words| event.text.contains(words))
}

fn explain(change: &EventReply, by_id: &BTreeMap<u64, &EventReply>) -> anyhow::Result<Change> {
    let mut event = change;
    for _ in 0..CHAIN_MAX {
        if event.cause == 0 {
            break;
        }
        event = by_id
            .get(&event.cause)
            .with_context(|| format!("event {} ({}) has an unknown cause", event.id, event.text))?;
    }
    ensure!(
        event.cause == 0,
        "the causes of {} go in a circle",
        change.text
    );
    ensure!(
        !event.author.is_empty() && !event.evidence.is_empty(),
        "role change not explained: {}: its first cause, event {} ({}), has author {:?} and evidence {:?}",
        change.text,
        event.id,
        event.text,
        event.author,
        event.evidence
    );
    Ok(Change {
        what: change.text.clone(),
        first_cause: without_names(&event.text),
        is_planned: !change.text.contains(" took over"),
    })
}

/// `s1 no longer hears s2 (run 7)` becomes `X no longer hears X (run N)`.
fn without_names(text: &str) -> String {
    text.split(' ')
        .map(|word| {
            let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_number = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
            match bare {
                "s1" | "s2" | "w" => word.replace(bare, "X"),
                _ if is_number => word.replace(bare, "N"),
                _ => word.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, text: &str, cause: u64, evidence: &str) -> EventReply {
        EventReply {
            id,
            cause,
            text: text.to_owned(),
            module: MODULE.to_owned(),
            author: "server s2".to_owned(),
            evidence: evidence.to_owned(),
            ..EventReply::default()
        }
    }

    #[test]
    fn the_chain_ends_with_what_was_seen() {
        let events = [
            event(1, "w no longer hears s1", 0, "s1 not heard by w for 1.9 s"),
            event(
                2,
                "s1 counts as down: declared by s2 and w, 2 of 3 votes",
                1,
                "",
            ),
            event(
                3,
                "s2 took over: s1, which was primary, counts as down",
                2,
                "",
            ),
        ];
        let changes = of_changes(&events, &events).expect("explained");
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].first_cause, "X no longer hears X");
        assert!(!changes[0].is_planned);
        let blind = [
            event(1, "w no longer hears s1", 0, ""),
            event(
                3,
                "s2 took over: s1, which was primary, counts as down",
                1,
                "",
            ),
        ];
        of_changes(&blind, &blind).expect_err("nobody says what was seen");
    }
}
