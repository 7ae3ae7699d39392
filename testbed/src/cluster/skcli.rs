//! `skcli` as an operator types it: as a process, with a deadline, its output and exit status looked at.

use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A command of an operator ends within this time; long ones say so themselves.
const DEADLINE: Duration = Duration::from_secs(60);

/// The command line of one server.
#[derive(Debug, Clone)]
pub struct Skcli {
    program: PathBuf,
    root: PathBuf,
}

impl Skcli {
    /// # Errors
    /// `skcli` is not built.
    pub fn new(root: &Path) -> anyhow::Result<Skcli> {
        Ok(Skcli {
            program: crate::lab::program("skcli")?,
            root: root.to_owned(),
        })
    }

    /// Runs a command and answers however it ended.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn try_run(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(arguments);
        wait::run(&mut command, DEADLINE).context("run skcli")
    }

    /// Runs a command that must succeed; answers its standard output.
    ///
    /// # Errors
    /// It failed; the text is the command and what it said.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let finished = self.try_run(arguments)?;
        ensure!(
            finished.is_success(),
            "skcli {} on {}: {}",
            arguments.join(" "),
            self.root.display(),
            finished.summary()
        );
        Ok(finished.stdout)
    }

    /// Runs a command with `--json` and reads its answer.
    ///
    /// # Errors
    /// It failed, or the answer is no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let said = self.run(&all)?;
        serde_json::from_str(&said)
            .with_context(|| format!("skcli {} --json said {said}", arguments.join(" ")))
    }
}
