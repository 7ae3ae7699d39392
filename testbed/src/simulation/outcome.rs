//! What became of a run.

use super::oracle::Broken;

/// What became of one seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first property that did not hold.
    pub broken: Option<Broken>,
    /// Of every line of the trace.
    pub digest: u64,
    /// How long it lasted in virtual time.
    pub virtual_ns: u64,
    /// Events that were handled.
    pub events: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Failovers.
    pub failovers: u64,
    /// Changes of primary or in-sync set.
    pub role_changes: u64,
    /// The faults, by kind.
    pub faults: Vec<String>,
    /// Its last lines, or all of them when asked for.
    pub trace: Vec<String>,
}
