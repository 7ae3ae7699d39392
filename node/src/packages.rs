//! Packages by hash: kept by every server of a module, fetched from whoever has them.

use std::io;
use std::sync::Arc;

use api::peer::v1::FetchPackageRequest;
use api::peer::v1::peer_client::PeerClient;
use bytes::Bytes;
use consensus::state::{MemberKind, ModuleName, PackageHash};
use module::Package;

use crate::agent::open_addition::replace_durably;
use crate::member::Member;
use crate::shell::blocking::blocking;

/// Largest package, bytes.
pub const PACKAGE_BYTES_MAX: usize = 16 << 20;

/// Why a package is not here.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The state directory cannot be read or written.
    #[error("failed to keep the package")]
    Io(#[from] io::Error),
    /// It is not a package, or its configuration is wrong.
    #[error("failed to read the package")]
    Bad(#[from] Box<module::PackageError>),
    /// No server that answers has it.
    #[error("no server that answers has package {0}")]
    Nowhere(PackageHash),
}

/// Keeps `bytes` under their hash; durable on return. Unpacking and syncing happen on a thread that may wait.
///
/// # Errors
/// The bytes are no package, or cannot be written.
pub async fn keep(member: &Arc<Member>, bytes: Bytes) -> Result<PackageHash, PackageError> {
    let member = Arc::clone(member);
    blocking(move || {
        let package = Package::read(&bytes).map_err(Box::new)?;
        let hash = PackageHash(package.hash());
        replace_durably(&member.paths.package(&hash), &bytes)?;
        Ok::<_, PackageError>(hash)
    })
    .await
}

/// The bytes of a package this server keeps.
///
/// # Errors
/// It is not here.
pub fn read(member: &Member, hash: &PackageHash) -> io::Result<Vec<u8>> {
    std::fs::read(member.paths.package(hash))
}

/// The package, unpacked for `module` on this server; fetched from another server when it is not here.
///
/// # Errors
/// Nobody who answers has it, or it cannot be unpacked.
pub async fn unpacked(
    member: &Arc<Member>,
    module: &ModuleName,
    hash: &PackageHash,
) -> Result<(Package, std::path::PathBuf), PackageError> {
    let bytes = match read(member, hash) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fetch(member, hash).await?,
        Err(error) => return Err(error.into()),
    };
    let (member, module, hash) = (Arc::clone(member), module.clone(), *hash);
    blocking(move || {
        let package = Package::read(&bytes).map_err(Box::new)?;
        let directory = member.paths.unpacked(&module, &hash);
        if !directory.exists() {
            member.module_dir(&module)?;
            package.extract(&directory).map_err(Box::new)?;
        }
        Ok::<_, PackageError>((package, directory))
    })
    .await
}

async fn fetch(member: &Arc<Member>, hash: &PackageHash) -> Result<Bytes, PackageError> {
    let state = member.state();
    let others = state
        .members
        .values()
        .filter(|other| other.id != member.id());
    for other in others.filter(|other| other.kind == MemberKind::Server) {
        let channel = match member.dialer.channel(other.id, &other.addresses).await {
            Ok(channel) => channel,
            Err(error) => {
                tracing::debug!(%error, "cannot ask server {} for a package", other.id);
                continue;
            }
        };
        let mut client =
            PeerClient::new(channel).max_decoding_message_size(PACKAGE_BYTES_MAX + (1 << 20));
        let request = FetchPackageRequest {
            hash: hash.0.to_vec().into(),
        };
        match client.fetch_package(request).await {
            Ok(reply) => {
                let bytes = reply.into_inner().package;
                if keep(member, bytes.clone()).await? == *hash {
                    return Ok(bytes);
                }
                tracing::warn!("server {} sent another package than {hash}", other.id);
            }
            Err(status) => {
                tracing::debug!(%status, "server {} does not have package {hash}", other.id)
            }
        }
    }
    Err(PackageError::Nowhere(*hash))
}
