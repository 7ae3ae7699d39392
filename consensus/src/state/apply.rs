//! Applying an entry.

use super::ClusterState;
use super::command::{Accepted, Proposal};
use super::rejection::Rejection;

impl ClusterState {
    /// Applies the entry at `index` of the log.
    ///
    /// # Errors
    /// The command was refused, and nothing changed.
    pub fn apply(&mut self, _index: u64, _proposal: &Proposal) -> Result<Accepted, Rejection> {
        Ok(Accepted::Unchanged)
    }
}
