//! `<vip>`: the addresses that follow the primary.

use super::reading::{Reading, not_yet};
use super::value::Value;
use crate::error::{ConfigError, Problem};
use crate::xml::Element;
use serde::Serialize;
use std::net::IpAddr;

/// One virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualAddress {
    /// The address.
    pub addr: IpAddr,
    /// The network interface it goes on; `None`: the one whose subnet holds the address.
    pub interface: Option<String>,
}

/// Most virtual addresses of a module.
const ADDRESSES_MAX: usize = 64;
/// Longest interface name that Linux knows.
const INTERFACE_BYTES_MAX: usize = 15;

const FARM: &str = "load sharing belongs to farm modules, which come in a later version";
const CHECKERS: &str = "checkers come in a later version";

/// Reads all addresses of `<vip>`.
pub(super) fn read(
    element: &Element,
    reading: &mut Reading,
) -> Result<Vec<VirtualAddress>, ConfigError> {
    reading.attributes(element, &["tcpreset", "scriptcontrol"])?;
    reading.children(
        element,
        &["interface_list"],
        &[("loadbalancing_list", FARM)],
    )?;
    if let Some(reset) = reading.value(element, "tcpreset")? {
        reset.on_off()?;
        reading.without_effect(
            element,
            "tcpreset",
            "connections end with the address; no reset is sent yet",
        );
    }
    if let Some(control) = reading.value(element, "scriptcontrol")?
        && control.on_off()?
    {
        return Err(control.later(FARM));
    }
    let mut found = Found::default();
    for list in reading.all(element, "interface_list") {
        reading.attributes(list, &[])?;
        reading.children(list, &["interface"], &[])?;
        for interface in reading.all(list, "interface") {
            read_interface(interface, reading, &mut found)?;
        }
    }
    Ok(found.addresses)
}

/// The addresses so far, with their lines.
#[derive(Default)]
struct Found {
    addresses: Vec<VirtualAddress>,
    lines: Vec<u32>,
}

impl Found {
    fn add(&mut self, address: VirtualAddress, value: &Value) -> Result<(), ConfigError> {
        let fail = |problem| {
            Err(ConfigError {
                at: value.at,
                problem,
            })
        };
        if let Some(index) = self
            .addresses
            .iter()
            .position(|known| known.addr == address.addr)
        {
            let first_line = self.lines.get(index).copied().unwrap_or(0);
            return fail(Problem::Duplicate {
                what: "virtual address",
                name: address.addr.to_string(),
                first_line,
            });
        }
        if self.addresses.len() == ADDRESSES_MAX {
            let limit = ADDRESSES_MAX.to_string();
            return fail(Problem::Limit {
                what: "the number of virtual addresses",
                limit,
            });
        }
        self.addresses.push(address);
        self.lines.push(value.at.line);
        Ok(())
    }
}

fn read_interface(
    element: &Element,
    reading: &mut Reading,
    found: &mut Found,
) -> Result<(), ConfigError> {
    reading.attributes(
        element,
        &["check", "arpreroute", "arpinterval", "arpelapse", "name"],
    )?;
    reading.children(element, &["real_interface"], &[("virtual_interface", FARM)])?;
    if let Some(check) = reading.value(element, "check")?
        && check.on_off()?
    {
        reading.without_effect(element, "check", CHECKERS);
    }
    read_announcements(element, reading)?;
    let interface = reading
        .value(element, "name")?
        .map(|name| interface_name(&name))
        .transpose()?;
    for real in reading.all(element, "real_interface") {
        reading.attributes(real, &[])?;
        reading.children(real, &["virtual_addr"], &[])?;
        for address in reading.all(real, "virtual_addr") {
            read_address(address, reading, interface.as_ref(), found)?;
        }
    }
    Ok(())
}

fn read_announcements(element: &Element, reading: &mut Reading) -> Result<(), ConfigError> {
    let because =
        "the new owner announces an address at once and a few times after, never for ever";
    if let Some(reroute) = reading.value(element, "arpreroute")?
        && reroute.on_off()?
    {
        reading.without_effect(element, "arpreroute", because);
    }
    for name in ["arpinterval", "arpelapse"] {
        if let Some(value) = reading.value(element, name)? {
            value.duration("s")?;
            reading.without_effect(element, name, because);
        }
    }
    Ok(())
}

fn interface_name(value: &Value) -> Result<String, ConfigError> {
    let name = value.text.as_str();
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let is_name = !name.is_empty()
        && name.len() <= INTERFACE_BYTES_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(fits);
    if is_name {
        Ok(name.to_owned())
    } else {
        Err(value.wrong("the name of a network interface, at most 15 characters"))
    }
}

fn read_address(
    element: &Element,
    reading: &mut Reading,
    interface: Option<&String>,
    found: &mut Found,
) -> Result<(), ConfigError> {
    reading.attributes(
        element,
        &["addr", "where", "check", "connections", "netmask"],
    )?;
    reading.childless(element)?;
    let value = reading.needed(element, "addr")?;
    let addr = literal(&value)?;
    if let Some(place) = reading.value(element, "where")? {
        match place.word(&["one_side_alias", "one_side", "alias"])? {
            "alias" => return Err(place.later(FARM)),
            "one_side" => {
                return Err(place
                    .later("a virtual address is never the source address of the server itself"));
            }
            _one_side_alias => {}
        }
    }
    if let Some(check) = reading.value(element, "check")?
        && check.on_off()?
    {
        reading.without_effect(element, "check", CHECKERS);
    }
    if let Some(connections) = reading.value(element, "connections")?
        && connections.on_off()?
    {
        return Err(not_yet(
            connections.at,
            "connections=\"on\" of <virtual_addr>".to_owned(),
            "connections are not counted",
        ));
    }
    if let Some(mask) = reading.value(element, "netmask")?
        && !mask.text.is_empty()
    {
        mask.text
            .parse::<std::net::Ipv4Addr>()
            .map_err(|_| mask.wrong("an IPv4 netmask such as 255.255.255.0"))?;
        reading.without_effect(
            element,
            "netmask",
            "virtual addresses are added as single addresses (/32 or /128)",
        );
    }
    found.add(
        VirtualAddress {
            addr,
            interface: interface.cloned(),
        },
        &value,
    )
}

/// Names are refused: an address that moves must not depend on a name service that may be down.
fn literal(value: &Value) -> Result<IpAddr, ConfigError> {
    let addr: IpAddr = value
        .text
        .parse()
        .map_err(|_| value.wrong("an IPv4 or IPv6 address (names are not resolved)"))?;
    let is_broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || is_broadcast {
        return Err(value.wrong("an address that one server can own"));
    }
    if matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
    {
        return Err(value.wrong("a global or unique local IPv6 address"));
    }
    Ok(addr)
}
