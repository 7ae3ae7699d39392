//! Asking whether something that cannot be undone is meant.

use crate::args::Sure;
use crate::failure::Failure;
use std::io::{self, BufRead, IsTerminal, Write};

/// What must be typed.
const WORD: &str = "yes";

/// Shows the plan and asks, unless the answer was given on the command line.
pub(crate) fn confirm(plan: &[String], sure: &Sure) -> Result<(), Failure> {
    if sure.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage {
            what: format!(
                "this cannot be undone, and nobody is there to ask: {}",
                plan.join("; ")
            ),
            next: "repeat the command with --yes".to_owned(),
        });
    }
    let typed = ask(plan).map_err(|source| Failure::Io {
        action: "ask on",
        path: "the terminal".into(),
        source,
    })?;
    if typed.trim() == WORD {
        Ok(())
    } else {
        Err(Failure::Usage {
            what: "nothing was done".to_owned(),
            next: String::new(),
        })
    }
}

fn ask(plan: &[String]) -> io::Result<String> {
    let mut out = io::stderr().lock();
    for line in plan {
        writeln!(out, "{}", crate::render::clean(line))?;
    }
    write!(out, "this cannot be undone; type {WORD} to go on: ")?;
    out.flush()?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed)?;
    Ok(typed)
}
