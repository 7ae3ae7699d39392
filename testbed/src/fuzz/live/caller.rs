//! A caller with a member's certificate that says whatever it is given.

use crate::fuzz::target::{Input, Target};
use crate::lab::{LANS, topology};
use crate::trust::TrustsAnybody;
use anyhow::Context as _;
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A daemon answers, or closes the door, within this time.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Speaks as one member.
pub(super) struct Caller {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
    /// Whom it speaks to, as the last byte of the address.
    host: u8,
    /// What a stream of the mirror begins with.
    greeting: Vec<u8>,
}

impl Caller {
    /// With the certificate of the server whose root directory this is, to the one with this address.
    pub(super) fn of_member(root: &Path, host: u8) -> anyhow::Result<Caller> {
        let identity = root.join("var/lib/sidekick/identity");
        let chain = CertificateDer::pem_file_iter(identity.join("server.crt"))?;
        Ok(Caller {
            chain: chain.collect::<Result<_, _>>()?,
            key: PrivateKeyDer::from_pem_file(identity.join("server.key"))?,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            host,
            greeting: Vec::new(),
        })
    }

    /// Streams of the mirror begin with this.
    pub(super) fn greet_with(&mut self, greeting: Vec<u8>) {
        self.greeting = greeting;
    }

    /// Sends the inputs over one connection; answers how many were answered without an error.
    pub(super) fn send(&self, target: Target, inputs: &[Input]) -> anyhow::Result<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match target {
                Target::Mirror => self.stream(inputs).await,
                Target::Heartbeat => self.beats(inputs).await,
                Target::Raft | Target::Control => self.calls(inputs).await,
            }
        })
    }

    async fn connect(&self, protocol: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAnybody(Arc::clone(&self.provider))))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![protocol.to_vec()];
        let address = SocketAddr::new(
            topology::address_v4(LANS[0], self.host).into(),
            topology::PORT,
        );
        let socket = tokio::time::timeout(ANSWER_MAX, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let connecting = TlsConnector::from(Arc::new(config));
        let connecting = connecting.connect(ServerName::try_from("s1")?, socket);
        tokio::time::timeout(ANSWER_MAX, connecting)
            .await
            .context("the handshake hangs")?
            .context("a member's certificate was refused")
    }

    /// A stream of the mirror: everything at once, then whatever comes back until the door closes.
    async fn stream(&self, inputs: &[Input]) -> anyhow::Result<u64> {
        let mut tls = self.connect(b"sidekick-mirror/1").await?;
        let saying = async {
            tls.write_all(&self.greeting).await?;
            for input in inputs {
                tls.write_all(&input.bytes).await?;
            }
            tls.flush().await?;
            let mut answer = [0_u8; 4096];
            std::io::Result::Ok(tls.read(&mut answer).await? as u64)
        };
        match tokio::time::timeout(ANSWER_MAX + Duration::from_secs(3), saying).await {
            Ok(answered) => Ok(answered.map_or(0, |bytes| u64::from(bytes > 0))),
            Err(_) => anyhow::bail!("the daemon keeps a stream open that makes no sense"),
        }
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        let mut stream = Some(TokioIo::new(self.connect(b"h2").await?));
        let connector = tower::service_fn(move |_uri: http::Uri| {
            let stream = stream
                .take()
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
            async move { stream }
        });
        Ok(Endpoint::from_static("http://member")
            .connect_with_connector(connector)
            .await?)
    }

    async fn calls(&self, inputs: &[Input]) -> anyhow::Result<u64> {
        let mut client = tonic::client::Grpc::new(self.channel().await?);
        let mut answered = 0;
        for input in inputs {
            client.ready().await?;
            let message = Bytes::from(input.bytes.clone());
            let call = client.unary(Request::new(message), path_of(input.kind), Raw);
            match tokio::time::timeout(ANSWER_MAX, call).await {
                Ok(Ok(_)) => answered += 1,
                Ok(Err(_refused)) => {}
                Err(_) => anyhow::bail!("no answer to a call ({})", input.kind),
            }
        }
        Ok(answered)
    }

    /// Several streams on one connection: one wrong heartbeat ends its stream, and the others must go on.
    async fn beats(&self, inputs: &[Input]) -> anyhow::Result<u64> {
        let mut client = tonic::client::Grpc::new(self.channel().await?);
        let mut answered = 0;
        for some in inputs.chunks(2) {
            client.ready().await?;
            let beats: Vec<Bytes> = some.iter().map(|i| Bytes::from(i.bytes.clone())).collect();
            let path = PathAndQuery::from_static("/sidekick.consensus.v1.Heartbeats/Exchange");
            let talking = async {
                let request = Request::new(tokio_stream::iter(beats));
                let mut answers = client.streaming(request, path, Raw).await?.into_inner();
                while answers.message().await?.is_some() {
                    answered += 1;
                }
                Result::<(), Status>::Ok(())
            };
            // A refusal is an answer.
            let _refused = tokio::time::timeout(ANSWER_MAX, talking)
                .await
                .context("no answer to heartbeats")?;
        }
        Ok(answered)
    }
}

fn path_of(kind: &str) -> PathAndQuery {
    PathAndQuery::from_static(match kind {
        "append" => "/sidekick.consensus.v1.Raft/AppendEntries",
        "vote" => "/sidekick.consensus.v1.Raft/Vote",
        "snapshot" => "/sidekick.consensus.v1.Raft/Snapshot",
        "transfer" => "/sidekick.consensus.v1.Raft/TransferLeader",
        "propose" => "/sidekick.consensus.v1.Proposals/Propose",
        "read" => "/sidekick.consensus.v1.Proposals/ReadIndex",
        "enrol" => "/sidekick.peer.v1.Peer/Enrol",
        "fetch" => "/sidekick.peer.v1.Peer/FetchPackage",
        "report" => "/sidekick.peer.v1.Peer/Report",
        "check" => "/sidekick.peer.v1.Peer/CheckModule",
        "relay" => "/sidekick.peer.v1.Peer/Relay",
        _ => "/sidekick.peer.v1.Peer/Control",
    })
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
