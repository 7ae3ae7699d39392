use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::replication::testing::{
    AUTHORITY, Authority, PATIENCE, eventually, hello, links, links_through, sockets,
};
use crate::replication::wire::Start;

#[test]
fn a_greeting_is_answered() {
    let (mut client, mut server) = links();
    let accepting = std::thread::spawn(move || {
        let hello = server.read_hello(PATIENCE).unwrap();
        server
            .send_message(hello.epoch, &Message::HelloReply(HelloReply::Accepted))
            .unwrap();
        hello
    });
    assert_eq!(
        client.greet(&hello(3, 7), PATIENCE).unwrap(),
        HelloReply::Accepted
    );
    assert_eq!(accepting.join().unwrap(), hello(3, 7));
}

#[test]
fn a_refusal_arrives_though_the_link_is_closed() {
    let (mut client, mut server) = links();
    let refusing = std::thread::spawn(move || {
        server.read_hello(PATIENCE).unwrap();
        server.refuse(RefusalReason::UnknownModule).unwrap();
    });
    let reply = client.greet(&hello(3, 7), PATIENCE).unwrap();
    assert_eq!(
        reply,
        HelloReply::Refused {
            reason: RefusalReason::UnknownModule
        }
    );
    refusing.join().unwrap();
}

#[test]
fn plaintext_decrypted_before_the_hand_over_is_kept() {
    let (client, server) = sockets();
    let mut client = Link::client(client, AUTHORITY.client(&[&rustls::version::TLS13])).unwrap();
    let dialling = std::thread::spawn(move || client.greet(&hello(1, 1), PATIENCE));
    // As an asynchronous listener leaves it: the socket non-blocking, the greeting already inside the connection.
    let mut tls = AUTHORITY.server();
    while tls.is_handshaking() {
        tls.complete_io(&mut &server).unwrap();
    }
    while tls.process_new_packets().unwrap().plaintext_bytes_to_read() == 0 {
        tls.read_tls(&mut &server).unwrap();
    }
    server.set_nonblocking(true).unwrap();
    let mut server = Link::server(server, tls).unwrap();
    assert_eq!(server.read_hello(PATIENCE).unwrap(), hello(1, 1));
    server
        .send_message(Epoch(1), &Message::HelloReply(HelloReply::Accepted))
        .unwrap();
    assert_eq!(dialling.join().unwrap().unwrap(), HelloReply::Accepted);
}

#[test]
fn both_directions_at_once_never_wait_for_each_other() {
    const BYTES: usize = 24 << 20;
    let (client, server) = links();
    let ends: Vec<_> = [client, server]
        .into_iter()
        .map(|mut link| {
            std::thread::spawn(move || {
                link.establish(PATIENCE).unwrap();
                let (mut sender, mut receiver) = link.split();
                let data: Vec<u8> = (0..BYTES).map(|i| (i / 3) as u8).collect();
                let expected = data.clone();
                let sending = std::thread::spawn(move || sender.send(data).unwrap());
                let mut received = 0;
                while received < BYTES {
                    receiver.receive().unwrap();
                    let length = receiver.buffered().len();
                    assert!(receiver.buffered() == &expected[received..received + length]);
                    received += length;
                    receiver.advance(length);
                }
                sending.join().unwrap();
            })
        })
        .collect();
    ends.into_iter().for_each(|end| end.join().unwrap());
}

#[test]
fn an_idle_link_says_so_and_closing_ends_a_blocked_sender() {
    let (mut client, mut server) = links();
    let shaking = std::thread::spawn(move || {
        server.establish(PATIENCE).unwrap();
        server
    });
    client.establish(PATIENCE).unwrap();
    let server = shaking.join().unwrap();
    let (_sender, mut receiver) = server.split();
    assert_eq!(receiver.receive().unwrap(), Received::Idle);
    let handle = client.handle();
    let (mut sender, _receiver) = client.split();
    // Nobody reads: this blocks once the buffers of the kernel are full.
    let sending = std::thread::spawn(move || sender.send(vec![0; 128 << 20]));
    std::thread::sleep(TICK);
    assert!(!sending.is_finished());
    handle.close();
    assert!(sending.join().unwrap().is_err());
}

#[test]
fn a_silent_peer_is_given_up() {
    let (client, _server) = sockets();
    let mut client = Link::client(client, AUTHORITY.client(&[&rustls::version::TLS13])).unwrap();
    assert!(matches!(
        client.greet(&hello(1, 1), TICK),
        Err(LinkError::TimedOut { .. })
    ));
}

#[test]
fn certificates_of_another_authority_are_not_accepted() {
    let (client, server) = sockets();
    let mut client =
        Link::client(client, Authority::new().client(&[&rustls::version::TLS13])).unwrap();
    let mut server = Link::server(server, AUTHORITY.server()).unwrap();
    let accepting = std::thread::spawn(move || server.read_hello(PATIENCE));
    assert!(matches!(
        client.greet(&hello(1, 1), PATIENCE),
        Err(LinkError::Tls(_))
    ));
    drop(client);
    assert!(accepting.join().unwrap().is_err());
}

#[test]
fn older_tls_is_not_accepted() {
    let (client, server) = sockets();
    let mut client = Link::client(client, AUTHORITY.client(&[&rustls::version::TLS12])).unwrap();
    let mut server = Link::server(server, AUTHORITY.server()).unwrap();
    let accepting = std::thread::spawn(move || server.read_hello(PATIENCE));
    assert!(matches!(
        client.greet(&hello(1, 1), PATIENCE),
        Err(LinkError::NotTls13)
    ));
    assert!(matches!(
        accepting.join().unwrap(),
        Err(LinkError::NotTls13)
    ));
}

#[test]
fn nonsense_instead_of_a_greeting_is_an_error() {
    let frames: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[
            17, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ];
    for bytes in frames {
        let (mut client, mut server) = links();
        let accepting = std::thread::spawn(move || server.read_hello(PATIENCE));
        client.establish(PATIENCE).unwrap();
        client.split().0.send(bytes.to_vec()).unwrap();
        assert!(
            matches!(accepting.join().unwrap(), Err(LinkError::Wire(_))),
            "{bytes:?}"
        );
    }
    // Not even TLS.
    let (mut client, server) = sockets();
    client.write_all(&[0; 4096]).unwrap();
    let mut server = Link::server(server, AUTHORITY.server()).unwrap();
    assert!(matches!(
        server.read_hello(PATIENCE),
        Err(LinkError::Tls(_))
    ));
}

/// Greets over a new connection and moves both ends to it, as primary and secondary do.
fn move_over(is_lost: &Arc<AtomicBool>, client: &LinkHandle, server: &LinkHandle) {
    let (mut dialled, mut accepted) = links_through(is_lost);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let Start::Resume { received } = accepted.read_hello(PATIENCE).unwrap().start else {
                panic!("not a resumption");
            };
            let reply = HelloReply::Resumed {
                received: server.suspend(),
            };
            accepted
                .send_message(Epoch(1), &Message::HelloReply(reply))
                .unwrap();
            server.resume(accepted, received).unwrap();
        });
        dialled.establish(PATIENCE).unwrap();
        let mut hello = hello(1, 1);
        hello.start = Start::Resume {
            received: client.suspend(),
        };
        let HelloReply::Resumed { received } = dialled.greet(&hello, PATIENCE).unwrap() else {
            panic!("not resumed");
        };
        client.resume(dialled, received).unwrap();
    });
}

/// Bytes that go each way, and what is sent at a time.
const STREAM_BYTES: usize = 6 << 20;
const BATCH_BYTES: usize = 7_001;

fn byte_at(position: usize) -> u8 {
    (position * 31 / 7) as u8
}

fn send_all(mut sender: LinkSender, arrived: &AtomicU64) {
    for start in (0..STREAM_BYTES).step_by(BATCH_BYTES) {
        let end = (start + BATCH_BYTES).min(STREAM_BYTES);
        sender.send((start..end).map(byte_at).collect()).unwrap();
    }
    // What was written to a lost connection goes out when the sender is used again, with nothing if there is nothing.
    eventually("everything has arrived", || {
        sender.send(Vec::new()).unwrap();
        arrived.load(Ordering::Acquire) == STREAM_BYTES as u64
    });
}

/// Reads everything, and confirms it to the sender at the other end.
fn receive_all(mut receiver: LinkReceiver, other: &LinkHandle, progress: &AtomicU64) {
    let mut position = 0;
    while position < STREAM_BYTES {
        assert_ne!(receiver.receive().unwrap(), Received::Closed);
        let bytes = receiver.buffered();
        let is_right = (position..)
            .zip(bytes)
            .all(|(at, byte)| *byte == byte_at(at));
        assert!(is_right, "wrong bytes near {position}");
        position += bytes.len();
        receiver.advance(bytes.len());
        progress.store(position as u64, Ordering::Release);
        if let Some(bytes) = receiver.take_unconfirmed() {
            other.confirm(bytes);
        }
    }
}

#[test]
fn a_link_that_is_moved_loses_and_repeats_nothing() {
    let is_lost = Arc::new(AtomicBool::new(false));
    let (mut client, mut server) = links_through(&is_lost);
    let shaking = std::thread::spawn(move || {
        server.establish(PATIENCE).unwrap();
        server
    });
    client.establish(PATIENCE).unwrap();
    let server = shaking.join().unwrap();
    let handles = (client.handle(), server.handle());
    let (up, from_server) = client.split();
    let (down, from_client) = server.split();
    let (arrived, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut is_lost = is_lost;
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(up, &arrived));
        scope.spawn(|| send_all(down, &answered));
        scope.spawn(|| receive_all(from_client, &handles.0, &arrived));
        scope.spawn(|| receive_all(from_server, &handles.1, &answered));
        for part in 1..5 {
            eventually("a part has arrived", || {
                arrived.load(Ordering::Acquire) > part * (STREAM_BYTES as u64 / 6)
            });
            is_lost.store(true, Ordering::Release);
            is_lost = Arc::default();
            move_over(&is_lost, &handles.0, &handles.1);
        }
    });
}
