//! The round trip of one message over the wire, the floor under every mirrored write.

use super::{Latencies, Measurement, measurement};
use anyhow::Context as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A peer that says nothing for this time is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Bytes of a message and of its answer.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Sizes {
    /// Bytes of a message
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Bytes of its answer; as many as the message by default
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    answer: Option<u32>,
}

impl Sizes {
    /// Room for a message, and for an answer.
    fn buffers(self) -> (Vec<u8>, Vec<u8>) {
        let buffer = |bytes: u32| vec![0x5a_u8; bytes as usize];
        (buffer(self.size), buffer(self.answer.unwrap_or(self.size)))
    }
}

/// Answers the messages of one connection after the other, for ever: it is ended from outside.
pub(super) fn serve(listen: SocketAddr, sizes: Sizes) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let (mut message, answer) = sizes.buffers();
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        while stream.read_exact(&mut message).is_ok() && stream.write_all(&answer).is_ok() {}
    }
    Ok(())
}

pub(super) fn run(to: SocketAddr, sizes: Sizes, duration: Duration) -> anyhow::Result<Measurement> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let (message, mut answer) = sizes.buffers();
    let mut latencies = Latencies::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        latencies.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(measurement(latencies, began.elapsed(), message.len()))
}
