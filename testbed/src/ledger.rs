//! `testbed ledger`: a small HTTP service over SQLite, the application of fast tests.
//!
//! It answers a POST only after SQLite has committed, so an answer is a promise: with `synchronous=full` that the row is on the disk,
//! with `off` that its writes have returned, which says all that acknowledgement on receipt promises. It never retries and never
//! repairs: when its disk fails it answers 500 and the row is not promised.

use anyhow::Context as _;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::{get, post};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Rows in one answer of GET /rows.
pub const PAGE_ROWS_MAX: u64 = 10_000;

/// Options of `testbed ledger`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Directory of the database
    #[arg(long)]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Journal of SQLite: wal or delete
    #[arg(long, default_value = "wal", value_parser = ["wal", "delete"])]
    journal: String,
    /// What SQLite puts on the disk before it answers: full or off
    #[arg(long, default_value = "full", value_parser = ["full", "off"])]
    synchronous: String,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// Its number, chosen by the writer and unique.
    pub number: u64,
}

type Shared = Arc<Mutex<Connection>>;

/// Serves until SIGTERM.
///
/// # Errors
/// The database or the port cannot be opened.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let database = open(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(options.listen, Arc::new(Mutex::new(database))))?;
    Ok(ExitCode::SUCCESS)
}

fn open(options: &Options) -> anyhow::Result<Connection> {
    let directory = options.dir.as_path();
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let path = directory.join("ledger.sqlite");
    let database = Connection::open(&path).with_context(|| format!("open {}", path.display()))?;
    database.pragma_update(None, "journal_mode", &options.journal)?;
    database.pragma_update(None, "synchronous", &options.synchronous)?;
    database.execute(
        "CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY)",
        (),
    )?;
    Ok(database)
}

async fn serve(listen: SocketAddr, database: Shared) -> anyhow::Result<()> {
    let routes = axum::Router::new()
        .route("/rows", post(add).get(list))
        .route("/health", get(health))
        .with_state(database);
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}"))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // Open connections are cut, not drained: a client that holds one must not hold up the stop of the module.
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

type Failure = (StatusCode, String);

fn failed(error: impl std::fmt::Display) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

/// Runs `work` on the database outside the async threads.
async fn on_database<T: Send + 'static>(
    database: Shared,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(move || work(&database.lock()))
        .await
        .map_err(failed)?
        .map_err(failed)
}

async fn add(State(database): State<Shared>, Json(row): Json<Row>) -> Result<Json<Row>, Failure> {
    let number = i64::try_from(row.number).map_err(failed)?;
    on_database(database, move |database| {
        database
            .prepare_cached("INSERT INTO rows (number) VALUES (?1)")?
            .execute((number,))
    })
    .await?;
    Ok(Json(row))
}

async fn list(State(database): State<Shared>, uri: Uri) -> Result<Json<Vec<u64>>, Failure> {
    let from = first_number(&uri)?;
    let numbers = on_database(database, move |database| {
        let mut statement = database.prepare_cached(
            "SELECT number FROM rows WHERE number >= ?1 ORDER BY number LIMIT ?2",
        )?;
        let limit = i64::try_from(PAGE_ROWS_MAX).unwrap_or(i64::MAX);
        let numbers = statement.query_map((from, limit), |row| row.get::<_, i64>(0))?;
        numbers.collect::<rusqlite::Result<Vec<i64>>>()
    })
    .await?;
    Ok(Json(
        numbers
            .into_iter()
            .filter_map(|number| u64::try_from(number).ok())
            .collect(),
    ))
}

/// `?from=N`; without it, from the beginning.
fn first_number(uri: &Uri) -> Result<i64, Failure> {
    match uri.query() {
        None => Ok(0),
        Some(query) => query
            .strip_prefix("from=")
            .and_then(|number| number.parse().ok())
            .ok_or((
                StatusCode::BAD_REQUEST,
                "the query is from=NUMBER\n".to_owned(),
            )),
    }
}

async fn health(State(database): State<Shared>) -> Result<String, Failure> {
    let count = on_database(database, |database| {
        database.query_row("SELECT count(*) FROM rows", (), |row| row.get::<_, i64>(0))
    })
    .await?;
    Ok(format!("{count} rows\n"))
}
