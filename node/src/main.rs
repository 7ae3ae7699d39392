//! `sknode`: the Sidekick daemon.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use node::daemon::{Daemon, End};
use node::paths::Paths;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// Libraries say at ERROR what we do not already say ourselves: openraft warns of every heartbeat to a member that is down,
/// fuser of every unmount that we did before it.
const LOG_DEFAULT: &str = "info,openraft=error,fuser=error";

/// The Sidekick daemon: runs on every server and witness, as root.
#[derive(Parser)]
#[command(name = "sknode", version)]
struct Arguments {
    /// What etc/sidekick, var/lib/sidekick and run/sidekick are below; a witness of several clusters has one for each, and each
    /// its own address or port.
    #[arg(long, default_value = "/")]
    root: Vec<PathBuf>,
    /// A witness: votes, holds no files, runs no module.
    #[arg(long)]
    witness: bool,
    /// The hardware watchdog that resets this server when nothing softer helps, e.g. /dev/watchdog; `none` for no watchdog.
    #[arg(long, default_value = "none", value_name = "DEVICE")]
    watchdog: PathBuf,
    /// How to write the log (to standard error).
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Everything has ended in order by then, save what hangs in the kernel.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    node::shell::heap::bound();
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    die_on_panic();
    node::shell::process::protect();
    let watchdog = Some(arguments.watchdog).filter(|path| path.as_os_str() != "none");
    if arguments.root.len() > 1 && !arguments.witness {
        bail!("only a witness serves several clusters: a server belongs to one, give --root once");
    }
    let daemons = arguments
        .root
        .iter()
        .map(|root| Daemon::new(Paths::new(root), arguments.witness, watchdog.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let workers = if arguments.witness { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let end = runtime.block_on(async {
        stop_on_signal(daemons.clone())?;
        run_all(daemons).await
    });
    // A thread that a hung disk holds, of a script or a look, must not keep the process.
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    match end? {
        End::Stopped => Ok(()),
        End::LeftCluster => start_anew(),
    }
}

/// Runs until all have ended. One that fails, at its start or because it cannot keep its log, does not take the others along: each
/// cluster counts on its own vote. A start that failed for a reason that can pass is tried again; else it is served again when the
/// process is started anew. One that has left its cluster ends them all, in order, for that.
async fn run_all(daemons: Vec<Arc<Daemon>>) -> anyhow::Result<End> {
    let mut running = JoinSet::new();
    for daemon in &daemons {
        if daemons.len() > 1 {
            daemon.share_process();
        }
        let daemon = Arc::clone(daemon);
        let root = daemon.paths.root().to_owned();
        running.spawn(async move { (root, daemon.run_patiently().await) });
    }
    let mut outcome = Ok(End::Stopped);
    while let Some(ended) = running.join_next().await {
        match ended? {
            (_, Ok(End::Stopped)) => {}
            (_, Ok(End::LeftCluster)) => {
                outcome = Ok(End::LeftCluster);
                daemons.iter().for_each(|daemon| daemon.stop());
            }
            (root, Err(error)) => {
                if daemons.len() > 1 {
                    tracing::error!(root = %root.display(), error = format!("{error:#}"), "one of the clusters is not served");
                }
                outcome = outcome.and(Err(error));
            }
        }
    }
    outcome
}

/// The same program in the same process: nothing of the former membership is left in memory, and whoever watches the daemon
/// sees no end of it.
fn start_anew() -> anyhow::Result<()> {
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).context("start anew after leaving the cluster")
}

fn start_log(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("SIDEKICK_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// A thread that dies alone would leave a daemon that looks alive, and a panic in a file-system thread would unmount
/// the copy under a running application. Failing over is safer.
fn die_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn stop_on_signal(daemons: Vec<Arc<Daemon>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        daemons.iter().for_each(|daemon| daemon.stop());
    });
    Ok(())
}
