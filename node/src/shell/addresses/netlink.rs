//! The few requests to the kernel about links and addresses, made synchronously.
//!
//! Synchronous because the keeper's thread must not depend on a runtime that may be busy; each
//! request is one system call out and one in (0.2 ms).

use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use super::AddressError;

/// A lifetime the kernel never counts down.
const FOREVER: u32 = u32::MAX;

/// A connection to the kernel's routing tables, of the network namespace of its maker.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One address of one interface, as the kernel reports it.
pub(super) struct LocalAddress {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix_length: u8,
    pub(super) is_permanent: bool,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Adds `ip` to the interface for `seconds`, or starts its lifetime anew.
    ///
    /// The kernel has no "renew only what is there": an address that just expired comes back.
    pub(super) fn hold(&mut self, interface: u32, ip: IpAddr, seconds: u32) -> io::Result<()> {
        let mut message = address_message(interface, ip);
        let mut flags = AddressFlags::Noprefixroute;
        if ip.is_ipv6() {
            // The kernel's own duplicate detection would keep the address unusable for a second.
            flags |= AddressFlags::Nodad;
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = seconds;
        lifetime.ifa_preferred = seconds;
        message.attributes.push(AddressAttribute::Flags(flags));
        message
            .attributes
            .push(AddressAttribute::CacheInfo(lifetime));
        self.request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
    }

    /// Removes `ip` as `hold` added it; one that is not there is success.
    pub(super) fn remove(&mut self, interface: u32, ip: IpAddr) -> io::Result<()> {
        self.delete(address_message(interface, ip))
    }

    /// Removes an address that the kernel reported. Its prefix is part of its name.
    fn remove_reported(&mut self, address: &LocalAddress) -> io::Result<()> {
        let mut message = address_message(address.interface, address.ip);
        message.header.prefix_len = address.prefix_length;
        self.delete(message)
    }

    fn delete(&mut self, message: AddressMessage) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(message);
        match self.request(message, NLM_F_ACK) {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.request(request, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    pub(super) fn addresses(&mut self) -> io::Result<Vec<LocalAddress>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.request(request, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(address) => local_address(&address),
                _ => None,
            })
            .collect())
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answers()
    }

    /// Reads until the end of the answer to the last request.
    fn answers(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((message, after)) = split(rest) {
                rest = after;
                // A message with an attribute we cannot read is about something we do not use.
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                else {
                    continue;
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                    _ => {}
                }
            }
        }
    }
}

/// The first message of a datagram and what follows it.
fn split(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    if length < 16 || length > datagram.len() {
        return None;
    }
    let next = length.next_multiple_of(4).min(datagram.len());
    Some((&datagram[..length], &datagram[next..]))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::ENODEV)
    )
}

fn address_message(interface: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let (family, bits) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.family = family;
    message.header.prefix_len = bits;
    message.header.index = interface;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    let mut ip = None;
    let mut lifetime = FOREVER;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::CacheInfo(info) => lifetime = info.ifa_valid,
            _ => {}
        }
    }
    Some(LocalAddress {
        interface: message.header.index,
        ip: ip?,
        prefix_length: message.header.prefix_len,
        is_permanent: lifetime == FOREVER,
    })
}

/// Removes what a former daemon left of these addresses, wherever it is on this machine. Addresses
/// that somebody configured for good are not ours and stay.
///
/// # Errors
/// `System` when the kernel refuses.
pub fn remove_leftovers(addresses: &[IpAddr]) -> Result<Vec<IpAddr>, AddressError> {
    remove_where(|local| addresses.contains(&local.ip) && !local.is_permanent)
}

/// Removes these addresses, wherever they are on this machine and whoever configured them: another server may have them now.
/// Answers those that were here.
///
/// # Errors
/// `System` when the kernel refuses.
pub fn remove_all(addresses: &[IpAddr]) -> Result<Vec<IpAddr>, AddressError> {
    remove_where(|local| addresses.contains(&local.ip))
}

fn remove_where(is_meant: impl Fn(&LocalAddress) -> bool) -> Result<Vec<IpAddr>, AddressError> {
    let mut netlink = Netlink::open().map_err(AddressError::during("open netlink"))?;
    let present = netlink
        .addresses()
        .map_err(AddressError::during("list addresses"))?;
    let mut removed = Vec::new();
    for local in present {
        if is_meant(&local) {
            netlink
                .remove_reported(&local)
                .map_err(AddressError::during("remove a virtual address"))?;
            removed.push(local.ip);
        }
    }
    Ok(removed)
}
