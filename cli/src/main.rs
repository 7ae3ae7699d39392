//! `skcli`: the command line of Sidekick.
//!
//! It decides nothing: a verb becomes one call of the administration API on the daemon's unix socket, and the reply
//! becomes text. Ideas needed to read on:
//! * `args` says what can be typed, `cluster` and `module_verbs` make calls, `render` is pure (reply in, text out)
//!   and holds the JSON shapes too, `failure` is every way to fail with its exit code.
//! * Files are checked here, before anything is sent, with the same code as the daemon uses: errors name file, line
//!   and column.

mod args;
mod author;
mod cluster;
mod confirm;
mod connection;
mod failure;
mod local;
mod module_verbs;
mod output;
mod render;

use args::{Args, Verb};
use clap::{CommandFactory, Parser};
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    let result = match args.verb {
        Verb::Completions { shell } => output.bytes(&completions(shell)).map(|()| 0),
        Verb::Cluster { ref verb } => in_runtime(cluster::run(verb, &args, &output)),
        Verb::Module { ref verb } => in_runtime(module_verbs::run(verb, &args, &output)),
    };
    let code = match result {
        Ok(code) => code,
        Err(failure) => output.failure(&failure),
    };
    ExitCode::from(code)
}

/// One thread is enough: there is one call at a time.
fn in_runtime(
    work: impl Future<Output = Result<u8, failure::Failure>>,
) -> Result<u8, failure::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|source| failure::Failure::Io {
            action: "start",
            path: "runtime".into(),
            source,
        })?
        .block_on(work)
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "skcli", &mut script);
    script
}
