//! From one copy to the other: what is shipped, in which order, and when a request may be answered.
//!
//! [`change`] and [`shipping`] are the boundary with the file system. [`wire`] says how a change looks in a frame, [`link`]
//! carries frames over TLS. On the primary [`core`] decides which requests may be answered and [`replicator`] is its
//! shell; on the secondary [`secondary`] applies what arrives.

pub mod change;
pub mod core;
pub mod link;
mod outbox;
pub mod replicator;
pub mod secondary;
pub mod shipping;
pub mod stats;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;
