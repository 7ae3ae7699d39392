//! The faults do what they say.

use crate::needs_lab;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use testbed::lab::namespaces::NetworkHandle;
use testbed::lab::{Direction, Lab, Topology, topology};
use testbed::oracle::wire::Wire;
use testbed::wait;

const SOON: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

/// A socket inside a server. Its namespace handle is dropped at once: it must not outlive a power cut.
fn socket(lab: &Lab, server: &str, host: u8) -> UdpSocket {
    let pid = lab.server(server).unwrap().init_pid().unwrap();
    NetworkHandle::of(pid)
        .unwrap()
        .within(|| {
            let socket = UdpSocket::bind((topology::address_v4(1, host), PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(socket)
        })
        .unwrap()
}

fn is_heard(from: &UdpSocket, to: &UdpSocket) -> bool {
    let mut buffer = [0; 16];
    from.send_to(b"x", to.local_addr().unwrap()).unwrap();
    match to.recv_from(&mut buffer) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// Goal: a cut loses frames in one direction on one LAN and in no other, and healing undoes it. Method: datagrams both ways.
#[test]
fn cut_is_one_way() {
    needs_lab!();
    let lab = Lab::up(Topology::mirror()).unwrap();
    let (one, two) = (socket(&lab, "s1", 1), socket(&lab, "s2", 2));
    // Both know each other's hardware address before the cut.
    assert!(is_heard(&one, &two) && is_heard(&two, &one));
    lab.cut(
        Direction {
            from: "s1",
            to: "s2",
        },
        1,
    )
    .unwrap();
    assert!(!is_heard(&one, &two));
    assert!(is_heard(&two, &one));
    lab.heal().unwrap();
    assert!(is_heard(&one, &two));
    lab.isolate("s1").unwrap();
    assert!(!is_heard(&one, &two) && !is_heard(&two, &one));
    lab.heal().unwrap();
    assert!(is_heard(&one, &two) && is_heard(&two, &one));
}

/// Goal: a dying server says no goodbye. Method: a TCP connection to it must stay silent, not end.
#[test]
fn power_cut_sends_no_farewell() {
    needs_lab!();
    let mut lab = Lab::up(Topology::mirror()).unwrap();
    let mut server = crate::applications::start_ledger(&lab);
    let address = SocketAddr::new(topology::address_v4(1, 1).into(), 8080);
    let client = lab.client_network().unwrap();
    let mut stream = wait::until("the server's answer", SOON, || {
        client
            .within(|| {
                Ok(std::net::TcpStream::connect_timeout(
                    &address,
                    Duration::from_secs(1),
                )?)
            })
            .map_err(|e| e.to_string())
    })
    .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    lab.power_cut("s1").unwrap();
    let error = std::io::Read::read(&mut stream, &mut [0; 16]).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::WouldBlock,
        "the connection ended instead of falling silent"
    );
    assert!(wait::end_of(&mut server, SOON).unwrap().is_some());
}

/// Goal: the oracle sees two owners of one address. Method: give it to both servers, which must be found.
#[test]
fn two_owners_are_seen_on_the_wire() {
    needs_lab!();
    let lab = Lab::up(Topology::mirror()).unwrap();
    let v4 = Ipv4Addr::new(10, 77, 1, 100);
    let std::net::IpAddr::V6(v6) = topology::virtual_v6() else {
        panic!("an IPv6 address")
    };
    let wire = Wire::start(&lab.switch_network().unwrap(), v4, v6).unwrap();
    for (server, host) in [("s1", 1_u8), ("s2", 2), ("s1", 1)] {
        // The owner speaks from the virtual address to a port where nobody listens.
        let address = format!("{v4}/32");
        let done = lab
            .exec(
                server,
                &["ip", "addr", "replace", &address, "dev", "lan1"],
                SOON,
            )
            .unwrap();
        assert!(done.is_success(), "{}", done.summary());
        let pid = lab.server(server).unwrap().init_pid().unwrap();
        let expected = wire.tenures().len() + 1;
        let speak = NetworkHandle::of(pid).unwrap().within(|| {
            let socket = UdpSocket::bind((v4, 0))?;
            let mut attempts = 0;
            wait::until("a claim on the wire", SOON, || {
                attempts += 1;
                socket
                    .send_to(b"x", "10.77.1.200:9")
                    .map_err(|e| e.to_string())?;
                let seen = wire.tenures().len();
                if seen == expected {
                    Ok(())
                } else {
                    Err(format!("{seen} tenures"))
                }
            })?;
            Ok(())
        });
        speak.unwrap();
        assert_eq!(wire.tenures().last().unwrap().host, host);
    }
    wire.verify(&[1, 2, 1]).unwrap();
    let error = wire.verify(&[1, 2]).unwrap_err();
    assert!(error.to_string().contains("two owners"), "{error}");
}
