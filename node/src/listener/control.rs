//! The control socket, through which `skcli` talks to the daemon of its machine.
//!
//! Who may open the file may command the daemon: root, and the group `sidekick` where it exists.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;

/// Its members may command the daemon.
const GROUP: &str = "sidekick";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A daemon answers on it already.
    #[error("another sknode answers on {path}: stop it, or give this one another --root")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
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
}

/// The control socket, there for others to connect until this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket at `path`, replacing one that a dead daemon left. Must be called within a
    /// runtime.
    ///
    /// # Errors
    /// `InUse`; `Io`.
    pub fn bind(path: &Path) -> Result<ControlSocket, ControlError> {
        let failed = |action| {
            move |source| ControlError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        if is_answered(path).map_err(failed("look at"))? {
            let path = path.to_owned();
            return Err(ControlError::InUse { path });
        }
        // Made under another name and moved into place when its permissions are right: at no time
        // can anybody else open it, and whatever was there is replaced at once.
        let fresh = path.with_file_name(".new");
        remove(&fresh).map_err(failed("replace the unfinished socket beside"))?;
        let listener = UnixListener::bind(&fresh).map_err(failed("create"))?;
        protect(&fresh, group_id(GROUP))
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(failed("protect"))?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
        })
    }

    /// The connections, for tonic's `serve_with_incoming`.
    #[must_use]
    pub fn incoming(self) -> ControlIncoming {
        let ControlSocket { listener, path } = self;
        ControlIncoming {
            incoming: UnixListenerStream::new(listener),
            _file: SocketFile { path },
        }
    }
}

/// The connections to the control socket; its file is removed with this.
#[derive(Debug)]
pub struct ControlIncoming {
    incoming: UnixListenerStream,
    _file: SocketFile,
}

impl Stream for ControlIncoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.incoming).poll_next(context)
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays behind is replaced at the next start.
        let _ = remove(&self.path);
    }
}

/// Whether a living process listens at `path`.
fn is_answered(path: &Path) -> io::Result<bool> {
    match BlockingStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(false),
            // Its queue is full: somebody is there, if busy.
            io::ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        },
    }
}

fn protect(path: &Path, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        chown(path, None, group)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The number of a group of this machine. Groups of a directory service do not count: what may
/// command the daemon is decided on the machine itself.
fn group_id(name: &str) -> Option<u32> {
    id_in(&fs::read_to_string("/etc/group").ok()?, name)
}

fn id_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_is_private_and_goes_away_with_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let incoming = ControlSocket::bind(&path).unwrap().incoming();
        let expected = if group_id(GROUP).is_some() {
            0o660
        } else {
            0o600
        };
        assert_eq!(mode_of(&path), expected);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(incoming);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn second_daemon_is_refused_and_a_stale_socket_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        let second = ControlSocket::bind(&path);
        assert!(
            matches!(second, Err(ControlError::InUse { .. })),
            "{second:?}"
        );
        // Dropping only the listener leaves the file, as a killed daemon does.
        drop(first);
        assert!(path.exists());
        ControlSocket::bind(&path).unwrap();
        BlockingStream::connect(&path).unwrap_err();
    }

    #[test]
    fn group_is_read_from_the_file() {
        let groups = "root:x:0:\nsidekicks:x:7:\nsidekick:x:42:alice,bob\nbroken\n";
        assert_eq!(id_in(groups, "sidekick"), Some(42));
        assert_eq!(id_in(groups, "broken"), None);
        assert_eq!(id_in(groups, "wheel"), None);
    }
}
