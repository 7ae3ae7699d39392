//! What others may ask of this daemon: people through the administration API, other servers through the peer API.

mod caller;
mod change;
mod cluster;
mod control;
mod diverged;
mod errands;
mod explain;
mod fitness;
mod force;
mod hearts;
mod joining;
mod log;
mod members;
mod module;
mod peer;
mod plan;
mod reach;
mod refusal;
mod state;
#[cfg(test)]
mod story;

pub use self::cluster::ClusterService;
pub use self::module::ModuleService;
pub use self::peer::PeerService;
pub use refusal::Refusal;
