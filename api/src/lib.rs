//! The administration API between `sknode` and the people and programs that manage it.
//!
//! Everything here is generated from `proto/`; this crate decides nothing.

/// Version 1 of the API.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all)] // generated
    tonic::include_proto!("sidekick.admin.v1");
}
