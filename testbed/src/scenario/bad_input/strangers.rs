//! Strangers at the port between servers: no TLS, a certificate of another cluster, and no manners. The daemon must close
//! the door and live on.

use super::{Arena, REFUSED_DEADLINE};
use crate::lab::topology;
use crate::trust::TrustsAnybody;
use anyhow::{Context as _, ensure};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// ALPN names that lead to the services between servers.
const PROTOCOLS: [&[u8]; 2] = [b"sidekick-mirror/1", b"h2"];

/// Every stranger in turn; the daemon answers its own people after each.
pub(super) fn all(arena: &Arena) -> anyhow::Result<u32> {
    let daemon = arena.lab().server("s1")?.daemon_pid();
    let client = arena.lab().client_network()?;
    let mut count = 0;
    for (what, bytes) in rude() {
        client
            .within(|| shout(&bytes))
            .with_context(|| what.to_owned())?;
        verify_alive(arena, daemon, what)?;
        count += 1;
    }
    for protocol in PROTOCOLS {
        let what = "a certificate of another cluster";
        client
            .within(|| pretend(protocol))
            .with_context(|| format!("{what}, {}", String::from_utf8_lossy(protocol)))?;
        verify_alive(arena, daemon, what)?;
        count += 1;
    }
    Ok(count)
}

fn verify_alive(arena: &Arena, daemon: Option<u32>, what: &str) -> anyhow::Result<()> {
    arena
        .cluster()
        .cluster_state("s1")
        .with_context(|| format!("after {what} the daemon does not answer"))?;
    let now = arena.lab().server("s1")?.daemon_pid();
    ensure!(now == daemon, "{what} restarted the daemon");
    Ok(())
}

fn connect() -> anyhow::Result<TcpStream> {
    let address = SocketAddr::new(topology::address_v4(1, 1).into(), topology::PORT);
    let stream = TcpStream::connect_timeout(&address, REFUSED_DEADLINE)?;
    stream.set_read_timeout(Some(REFUSED_DEADLINE))?;
    stream.set_write_timeout(Some(REFUSED_DEADLINE))?;
    Ok(stream)
}

/// What no TLS client says.
fn rude() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: s1\r\n\r\n".to_vec()),
        (
            "a record of absurd length",
            vec![0x16, 0x03, 0x01, 0xff, 0xff],
        ),
        (
            "noise",
            (0..4096_u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        ("nothing, then the end", Vec::new()),
    ]
}

/// Says `bytes` and nothing more; the daemon must end the connection by itself or after our end of it.
fn shout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = connect()?;
    let _closed_already = stream.write_all(bytes);
    let _closed_already = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = [0_u8; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the daemon keeps the connection open"),
        }
    }
}

/// Presents a well-made certificate that another authority has signed, and tries to go on as a peer would.
fn pretend(protocol: &[u8]) -> anyhow::Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["s2".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)))
        .with_client_auth_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![protocol.to_vec()];
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("s1")?)?;
    let mut stream = connect()?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    // A frame of absurd length, for those who let us in.
    let said = tls.write_all(&[0xff; 64]).and_then(|()| tls.flush());
    let mut answer = [0_u8; 64];
    match said.and_then(|()| tls.read(&mut answer)) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            anyhow::bail!("the daemon listens to a stranger")
        }
        Ok(0) | Err(_) => Ok(()),
        // HTTP/2 greets before it knows who is there; what counts is that nothing can be asked.
        Ok(_) if protocol == b"h2" => Ok(()),
        Ok(count) => anyhow::bail!("the daemon answered {count} bytes to a stranger"),
    }
}
