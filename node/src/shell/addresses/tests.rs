//! Virtual addresses against the real kernel, in network namespaces.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::core::address_times::Renewal;
use crate::shell::frames::{claim, claim_ether_type};
use crate::shell::packet_socket::PacketSocket;
use crate::shell::test_network::{Host, in_own_network, output, run};

const FOUR: &str = "10.77.0.100";
const SIX: &str = "fd77::100";
const BOTH: [&str; 2] = [FOUR, SIX];
/// What must happen happens within this time on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two interfaces joined by a cable: `here` has addresses, `there` is the LAN.
fn cable() {
    run("ip link add here type veth peer name there");
    run("ip link set here up");
    run("ip link set there up");
    run("ip addr add 10.77.0.1/24 dev here");
    run("ip addr add fd77::1/64 dev here nodad");
}

fn place_of(address: &str) -> Interface {
    find_interface(&VirtualAddress {
        ip: ip(address),
        interface: None,
    })
    .unwrap()
}

fn is_here(address: &str) -> bool {
    output("ip -o addr show dev here").contains(&format!(" {address}/"))
}

/// The seconds that the kernel still gives an address; `None`: it is not here.
fn lifetime_of(address: &str) -> Option<u64> {
    let shown = output("ip -o addr show dev here");
    let line = shown
        .lines()
        .find(|line| line.contains(&format!(" {address}/")))?;
    let (_, lifetime) = line.split_once("valid_lft ").unwrap();
    let (seconds, _) = lifetime.split_once("sec").unwrap();
    Some(seconds.parse().unwrap())
}

fn eventually(what: &str, within: Duration, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn address_lives_while_renewed_and_expires_when_renewals_stop() {
    // Renewals stop without the address being removed, as when the daemon is frozen.
    in_own_network(|| {
        cable();
        for address in BOTH {
            let may_renew = Arc::new(AtomicBool::new(true));
            let questions = Arc::new(AtomicU8::new(0));
            let (asked, counted) = (Arc::clone(&may_renew), Arc::clone(&questions));
            let keeper = AddressKeeper::start(&place_of(address), ip(address), move || {
                counted.fetch_add(1, Ordering::Relaxed);
                if asked.load(Ordering::Relaxed) {
                    Renewal::Renew
                } else {
                    Renewal::Skip
                }
            })
            .unwrap();
            // Two questions a renewal: the first lifetime is over by then.
            eventually("five renewals", PATIENCE, || {
                questions.load(Ordering::Relaxed) > 10
            });
            eventually("it outlives its first lifetime", PATIENCE, || {
                is_here(address)
            });
            may_renew.store(false, Ordering::Relaxed);
            // The kernel counts in seconds, and removes what has run out when it comes by.
            let left = lifetime_of(address);
            assert!(left.is_none_or(|seconds| seconds <= 1), "{left:?} s left");
            eventually("expired", PATIENCE, || !is_here(address));
            eventually("seen by the keeper", PATIENCE, || !keeper.is_held());
        }
    });
}

#[test]
fn losing_the_right_removes_the_address_at_the_next_renewal() {
    in_own_network(|| {
        cable();
        for address in BOTH {
            let may_renew = Arc::new(AtomicBool::new(true));
            let asked = Arc::clone(&may_renew);
            let keeper = AddressKeeper::start(&place_of(address), ip(address), move || {
                asked.load(Ordering::Relaxed)
            })
            .unwrap();
            assert!(is_here(address));
            may_renew.store(false, Ordering::Relaxed);
            eventually("let go", PATIENCE, || !keeper.is_held());
            assert!(!is_here(address));
        }
    });
}

#[test]
fn drop_now_has_removed_the_address_when_it_returns() {
    in_own_network(|| {
        cable();
        for address in BOTH {
            let keeper = AddressKeeper::start(&place_of(address), ip(address), || true).unwrap();
            assert!(is_here(address) && keeper.is_held());
            keeper.drop_now();
            assert!(!is_here(address) && !keeper.is_held());
            drop(keeper);
            assert!(!is_here(address));
        }
    });
}

#[test]
fn right_lost_during_a_renewal_leaves_no_address() {
    // The right ends between the question before a renewal and the renewal itself.
    in_own_network(|| {
        cable();
        let questions = Arc::new(AtomicU8::new(0));
        let asked = Arc::clone(&questions);
        let keeper = AddressKeeper::start(&place_of(FOUR), ip(FOUR), move || {
            asked.fetch_add(1, Ordering::Relaxed) < 2
        })
        .unwrap();
        eventually("third question", PATIENCE, || {
            questions.load(Ordering::Relaxed) >= 3 && !keeper.is_held()
        });
        assert!(!is_here(FOUR));
    });
}

#[test]
fn without_the_right_nothing_is_added() {
    in_own_network(|| {
        cable();
        let refused = AddressKeeper::start(&place_of(FOUR), ip(FOUR), || false);
        assert!(matches!(refused, Err(AddressError::NotAllowed { .. })));
        assert!(!is_here(FOUR));
    });
}

#[test]
fn address_removed_by_somebody_else_comes_back() {
    in_own_network(|| {
        cable();
        let _keeper = AddressKeeper::start(&place_of(FOUR), ip(FOUR), || true).unwrap();
        run("ip addr flush dev here");
        eventually("added again", PATIENCE, || is_here(FOUR));
    });
}

fn lan_of(address: &str) -> PacketSocket {
    let lan = find_interface(&VirtualAddress {
        ip: ip(address),
        interface: Some("there".to_owned()),
    })
    .unwrap();
    PacketSocket::open(lan.index, Some(claim_ether_type(ip(address)).0)).unwrap()
}

/// The hardware address in the next frame that claims `address`.
fn next_claim(lan: &PacketSocket, address: IpAddr) -> Mac {
    let start = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        assert!(start.elapsed() < PATIENCE, "{address} is not announced");
        let frame = lan
            .receive(&mut buffer, Duration::from_millis(100))
            .unwrap();
        if let Some(mac) = frame.and_then(|frame| claim(frame, address, Mac([0; 6]))) {
            return mac;
        }
    }
}

/// Goal: the neighbours hear of an address before anybody can use it, and again. Method: dropped at once it was announced all the
/// same, since nobody waits for the thread that repeats it; when that does so `announce.rs` tests.
#[test]
fn address_is_announced_on_the_lan_at_once_and_again() {
    in_own_network(|| {
        cable();
        for address in BOTH {
            let place = place_of(address);
            let per_announcement = if ip(address).is_ipv4() { 2 } else { 1 };
            let start = || AddressKeeper::start(&place, ip(address), || true).unwrap();
            let lan = lan_of(address);
            let keeper = start();
            keeper.drop_now();
            for _ in 0..per_announcement {
                assert_eq!(Some(next_claim(&lan, ip(address))), place.mac);
            }
            drop(keeper);
            let lan = lan_of(address);
            let _keeper = start();
            for _ in 0..=per_announcement {
                assert_eq!(Some(next_claim(&lan, ip(address))), place.mac);
            }
        }
    });
}

#[test]
fn neighbours_follow_an_announced_address() {
    // The host remembers another owner of the address; one announcement must correct it.
    in_own_network(|| {
        cable();
        let host = Host::new();
        host.take("there");
        host.run("ip link set there up");
        host.run("ip addr add 10.77.0.2/24 dev there");
        host.run("ip addr add fd77::2/64 dev there nodad");
        for address in BOTH {
            host.run(&format!(
                "ip neigh replace {address} lladdr 02:00:00:00:00:99 nud stale dev there"
            ));
            let place = place_of(address);
            let _keeper = AddressKeeper::start(&place, ip(address), || true).unwrap();
            let mac = place.mac.unwrap().to_string();
            eventually("the neighbour follows", PATIENCE, || {
                host.output("ip neigh show dev there")
                    .lines()
                    .any(|line| line.starts_with(address) && line.contains(&mac))
            });
        }
    });
}

#[test]
fn probe_finds_a_machine_that_has_the_address() {
    in_own_network(|| {
        cable();
        let host = Host::new();
        host.take("there");
        host.run("ip link set there up");
        for (address, bits) in [(FOUR, 24), (SIX, 64)] {
            let place = place_of(address);
            probe(&place, ip(address), PROBE_WAIT).unwrap();
            let nodad = if bits == 64 { "nodad" } else { "" };
            host.run(&format!("ip addr add {address}/{bits} dev there {nodad}"));
            let found = probe(&place, ip(address), Duration::from_secs(2));
            let Err(AddressError::InUse { mac, .. }) = found else {
                panic!("{address}: {found:?}");
            };
            assert_ne!(Some(mac), place.mac);
        }
    });
}

#[test]
fn own_address_does_not_answer_its_own_probe() {
    in_own_network(|| {
        cable();
        let host = Host::new();
        host.take("there");
        host.run("ip link set there up");
        for address in BOTH {
            let place = place_of(address);
            let _keeper = AddressKeeper::start(&place, ip(address), || true).unwrap();
            probe(&place, ip(address), PROBE_WAIT).unwrap();
        }
    });
}

#[test]
fn leftovers_of_a_killed_daemon_are_removed_and_permanent_addresses_stay() {
    in_own_network(|| {
        cable();
        let interface = place_of(FOUR);
        let mut former = netlink::Netlink::open().unwrap();
        for address in BOTH {
            former.hold(interface.index, ip(address), 60).unwrap();
        }
        let removed =
            remove_leftovers(&[ip(FOUR), ip(SIX), ip("10.77.0.1"), ip("10.1.1.1")]).unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert!(!is_here(FOUR) && !is_here(SIX) && is_here("10.77.0.1"));
    });
}

/// Goal: a server that may not lead any more keeps none of its addresses. Method: somebody configured one by hand meanwhile, for
/// good and with the prefix of the network.
#[test]
fn regression_fencing_takes_an_address_away_whoever_configured_it() {
    in_own_network(|| {
        cable();
        run("ip addr add 10.77.0.100/24 dev here");
        netlink::Netlink::open()
            .unwrap()
            .hold(place_of(SIX).index, ip(SIX), 60)
            .unwrap();
        let addresses = BOTH.map(ip);
        assert_eq!(remove_all(&addresses).unwrap().len(), 2);
        assert!(!is_here(FOUR) && !is_here(SIX) && is_here("10.77.0.1"));
        assert!(remove_all(&addresses).unwrap().is_empty());
    });
}

#[test]
fn permanent_address_of_this_machine_is_refused() {
    in_own_network(|| {
        cable();
        let wanted = VirtualAddress {
            ip: ip("10.77.0.1"),
            interface: None,
        };
        let refused = find_interface(&wanted);
        assert!(matches!(
            refused,
            Err(AddressError::AlreadyPermanent { .. })
        ));
    });
}
