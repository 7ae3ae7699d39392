//! Why the roles are what they are: each change with what led to it, who saw what, and what it cost. Newest last.

use std::collections::BTreeSet;

use api::v1::ExplainStep;
use consensus::liveness::Timing;
use consensus::state::{ClusterState, Event, EventId, EventKind, ModuleName, ServerId};

/// Lines shown: one screen. The newest change is shown whatever it needs.
const LINES_MAX: usize = 40;
/// Length of a chain of causes shown.
const CAUSES_MAX: usize = 8;

/// The newest changes of `module` that fit on a screen, each with its causes, as far as events are kept.
pub(super) fn steps(state: &ClusterState, module: &ModuleName) -> Vec<ExplainStep> {
    let newest_first = state
        .events
        .iter()
        .rev()
        .filter(|event| event.module.as_ref() == Some(module))
        // It is shown as the cost of the change before it.
        .filter(|event| !matches!(event.kind, EventKind::ApplicationStarted { .. }))
        .map(|event| step(state, event));
    let mut lines = 0;
    let mut shown: Vec<ExplainStep> = Vec::new();
    for step in newest_first {
        lines += lines_of(&step);
        if lines > LINES_MAX && !shown.is_empty() {
            break;
        }
        shown.push(step);
    }
    shown.reverse();
    shown
}

/// Lines of a step on a terminal: what happened, who asked, an empty line, and one for each cause and each cost.
fn lines_of(step: &ExplainStep) -> usize {
    3 + step.because.len() + step.cost.len()
}

fn step(state: &ClusterState, event: &Event) -> ExplainStep {
    let (cost, service_gap_ms) = cost(state, event);
    ExplainStep {
        event: event.id.0,
        at_unix_ms: event.at_unix_ms,
        epoch: event.epoch.map_or(0, |epoch| epoch.0),
        what: event.kind.to_string(),
        because: because(state, event),
        service_gap_ms,
        entry: event.entry,
        author: event.author.clone(),
        cost,
    }
}

/// The chain of causes, and what was seen; each thing once.
fn because(state: &ClusterState, event: &Event) -> Vec<String> {
    let mut lines = Vec::new();
    if event.cause.is_none() {
        lines.extend(seen(event));
    }
    let mut told = BTreeSet::from([event.id]);
    let mut next = event.cause;
    while let Some(cause) = next.filter(|cause| lines.len() < CAUSES_MAX && told.insert(*cause)) {
        let Some(found) = find(state, cause) else {
            lines.push(format!("event #{cause} is not kept any more"));
            break;
        };
        lines.push(format!("{} (entry {})", found.kind, found.entry));
        lines.extend(seen(found));
        // What the declaring voters saw is said by the conclusion already.
        next = found
            .cause
            .filter(|_| !matches!(found.kind, EventKind::ServerDown { .. }));
    }
    lines
}

/// What the author of an event saw, a line for each who saw something.
fn seen(event: &Event) -> Vec<String> {
    let is_said = event.evidence.is_empty() || event.evidence == "command";
    if is_said {
        return Vec::new();
    }
    event.evidence.split(". ").map(str::to_owned).collect()
}

/// What a change of the primary cost, as sentences and as milliseconds without service; zero when that is not known.
fn cost(state: &ClusterState, event: &Event) -> (Vec<String>, u64) {
    if !event.kind.moves_primary() {
        return (Vec::new(), 0);
    }
    let later = |other: &&Event| other.module == event.module && other.id > event.id;
    let started = state
        .events
        .iter()
        .filter(later)
        .take_while(|other| !other.kind.moves_primary())
        .find_map(|other| {
            let EventKind::ApplicationStarted { server, after_ms } = &other.kind else {
                return None;
            };
            Some((other, server, *after_ms))
        });
    let Some((start, server, after_ms)) = started else {
        return (Vec::new(), 0);
    };
    let mut lines = vec![format!(
        "the application ran on {server} {} after it learned of its role (entry {})",
        seconds(after_ms),
        start.entry
    )];
    let Some(first_missed) = first_missed_unix_ms(state, event) else {
        return (lines, after_ms);
    };
    let gap_ms = start.at_unix_ms.saturating_sub(first_missed);
    lines.push(format!("about {} without service in all", seconds(gap_ms)));
    (lines, gap_ms)
}

/// About when the former primary was heard last: a voter waits for a lease, here of the length it has now, and a bit before it
/// says so.
fn first_missed_unix_ms(state: &ClusterState, event: &Event) -> Option<u64> {
    let EventKind::FailedOver { from, .. } = &event.kind else {
        return None;
    };
    let profile = Timing::new(state.cluster.as_ref()?.lease_ms);
    let declared = first_declared(state, from.id, event.id)?;
    let waited_ns = profile.of_server(state, from.id).declare_after_ns();
    Some(declared.at_unix_ms.saturating_sub(waited_ns / 1_000_000))
}

/// The first voice of the silence that ended in `before`.
fn first_declared(state: &ClusterState, server: ServerId, before: EventId) -> Option<&Event> {
    let earlier = state.events.iter().rev().filter(|event| event.id < before);
    earlier
        .take_while(|event| !is_back(event, server))
        .filter(|event| {
            matches!(&event.kind, EventKind::Declared { server: who, .. } if who.id == server)
        })
        .last()
}

/// It was heard, or started, at this point.
fn is_back(event: &Event, server: ServerId) -> bool {
    matches!(&event.kind, EventKind::ServerStarted { server: who, .. } | EventKind::ServerUp { server: who } if who.id == server)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn find(state: &ClusterState, id: EventId) -> Option<&Event> {
    state.events.iter().rev().find(|event| event.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::story::{S1, S2, Story};
    use consensus::state::{Command, Incarnation, Round};

    const W: ServerId = ServerId(3);

    fn declare(voter: ServerId, name: &str) -> Command {
        Command::Declare {
            voter,
            round: Round {
                incarnation: Incarnation(1),
                number: 1,
            },
            server: S1,
            incarnation: Incarnation(1),
            evidence: format!(
                "s1 not heard by {name} for 1.9 s on any LAN; last on LAN 1 1.9 s ago"
            ),
        }
    }

    /// Goal: one takeover tells who was heard last by whom on which LAN, which entries decided, and what it cost.
    #[test]
    fn takeover_explains_itself() {
        let mut story = Story::mirrored();
        story.apply(declare(W, "w"));
        story.apply(declare(S2, "s2"));
        let module = story.record().name.clone();
        let entry = story.index;
        story.apply(Command::ApplicationStarted {
            module: module.clone(),
            epoch: story.record().epoch,
            server: S2,
            after_ms: 840,
        });
        let steps = steps(&story.state, &module);
        let last = steps.last().expect("a step");
        assert_eq!(
            last.what,
            "s2 took over: s1, which was primary, counts as down"
        );
        assert_eq!(last.entry, entry);
        assert_eq!(
            last.because,
            [
                format!("s1 counts as down: declared by s2 and w, 2 of 3 votes (entry {entry})"),
                "s1 not heard by s2 for 1.9 s on any LAN; last on LAN 1 1.9 s ago".to_owned(),
                "s1 not heard by w for 1.9 s on any LAN; last on LAN 1 1.9 s ago".to_owned(),
            ]
        );
        let started = format!(
            "the application ran on s2 0.8 s after it learned of its role (entry {})",
            entry + 1
        );
        assert_eq!(last.cost[0], started);
        // A lease and its grace before the first voice, and the start.
        assert!(last.service_gap_ms >= 1815, "{}", last.service_gap_ms);
    }

    #[test]
    fn what_is_told_fits_on_a_screen() {
        let mut story = Story::mirrored();
        let module = story.record().name.clone();
        for _ in 0..40 {
            let epoch = story.record().epoch;
            let (from, to) = match story.record().primary {
                Some(S1) => (S1, S2),
                _ => (S2, S1),
            };
            story.apply(Command::Switchover {
                module: module.clone(),
                epoch,
                from,
                to,
            });
        }
        let steps = steps(&story.state, &module);
        let lines: usize = steps.iter().map(lines_of).sum();
        assert!(lines <= LINES_MAX && lines > LINES_MAX / 2, "{lines}");
        let newest = story.state.events.back().map(|event| event.id.0);
        assert_eq!(steps.last().map(|step| step.event), newest);
    }

    #[test]
    fn change_without_a_start_costs_nothing_that_is_known() {
        let story = Story::mirrored();
        let steps = steps(&story.state, &story.record().name);
        let last = steps.last().expect("a step");
        assert!(last.what.contains("is up to date"), "{}", last.what);
        assert_eq!((last.service_gap_ms, last.cost.len()), (0, 0));
    }
}
