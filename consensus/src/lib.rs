//! `consensus`: who is in the cluster, and which role each server has in each module.

mod clock;
mod heard;
pub mod liveness;
mod raft;
pub mod state;

#[expect(missing_docs, unreachable_pub, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("sidekick.consensus.v1");
}
