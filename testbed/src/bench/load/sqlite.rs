//! SQLite under stress: several connections in threads of one process, updates and deletes, a vacuum, an integrity check.

use super::{Latencies, Measurement, measurement};
use anyhow::{Context as _, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;
/// Longest wait for another writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one row.
const ROW_BYTES: usize = 500;

/// Options of `testbed __load sqlite`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Directory of the database
    #[arg(long)]
    dir: PathBuf,
    /// wal or delete
    #[arg(long, default_value = "wal", value_parser = ["wal", "delete"])]
    journal: String,
    /// Transactions in all
    #[arg(long, default_value_t = 2000)]
    rows: u64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Measurement> {
    let path = options
        .dir
        .join(format!("stress-{}.sqlite", options.journal));
    let database = open(&path, &options.journal)?;
    database.execute(
        "CREATE TABLE stress (number INTEGER PRIMARY KEY, writer INTEGER, content BLOB)",
        (),
    )?;
    database.execute("CREATE INDEX by_writer ON stress (writer)", ())?;
    let began = Instant::now();
    let latencies = std::thread::scope(|scope| -> anyhow::Result<Latencies> {
        let running: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || write(path, &options.journal, writer, options.rows / WRITERS))
            })
            .collect();
        let mut all = Latencies::new();
        for thread in running {
            all.extend(
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a writer panicked"))??,
            );
        }
        Ok(all)
    })?;
    let took = began.elapsed();
    database.execute_batch("VACUUM")?;
    let verdict: String = database.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
    ensure!(verdict == "ok", "integrity check: {verdict}");
    Ok(measurement(latencies, took, ROW_BYTES))
}

fn open(path: &Path, journal: &str) -> anyhow::Result<Connection> {
    let database = Connection::open(path).with_context(|| format!("open {}", path.display()))?;
    database.busy_timeout(BUSY_TIMEOUT)?;
    database.pragma_update(None, "journal_mode", journal)?;
    database.pragma_update(None, "synchronous", "FULL")?;
    Ok(database)
}

fn write(path: &Path, journal: &str, writer: u64, count: u64) -> anyhow::Result<Latencies> {
    let mut database = open(path, journal)?;
    let mut random = SmallRng::seed_from_u64(writer);
    let writer_number = i64::try_from(writer)?;
    let mut content = vec![0_u8; ROW_BYTES];
    let mut latencies = Latencies::new();
    for _ in 0..count {
        random.fill(&mut content[..]);
        let began = Instant::now();
        // Immediate: two readers that both want to write would be a deadlock, which SQLite refuses at once.
        let transaction =
            database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT INTO stress (writer, content) VALUES (?1, ?2)",
            (writer_number, &content),
        )?;
        transaction.execute(
            "UPDATE stress SET content = ?1 WHERE number = (SELECT max(number) / 2 FROM stress)",
            (&content,),
        )?;
        if random.random_ratio(1, 10) {
            transaction.execute(
                "DELETE FROM stress WHERE number = (SELECT min(number) FROM stress WHERE writer = ?1)",
                (writer_number,),
            )?;
        }
        transaction.commit()?;
        latencies.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}
