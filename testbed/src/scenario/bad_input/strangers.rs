//! Strangers at the port between servers: no TLS, a certificate of another cluster, and no manners. The daemon must close
//! the door and live on.

use super::{Arena, REFUSED_DEADLINE, fingerprint};
use crate::lab::topology;
use crate::scenario::clusters::{Process, answering, run};
use crate::trust::TrustsAnybody;
use anyhow::{Context as _, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What may be asked for at the one port between servers: the mirror; Raft, heartbeats, proposals and the calls between servers,
/// which are all gRPC; nothing in particular.
const PROTOCOLS: [&[&[u8]]; 3] = [&[b"sidekick-mirror/1"], &[b"h2"], &[]];
/// A member was let in when it hears nothing for so long, since it says nothing. A stranger is given as long as a refusal may take.
const LET_IN: Duration = Duration::from_secs(1);
/// Name of the cluster of the lab, and of a cluster of strangers.
const THE_SAME_NAME: &str = "lab";
const ANOTHER_NAME: &str = "other";

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
    count += certificates(arena)?;
    Ok(count)
}

/// Certificates that are none here: one that signs itself, and those of members of other clusters, of the same name too. Each is
/// refused in the handshake, before anything can be asked. A member of this cluster, who says as little, is not.
fn certificates(arena: &Arena) -> anyhow::Result<u32> {
    let daemon = arena.lab().server("s1")?.daemon_pid();
    let client = arena.lab().client_network()?;
    let before = fingerprint(arena.cluster())?;
    let base = arena.lab().site().directory().join("strangers");
    let clusters = [(THE_SAME_NAME, "9753"), (ANOTHER_NAME, "9754")];
    let mut running = Vec::new();
    let mut strangers = vec![("a certificate that signs itself", Card::self_signed()?)];
    for (name, port) in clusters {
        let root = base.join(name);
        running.push(found(arena, &root, name, port)?);
        strangers.push(("a certificate of another cluster", Card::of_member(&root)?));
    }
    let member = Card::of_member(&arena.lab().root("s2"))?;
    let mut count = 0;
    for protocol in PROTOCOLS {
        for (what, card) in &strangers {
            let told = || format!("{what}, {}", name_of(protocol));
            let met = client
                .within(|| knock(card, protocol, REFUSED_DEADLINE))
                .with_context(told)?;
            ensure!(
                matches!(met, Met::Refused(_)),
                "{}: should be refused in the handshake, but: {met:?}",
                told()
            );
            verify_alive(arena, daemon, what)?;
            count += 1;
        }
        if !protocol.is_empty() {
            let met = client.within(|| knock(&member, protocol, LET_IN))?;
            ensure!(
                met == Met::LetIn,
                "a member of this cluster, {}: {met:?}",
                name_of(protocol)
            );
        }
    }
    let after = fingerprint(arena.cluster())?;
    ensure!(before == after, "{before} became {after}");
    Ok(count)
}

fn name_of(protocol: &[&[u8]]) -> String {
    match protocol {
        [name, ..] => String::from_utf8_lossy(name).into_owned(),
        [] => "no protocol".to_owned(),
    }
}

/// Another cluster, of one server, beside that of s2.
fn found(arena: &Arena, root: &Path, name: &str, port: &str) -> anyhow::Result<Process> {
    let process = run(arena, "s2", &[], &[root.to_owned()])?;
    let address = format!("{}:{port}", topology::address_v4(1, 2));
    let init = [
        "cluster",
        "init",
        name,
        "--server",
        "s1",
        "--address",
        &address,
    ];
    answering(root)?.json(&init)?;
    Ok(process)
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

/// A certificate with its key.
struct Card {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Card {
    fn self_signed() -> anyhow::Result<Card> {
        let made = rcgen::generate_simple_self_signed(vec!["s2".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Card {
            chain: vec![made.cert.der().clone()],
            key: key.into(),
        })
    }

    /// What the member with this root directory shows.
    fn of_member(root: &Path) -> anyhow::Result<Card> {
        let identity = root.join("var/lib/sidekick/identity");
        let chain = CertificateDer::pem_file_iter(identity.join("server.crt"))?;
        Ok(Card {
            chain: chain.collect::<Result<_, _>>()?,
            key: PrivateKeyDer::from_pem_file(identity.join("server.key"))?,
        })
    }
}

/// What came of a handshake.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// The daemon said no.
    Refused(AlertDescription),
    /// It waits for what we have to say.
    LetIn,
}

/// Completes the handshake as far as it goes, and says nothing. Who hears nothing for so long was let in.
fn knock(card: &Card, protocol: &[&[u8]], patience: Duration) -> anyhow::Result<Met> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)))
        .with_client_auth_cert(card.chain.clone(), card.key.clone_key())?;
    config.alpn_protocols = protocol.iter().map(|name| name.to_vec()).collect();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("s1")?)?;
    let mut stream = connect()?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            return refused(&error).with_context(|| format!("handshake: {error}"));
        }
    }
    stream.set_read_timeout(Some(patience))?;
    // With TLS 1.3 the daemon looks at the certificate after our last word of the handshake.
    let mut answer = [0_u8; 64];
    match rustls::Stream::new(&mut connection, &mut stream).read(&mut answer) {
        Ok(0) => anyhow::bail!("the daemon closes without a word"),
        Ok(_) => Ok(Met::LetIn),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(Met::LetIn)
        }
        Err(error) => refused(&error).with_context(|| error.to_string()),
    }
}

/// The alert that a failed read carries.
fn refused(error: &std::io::Error) -> Option<Met> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match inner {
        rustls::Error::AlertReceived(alert) => Some(Met::Refused(*alert)),
        _ => None,
    }
}
