//! What the client writes to: an application behind the virtual address.

use super::http;
use crate::lab::topology;
use crate::ledger::{PAGE_ROWS_MAX, Row};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A connection that does not come up in this time is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// A write that is not answered in this time has an unknown outcome.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Reading everything back may take this long.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Which application runs in the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Application {
    /// `testbed ledger`: HTTP over SQLite
    Ledger,
    /// PostgreSQL
    Postgresql,
}

impl Application {
    /// Name of its module directory.
    pub fn name(self) -> &'static str {
        match self {
            Application::Ledger => "ledger",
            Application::Postgresql => "postgresql",
        }
    }

    /// PostgreSQL is wherever the distribution's package is; the ledger is part of the testbed.
    pub fn is_installed(self) -> bool {
        match self {
            Application::Ledger => true,
            Application::Postgresql => {
                std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|versions| {
                    versions
                        .flatten()
                        .any(|version| version.path().join("bin/postgres").exists())
                })
            }
        }
    }

    fn port(self) -> u16 {
        match self {
            Application::Ledger => 8080,
            Application::Postgresql => 5432,
        }
    }
}

/// An application at an address.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Which application.
    pub application: Application,
    /// Where.
    pub address: SocketAddr,
}

impl Target {
    /// The application behind the lab's virtual IPv4 address.
    pub fn behind_virtual_address(application: Application) -> Target {
        Target::at(application, topology::virtual_v4())
    }

    /// The application at an address.
    pub fn at(application: Application, address: IpAddr) -> Target {
        Target {
            application,
            address: SocketAddr::new(address, application.port()),
        }
    }
}

/// An open session with the application.
pub(super) enum Session {
    Ledger(http::Connection),
    Postgresql {
        client: tokio_postgres::Client,
        insert: tokio_postgres::Statement,
        driver: tokio::task::JoinHandle<()>,
    },
}

impl Drop for Session {
    fn drop(&mut self) {
        match self {
            Session::Postgresql { driver, .. } => driver.abort(),
            Session::Ledger(_) => {}
        }
    }
}

impl Session {
    pub(super) async fn open(target: Target) -> anyhow::Result<Session> {
        match target.application {
            Application::Ledger => {
                let connection =
                    tokio::time::timeout(CONNECT_TIMEOUT, http::Connection::open(target.address))
                        .await
                        .context("no connection in time")??;
                Ok(Session::Ledger(connection))
            }
            Application::Postgresql => postgresql(target.address).await,
        }
    }

    /// Commits one row. `Ok` = acknowledged; `Err` = nothing is known about the row.
    pub(super) async fn write(&mut self, number: u64) -> anyhow::Result<()> {
        tokio::time::timeout(STATEMENT_TIMEOUT, self.write_now(number))
            .await
            .context("no answer in time")?
    }

    async fn write_now(&mut self, number: u64) -> anyhow::Result<()> {
        match self {
            Session::Ledger(connection) => {
                let body = serde_json::to_string(&Row { number })?;
                let answer: Row =
                    serde_json::from_str(&connection.call("POST", "/rows", &body).await?)?;
                anyhow::ensure!(answer.number == number, "answer to another row");
            }
            Session::Postgresql { client, insert, .. } => {
                client.execute(insert, &[&i64::try_from(number)?]).await?;
            }
        }
        Ok(())
    }
}

async fn postgresql(address: SocketAddr) -> anyhow::Result<Session> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user("postgres")
        .dbname("ledger")
        .application_name("recorder")
        .connect_timeout(CONNECT_TIMEOUT);
    let connecting = async {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "database connection ended");
            }
        });
        let prepared = client
            .prepare("INSERT INTO sidekick_rows (number) VALUES ($1)")
            .await;
        match prepared {
            Ok(insert) => Ok(Session::Postgresql {
                client,
                insert,
                driver,
            }),
            Err(error) => {
                driver.abort();
                Err(anyhow::Error::from(error))
            }
        }
    };
    // The greeting of the server is part of the connection, and can hang just as well.
    tokio::time::timeout(CONNECT_TIMEOUT + STATEMENT_TIMEOUT, connecting)
        .await
        .context("no connection in time")?
}

/// Makes the table of rows where the application does not do so itself.
pub(super) async fn prepare(target: Target) -> anyhow::Result<()> {
    match target.application {
        Application::Ledger => Ok(()),
        Application::Postgresql => {
            let (client, driver) = plain(target.address).await?;
            let made = tokio::time::timeout(
                READ_BACK_TIMEOUT,
                client.batch_execute(
                    "CREATE TABLE IF NOT EXISTS sidekick_rows (number bigint PRIMARY KEY)",
                ),
            )
            .await;
            driver.abort();
            Ok(made.context("no answer in time")??)
        }
    }
}

/// Every row the application has from number `first` on.
pub(super) async fn rows(target: Target, first: u64) -> anyhow::Result<BTreeSet<u64>> {
    tokio::time::timeout(READ_BACK_TIMEOUT, rows_now(target, first))
        .await
        .context("the rows could not be read back in time")?
}

async fn rows_now(target: Target, first: u64) -> anyhow::Result<BTreeSet<u64>> {
    let mut all = BTreeSet::new();
    match target.application {
        Application::Ledger => {
            let mut connection = http::Connection::open(target.address).await?;
            loop {
                let from = all.last().map_or(first, |last| last + 1);
                let path = format!("/rows?from={from}");
                let page: Vec<u64> =
                    serde_json::from_str(&connection.call("GET", &path, "").await?)?;
                let is_last = (page.len() as u64) < PAGE_ROWS_MAX;
                all.extend(page);
                if is_last {
                    return Ok(all);
                }
            }
        }
        Application::Postgresql => {
            let (client, driver) = plain(target.address).await?;
            let from = i64::try_from(first)?;
            let query = "SELECT number FROM sidekick_rows WHERE number >= $1";
            let rows = client.query(query, &[&from]).await;
            driver.abort();
            for row in rows? {
                all.insert(u64::try_from(row.get::<_, i64>(0))?);
            }
            Ok(all)
        }
    }
}

async fn plain(
    address: SocketAddr,
) -> anyhow::Result<(tokio_postgres::Client, tokio::task::JoinHandle<()>)> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user("postgres")
        .dbname("ledger")
        .connect_timeout(STATEMENT_TIMEOUT);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "database connection ended");
        }
    });
    Ok((client, driver))
}
