//! The common port and the control socket: who gets in, and to whom the connection is given.
//!
//! Everything between servers comes in on one port and is told apart by what TLS negotiated (ALPN):
//! gRPC goes to tonic, the stream of a mirror is handed over as a blocking socket. Strangers, who
//! have no certificate, may knock: there are few places for them, and not for long.

mod accept;
mod bind;
mod budget;
mod connection;
mod control;
mod dial_error;
mod dialer;
mod peer_layer;

pub use accept::{Listener, ListenerError};
pub(crate) use bind::{is_here, try_listen};
pub use connection::{ConnectionInfo, MirrorConnection};
pub use control::{ControlError, ControlSocket};
pub use dial_error::DialError;
pub use dialer::{MemberDialer, join_channel};
pub use peer_layer::{PeerLayer, PeerService};

#[cfg(test)]
mod tests;
