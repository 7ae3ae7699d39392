//! The round trip of one message over the wire, the floor under every mirrored write.

use super::{Latencies, Measurement, measurement};
use anyhow::Context as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A peer that says nothing for this time is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Answers the messages of one connection after the other, for ever: it is ended from outside.
pub(super) fn serve(listen: SocketAddr, size: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let mut message = vec![0_u8; size];
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
    }
    Ok(())
}

pub(super) fn run(to: SocketAddr, size: usize, duration: Duration) -> anyhow::Result<Measurement> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut message = vec![0x5a_u8; size];
    let mut latencies = Latencies::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        latencies.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(measurement(latencies, began.elapsed(), size))
}
