//! The module language: `userconfig.xml` and `.safe` packages.
//!
//! What this crate owns: reading a configuration strictly (every unknown word is an error that names the place, the
//! allowed words and the nearest one), reading, extracting and packing packages. What it never does: talk to a
//! network, know a cluster, or run anything. The only file access is in [`Package::extract`] and [`Package::pack`].
//!
//! Ideas needed to read on:
//! * `xml` turns text into a small tree in which every element and attribute knows its line and column;
//!   `configuration` reads types out of that tree. Nothing in a file is ignored in silence: what has no effect here
//!   becomes a [`Notice`], what comes later is refused by name.
//! * A package is hostile until proved otherwise: names, kinds, sizes and counts are all checked before the first
//!   byte is written, and it is written under a directory handle that cannot be left.

mod configuration;
mod error;
mod nearest;
mod notice;
mod package;
mod position;
mod xml;

pub use configuration::{
    AckMode, Configuration, DIRECTORIES_MAX, Heart, Heartbeat, Mode, Replication, Service, User,
    VirtualAddress,
};
pub use error::{ConfigError, Malformed, Problem};
pub use notice::Notice;
pub use package::{EntryProblem, PACKAGE_BYTES_MAX, Package, PackageError};
pub use position::Position;
