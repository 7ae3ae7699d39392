//! What a module is, read from `userconfig.xml`.
//!
//! One file per section of the language. A section reads itself from its element; the shared tools (`reading`) refuse
//! unknown words, expand macros and keep the notices. Sections that come later are refused by name here.

mod heart;
mod reading;
mod rfs;
mod service;
mod user;
mod value;
mod vip;

pub use heart::{Heart, Heartbeat};
pub use rfs::{AckMode, DIRECTORIES_MAX, Replication};
pub use service::{Mode, Service};
pub use user::User;
pub use vip::VirtualAddress;

use crate::error::{ConfigError, Problem};
use crate::notice::Notice;
use crate::xml::{self, Element};
use reading::Reading;
use serde::Serialize;
use std::net::IpAddr;

/// Sections of `<service>` that Sidekick does not do yet, with the reason told.
const LATER_SECTIONS: &[(&str, &str)] = &[
    ("farm", "farm modules come in a later version"),
    ("vhost", "virtual host names come in a later version"),
    ("errd", "process checkers come in a later version"),
    ("check", "checkers come in a later version"),
    ("failover", "failover rules come in a later version"),
];

/// The configuration of one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// Kind of module.
    pub mode: Mode,
    /// `<service>`: behaviour of the module as a whole.
    pub service: Service,
    /// `<heart>`: the LANs that the module names.
    pub heart: Heart,
    /// `<vip>`: addresses that follow the primary, in the order of the file.
    pub virtual_addresses: Vec<VirtualAddress>,
    /// `<rfs>`: what is replicated, and when a write is answered.
    pub rfs: Replication,
    /// `<user>`: the scripts; without it none is run.
    pub user: Option<User>,
}

impl Configuration {
    /// Reads the text of a `userconfig.xml`. The notices tell what was understood but has no effect.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place; nothing is accepted that would be ignored.
    pub fn parse(text: &str) -> Result<(Configuration, Vec<Notice>), ConfigError> {
        let root = xml::parse(text)?;
        if root.name != "safe" {
            return Err(ConfigError {
                at: root.at,
                problem: Problem::Root { found: root.name },
            });
        }
        let mut reading = Reading::default();
        reading.attributes(&root, &["xmlns"])?;
        reading.children(&root, &["macro", "service"], &[])?;
        for definition in reading.all(&root, "macro") {
            reading.define(definition)?;
        }
        let service = reading.required(&root, "service")?;
        let configuration = Configuration::read(service, &mut reading)?;
        Ok((configuration, reading.notices()))
    }

    /// The virtual addresses alone.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.virtual_addresses
            .iter()
            .map(|virtual_address| virtual_address.addr)
            .collect()
    }

    fn read(element: &Element, reading: &mut Reading) -> Result<Configuration, ConfigError> {
        // The mode first: a farm should hear that farms come later, not that <farm> is unknown.
        let (mode, service) = Service::read(element, reading)?;
        reading.children(element, &["heart", "vip", "rfs", "user"], LATER_SECTIONS)?;
        let rfs = reading.required(element, "rfs")?;
        let heart = match reading.optional(element, "heart")? {
            Some(heart) => Heart::read(heart, reading)?,
            None => Heart::default(),
        };
        let virtual_addresses = match reading.optional(element, "vip")? {
            Some(vip) => vip::read(vip, reading)?,
            None => Vec::new(),
        };
        let user = match reading.optional(element, "user")? {
            Some(user) => Some(User::read(user, reading)?),
            None => None,
        };
        let rfs = Replication::read(rfs, reading)?;
        Ok(Configuration {
            mode,
            service,
            heart,
            virtual_addresses,
            rfs,
            user,
        })
    }
}

#[cfg(test)]
mod tests;
