//! Builds and reads the Ethernet frames that move an address: ARP and IPv6 neighbour discovery.
//!
//! Pure: bytes in, bytes out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TransportSlice,
};

/// A hardware address of Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

const BROADCAST: Mac = Mac([0xff; 6]);
const ZERO: Mac = Mac([0; 6]);
/// Neighbour discovery is only believed when it was not routed (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// The frames that make neighbours replace what they remember about `address` by `mac`.
///
/// IPv4: an ARP request and an ARP reply, since some equipment believes only one of the two.
/// IPv6: one unsolicited neighbour advertisement with the override flag.
pub(crate) fn announcement(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![
            arp(ArpOperation::REQUEST, (mac, ip), (ZERO, ip)),
            arp(ArpOperation::REPLY, (mac, ip), (BROADCAST, ip)),
        ],
        IpAddr::V6(ip) => vec![neighbour_advertisement(ip, mac)],
    }
}

/// The frame that asks whether somebody else has `address`, without claiming it (RFC 5227; for
/// IPv6 the solicitation of duplicate address detection, RFC 4862).
pub(crate) fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => arp(
            ArpOperation::REQUEST,
            (mac, Ipv4Addr::UNSPECIFIED),
            (ZERO, ip),
        ),
        IpAddr::V6(ip) => neighbour_solicitation(ip, mac),
    }
}

/// Who claims `address` in this frame: the sender of an ARP packet from it, or of a neighbour
/// advertisement for it. `own` is not a claim. Anything else is `None`, nonsense included.
pub(crate) fn claim(frame: &[u8], address: IpAddr, own: Mac) -> Option<Mac> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let mac = match (address, packet.net?) {
        (IpAddr::V4(ip), NetSlice::Arp(arp)) => {
            let claimed = arp.sender_protocol_addr() == ip.octets();
            claimed.then(|| arp.sender_hw_addr().try_into().ok().map(Mac))??
        }
        (IpAddr::V6(ip), NetSlice::Ipv6(_)) => {
            let TransportSlice::Icmpv6(message) = packet.transport? else {
                return None;
            };
            advertised_by(&message, ip, frame)?
        }
        (IpAddr::V4(_), NetSlice::Ipv4(_) | NetSlice::Ipv6(_))
        | (IpAddr::V6(_), NetSlice::Ipv4(_) | NetSlice::Arp(_)) => return None,
    };
    (mac != own).then_some(mac)
}

/// The sender of an advertisement for `ip`: its option when it carries one, else the frame's source.
fn advertised_by(message: &Icmpv6Slice<'_>, ip: Ipv6Addr, frame: &[u8]) -> Option<Mac> {
    if !matches!(message.icmp_type(), Icmpv6Type::NeighborAdvertisement(_)) {
        return None;
    }
    let body = message.payload();
    if body.get(..16)? != ip.octets() {
        return None;
    }
    let from_option = match body.get(16..24) {
        Some([OPTION_TARGET_LINK_LAYER, 1, mac @ ..]) => mac.try_into().ok().map(Mac),
        Some(_) | None => None,
    };
    from_option.or_else(|| frame.get(6..12)?.try_into().ok().map(Mac))
}

fn arp(operation: ArpOperation, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: sender.0.0,
        sender_ipv4: sender.1.octets(),
        target_mac: target.0.0,
        target_ipv4: target.1.octets(),
    };
    let builder = PacketBuilder::ethernet2(sender.0.0, BROADCAST.0).arp(packet.into());
    let mut frame = Vec::with_capacity(builder.size());
    builder
        .write(&mut frame)
        .expect("writing an ARP packet of constant size into a vector cannot fail");
    frame
}

fn neighbour_advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let header = NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    };
    let builder = PacketBuilder::ethernet2(mac.0, multicast_mac(ALL_NODES).0)
        .ipv6(ip.octets(), ALL_NODES.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header));
    let mut body = ip.octets().to_vec();
    body.extend([OPTION_TARGET_LINK_LAYER, 1]);
    body.extend(mac.0);
    written(builder, &body)
}

fn neighbour_solicitation(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let group = solicited_node(ip);
    let builder = PacketBuilder::ethernet2(mac.0, multicast_mac(group).0)
        .ipv6(Ipv6Addr::UNSPECIFIED.octets(), group.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborSolicitation);
    written(builder, &ip.octets())
}

fn written(builder: PacketBuilderStep<etherparse::Icmpv6Header>, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    builder
        .write(&mut frame, body)
        .expect("writing a short ICMPv6 message into a vector cannot fail");
    frame
}

/// The group every owner of `ip` listens to (RFC 4291, 2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The Ethernet types a claim of `address` may arrive in.
pub(crate) fn claim_ether_type(address: IpAddr) -> EtherType {
    match address {
        IpAddr::V4(_) => EtherType::ARP,
        IpAddr::V6(_) => EtherType::IPV6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn addresses() -> [IpAddr; 2] {
        ["10.9.8.7".parse().unwrap(), "fd00::1:2:3".parse().unwrap()]
    }

    #[test]
    fn an_announcement_claims_the_address_for_its_sender() {
        for address in addresses() {
            for frame in announcement(address, OTHER) {
                assert_eq!(claim(&frame, address, MINE), Some(OTHER));
                assert_eq!(claim(&frame, address, OTHER), None, "my own is no claim");
            }
        }
    }

    #[test]
    fn a_probe_claims_nothing() {
        for address in addresses() {
            assert_eq!(claim(&probe(address, OTHER), address, MINE), None);
        }
    }

    #[test]
    fn another_address_is_no_claim() {
        let [four, six] = addresses();
        let other_four: IpAddr = "10.9.8.6".parse().unwrap();
        let other_six: IpAddr = "fd00::1:2:4".parse().unwrap();
        assert_eq!(claim(&announcement(four, OTHER)[0], other_four, MINE), None);
        assert_eq!(claim(&announcement(six, OTHER)[0], other_six, MINE), None);
    }

    #[test]
    fn gratuitous_arp_has_the_shape_the_field_knows() {
        let frame = &announcement("10.9.8.7".parse().unwrap(), MINE)[0];
        let expected: [u8; 42] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request
            2, 0, 0, 0, 0, 1, 10, 9, 8, 7, // sender
            0, 0, 0, 0, 0, 0, 10, 9, 8, 7, // target: the same address
        ];
        assert_eq!(frame.as_slice(), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(0u8.., 0..120)) {
            for address in addresses() {
                claim(&bytes, address, MINE);
            }
        }
    }
}
