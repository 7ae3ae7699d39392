//! What people are told while a change of the voters is open.
//!
//! Until it is settled a majority of each set counts, of the former voters and of the present ones
//! (`docs/design/2026-11-26-voters.md`). Losing voters in that moment stops more than it would before or after.

use std::collections::BTreeSet;

use consensus::state::ServerId;

/// What one member knows of an open change.
pub struct OpenChange<'a> {
    /// The sets of which each needs a majority.
    pub electorates: Vec<BTreeSet<ServerId>>,
    /// Who is heard, this member included.
    pub heard: BTreeSet<ServerId>,
    /// What a member is called; `None` when it left the cluster, and does not come back.
    pub name: &'a dyn Fn(ServerId) -> Option<String>,
}

/// The advice, while more than one set counts.
pub fn advice(change: &OpenChange<'_>) -> Option<String> {
    if change.electorates.len() < 2 {
        return None;
    }
    let needs: Vec<String> = change
        .electorates
        .iter()
        .map(|set| needed(change, set))
        .collect();
    let open = format!(
        "a change of the voters is not settled: it needs {}",
        needs.join(", and ")
    );
    let lacking: Vec<Lacking> = change
        .electorates
        .iter()
        .filter_map(|set| lacking(change, set))
        .collect();
    if lacking.is_empty() {
        return Some(format!(
            "{open}; all are in touch, and it settles by itself within seconds"
        ));
    }
    let mut steps: Vec<String> = Vec::new();
    for lacking in &lacking {
        let step = lacking.advice();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    Some(format!(
        "{open}; until they are in touch there is no lease, and nobody counts as down: {}",
        steps.join(", and ")
    ))
}

/// What people are told while a member that is to vote does not: whoever takes it for a voter counts on a majority that is not
/// there. `voting`: who votes in Raft's configuration, which follows the cluster state once the new voter has the log.
pub fn not_voting_yet(
    wanted: &BTreeSet<ServerId>,
    voting: &BTreeSet<ServerId>,
    name: &dyn Fn(ServerId) -> String,
) -> Option<String> {
    let names = |of: &mut dyn Iterator<Item = &ServerId>| {
        of.map(|id| name(*id)).collect::<Vec<_>>().join(", ")
    };
    let waiting = names(&mut wanted.difference(voting));
    let voting = names(&mut voting.iter());
    (!waiting.is_empty() && !voting.is_empty()).then(|| {
        format!(
            "{waiting} will vote and does not yet: until the leader reaches it and it has the whole log, a majority of {voting} decides; if this lasts longer than seconds, start sknode on whoever is not heard"
        )
    })
}

/// A set without a majority in touch.
struct Lacking {
    /// How many more must be in touch.
    more: usize,
    /// Members of it that are not heard.
    silent: Vec<String>,
    /// Voters of it that left, and answer nobody any more.
    left: Vec<String>,
}

fn lacking(change: &OpenChange<'_>, set: &BTreeSet<ServerId>) -> Option<Lacking> {
    let heard = set.intersection(&change.heard).count();
    let more = majority_of(set)
        .checked_sub(heard)
        .filter(|more| *more > 0)?;
    let (mut silent, mut left) = (Vec::new(), Vec::new());
    for voter in set.difference(&change.heard) {
        match (change.name)(*voter) {
            Some(name) => silent.push(name),
            None => left.push(format!("server {voter}")),
        }
    }
    Some(Lacking { more, silent, left })
}

impl Lacking {
    /// What brings a majority of this set together.
    fn advice(&self) -> String {
        let Lacking { more, silent, left } = self;
        let names = silent.join(", ");
        match silent.len() {
            // Nobody answers those who were removed for good, whatever they still have.
            count if count < *more => format!(
                "{} left and does not come back, so this set decides nothing any more and only a new cluster helps (the replicated files stay): type `skcli cluster leave --alone` on every member, then `skcli cluster init` where the newest copy is",
                left.join(", ")
            ),
            1 => format!("start sknode on {names}"),
            count if count == *more => format!("start sknode on all of {names}"),
            _ => format!("start sknode on {more} of {names}"),
        }
    }
}

fn majority_of(set: &BTreeSet<ServerId>) -> usize {
    set.len() / 2 + 1
}

fn needed(change: &OpenChange<'_>, set: &BTreeSet<ServerId>) -> String {
    let names: Vec<String> = set
        .iter()
        .map(|voter| (change.name)(*voter).unwrap_or_else(|| format!("server {voter} (left)")))
        .collect();
    format!("{} of {}", majority_of(set), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(electorates: &[&[u64]], heard: &[u64]) -> Option<String> {
        let ids = |ids: &[u64]| ids.iter().copied().map(ServerId).collect::<BTreeSet<_>>();
        advice(&OpenChange {
            electorates: electorates.iter().map(|set| ids(set)).collect(),
            heard: ids(heard),
            // 3 was the witness that left.
            name: &|id| (id != ServerId(3)).then(|| format!("s{id}")),
        })
    }

    #[test]
    fn who_is_to_vote_and_does_not_yet_is_named() {
        let ids = |ids: &[u64]| ids.iter().copied().map(ServerId).collect::<BTreeSet<_>>();
        let told = |wanted: &[u64], voting: &[u64]| {
            not_voting_yet(&ids(wanted), &ids(voting), &|id| format!("s{id}"))
        };
        assert_eq!(told(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(told(&[1], &[1, 2, 3]), None, "those lose their vote");
        assert_eq!(told(&[1, 2, 3], &[]), None, "nothing is known here yet");
        let text = told(&[1, 2, 3], &[1]).unwrap();
        assert!(
            text.starts_with("s2, s3 will vote and does not yet"),
            "{text}"
        );
        assert!(text.contains("a majority of s1 decides"), "{text}");
    }

    #[test]
    fn regression_an_open_change_of_the_voters_is_named() {
        assert_eq!(told(&[&[1, 2, 3]], &[1]), None);
        let settles = told(&[&[1, 2, 3], &[1]], &[1, 2]).unwrap();
        assert!(
            settles.contains("2 of s1, s2, server 3 (left), and 1 of s1;"),
            "{settles}"
        );
        assert!(settles.contains("settles by itself"), "{settles}");
        // The witness left, and the secondary was lost before that had settled.
        let stuck = told(&[&[1, 2, 3], &[1]], &[1]).unwrap();
        assert!(stuck.ends_with("down: start sknode on s2"), "{stuck}");
    }

    #[test]
    fn regression_as_many_are_to_be_started_as_are_needed() {
        let advice = |electorates: &[&[u64]], heard: &[u64]| {
            let told = told(electorates, heard).unwrap();
            told.split_once("down: ").unwrap().1.to_owned()
        };
        // One of several is enough.
        let one = advice(&[&[1, 2, 4], &[1]], &[1]);
        assert_eq!(one, "start sknode on 1 of s2, s4");
        // Two of five are in touch but for one; of the others two are needed.
        let some = advice(&[&[1, 2, 4, 5, 6], &[1]], &[1]);
        assert_eq!(some, "start sknode on 2 of s2, s4, s5, s6");
        // The witness left: both that remain are needed.
        let all = advice(&[&[2, 3, 4], &[1, 5, 6]], &[1, 5]);
        assert_eq!(all, "start sknode on all of s2, s4");
        // Each set needs its own.
        let each = advice(&[&[1, 2, 3], &[1, 4, 5]], &[1]);
        assert_eq!(each, "start sknode on s2, and start sknode on 1 of s4, s5");
        // What both need is said once.
        let same = advice(&[&[1, 2, 3], &[1, 2]], &[1]);
        assert_eq!(same, "start sknode on s2");
    }

    #[test]
    fn regression_when_all_that_miss_have_left_there_is_still_a_way() {
        let stuck = told(&[&[1, 3], &[1]], &[1]).unwrap();
        assert!(
            stuck.contains("down: server 3 left and does not come back")
                && stuck.contains("skcli cluster init"),
            "{stuck}"
        );
        // Starting the other one would not be enough.
        let both = told(&[&[2, 3], &[1]], &[1]).unwrap();
        assert!(
            both.contains("down: server 3 left") && !both.contains("start sknode"),
            "{both}"
        );
    }
}
