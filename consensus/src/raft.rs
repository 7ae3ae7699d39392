//! openraft in our hands: its log and snapshots in `store`, its calls over tonic, the cluster state as its state machine.
//!
//! Every `openraft::` name of the workspace is below this module: its API moves between pre-releases.

pub(crate) mod codec;
pub(crate) mod config;
pub(crate) mod dial;
pub(crate) mod flusher;
pub(crate) mod guard;
pub(crate) mod leadership;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod proposals;
pub(crate) mod recent;
pub(crate) mod service;
pub(crate) mod types;

#[cfg(test)]
mod conformance;
