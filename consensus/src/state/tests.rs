//! Tests of the state: stored situations, properties of random histories, names and directories.

mod directories;
mod golden;
mod names;
mod properties;
pub(crate) mod script;
