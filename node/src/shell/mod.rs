//! What the daemon does to its machine: addresses, announcements, processes.
//!
//! Nothing here decides. Each piece does one thing when told, reports what happened as a typed
//! result, and can be undone from a state it did not leave itself (after a crash of the daemon).

pub mod addresses;
pub mod announce;
pub mod blocking;
pub mod cgroup;
mod frames;
pub mod heap;
mod packet_socket;
pub mod process;
pub mod scripts;
mod spawn;
pub mod watchdog;

pub use frames::Mac;

#[cfg(test)]
mod test_network;
