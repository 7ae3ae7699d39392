//! `testbed explore --model FILE`: the exploration against an independent model of the rules.

use std::io::Write;
use std::path::Path;

use consensus::state::AckMode;

use super::observed::{ModelBounds, compare, violation_in};
use super::{Begin, Bounds, Case, Outcome, case_for, explore};
use crate::planted::Bug;

/// The bugs both know, as the model calls them and as we do.
const BUGS: [(&str, Bug); 5] = [
    ("ackfirst", Bug::AcknowledgeFirst),
    ("pending", Bug::AdditionForgotten),
    ("flag", Bug::AdditionForgottenOverRestart),
    ("regrant", Bug::LeaseWhileDeclared),
    ("stalegrant", Bug::LeaseOnStaleRecord),
];
/// What the model is given for what is one fault here: a crash, a cut, and two voters that notice.
const MODEL_BOUNDS: ModelBounds = [1, 1, 1, 2, 4];

/// Kinds of moments that the model does not have, and why that is so: a primary that started again before it was missed had a write
/// that it never acknowledged. Here the other one leads with both copies on record, and drops the former primary's before it answers
/// anything; in the model it is dropped at once.
const EXPLAINED: [&str; 2] = ["b ab - 1 0 0", "b ab b 1 0 0"];

/// Runs both, with each bug and without; without, within `bounds`. True when they agree.
///
/// # Errors
/// The model can't be run, or nobody reads the output.
pub(super) fn run(
    model: &Path,
    states: usize,
    bounds: Bounds,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let mut agree = true;
    for (theirs, bug) in BUGS {
        let there = violation_in(model, MODEL_BOUNDS, theirs)?;
        let here = case_for(bug, states).map(explore);
        let here = match here {
            Some(Outcome::Violated { what, .. }) => Some(what),
            Some(Outcome::Holds { .. }) | None => None,
        };
        agree &= there.is_some() && here.is_some();
        let told = |found: Option<String>| found.unwrap_or_else(|| "nothing found".to_owned());
        writeln!(out, "{theirs}: the model: {}", told(there))?;
        writeln!(out, "  {}: here: {}", bug.name(), told(here))?;
        out.flush()?;
    }
    let case = Case {
        ack: AckMode::Disk,
        begin: Begin::InSync,
        bounds,
        bug: None,
        states_max: states,
    };
    let compared = compare(case, model, MODEL_BOUNDS)?;
    let holds = matches!(compared.outcome, Outcome::Holds { .. });
    writeln!(out, "without a bug: here: {:?}", compared.outcome)?;
    writeln!(out, "  the model: {} states", compared.model_states)?;
    writeln!(
        out,
        "  {} kinds of moments here, {} of them not in the model; {} of the model not here",
        compared.kinds,
        compared.here_only.len(),
        compared.model_only.len()
    )?;
    let is_explained = |kind: &String| EXPLAINED.contains(&kind.as_str());
    for kind in &compared.here_only {
        let explained = if is_explained(kind) {
            " (explained)"
        } else {
            ""
        };
        writeln!(out, "    here only: {kind}{explained}")?;
    }
    for kind in &compared.model_only {
        writeln!(out, "    model only: {kind}")?;
    }
    if !compared.model_only.is_empty() {
        writeln!(
            out,
            "not all of the model was seen here: explore more --states or --faults"
        )?;
    }
    let are_same = compared.model_only.is_empty() && compared.here_only.iter().all(is_explained);
    Ok(agree && holds && are_same)
}
