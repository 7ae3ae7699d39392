//! Why a package is refused.

use crate::error::{ConfigError, Shown};
use std::io;
use std::path::PathBuf;

/// Why a package cannot be read, written or made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A limit of the whole package.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too large or too many.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
    /// Not a zip file, or a damaged one.
    #[error("not a readable .safe package (zip): {0}")]
    Archive(#[source] zip::result::ZipError),
    /// Bytes before the zip file: it would look different to different programs.
    #[error("not a .safe package: the zip file does not start at the first byte")]
    Prefixed,
    /// Two entries share the same bytes: a bomb.
    #[error("entries of the package overlap each other")]
    Overlapping,
    /// One entry of the archive.
    #[error("entry \"{}\": {problem}", Shown(name))]
    Entry {
        /// Its name; bytes that are not UTF-8 are replaced.
        name: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The configuration is missing.
    #[error("the package has no conf/userconfig.xml")]
    NoConfiguration,
    /// The configuration is not text.
    #[error("conf/userconfig.xml is not UTF-8 text: {0}")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// The configuration is wrong.
    #[error("conf/userconfig.xml: {0}")]
    Configuration(#[from] ConfigError),
    /// `<user>` is there, its scripts are not.
    #[error("the package has no {name}, which <user> needs")]
    NoScript {
        /// The script.
        name: &'static str,
    },
    /// The directory to extract to is there already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A file that does not belong into a package.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The file system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The answer of the file system.
        source: io::Error,
    },
}

/// What is wrong with one entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// A name that is not text.
    #[error("the name is not UTF-8")]
    NameNotUtf8,
    /// Control characters, backslashes.
    #[error("the name holds a control character or a backslash")]
    NameCharacters,
    /// Empty parts, `.`, `..`, a leading `/`.
    #[error("the name leads out of the package or has empty parts")]
    NameLeadsOut,
    /// Too long.
    #[error("the name is too long (255 bytes for a part, 512 in all)")]
    NameTooLong,
    /// Too many directories within each other.
    #[error("the name is nested too deep (8 parts)")]
    NameTooDeep,
    /// Not below one of the allowed directories.
    #[error("only conf/, bin/ and web/ belong into a package")]
    OutsideAllowed,
    /// The same name again, or one that differs in case only.
    #[error("the name is used twice (upper and lower case count as the same)")]
    Duplicate,
    /// A file where another entry needs a directory.
    #[error("a file and a directory have the same name")]
    FileAndDirectory,
    /// A link, device, pipe or socket.
    #[error("only regular files and directories are allowed, this is {0}")]
    Kind(&'static str),
    /// A setuid, setgid or sticky bit.
    #[error("setuid, setgid and sticky bits are not allowed")]
    SpecialBits,
    /// Encrypted.
    #[error("encrypted entries are not supported")]
    Encrypted,
    /// A directory that holds bytes.
    #[error("a directory with content")]
    DirectoryContent,
    /// The entry does not hold what the directory of the archive says.
    #[error("it unpacks to another size than the archive says")]
    SizeLies,
    /// Damaged content.
    #[error("it cannot be unpacked: {0}")]
    Damaged(String),
}
