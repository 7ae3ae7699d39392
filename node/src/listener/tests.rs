//! Members, strangers and enemies at the common port, over real sockets.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use consensus::state::{MemberKind, ServerId};
use consensus::{Dialer, Peer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::*;
use crate::security::test_members::TestMember;
use crate::security::{ALPN_MIRROR, JoinToken, join_config};

const LONG: Duration = Duration::from_secs(10);

/// Answers with the number of the member that asks, or "nobody".
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let answer = peer.map_or_else(|| "nobody".to_owned(), |peer| peer.0.to_string());
        let response = http::Response::builder().header("you-are", answer);
        ready(Ok(response.body(Body::empty()).unwrap()))
    }
}

async fn who_am_i(channel: &mut Channel) -> String {
    let request = http::Request::post("/test.WhoAmI/Ask");
    let request = request.body(Body::empty()).unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    response.headers()["you-are"].to_str().unwrap().to_owned()
}

/// The common port of a member.
struct Port {
    address: SocketAddr,
    mirrors: Receiver<MirrorConnection>,
    serving: JoinHandle<()>,
}

impl Port {
    async fn of(member: &TestMember) -> Port {
        let config = member.security.server_config().unwrap();
        let (listener, _) = Listener::bind(&["127.0.0.1:0".parse().unwrap()], config)
            .await
            .unwrap();
        let address = listener.addresses().unwrap()[0];
        let (send, mirrors) = channel();
        let serving = tokio::spawn(async move {
            let on_mirror = move |connection| send.send(connection).unwrap();
            listener
                .serve(Routes::new(WhoAmI), on_mirror)
                .await
                .unwrap();
        });
        Port {
            address,
            mirrors,
            serving,
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn dialer(member: &TestMember) -> MemberDialer {
    MemberDialer::new(Arc::clone(&member.security), Vec::new())
}

fn token_of(member: &TestMember) -> JoinToken {
    JoinToken::generate(member.identity.ca_fingerprint).unwrap()
}

fn pair() -> (TestMember, TestMember) {
    let founder = TestMember::founder();
    let second = TestMember::joined(&founder, 2, MemberKind::Server);
    (founder, second)
}

#[tokio::test]
async fn member_is_known_to_the_services_it_calls() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let mut channel = dialer(&second)
        .channel(ServerId(1), &[port.address])
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut channel).await, "2");
    let witness = TestMember::joined(&founder, 7, MemberKind::Witness);
    let mut channel = dialer(&witness)
        .channel(ServerId(1), &[port.address])
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut channel).await, "7");
}

#[tokio::test]
async fn channel_connects_again_when_the_other_daemon_comes_back() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let address = port.address;
    let mut channel = dialer(&second)
        .channel(ServerId(1), &[address])
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut channel).await, "2");
    drop(port);
    let config = founder.security.server_config().unwrap();
    let start = Instant::now();
    let listener = loop {
        assert!(start.elapsed() < LONG);
        match Listener::bind(&[address], Arc::clone(&config)).await {
            Ok((listener, _)) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let serving = tokio::spawn(listener.serve(Routes::new(WhoAmI), |_| {}));
    let again = loop {
        assert!(start.elapsed() < LONG);
        let request = http::Request::post("/test.WhoAmI/Ask")
            .body(Body::empty())
            .unwrap();
        let Ok(ready) = channel.ready().await else {
            continue;
        };
        match ready.call(request).await {
            Ok(response) => break response.headers()["you-are"].to_str().unwrap().to_owned(),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(again, "2");
    serving.abort();
}

#[tokio::test]
async fn mirror_stream_is_handed_over_with_blocking_sockets_at_both_ends() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let (mut socket, mut tls) = dialer(&second)
        .dial_mirror(ServerId(1), &[port.address])
        .await
        .unwrap();
    tokio::task::spawn_blocking(move || {
        rustls::Stream::new(&mut tls, &mut socket)
            .write_all(b"hello")
            .unwrap();
        let mut accepted = port.mirrors.recv_timeout(LONG).unwrap();
        assert_eq!(accepted.peer, ServerId(2));
        let mut there = rustls::Stream::new(&mut accepted.tls, &mut accepted.socket);
        let mut heard = [0; 5];
        there.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        there.write_all(&[7; 100_000]).unwrap();
        there.flush().unwrap();
        let mut answer = vec![0; 100_000];
        rustls::Stream::new(&mut tls, &mut socket)
            .read_exact(&mut answer)
            .unwrap();
        assert_eq!(answer, vec![7; 100_000]);
        assert!(accepted.socket.nodelay().unwrap() && socket.nodelay().unwrap());
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn first_address_that_answers_is_taken() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let addresses = [nobody(), port.address];
    dialer(&second)
        .dial_mirror(ServerId(1), &addresses)
        .await
        .unwrap();
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

#[tokio::test]
async fn wrong_servers_are_named_for_what_they_are() {
    let (founder, second) = pair();
    let stranger = TestMember::founder();
    let port = Port::of(&founder).await;
    let failure = async |member: &TestMember, peer, address| {
        dialer(member)
            .channel(ServerId(peer), &[address])
            .await
            .unwrap_err()
    };
    let error = failure(&stranger, 1, port.address).await;
    assert!(matches!(error, DialError::OtherCluster { .. }), "{error:?}");
    let error = failure(&second, 3, port.address).await;
    assert!(matches!(error, DialError::OtherServer { .. }), "{error:?}");
    let error = failure(&second, 1, nobody()).await;
    assert!(matches!(error, DialError::Unreachable { .. }), "{error:?}");
    let expired = TestMember::expired(&founder, 4);
    let expired_port = Port::of(&expired).await;
    let error = failure(&second, 4, expired_port.address).await;
    assert!(matches!(error, DialError::Expired { .. }), "{error:?}");
    let error = dialer(&second).channel(ServerId(9), &[]).await.unwrap_err();
    assert!(
        matches!(error, DialError::NoAddress(ServerId(9))),
        "{error:?}"
    );
    // The same through the interfaces that speak `io::Error`.
    let error = dialer(&stranger)
        .dial_mirror(ServerId(1), &[port.address])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let error = match dialer(&stranger).dial(ServerId(1), 0, port.address).await {
        Ok(_) => panic!("another cluster's server was accepted"),
        Err(error) => error,
    };
    let inner = error.get_ref().unwrap().downcast_ref::<DialError>();
    assert!(
        matches!(inner, Some(DialError::OtherCluster { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_no_sidekick_port_fails_in_time() {
    let (_, second) = pair();
    // Accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = dialer(&second)
        .channel(ServerId(1), &[address])
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn expired_member_gets_nowhere() {
    let founder = TestMember::founder();
    let expired = TestMember::expired(&founder, 2);
    let port = Port::of(&founder).await;
    // With TLS 1.3 the client is told only after its own side of the handshake.
    let dialled = dialer(&expired)
        .dial_mirror(ServerId(1), &[port.address])
        .await;
    let outcome = tokio::task::spawn_blocking(move || {
        let (mut socket, mut tls) = dialled?;
        socket.set_read_timeout(Some(LONG))?;
        rustls::Stream::new(&mut tls, &mut socket).read(&mut [0; 1])
    })
    .await
    .unwrap();
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("ertificate"), "{error}");
    assert!(port.mirrors.try_recv().is_err());
}

#[tokio::test]
async fn stranger_with_a_token_is_served_as_nobody() {
    let founder = TestMember::founder();
    let port = Port::of(&founder).await;
    let mut channel = join_channel(port.address, &token_of(&founder))
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut channel).await, "nobody");
}

#[tokio::test]
async fn token_of_another_cluster_is_noticed_before_it_is_shown() {
    let founder = TestMember::founder();
    let other = TestMember::founder();
    let port = Port::of(&founder).await;
    let error = join_channel(port.address, &token_of(&other))
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::OtherCluster { .. }), "{error:?}");
}

/// A TLS connection without a certificate.
async fn stranger(
    port: &Port,
    token: &JoinToken,
    protocol: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = (*join_config(token).unwrap()).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(port.address).await.unwrap();
    let name = ServerName::try_from("any.sidekick").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Whether the other end closes the connection without a word of its own.
async fn is_closed(mut stream: impl AsyncReadExt + Unpin) -> bool {
    let mut one = [0; 1];
    match tokio::time::timeout(Duration::from_millis(500), stream.read(&mut one)).await {
        Ok(read) => !matches!(read, Ok(1..)),
        Err(_elapsed) => false,
    }
}

#[tokio::test]
async fn mirror_streams_and_unknown_protocols_are_not_for_strangers() {
    let founder = TestMember::founder();
    let port = Port::of(&founder).await;
    let token = token_of(&founder);
    let stream = stranger(&port, &token, ALPN_MIRROR).await.unwrap();
    assert!(is_closed(stream).await);
    assert!(port.mirrors.try_recv().is_err());
    assert!(stranger(&port, &token, b"http/1.1").await.is_err());
}

#[tokio::test]
async fn strangers_have_few_places_and_members_are_not_in_their_way() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let token = token_of(&founder);
    let mut inside = Vec::new();
    for _ in 0..8 {
        let mut channel = join_channel(port.address, &token).await.unwrap();
        assert_eq!(who_am_i(&mut channel).await, "nobody");
        inside.push(channel);
    }
    let stream = stranger(&port, &token, b"h2").await.unwrap();
    assert!(is_closed(stream).await);
    let mut member = dialer(&second)
        .channel(ServerId(1), &[port.address])
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut member).await, "2");
    drop(inside);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LONG, "places come back");
        let stream = stranger(&port, &token, b"h2").await.unwrap();
        if !is_closed(stream).await {
            break;
        }
    }
}

async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from((IpAddr::from(source), 0)))
        .unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn flood_of_half_open_handshakes_harms_only_its_source_and_not_for_long() {
    let (founder, second) = pair();
    let port = Port::of(&founder).await;
    let source = [127, 0, 0, 9];
    let mut flood = Vec::new();
    for _ in 0..24 {
        let mut stream = connect_from(source, port.address).await;
        // The beginning of a TLS record, and then nothing.
        stream.write_all(&[22, 3, 1]).await.unwrap();
        flood.push(stream);
    }
    let start = Instant::now();
    while !is_closed(connect_from(source, port.address).await).await {
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "the flood is not limited"
        );
    }
    let mut channel = dialer(&second)
        .channel(ServerId(1), &[port.address])
        .await
        .unwrap();
    assert_eq!(who_am_i(&mut channel).await, "2");
    for stream in flood {
        let mut rest = Vec::new();
        let mut stream = stream;
        let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a handshake that never ends is ended");
    }
    assert!(!is_closed(connect_from(source, port.address).await).await);
}

#[tokio::test]
async fn garbage_is_answered_with_the_end_of_the_connection() {
    let founder = TestMember::founder();
    let port = Port::of(&founder).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 70_000],
        &[22, 3, 3, 0xff, 0xff],
    ] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{:?}", &garbage[..5]);
    }
}

#[tokio::test]
async fn port_that_is_taken_and_lan_that_is_down() {
    let founder = TestMember::founder();
    let config = founder.security.server_config().unwrap();
    let port = Port::of(&founder).await;
    let taken = Listener::bind(&[port.address], Arc::clone(&config)).await;
    assert!(matches!(taken, Err(ListenerError::Bind { .. })));
    // Addresses for documentation: this machine has them not.
    let absent = [
        "192.0.2.7:0".parse().unwrap(),
        "[2001:db8::7]:0".parse().unwrap(),
    ];
    let (_, failures) = Listener::bind(&absent, Arc::clone(&config)).await.unwrap();
    assert!(failures.is_empty() && absent.iter().all(|address| !is_here(*address)));
    assert!(is_here(port.address), "taken, but this machine's");
    // Of several addresses one that is taken does not take the others along.
    let mixed = [port.address, absent[0]];
    let (listener, failures) = Listener::bind(&mixed, config).await.unwrap();
    assert_eq!(listener.addresses().unwrap().len(), 1);
    assert!(
        matches!(failures.as_slice(), [ListenerError::Bind { address, .. }] if *address == port.address)
    );
}

#[tokio::test]
async fn regression_a_server_with_a_wrong_address_still_reaches_the_others() {
    let founder = TestMember::founder();
    let second = TestMember::joined(&founder, 2, MemberKind::Server);
    let port = Port::of(&founder).await;
    let dialer = MemberDialer::new(
        Arc::clone(&second.security),
        vec!["192.0.2.7:9453".parse().unwrap()],
    );
    let mut channel = dialer.channel(ServerId(1), &[port.address]).await.unwrap();
    assert_eq!(who_am_i(&mut channel).await, "2");
}
