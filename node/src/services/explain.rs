//! Why the roles are what they are: the chain of causes of each change, newest last.

use std::collections::BTreeSet;

use api::v1::ExplainStep;
use consensus::state::{ClusterState, Event, EventId, ModuleName};

/// Role changes shown.
const STEPS_MAX: usize = 10;
/// Length of a chain of causes shown.
const CAUSES_MAX: usize = 8;

/// The newest role changes of `module`, each with its causes, as far as events are kept.
pub(super) fn steps(state: &ClusterState, module: &ModuleName) -> Vec<ExplainStep> {
    let changes: Vec<&Event> = state
        .events
        .iter()
        .filter(|event| event.module.as_ref() == Some(module))
        .collect();
    let skipped = changes.len().saturating_sub(STEPS_MAX);
    changes
        .into_iter()
        .skip(skipped)
        .map(|event| step(state, event))
        .collect()
}

fn step(state: &ClusterState, event: &Event) -> ExplainStep {
    let mut because = vec![sentence(event)];
    let mut seen = BTreeSet::from([event.id]);
    let mut next = event.cause;
    while let Some(cause) = next.filter(|cause| because.len() < CAUSES_MAX && seen.insert(*cause)) {
        match find(state, cause) {
            Some(found) => {
                because.push(format!("{}: {}", found.kind, sentence(found)));
                next = found.cause;
            }
            None => {
                because.push(format!("event {} is not kept any more", cause.0));
                next = None;
            }
        }
    }
    ExplainStep {
        event: event.id.0,
        at_unix_ms: event.at_unix_ms,
        epoch: event.epoch.map_or(0, |epoch| epoch.0),
        what: event.kind.to_string(),
        because,
        service_gap_ms: 0,
    }
}

fn sentence(event: &Event) -> String {
    match event.evidence.as_str() {
        "" => format!("proposed by {}", event.author),
        evidence => format!("{evidence} (proposed by {})", event.author),
    }
}

fn find(state: &ClusterState, id: EventId) -> Option<&Event> {
    state.events.iter().rev().find(|event| event.id == id)
}
