//! `sknode`: the Sidekick daemon.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use node::daemon::Daemon;
use node::paths::Paths;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Libraries say at ERROR what we do not already say ourselves: openraft warns of every heartbeat to a member that is down,
/// fuser of every unmount that we did before it.
const LOG_DEFAULT: &str = "info,openraft=error,fuser=error";

/// The Sidekick daemon: runs on every server and witness, as root.
#[derive(Parser)]
#[command(name = "sknode", version)]
struct Arguments {
    /// What etc/sidekick, var/lib/sidekick and run/sidekick are below.
    #[arg(long, default_value = "/")]
    root: PathBuf,
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

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    die_on_panic();
    node::shell::process::protect();
    let watchdog = Some(arguments.watchdog).filter(|path| path.as_os_str() != "none");
    let daemon = Daemon::new(Paths::new(arguments.root), arguments.witness, watchdog)?;
    let workers = if arguments.witness { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        stop_on_signal(Arc::clone(&daemon))?;
        daemon.run().await
    })
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

fn stop_on_signal(daemon: Arc<Daemon>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        daemon.stop();
    });
    Ok(())
}
