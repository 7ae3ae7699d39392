//! What an observer sees of a moment, and the same of an independent model of the rules, compared by machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::model::Moment;
use super::search::{Case, Outcome, explore_observed};
use super::world::{A, B, NAMES, World, node};

/// Loads the model, explores it and prints its states as [`seen`] does.
const OBSERVE_MODEL: &str = include_str!("observe_model.py");

/// How far an independent model is explored: writes, crashes, cuts, declarations, last epoch.
pub(super) type ModelBounds = [u8; 5];

/// What was seen on either side.
#[derive(Debug)]
pub(super) struct Compared {
    /// What the exploration came to.
    pub(super) outcome: Outcome,
    /// How many kinds of moments were seen here.
    pub(super) kinds: usize,
    /// Seen in the model, not here.
    pub(super) model_only: BTreeSet<String>,
    /// Seen here, not in the model.
    pub(super) here_only: BTreeSet<String>,
    /// States of the model.
    pub(super) model_states: usize,
}

/// Primary, in-sync set, who serves, the writes on each copy and the acknowledged ones. None between two roles: for the
/// model one primary follows the other in one step.
fn seen(world: &mut World, moment: &Moment) -> Option<String> {
    let record = world.record(moment.committed);
    let primary = NAMES[node(record.primary?)];
    let in_sync: String = record
        .in_sync
        .iter()
        .map(|server| NAMES[node(*server)])
        .collect();
    let serving: String = [A, B]
        .into_iter()
        .filter(|server| moment.serves(world, *server))
        .map(|server| NAMES[server])
        .collect();
    let serving = if serving.is_empty() { "-" } else { &serving };
    let [a, b] = moment.copies.map(|copy| copy.data);
    let acknowledged = moment.acknowledged;
    Some(format!(
        "{primary} {in_sync} {serving} {a} {b} {acknowledged}"
    ))
}

/// Explores both and compares what is seen.
///
/// # Errors
/// The model can't be run, or prints something else.
pub(super) fn compare(case: Case, model: &Path, bounds: ModelBounds) -> anyhow::Result<Compared> {
    let mut here = BTreeSet::new();
    let outcome = explore_observed(case, &mut |world, moment| here.extend(seen(world, moment)));
    let mut arguments = vec!["-c".into(), OBSERVE_MODEL.into(), model.into()];
    arguments.extend(bounds.map(|bound| bound.to_string().into()));
    let said = python(&arguments)?;
    anyhow::ensure!(
        said.status.success(),
        "{} can't be explored: {}",
        model.display(),
        String::from_utf8_lossy(&said.stderr)
    );
    let said = String::from_utf8(said.stdout)?;
    let (states, there) = read(&said).context("the model printed something else than states")?;
    Ok(Compared {
        outcome,
        kinds: here.len(),
        model_only: there.difference(&here).cloned().collect(),
        here_only: here.difference(&there).cloned().collect(),
        model_states: states,
    })
}

/// What the model's own search says of a bug it knows: its first line when it found a violation.
///
/// # Errors
/// The model can't be run.
pub(super) fn violation_in(
    model: &Path,
    bounds: ModelBounds,
    bug: &str,
) -> anyhow::Result<Option<String>> {
    let mut arguments = vec![model.into()];
    arguments.extend(bounds.map(|bound| bound.to_string().into()));
    arguments.push(bug.into());
    let said = python(&arguments)?;
    let text = String::from_utf8(said.stdout)?;
    let first = text.lines().next().unwrap_or_default();
    match said.status.code() {
        Some(0) => Ok(None),
        Some(1) if first.starts_with("VIOLATION") => Ok(Some(first.to_owned())),
        _ => anyhow::bail!(
            "{} with the bug {bug} ended without a verdict: {}",
            model.display(),
            String::from_utf8_lossy(&said.stderr)
        ),
    }
}

fn python(arguments: &[std::ffi::OsString]) -> anyhow::Result<std::process::Output> {
    Command::new("python3")
        .args(arguments)
        .output()
        .context("python3 can't be started; the model is written in it")
}

/// The first line counts states; each other one is a kind of moment.
fn read(said: &str) -> Option<(usize, BTreeSet<String>)> {
    let mut lines = said.lines();
    let states = lines.next()?.strip_prefix("states ")?.parse().ok()?;
    Some((states, lines.map(str::to_owned).collect()))
}
