//! `consensus`: who is in the cluster, and which role each server has in each module.
//!
//! One Raft group replicates the [`state::ClusterState`]; its `apply` alone decides roles (rule R1). Servers exchange heartbeats
//! with the voters, hold leases by majority, and are declared dead by majority (rule R7). The node uses all of it through
//! [`Consensus`], brings the connections ([`Dialer`]) and mounts [`Consensus::routes`] in its listener.
//!
//! * [`state`] and [`liveness`] are pure: no socket, clock or task.
//! * `raft` and `liveness_shell` are their shells.
//!
//! **Invariant:** nothing outside `raft` and this crate's handle names openraft; nothing here names sled.

mod admission;
mod clock;
mod handle;
mod heard;
pub mod liveness;
mod liveness_shell;
mod position;
mod raft;
pub mod state;
pub mod untrusted;

pub use clock::now as boot_time;
pub use handle::{BootstrapError, Consensus, Options, StartError, Status};
pub use liveness_shell::Lease;
pub use position::LogPosition;
pub use raft::dial::{BoxStream, Dialer, Stream};
pub use raft::guard::Peer;
pub use raft::leadership::better_leader;
pub use raft::machine::Applied;
pub use raft::proposals::{ProposeError, ReadError};
pub use store::{BindError, OpenError, Origin};

#[expect(unreachable_pub, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("sidekick.consensus.v1");
}
