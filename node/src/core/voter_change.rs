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
    let mut missing = BTreeSet::new();
    for set in change
        .electorates
        .iter()
        .filter(|set| !has_majority(change, set))
    {
        missing.extend(
            set.difference(&change.heard)
                .filter_map(|voter| (change.name)(*voter)),
        );
    }
    let missing: Vec<String> = missing.into_iter().collect();
    let open = format!(
        "a change of the voters is not settled: it needs {}",
        needs.join(", and ")
    );
    Some(
        if change
            .electorates
            .iter()
            .all(|set| has_majority(change, set))
        {
            format!("{open}; all are in touch, and it settles by itself within seconds")
        } else {
            format!(
                "{open}; until they are in touch there is no lease, and nobody counts as down: start sknode on {}",
                missing.join(" or ")
            )
        },
    )
}

fn has_majority(change: &OpenChange<'_>, set: &BTreeSet<ServerId>) -> bool {
    set.intersection(&change.heard).count() > set.len() / 2
}

fn needed(change: &OpenChange<'_>, set: &BTreeSet<ServerId>) -> String {
    let names: Vec<String> = set
        .iter()
        .map(|voter| (change.name)(*voter).unwrap_or_else(|| format!("server {voter} (left)")))
        .collect();
    format!("{} of {}", set.len() / 2 + 1, names.join(", "))
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
        assert!(stuck.ends_with("start sknode on s2"), "{stuck}");
    }
}
