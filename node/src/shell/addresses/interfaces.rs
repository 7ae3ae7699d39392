//! Finds the interface an address belongs on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::netlink::{LocalAddress, Netlink};
use super::{AddressError, VirtualAddress};
use crate::shell::frames::Mac;

/// A network interface of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; loopback and tunnels have none.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub is_up: bool,
}

/// The interface on which `wanted` is to be added: the one named, else the one with the smallest
/// subnet that contains the address.
///
/// # Errors
/// `NoInterface`, `UnknownInterface`, `InterfaceDown`; `AlreadyPermanent` when this machine has the
/// address already for good; `System`.
pub fn find_interface(wanted: &VirtualAddress) -> Result<Interface, AddressError> {
    let mut netlink = Netlink::open().map_err(AddressError::during("open netlink"))?;
    let interfaces: BTreeMap<u32, Interface> = netlink
        .links()
        .map_err(AddressError::during("list interfaces"))?
        .iter()
        .map(|link| (link.header.index, interface(link)))
        .collect();
    let addresses = netlink
        .addresses()
        .map_err(AddressError::during("list addresses"))?;
    choose(wanted, &interfaces, &addresses)
}

fn choose(
    wanted: &VirtualAddress,
    interfaces: &BTreeMap<u32, Interface>,
    addresses: &[LocalAddress],
) -> Result<Interface, AddressError> {
    let name_of = |index| interfaces.get(&index).map_or("?", |found| &found.name);
    if let Some(own) = addresses
        .iter()
        .find(|local| local.ip == wanted.ip && local.is_permanent)
    {
        return Err(AddressError::AlreadyPermanent {
            address: wanted.ip,
            interface: name_of(own.interface).to_owned(),
        });
    }
    let found = match &wanted.interface {
        Some(name) => interfaces
            .values()
            .find(|interface| interface.name == *name)
            .ok_or_else(|| AddressError::UnknownInterface {
                name: name.clone(),
                known: joined(interfaces.values().map(|interface| interface.name.clone())),
            })?,
        None => addresses
            .iter()
            .filter(|local| contains(local, wanted.ip))
            .max_by_key(|local| local.prefix_length)
            .and_then(|local| interfaces.get(&local.interface))
            .ok_or_else(|| AddressError::NoInterface {
                address: wanted.ip,
                networks: joined(addresses.iter().map(|local| {
                    let name = name_of(local.interface);
                    format!("{}/{} on {name}", local.ip, local.prefix_length)
                })),
            })?,
    };
    if !found.is_up {
        return Err(AddressError::InterfaceDown {
            name: found.name.clone(),
            address: wanted.ip,
        });
    }
    Ok(found.clone())
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Whether `ip` lies in the subnet of `local`. A host address (/32, /128) has no subnet.
fn contains(local: &LocalAddress, ip: IpAddr) -> bool {
    match (local.ip, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            local.prefix_length < 32
                && same_prefix(
                    a.to_bits().into(),
                    b.to_bits().into(),
                    32 - local.prefix_length,
                )
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            local.prefix_length < 128
                && same_prefix(a.to_bits(), b.to_bits(), 128 - local.prefix_length)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn same_prefix(a: u128, b: u128, host_bits: u8) -> bool {
    let differing = a ^ b;
    differing.checked_shr(host_bits.into()).unwrap_or(0) == 0
}

fn interface(link: &LinkMessage) -> Interface {
    let mut name = String::new();
    let mut mac = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Interface {
        index: link.header.index,
        name,
        mac: mac.filter(|mac| mac.0 != [0; 6]),
        is_up: link.header.flags.contains(LinkFlags::Up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> BTreeMap<u32, Interface> {
        let make = |index, name: &str, is_up| {
            let name = name.to_owned();
            (
                index,
                Interface {
                    index,
                    name,
                    mac: None,
                    is_up,
                },
            )
        };
        BTreeMap::from([
            make(1, "lo", true),
            make(2, "lan0", true),
            make(3, "lan1", false),
        ])
    }

    fn local(interface: u32, ip: &str, prefix_length: u8, is_permanent: bool) -> LocalAddress {
        LocalAddress {
            interface,
            ip: ip.parse().unwrap(),
            prefix_length,
            is_permanent,
        }
    }

    fn addresses() -> Vec<LocalAddress> {
        vec![
            local(1, "127.0.0.1", 8, true),
            local(2, "10.1.0.1", 16, true),
            local(3, "10.1.2.1", 24, true),
            local(2, "fd00::1", 64, true),
            local(2, "10.9.9.9", 32, false),
        ]
    }

    fn found(ip: &str, name: Option<&str>) -> Result<String, String> {
        let wanted = VirtualAddress {
            ip: ip.parse().unwrap(),
            interface: name.map(str::to_owned),
        };
        choose(&wanted, &interfaces(), &addresses())
            .map(|interface| interface.name)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_subnet_with_the_address_wins() {
        assert_eq!(found("10.1.7.7", None).unwrap(), "lan0");
        assert_eq!(found("fd00::7", None).unwrap(), "lan0");
        assert!(
            found("10.1.2.7", None)
                .unwrap_err()
                .contains("lan1 is down")
        );
    }

    #[test]
    fn errors_say_what_there_is() {
        let error = found("192.168.1.1", None).unwrap_err();
        assert!(error.contains("10.1.0.1/16 on lan0"), "{error}");
        let error = found("192.168.1.1", Some("lan7")).unwrap_err();
        assert!(error.contains("lo, lan0, lan1"), "{error}");
        let error = found("10.1.0.1", None).unwrap_err();
        assert!(error.contains("permanently on lan0"), "{error}");
    }

    #[test]
    fn an_address_with_a_lifetime_is_not_in_the_way() {
        assert_eq!(found("10.9.9.9", Some("lan0")).unwrap(), "lan0");
    }
}
