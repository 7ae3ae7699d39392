//! `testbed matrix`: every one-way combination of lost links between two servers and a witness, in every state of a mirror,
//! with the leader on each voter (test-programme T5).
//!
//! A cell is a state, a place of the leader and a set of cut directions. One lab plays many cells: links heal, the cluster
//! converges, the next cell begins. In every cell: no acknowledged write is lost, the address has one owner on the wire, the
//! service does what [`expectation`] says, and after healing everything is mirrored again without an operator.

pub mod expectation;
pub mod links;
mod play;
mod workers;

pub(crate) use play::{move_leader, play_in};

use crate::scenario::figures::Figures;
use clap::Args;
use expectation::State;
use links::{Cuts, Place};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

/// A writer waits no longer than this where the service stays, in milliseconds (default profile).
pub(crate) const STALL_MS_MAX: f64 = 2500.0;
/// Where the service moves: takeover 2.2 s; what the silent voters still heard over connections that were already open 0.6 s;
/// addresses, mount and application 2 s.
pub(crate) const MOVE_MS_MAX: f64 = 4800.0;
/// The order in which slices cut the matrix is the same for ever, so that the slices of N days are all of it.
const ORDER_SEED: u64 = 20_261_126;
/// Cells of the slice of the day: about half a minute.
const CELLS_OF_THE_DAY: usize = 3;

/// Options of `testbed matrix`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only with the leader on this voter: p (primary), s (secondary) or w (witness)
    #[arg(long, value_parser = place)]
    pub leader: Option<Place>,
    /// Only these cut directions, as the table prints them: "p>s w>p"
    #[arg(long)]
    pub cuts: Option<String>,
    /// Part K of N of the matrix
    #[arg(long, value_name = "K/N", conflicts_with = "today")]
    pub slice: Option<Slice>,
    /// A few cells, others every day
    #[arg(long)]
    pub today: bool,
    /// Labs side by side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub labs: u8,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Part K of N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    number: usize,
    of: usize,
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Slice, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Slice { number, of }),
            Some(_) | None => Err("expected K/N with K from 1 to N, as 3/10".to_owned()),
        }
    }
}

fn place(text: &str) -> Result<Place, String> {
    Place::ALL
        .into_iter()
        .find(|place| text == place.letter().to_string())
        .ok_or_else(|| "expected p, s or w".to_owned())
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What the mirror does.
    pub state: State,
    /// Where the leader is.
    pub leader: Place,
    /// What is cut.
    pub cuts: Cuts,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cell {
            state,
            leader,
            cuts,
        } = self;
        write!(f, "{state:13} leader {} cut {cuts:23}", leader.letter())
    }
}

/// What came of one cell.
#[derive(Debug)]
struct Played {
    cell: Cell,
    result: Result<Figures, String>,
}

/// The cells that the options ask for: those of one state and one leader stay together, because moving the leader takes time.
pub fn cells(options: &Options) -> Vec<Cell> {
    let mut cells = Vec::new();
    for state in State::ALL {
        for leader in Place::ALL {
            cells.extend(Cuts::all().map(|cuts| Cell {
                state,
                leader,
                cuts,
            }));
        }
    }
    cells.shuffle(&mut StdRng::seed_from_u64(ORDER_SEED));
    let today = options.today.then(|| slice_of_the_day(cells.len()));
    let mut index = 0;
    cells.retain(|cell| {
        index += 1;
        let is_in = |slice: Slice| index % slice.of == slice.number - 1;
        options.state.is_none_or(|state| state == cell.state)
            && options.leader.is_none_or(|leader| leader == cell.leader)
            && options
                .cuts
                .as_ref()
                .is_none_or(|cuts| *cuts == cell.cuts.to_string())
            && options.slice.or(today).is_none_or(is_in)
    });
    cells.sort_by_key(|cell| (cell.state, cell.leader.letter()));
    cells
}

/// Another slice every day, until all were played.
fn slice_of_the_day(cells: usize) -> Slice {
    let of = cells / CELLS_OF_THE_DAY;
    let day = crate::wait::unix_ms() / (24 * 3600 * 1000);
    let number = usize::try_from(day).unwrap_or(0) % of + 1;
    Slice { number, of }
}

/// Runs `testbed matrix`.
///
/// # Errors
/// Nothing to play; a failed cell is exit status 1 and not an error.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(why) = crate::cluster::missing() {
        return crate::skipped("matrix", &why, options.json);
    }
    let failed = perform(options)?;
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays the cells and prints the table; answers the cells that failed, each with the reason.
///
/// # Errors
/// The options name no cell.
pub fn perform(options: &Options) -> anyhow::Result<Vec<String>> {
    let cells = cells(options);
    anyhow::ensure!(
        !cells.is_empty(),
        "no cell of the matrix is meant by these options"
    );
    let count = cells.len();
    let played = workers::play_all(cells, options)?;
    let mut failed = Vec::new();
    for Played { cell, result } in &played {
        if let Err(why) = result {
            let first = why.lines().next().unwrap_or_default();
            failed.push(format!("{cell}: {first}"));
        }
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "matrix: {} of {count} cells passed",
        count - failed.len()
    )?;
    for line in &failed {
        writeln!(out, "FAILED {line}")?;
    }
    if options.json {
        let object = serde_json::json!({
            "name": "matrix",
            "passed": failed.is_empty(),
            "cells": count,
            "failed": failed,
            "seed": options.seed,
        });
        writeln!(out, "{object}")?;
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            state: None,
            leader: None,
            cuts: None,
            slice: None,
            today: false,
            labs: 1,
            seed: 1,
            json: false,
        }
    }

    #[test]
    fn slices_are_the_whole_matrix_and_do_not_overlap() {
        let all = cells(&options()).len();
        assert_eq!(all, 4 * 3 * 63);
        let mut parts = Vec::new();
        for number in 1..=10 {
            let slice = Some(Slice { number, of: 10 });
            parts.extend(cells(&Options { slice, ..options() }));
        }
        assert_eq!(parts.len(), all);
        for cell in cells(&options()) {
            assert_eq!(parts.iter().filter(|part| **part == cell).count(), 1);
        }
    }

    #[test]
    fn a_slice_is_written_as_k_of_n() {
        assert_eq!("3/10".parse(), Ok(Slice { number: 3, of: 10 }));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Slice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_slice_of_the_day_is_short() {
        let today = Options {
            today: true,
            ..options()
        };
        assert_eq!(cells(&today).len(), CELLS_OF_THE_DAY);
    }
}
