//! What can go wrong with an identity.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem;

/// Why an identity could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file could not be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The identity file is not what this version writes.
    #[error(
        "{path} is damaged; restore it from a backup, or let this server join anew under a new name"
    )]
    DamagedIdentity {
        /// The file.
        path: PathBuf,
        /// Where it is damaged.
        #[source]
        source: serde_json::Error,
    },
    /// The identity file was written by a newer version.
    #[error(
        "{path} has format {found}, this sknode reads {supported}: install the version that wrote it"
    )]
    NewerIdentity {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this version reads.
        supported: u32,
    },
    /// A certificate or key is not PEM.
    #[error("{what} is not readable as PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A certificate or key could not be made, or a request for one makes no sense.
    #[error("{action}")]
    Certificate {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// TLS does not accept the material.
    #[error("{action}")]
    Tls {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authority's certificate cannot vouch for anybody.
    #[error("the certificate of the cluster's authority is of no use")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The certificate received is not the one that was asked for.
    #[error("the certificate received is not for this server: {0}")]
    NotOurs(&'static str),
    /// The answer to a request to join contains nonsense.
    #[error("the member that let this server in answered with a wrong {0}")]
    BadReply(&'static str),
    /// This member does not hold the authority's key.
    #[error("this member holds no key of the cluster's authority: only servers sign certificates")]
    CannotSign,
    /// The system's random number generator failed.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The clock is before 1970.
    #[error("the clock of this server is not set")]
    NoClock,
}

impl SecurityError {
    /// For `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecurityError {
        let path = path.to_owned();
        move |source| SecurityError::Io {
            action,
            path,
            source,
        }
    }

    /// For `map_err`.
    pub(super) fn making(action: &'static str) -> impl FnOnce(rcgen::Error) -> SecurityError {
        move |source| SecurityError::Certificate { action, source }
    }

    /// For `map_err`.
    pub(super) fn tls(action: &'static str) -> impl FnOnce(rustls::Error) -> SecurityError {
        move |source| SecurityError::Tls { action, source }
    }
}
