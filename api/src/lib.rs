//! The administration API between `sknode` and the people and programs that manage it, and the calls between servers.
//!
//! Everything here is generated from `proto/`; this crate decides nothing.

/// Administration, version 1.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all)] // generated
        tonic::include_proto!("sidekick.admin.v1");
    }
}

/// Calls between servers.
pub mod peer {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all)] // generated
        tonic::include_proto!("sidekick.peer.v1");
    }
}

pub use admin::v1;
