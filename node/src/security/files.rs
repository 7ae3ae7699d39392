//! The files of an identity: private, and replaced as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::SecurityError;

pub(super) const IDENTITY: &str = "identity.json";
pub(super) const AUTHORITY_CERTIFICATE: &str = "ca.crt";
pub(super) const AUTHORITY_KEY: &str = "ca.key";
pub(super) const CERTIFICATE: &str = "server.crt";
pub(super) const KEY: &str = "server.key";

/// No file of an identity is larger; a larger one is not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Makes the folder, for its owner only, whatever it was before.
pub(super) fn make_folder(folder: &Path) -> Result<(), SecurityError> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)));
    made.map_err(SecurityError::io("create folder", folder))
}

/// Writes `folder/name`, durably: after a power loss there is the old content or the new one.
pub(super) fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), SecurityError> {
    let path = folder.join(name);
    replace(folder, &path, content).map_err(SecurityError::io("write", &path))
}

fn replace(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

/// The text of `folder/name`; `None` when there is no such file.
pub(super) fn read(folder: &Path, name: &str) -> Result<Option<String>, SecurityError> {
    let path = folder.join(name);
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => file
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(SecurityError::io("read", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SecurityError::io("read", &path)(error)),
    };
    Ok(Some(text))
}

/// The text of a file that must be there.
pub(super) fn require(folder: &Path, name: &str) -> Result<String, SecurityError> {
    read(folder, name)?.ok_or_else(|| {
        SecurityError::io("read", &folder.join(name))(io::ErrorKind::NotFound.into())
    })
}
