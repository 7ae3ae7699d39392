//! Virtual addresses: an address that follows a module, on this machine only while it may be.
//!
//! The kernel is the last fence (R8): the address is added with a lifetime of one second and lives
//! on only because a thread keeps renewing it. A frozen or killed daemon renews nothing, and the
//! kernel takes the address away without anybody's help, 1.0-1.2 s after the last renewal.
//! The address is a /32 (/128): it never becomes the primary address of a subnet, whose removal
//! would take other addresses along.

use std::io;
use std::net::IpAddr;

use super::frames::Mac;

mod interfaces;
mod keeper;
mod netlink;
mod probe;
#[cfg(test)]
mod tests;

pub use interfaces::{Interface, find_interface};
pub use keeper::{AddressKeeper, RENEW_EVERY};
pub use netlink::{remove_all, remove_leftovers};
pub use probe::{PROBE_WAIT, probe};

/// An address to be held, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address itself.
    pub ip: IpAddr,
    /// The interface by name; without one, that whose subnet contains the address.
    pub interface: Option<String>,
}

/// Why an address could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No interface has a subnet with this address in it.
    #[error(
        "no interface of this server is in a network with {address} (networks here: {networks}); \
         name the interface in the module's configuration or give this server an address in that network"
    )]
    NoInterface {
        /// The address that has no place.
        address: IpAddr,
        /// The networks this server is in, for the reader.
        networks: String,
    },
    /// The configuration names an interface that does not exist.
    #[error("interface {name} does not exist on this server (there are: {known})")]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The interface is down: nobody would reach the address.
    #[error("interface {name} is down, {address} would reach nobody through it")]
    InterfaceDown {
        /// The interface.
        name: String,
        /// The address to be added.
        address: IpAddr,
    },
    /// Another machine on the LAN answers for the address.
    #[error("{address} is in use on the LAN of {interface}: {mac} answers for it")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Where the answer came in.
        interface: String,
        /// Who answered.
        mac: Mac,
    },
    /// This machine has the address already, for good: somebody configured it by hand.
    #[error(
        "{address} is configured permanently on {interface}; a virtual address must belong to its module alone"
    )]
    AlreadyPermanent {
        /// The address.
        address: IpAddr,
        /// The interface that has it.
        interface: String,
    },
    /// The right to hold it was gone before it was added.
    #[error("the right to hold {address} ended before it was added")]
    NotAllowed {
        /// The address.
        address: IpAddr,
    },
    /// The kernel refused.
    #[error("{action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl AddressError {
    /// For `map_err`: names what was being done.
    fn during(action: &'static str) -> impl FnOnce(io::Error) -> AddressError {
        move |source| AddressError::System { action, source }
    }
}
