//! Who a server is: identity, certificates, join tokens, TLS.
//!
//! Each cluster has a certificate authority of its own, made by `cluster init`. Every server holds
//! its key (any of them can let a new member in); a witness does not. A member shows a certificate
//! whose only name is `server-<id>.<cluster id>.sidekick`: a certificate of another cluster, or of
//! another server, fails the handshake. A joiner has no certificate yet; it knows the authority by
//! the fingerprint in its token, so nobody in between can take the token or plant a false cluster.
//!
//! **Invariant:** a private key is made where it is used and never leaves; the authority's key
//! travels to a joining server only, over the connection its token made.

mod authority;
mod enrolment;
mod error;
mod files;
mod identity;
mod peer;
mod pinned;
mod shown;
mod tls;
mod token;

pub use enrolment::{Enrolment, Signed, SigningRequest};
pub use error::SecurityError;
pub use identity::{Founding, Identity, Known};
pub use peer::PeerIdentity;
pub(crate) use pinned::is_other_authority;
pub use shown::Validity;
pub use tls::{ALPN_GRPC, ALPN_MIRROR, Security, join_config};
pub use token::{JoinToken, TokenError};

#[cfg(test)]
pub(crate) mod test_members;
#[cfg(test)]
mod tests;

/// SHA-256, by which certificates and secrets are known.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// Fresh random bytes.
fn random<const N: usize>() -> Result<[u8; N], SecurityError> {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| SecurityError::NoRandomness)?;
    Ok(bytes)
}
