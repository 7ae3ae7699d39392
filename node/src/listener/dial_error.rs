//! Why a member could not be reached, in the words of somebody who has to mend it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use consensus::state::ServerId;
use rustls::CertificateError;

use crate::security::{SecurityError, is_other_authority};

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address of it is known.
    #[error("no address of server {0} is known")]
    NoAddress(ServerId),
    /// Nothing answers.
    #[error("connect to {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer within {waited:?}")]
    TimedOut {
        /// Where.
        address: SocketAddr,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A server of another cluster listens there.
    #[error(
        "{address} belongs to another cluster: its certificate is not of this cluster's authority"
    )]
    OtherCluster {
        /// Where.
        address: SocketAddr,
    },
    /// Another server of this cluster listens there.
    #[error("{address} is not {expected}: its certificate names another server of this cluster")]
    OtherServer {
        /// Where.
        address: SocketAddr,
        /// The name its certificate should have.
        expected: String,
    },
    /// The certificate there has run out, or our clock is ahead.
    #[error("the certificate of {address} has expired (or the clock of this server is ahead)")]
    Expired {
        /// Where.
        address: SocketAddr,
    },
    /// The certificate there is not valid yet: the clocks differ by more than a day.
    #[error("the certificate of {address} is not valid yet: compare the clocks of both servers")]
    NotYetValid {
        /// Where.
        address: SocketAddr,
    },
    /// The handshake failed otherwise.
    #[error("TLS handshake with {address}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What listens there is no Sidekick port.
    #[error("{address} does not speak HTTP/2")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// TLS could not be set up here.
    #[error(transparent)]
    Security(#[from] SecurityError),
}

impl DialError {
    /// Reads the reason out of a failed handshake with `address`, where `expected` should listen.
    pub(super) fn from_handshake(
        address: SocketAddr,
        expected: &str,
        source: io::Error,
    ) -> DialError {
        let inner = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(reason)) = inner else {
            return DialError::Handshake { address, source };
        };
        match reason {
            // An authority of the same name with another key gives a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                DialError::OtherCluster { address }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                DialError::OtherServer {
                    address,
                    expected: expected.to_owned(),
                }
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                DialError::Expired { address }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                DialError::NotYetValid { address }
            }
            reason if is_other_authority(reason) => DialError::OtherCluster { address },
            _ => DialError::Handshake { address, source },
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            DialError::NoAddress(_) => io::ErrorKind::NotFound,
            DialError::Unreachable { source, .. } | DialError::Handshake { source, .. } => {
                source.kind()
            }
            DialError::TimedOut { .. } => io::ErrorKind::TimedOut,
            DialError::OtherCluster { .. }
            | DialError::OtherServer { .. }
            | DialError::Expired { .. }
            | DialError::NotYetValid { .. } => io::ErrorKind::PermissionDenied,
            DialError::Http { .. } => io::ErrorKind::InvalidData,
            DialError::Security(_) => io::ErrorKind::Other,
        }
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
