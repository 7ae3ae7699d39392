//! The little HTTP/1.1 that the ledger's client needs: one request at a time on one kept connection.

use anyhow::{Context as _, bail, ensure};
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// An answer larger than this is not from our ledger.
const BODY_BYTES_MAX: usize = 4 << 20;
/// A header line longer than this is not from our ledger.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The address does not answer.
    pub async fn open(host: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream: BufReader::new(stream),
            host,
        })
    }

    /// Sends a request and answers the body of a 200; anything else is an error and the connection is of no more use.
    ///
    /// # Errors
    /// Connection lost, or another status than 200.
    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let status = self.line().await?;
        let mut length = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let length = length.context("answer without content-length")?;
        ensure!(length <= BODY_BYTES_MAX, "answer of {length} bytes");
        let mut body = vec![0_u8; length];
        self.stream.read_exact(&mut body).await?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.split(' ').nth(1) != Some("200") {
            bail!("{status}: {}", body.trim());
        }
        Ok(body)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        let count = (&mut self.stream)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        ensure!(count > 0, "connection closed");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
