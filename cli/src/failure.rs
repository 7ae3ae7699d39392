//! Every way to fail: what the operator is told, and the exit code.

use api::v1::Explained;
use module::{ConfigError, PackageError};
use prost::Message;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

/// Something broke.
pub(crate) const FAILED: u8 = 1;
/// Wrong command line, configuration or package.
pub(crate) const USAGE: u8 = 2;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// The rules or the present state do not allow it.
pub(crate) const REFUSED: u8 = 4;
/// Nobody could say whether it was done.
pub(crate) const NO_ANSWER: u8 = 5;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is right for clap, but not for the verb.
    #[error("{what}")]
    Usage { what: String, next: String },
    /// A configuration file.
    #[error("{}:{}:{}: {}", file.display(), error.at.line, error.at.column, error.problem)]
    Configuration {
        file: PathBuf,
        error: Box<ConfigError>,
    },
    /// A package.
    #[error("{}: {error}", file.display())]
    Package {
        file: PathBuf,
        error: Box<PackageError>,
    },
    /// A file or the terminal.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// No connection to the daemon.
    #[error("the daemon cannot be reached at {}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// The daemon did not answer.
    #[error("the daemon did not answer within {} s", after.as_secs())]
    Silent { after: Duration },
    /// The daemon went away during the call.
    #[error("the connection to the daemon broke before it answered")]
    Broken,
    /// The daemon said no, and why.
    #[error("{}", explained.what)]
    Refused { code: Code, explained: Explained },
}

impl Failure {
    /// Reads what the daemon answered instead of a reply.
    pub(crate) fn from_status(status: Status) -> Failure {
        use std::error::Error;
        let is_transport = status
            .source()
            .is_some_and(|source| source.is::<tonic::transport::Error>());
        let explained = Explained::decode(status.details())
            .ok()
            .filter(|explained| !explained.what.is_empty());
        match explained {
            Some(explained) => Failure::Refused {
                code: status.code(),
                explained,
            },
            None if is_transport => Failure::Broken,
            None => {
                let what = if status.message().is_empty() {
                    status.code().description()
                } else {
                    status.message()
                };
                let explained = Explained {
                    what: what.to_owned(),
                    why: String::new(),
                    next_command: String::new(),
                };
                Failure::Refused {
                    code: status.code(),
                    explained,
                }
            }
        }
    }

    /// The exit code; `--help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage { .. } | Failure::Configuration { .. } => USAGE,
            Failure::Package { error, .. } if matches!(**error, PackageError::Io { .. }) => FAILED,
            Failure::Package { .. } => USAGE,
            Failure::Io { .. } => FAILED,
            Failure::Unreachable { .. } => UNREACHABLE,
            Failure::Silent { .. } | Failure::Broken => NO_ANSWER,
            Failure::Refused { code, .. } => exit_code_of(*code),
        }
    }

    /// Why it is so; empty when there is no more to say.
    pub(crate) fn why(&self) -> String {
        match self {
            Failure::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "the daemon is not running".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "only root and the group sidekick may talk to it".to_owned()
                }
                _ => source.to_string(),
            },
            Failure::Silent { .. } | Failure::Broken => {
                "what was asked may still happen".to_owned()
            }
            Failure::Refused { explained, .. } => explained.why.clone(),
            Failure::Usage { .. }
            | Failure::Configuration { .. }
            | Failure::Package { .. }
            | Failure::Io { .. } => String::new(),
        }
    }

    /// What to type next; empty when nothing helps.
    pub(crate) fn next_command(&self) -> String {
        match self {
            Failure::Usage { next, .. } => next.clone(),
            Failure::Unreachable { socket, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => "sudo skcli ...".to_owned(),
                _ => start_command(socket),
            },
            Failure::Silent { .. } | Failure::Broken => "skcli cluster events".to_owned(),
            Failure::Refused { explained, .. } => explained.next_command.clone(),
            Failure::Configuration { file, .. } | Failure::Package { file, .. } => {
                format!("skcli module check {}", file.display())
            }
            Failure::Io { .. } => String::new(),
        }
    }
}

/// The daemon's root is three levels above its socket, when the socket has its usual name.
fn start_command(socket: &std::path::Path) -> String {
    let root = socket
        .to_str()
        .and_then(|path| path.strip_suffix("/run/sidekick/control.sock"));
    match root {
        Some(root) if !root.is_empty() => format!("sknode --root {root}"),
        Some(_) | None => "sknode".to_owned(),
    }
}

fn exit_code_of(code: Code) -> u8 {
    match code {
        Code::InvalidArgument | Code::OutOfRange => USAGE,
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::ResourceExhausted
        | Code::Unimplemented => REFUSED,
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => NO_ANSWER,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => FAILED,
    }
}
