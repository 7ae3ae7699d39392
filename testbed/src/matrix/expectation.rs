//! What the service must do while links are cut: stated before the run, from the state and the cuts alone.
//!
//! *A majority and one in-sync copy can talk* means: a server whose copy is in the committed in-sync set and where the module
//! is wanted has both directions of a link to at least one other voter. That pair elects a leader, renews the lease of that
//! server, and commits what it proposes; the third voter may be heard by one of them, by both or by none, in one direction or
//! none, and must not be able to hinder them.
//!
//! A primary that is alone in the in-sync set with no addition in the air needs no majority at all (R6).

use super::links::{Cuts, Place};
use std::fmt;

/// What a mirror is doing when links are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum State {
    /// PRIM and SECOND, both in sync
    Mirrored,
    /// ALONE, and the other server is being brought up to date
    Reintegrating,
    /// ALONE, and the module is stopped on the other server
    Alone,
    /// A planned switchover is under way
    Switchover,
}

impl State {
    /// All of them.
    pub const ALL: [State; 4] = [
        State::Mirrored,
        State::Reintegrating,
        State::Alone,
        State::Switchover,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Mirrored => "mirrored",
            State::Reintegrating => "reintegrating",
            State::Alone => "alone",
            State::Switchover => "switchover",
        })
    }
}

/// What the service must do while links are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// It stays on the primary.
    Stays,
    /// The secondary takes over.
    Moves,
    /// Either server serves.
    Somewhere,
    /// No majority can talk, and two copies are in sync: nobody may serve.
    Waits,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Service::Stays => "stays",
            Service::Moves => "moves",
            Service::Somewhere => "served",
            Service::Waits => "waits",
        })
    }
}

/// What must happen in `state` when `cuts` are made.
pub fn expected(state: State, cuts: Cuts) -> Service {
    let primary = cuts.has_majority(Place::Primary);
    let secondary = cuts.has_majority(Place::Secondary);
    match state {
        // The only in-sync copy.
        State::Alone | State::Reintegrating => Service::Stays,
        State::Mirrored if primary => Service::Stays,
        State::Mirrored if secondary => Service::Moves,
        State::Switchover if primary || secondary => Service::Somewhere,
        State::Mirrored | State::Switchover => Service::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(state: State, service: Service) -> usize {
        Cuts::all()
            .filter(|cuts| expected(state, *cuts) == service)
            .count()
    }

    #[test]
    fn how_often_the_service_stays_moves_and_waits() {
        assert_eq!(count(State::Alone, Service::Stays), 63);
        assert_eq!(count(State::Reintegrating, Service::Stays), 63);
        // Of 63: 27 leave no pair; 9 leave only secondary and witness; the rest leaves the primary somebody.
        assert_eq!(count(State::Mirrored, Service::Waits), 27);
        assert_eq!(count(State::Mirrored, Service::Moves), 9);
        assert_eq!(count(State::Mirrored, Service::Stays), 27);
        assert_eq!(count(State::Switchover, Service::Somewhere), 36);
    }
}
