//! What can be typed.

mod cluster;
mod module;

pub(crate) use cluster::{ClusterVerb, Lease, Sure};
pub(crate) use module::{Change, ModuleVerb, Prim};

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0  done (with --dry-run: could be done)
  1  failed: something broke
  2  wrong usage: command line, configuration or package
  3  the daemon cannot be reached
  4  refused: the cluster's rules or its present state do not allow it
  5  no answer: no majority, or not in time; what was asked may still happen (see: skcli cluster events)
  module state -q: STOP 0, WAIT 1, ALONE 2, PRIM 3, SECOND 4; 255 when the state is not known

Environment: SIDEKICK_ROOT as --root, NO_COLOR for plain text.";

/// Sidekick: applications that survive their server
#[derive(Debug, Parser)]
#[command(name = "skcli", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    /// Directory below which the daemon keeps its files [default: /]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Socket of the daemon [default: ROOT/run/sidekick/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Answer with one JSON document, streams with one per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Args {
    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        let from_environment = || {
            std::env::var_os("SIDEKICK_ROOT")
                .filter(|root| !root.is_empty())
                .map(PathBuf::from)
        };
        let root = self
            .root
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(|| PathBuf::from("/"));
        self.socket
            .clone()
            .unwrap_or_else(|| root.join("run/sidekick/control.sock"))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Members of the cluster and what happened
    Cluster {
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Modules: applications with their files and addresses
    Module {
        #[command(subcommand)]
        verb: ModuleVerb,
    },
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// A cluster or server name.
fn member_name(text: &str) -> Result<String, String> {
    name(
        text,
        "-",
        "a small letter, then at most 31 small letters, digits and -",
    )
}

/// A module name.
pub(crate) fn module_name(text: &str) -> Result<String, String> {
    name(
        text,
        "_-",
        "a small letter, then at most 31 small letters, digits, _ and -",
    )
}

fn name(text: &str, also: &str, expected: &str) -> Result<String, String> {
    let starts = text.starts_with(|first: char| first.is_ascii_lowercase());
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c);
    if starts && text.len() <= 32 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected {expected}"))
    }
}

/// Seconds, or a number with s, m, h or d.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("expected a number, perhaps with s, m, h or d".to_owned()),
    };
    let number = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    number
        .filter(|seconds| *seconds <= 30 * 86_400)
        .ok_or_else(|| "expected a number, at most 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Args, member_name, module_name, seconds};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    /// Verbs that change nothing. A new verb is listed here, or it has `--dry-run` (and then `testbed scenario run dry_runs`
    /// wants to know how it is typed).
    const READ_ONLY: &[&str] = &[
        "cluster state",
        "cluster events",
        "module list",
        "module state",
        "module log",
        "module explain",
        "module check",
        "completions",
    ];

    fn leaves(command: &clap::Command, path: &str) -> Vec<(String, bool)> {
        let is_leaf = !command.has_subcommands();
        let has_dry_run = command
            .get_arguments()
            .any(|argument| argument.get_long() == Some("dry-run"));
        let own = is_leaf.then(|| (path.to_owned(), has_dry_run));
        let below = command.get_subcommands().flat_map(|verb| {
            let below = format!("{path} {}", verb.get_name());
            leaves(verb, below.trim_start())
        });
        own.into_iter().chain(below).collect()
    }

    #[test]
    fn every_verb_that_changes_something_can_be_tried() {
        let verbs = leaves(&Args::command(), "");
        assert!(verbs.len() > READ_ONLY.len());
        for (verb, has_dry_run) in &verbs {
            assert_ne!(
                READ_ONLY.contains(&verb.as_str()),
                *has_dry_run,
                "{verb}: read only, or with --dry-run"
            );
        }
    }

    #[test]
    fn names_and_times() {
        assert!(module_name("pg_1-a").is_ok());
        for bad in ["", "PG", "1a", "a.b", "../x", "a b", &"a".repeat(33)] {
            assert!(module_name(bad).is_err(), "{bad:?}");
        }
        assert!(member_name("s_1").is_err());
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("7"), Ok(7));
        assert!(seconds("1w").is_err() && seconds("").is_err() && seconds("31d").is_err());
    }
}
