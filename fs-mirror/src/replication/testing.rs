//! What the tests of this folder share: a TLS link over loopback, a copy in a temporary directory, a primary that changes a
//! real directory and ships what it does, and a comparison of two trees.

pub(crate) mod compare;
pub(crate) mod ops;
pub(crate) mod primary;
pub(crate) mod slow;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::link::Link;
use super::shipping::{Completion, Verdict};
use super::wire::{Hello, Start};
use crate::{Copy, CopyConfig, Epoch};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A self-made CA and one certificate for `localhost`.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let root = parameters.self_signed(&ca_key).unwrap().der().clone();
        let issuer = Issuer::new(parameters, ca_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        Authority {
            root,
            certificate,
            key: key.serialize_der(),
        }
    }

    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    pub(crate) fn server(&self) -> ServerConnection {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = builder
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }
}

pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The dialling and the accepting end of one connection.
pub(crate) fn links() -> (Link, Link) {
    let (client, server) = sockets();
    let client = Link::client(client, AUTHORITY.client(&[&rustls::version::TLS13])).unwrap();
    (client, Link::server(server, AUTHORITY.server()).unwrap())
}

/// A connection on which everything can go astray, both ways, without an end of either side noticing.
pub(crate) fn links_through(is_lost: &Arc<AtomicBool>) -> (Link, Link) {
    let (client, near) = sockets();
    let (far, server) = sockets();
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let is_lost = is_lost.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                if !is_lost.load(Ordering::Acquire) && to.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
        });
    }
    let client = Link::client(client, AUTHORITY.client(&[&rustls::version::TLS13])).unwrap();
    (client, Link::server(server, AUTHORITY.server()).unwrap())
}

pub(crate) fn hello(epoch: u64, session: u64) -> Hello {
    Hello {
        module: "test".into(),
        from: 1,
        to: 2,
        epoch: Epoch(epoch),
        session,
        start: Start::Compare,
    }
}

/// A copy, gone with its directory at the end of the test.
pub(crate) struct TestCopy {
    pub(crate) copy: Arc<Copy>,
    directory: tempfile::TempDir,
}

impl TestCopy {
    pub(crate) fn new() -> TestCopy {
        TestCopy::on(tempfile::tempdir().unwrap())
    }

    /// The same where syncing costs nothing, if there is such a place.
    pub(crate) fn in_memory() -> TestCopy {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| TestCopy::new(), TestCopy::on)
    }

    fn on(directory: tempfile::TempDir) -> TestCopy {
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let config = CopyConfig {
            module: "test".into(),
            directory: data,
            state_dir: directory.path().join("state"),
            run_dir: directory.path().join("run"),
        };
        TestCopy {
            copy: Copy::open(config).unwrap(),
            directory,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

/// A request that tells how it was answered.
#[derive(Debug)]
pub(crate) struct Request(mpsc::Sender<Verdict>);

/// Where the answer of a request arrives.
#[derive(Debug)]
pub(crate) struct Reply(mpsc::Receiver<Verdict>);

pub(crate) fn request() -> (Request, Reply) {
    let (sender, receiver) = mpsc::channel();
    (Request(sender), Reply(receiver))
}

impl Completion for Request {
    fn finish(self, verdict: Verdict) {
        // The test may have lost interest.
        let _ = self.0.send(verdict);
    }
}

impl Reply {
    pub(crate) fn verdict(&self) -> Verdict {
        self.0
            .recv_timeout(PATIENCE)
            .expect("the request is answered")
    }

    pub(crate) fn is_answered(&self) -> bool {
        matches!(
            self.0.try_recv(),
            Ok(_) | Err(mpsc::TryRecvError::Disconnected)
        )
    }
}

/// Waits for a condition, with a deadline.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
