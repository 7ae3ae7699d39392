//! `testbed __load`: the workload generator of benches and tree scenarios. Runs inside a lab server; answers one JSON object.

mod files;
mod ping;
mod sqlite;

use clap::Subcommand;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What one measurement gave.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Measurement {
    /// Middle latency of one operation, in microseconds.
    pub p50_us: f64,
    /// Latency that 99 of 100 operations do not exceed, in microseconds.
    pub p99_us: f64,
    /// Operations per second.
    pub per_s: f64,
    /// Bytes moved, in MiB per second.
    pub mib_per_s: f64,
    /// Bytes moved in all.
    pub bytes: u64,
}

/// How files are used.
#[derive(Debug, Clone, clap::Args)]
pub struct FileOptions {
    /// Directory to work in
    #[arg(long)]
    dir: PathBuf,
    /// O_DIRECT
    #[arg(long)]
    direct: bool,
    /// Concurrent threads
    #[arg(long, default_value_t = 1)]
    writers: u32,
    /// Bytes of one operation
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// In order instead of anywhere
    #[arg(long)]
    sequential: bool,
    /// Seconds to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl FileOptions {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 600.0))
    }
}

/// Options of `testbed __load`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Overwrite blocks of one file
    Write(FileOptions),
    /// Read blocks of one file
    Read(FileOptions),
    /// Create a file, write one block, close
    Create(FileOptions),
    /// Several writers on one SQLite database, then an integrity check
    Sqlite(sqlite::Options),
    /// Answer each message
    PingServer {
        #[arg(long)]
        listen: SocketAddr,
        #[command(flatten)]
        sizes: ping::Sizes,
    },
    /// One message there and back, again and again
    Ping {
        #[arg(long)]
        to: SocketAddr,
        #[command(flatten)]
        sizes: ping::Sizes,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
}

/// Runs one load.
///
/// # Errors
/// The file system or the network refused.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let measured = match &options.load {
        Load::Write(options) => files::write(options)?,
        Load::Read(options) => files::read(options)?,
        Load::Create(options) => files::create(options)?,
        Load::Sqlite(options) => sqlite::run(options)?,
        Load::PingServer { listen, sizes } => {
            ping::serve(*listen, *sizes)?;
            return Ok(ExitCode::SUCCESS);
        }
        Load::Ping { to, sizes, seconds } => ping::run(
            *to,
            *sizes,
            Duration::from_secs_f64(seconds.clamp(0.1, 600.0)),
        )?,
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Latencies of all operations of one thread, in nanoseconds.
type Latencies = Vec<u64>;

fn measurement(mut latencies: Latencies, took: Duration, bytes_each: usize) -> Measurement {
    latencies.sort_unstable();
    let at = |share: f64| -> f64 {
        let index = (latencies.len() as f64 * share) as usize;
        let last = latencies.len().saturating_sub(1);
        latencies.get(index.min(last)).copied().unwrap_or(0) as f64 / 1000.0
    };
    let bytes = (latencies.len() * bytes_each) as u64;
    Measurement {
        p50_us: at(0.50),
        p99_us: at(0.99),
        per_s: latencies.len() as f64 / took.as_secs_f64(),
        mib_per_s: bytes as f64 / (1 << 20) as f64 / took.as_secs_f64(),
        bytes,
    }
}
