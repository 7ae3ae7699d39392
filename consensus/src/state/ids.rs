//! Identities and names: numbers and words with a meaning, checked once, when they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name of a module or a member.
pub const NAME_LENGTH_MAX: usize = 32;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl $name {
            /// The next number; stays at the largest when there is none, so that it can never wrap to an old one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

number!(
    /// A member of the cluster, server or witness. Never reused, not even after the member was removed (R12).
    ServerId,
    ""
);
number!(
    /// Number of one state of the roles of a module. It grows with every role change; a command or a frame with a
    /// lower one is refused (R1, R3).
    Epoch,
    ""
);
number!(
    /// Number of one run of a member's daemon, grown and persisted at each start: two runs are never mistaken for
    /// one another.
    Incarnation,
    ""
);
number!(
    /// Number of an event in the history of the cluster. 0 is no event.
    EventId,
    ""
);

/// Why a word is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name has at least one character")]
    Empty,
    /// Longer than [`NAME_LENGTH_MAX`].
    #[error("{name:?} has {length} characters, a name has at most {NAME_LENGTH_MAX}")]
    TooLong {
        /// The word, cut.
        name: String,
        /// Its length.
        length: usize,
    },
    /// It does not begin with a letter.
    #[error("{name:?} does not begin with a letter from a to z")]
    Start {
        /// The word.
        name: String,
    },
    /// A character that does not belong in a name.
    #[error("{name:?} contains {character:?}; allowed are a to z, 0 to 9 and {allowed}")]
    Character {
        /// The word.
        name: String,
        /// The first one that is not allowed.
        character: char,
        /// What is allowed beside letters and digits.
        allowed: String,
    },
}

fn check_name(name: &str, extra: &[char]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    let length = name.chars().count();
    if length > NAME_LENGTH_MAX {
        let name = name.chars().take(NAME_LENGTH_MAX).collect();
        return Err(NameError::TooLong { name, length });
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(NameError::Start {
            name: name.to_owned(),
        });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(&c);
    match name.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(character) => Err(NameError::Character {
            name: name.to_owned(),
            character,
            allowed: extra
                .iter()
                .map(|c| format!("'{c}'"))
                .collect::<Vec<_>>()
                .join(" "),
        }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $extra:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check_name(name, $extra)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                check_name(&name, $extra)?;
                Ok(Self(name))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// Name of a module: `[a-z][a-z0-9_-]{0,31}`. It becomes a directory and a cgroup, so it is nothing else.
    ModuleName,
    &['_', '-']
);
name!(
    /// Name of a member: `[a-z][a-z0-9-]{0,31}`, a host name's first label.
    MemberName,
    &['-']
);

impl MemberName {
    /// A name for a number that belongs to nobody.
    pub(super) fn of_unknown(server: ServerId) -> Self {
        Self(format!("member-{server}"))
    }
}

/// SHA-256 of a module's package: its configuration, by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackageHash(pub [u8; 32]);

/// A text is not the hash of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a package hash is 64 hexadecimal digits")]
pub struct PackageHashError;

impl fmt::Display for PackageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for PackageHash {
    type Err = PackageHashError;

    fn from_str(text: &str) -> Result<Self, PackageHashError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(PackageHashError);
        }
        let digit = |d: u8| char::from(d).to_digit(16).ok_or(PackageHashError);
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            // Two hexadecimal digits are at most 0xff.
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(hash))
    }
}

/// A member as a sentence names it: by its name, kept with its number so that the sentence stays true after the
/// member was removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Who {
    /// Number of the member.
    pub id: ServerId,
    /// Its name at that time.
    pub name: MemberName,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name.as_str())
    }
}

/// `a`, `a and b`, `a, b and c`; `nobody` for an empty list.
pub(crate) fn listed<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [] => "nobody".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(ToString::to_string).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}
