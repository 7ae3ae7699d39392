//! Labs side by side, each of which plays cell after cell until none is left. A lab in which a cell failed is made anew.

use super::{Cell, Options, Played, play};
use crate::scenario::Arena;
use crate::scenario::excuse::Excuses;
use anyhow::Context as _;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Instant;

/// Cells that wait and cells that were played.
struct Board {
    waiting: Mutex<VecDeque<Cell>>,
    played: Mutex<Vec<Played>>,
    total: usize,
    excuses: Mutex<Excuses>,
}

/// Plays all cells.
///
/// # Errors
/// No lab could be made.
pub(super) fn play_all(cells: Vec<Cell>, options: &Options) -> anyhow::Result<Vec<Played>> {
    let board = Board {
        total: cells.len(),
        excuses: Mutex::new(Excuses::of(u32::try_from(cells.len())?)),
        waiting: Mutex::new(cells.into()),
        played: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let labs: Vec<_> = (0..options.labs)
            .map(|_| scope.spawn(|| work(&board, options.seed)))
            .collect();
        for lab in labs {
            lab.join()
                .map_err(|_| anyhow::anyhow!("a lab panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(board.played.into_inner())
}

fn work(board: &Board, seed: u64) -> anyhow::Result<()> {
    let mut arena: Option<Arena> = None;
    loop {
        let Some(cell) = board.waiting.lock().pop_front() else {
            return Ok(());
        };
        let mut ready = match arena.take() {
            Some(arena) => arena,
            None => play::arena(seed).context("make a lab for the matrix")?,
        };
        let began = Instant::now();
        let result = play::play(&mut ready, &board.excuses, cell);
        let seconds = began.elapsed().as_secs_f64();
        let result = match result {
            Ok(figures) => {
                arena = Some(ready);
                Ok(figures)
            }
            Err(error) => Err(format!("{error:#}\n{}", ready.evidence())),
        };
        board.note(Played { cell, result }, seconds)?;
    }
}

impl Board {
    fn note(&self, new: Played, seconds: f64) -> anyhow::Result<()> {
        let mut played = self.played.lock();
        let number = played.len() + 1;
        let expected = super::expectation::expected(new.cell.state, new.cell.cuts);
        let said = match &new.result {
            Ok(figures) => figures
                .iter()
                .map(|(name, value)| format!("{name} {value:.0}"))
                .collect::<Vec<_>>()
                .join("  "),
            Err(why) => format!("FAILED {why}"),
        };
        writeln!(
            std::io::stdout(),
            "{number:3}/{}  {} {expected:6} {seconds:5.1} s  {said}",
            self.total,
            new.cell
        )?;
        played.push(new);
        Ok(())
    }
}
